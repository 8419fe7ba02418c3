"""Random programs, as many as a few seconds give; ``python -m tests.sandbox.oracle`` runs thousands."""

from __future__ import annotations

import unittest
import warnings
from collections import Counter
from importlib.util import find_spec

import sqlalchemy as sa

from tests.sandbox.oracle import judged, random_programs
from tests.sandbox.programs import show
from tests.support import once

PROGRAMS = 40


class OracleTests(unittest.TestCase):
    """By default a program gives what it gives on real connections, or it ran again and gives it then."""

    def check(self, driver: str, seed: int, *, connections: int = 0, raw: bool = False) -> Counter[str]:
        programs = random_programs(PROGRAMS, seed, connections=connections, raw=raw)
        verdicts: Counter[str] = Counter()
        self.enterContext(warnings.catch_warnings())
        warnings.simplefilter("ignore", sa.exc.SAWarning)
        for judgement in judged(programs, driver):
            verdicts[judgement.verdict] += 1
            with self.subTest(judgement.number):
                self.assertFalse(judgement.verdict.isupper(), f"{judgement.difference}\n{show(judgement.program)}")
        return verdicts

    def test_connections_of_psycopg2(self) -> None:
        verdicts = self.check("psycopg2", seed=1)

        # Neither all of one kind: the programs meet each other, and not in every step.
        self.assertGreater(verdicts["equal"], PROGRAMS / 10, verdicts)
        self.assertGreater(verdicts["ran again"], PROGRAMS / 10, verdicts)

    @once
    @unittest.skipIf(find_spec("psycopg") is None, "psycopg is not installed")
    def test_connections_of_psycopg(self) -> None:
        self.check("psycopg", seed=2)

    @once
    def test_raw_connections(self) -> None:
        self.check("psycopg2", seed=3, raw=True)

    def test_one_connection_hardly_ever_runs_again(self) -> None:
        verdicts = self.check("psycopg2", seed=4, connections=1)

        self.assertLessEqual(verdicts["ran again"], PROGRAMS / 10, verdicts)


if __name__ == "__main__":
    unittest.main()
