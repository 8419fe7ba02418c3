"""Random programs, a short run; ``python -m tests.sandbox.oracle`` makes the long one."""

from __future__ import annotations

import unittest

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.sandbox.oracle import (
    ALL,
    ENDS,
    MODES,
    SAVEPOINTS,
    Oracle,
    Step,
    running_oracle,
    show,
)

_connections = st.integers(0, 2)
_values = {"i": st.integers(1, 6), "n": st.integers(1, 6), "s": st.integers(1, 7).map("name{}".format)}


def _statement(kind: str) -> st.SearchStrategy[Step]:
    arguments = st.tuples(*(_values[letter] for letter in ALL[kind][1]))
    return st.tuples(_connections, st.just(kind), arguments)


_steps = st.one_of(
    *(_statement(kind) for kind in ALL),
    st.tuples(_connections, st.sampled_from(ENDS + MODES), st.just(())),
    st.tuples(_connections, st.sampled_from(SAVEPOINTS), st.tuples(st.sampled_from("ab"))),
)


class OracleTests(unittest.TestCase):
    driver = "psycopg2"
    oracle: Oracle

    @classmethod
    def setUpClass(cls) -> None:
        super().setUpClass()
        cls.oracle = cls.enterClassContext(running_oracle(cls.driver))

    def test_sandbox_gives_what_real_connections_give_or_says_so(self):
        # The same programs each time: whether a change may land is not to hang on luck. New ones are for the long run.
        @settings(
            max_examples=60, deadline=None, suppress_health_check=list(HealthCheck), database=None, derandomize=True
        )
        @given(st.lists(_steps, min_size=2, max_size=14))
        def run(program: list[Step]) -> None:
            outcome = self.oracle.judge(program)
            self.assertFalse(
                outcome.verdict.isupper(), f"{outcome.verdict} {outcome.detail}\n{show(program)}\n{outcome.flags}"
            )

        run()

    def test_a_crash_is_a_verdict_and_the_next_program_is_judged_as_ever(self):
        crashed = self.oracle.judge([(0, "insert item", (7, 1, 1)), (0, "no such kind", ())])
        after = self.oracle.judge([(0, "items", ()), (1, "items", ())])

        self.assertEqual(crashed.verdict, "CRASHED")
        self.assertIn("KeyError: 'no such kind'", crashed.detail)
        self.assertEqual(after.verdict, "equal", after)


class PsycopgOracleTests(OracleTests):
    driver = "psycopg"


if __name__ == "__main__":
    unittest.main()
