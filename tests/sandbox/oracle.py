"""Random programs for several connections: by default they give what they give on real connections, or run again.

Each program is a test, run by default and, if that counted in the one transaction, on a private copy as well. What
each step gave (rows, row counts, the class, SQLSTATE and words of each error) and what is left in the tables must be
equal. A program that ran twice is equal by construction; of those, every tenth is compared, too, and from the command
line the others are spared the second run. Where DDL met open readers, the step at which real connections waited must
be the one that warned.

Run many: ``python -m tests.sandbox.oracle --programs 20000 --seed 1 [--driver psycopg] [--raw] [--connections 1]``.
"""

from __future__ import annotations

import argparse
import logging
import multiprocessing
import random
import sys
import time
import unittest
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, ClassVar
from unittest import mock

import sqlalchemy as sa
from sqlalchemy import event

from dbtestcase import DatabaseTestCase, ThrowawayPostgres, isolate
from dbtestcase.diagnosis import report
from dbtestcase.errors import IsolationWarning
from dbtestcase.lifecycle import test_runs
from dbtestcase.lifecycle.test_runs import TestRuns, _close_sessions

from .players import play
from .programs import SCHEMA, Program, random_program, shortened, show

__all__ = ["Judgement", "judged"]

_IN_ONE_CLASS = 200
_COMPARED_OF_RUN_AGAIN = 10
_LOCK_NOT_AVAILABLE = "55P03"
URL = "postgresql+{driver}://nobody@nowhere/nothing"


@dataclass
class Judgement:
    """What became of a program.

    Attributes:
        runs: What each of its runs by default gave, step by step.
        warned_at: The steps that warned, of the last of these runs.
        reference: What it gives on real connections.
        reason: Why it ran twice; "" if it did not.
        error: What made it fail, as text.
    """

    program: Program
    number: int = 0
    runs: list[list[Any]] = field(default_factory=list)
    warned_at: list[int] = field(default_factory=list)
    reference: list[Any] | None = None
    reason: str = ""
    error: str = ""

    @property
    def wants_reference(self) -> bool:
        return not self.error and ((len(self.runs) < 2 and not self.reason) or self.is_compared)

    @property
    def is_compared(self) -> bool:
        """Whether it is compared although it ran twice."""
        return self.number % _COMPARED_OF_RUN_AGAIN == 0

    @property
    def verdict(self) -> str:
        """In capitals if something is wrong."""
        if self.error:
            return "FAILED"
        if self.reference is None:
            return "ran again"
        given, wait = self.runs[-1], _first_wait(self.reference)
        if len(self.runs) > 1:
            # A wait is cut short by a time-out, and what that leaves behind is the same.
            return "ran again" if given == self.reference else "DIFFERENT ON COPIES"
        if wait in self.warned_at and given[:wait] == self.reference[:wait]:
            return "warned"
        if given != self.reference:
            return "DIFFERENT"
        return "equal, but warned" if self.warned_at else "equal"

    @property
    def difference(self) -> str:
        if self.error or self.reference is None:
            return self.error
        pairs = zip(self.runs[-1], self.reference, strict=False)
        found = next(((i, *pair) for i, pair in enumerate(pairs) if pair[0] != pair[1]), None)
        return "" if found is None else f"step {found[0]}\n    by default: {found[1]!r}\n    on copies:  {found[2]!r}"


class Programs(DatabaseTestCase):
    """The programs of one class; each is two tests, made by :func:`judged`."""

    postgres = ThrowawayPostgres(settings={"lock_timeout": "5ms"})
    restart_identities = True
    engines: ClassVar[dict[str, sa.Engine]]
    judgement: Judgement

    @staticmethod
    def make_engines(driver: str) -> dict[str, sa.Engine]:
        return _engines(driver)

    @staticmethod
    def schema(connection: sa.Connection) -> None:  # type: ignore[override]
        connection.exec_driver_sql(SCHEMA.replace("%", "%%"))

    def test_by_default(self) -> None:
        given: list[Any] = []
        self.judgement.runs.append(given)
        self.judgement.warned_at.clear()
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")

            def note(result: Any) -> None:
                if any(each.category is IsolationWarning for each in caught):
                    self.judgement.warned_at.append(len(given))
                    caught.clear()
                given.append(result)

            play(self.judgement.program, self.engines, note)

    @isolate("clone")
    def test_on_copies(self) -> None:
        if self.judgement.wants_reference:
            given: list[Any] = []
            play(self.judgement.program, self.engines, given.append)
            self.judgement.reference = given


def judged(
    programs: Iterable[Program], driver: str = "psycopg2", case: Any = Programs, *, all_twice: bool = True
) -> Iterator[Judgement]:
    """Run programs and yield what became of each.

    Args:
        case: The test class that runs them, :class:`Programs` or one like it.
        all_twice: Programs that run again do so; else only those that are compared.
    """
    engines = case.make_engines(driver)
    numbered = enumerate(programs)
    while some := [Judgement(program, number) for number, program in islice(numbered, _IN_ONE_CLASS)]:
        with nullcontext() if all_twice else mock.patch.object(TestRuns, "_run_again", _run_again_if_compared):
            _judge(some, engines, case)
        yield from some


def _judge(judgements: Sequence[Judgement], engines: dict[str, Any], case: Any) -> None:
    class Some(case):  # type: ignore[misc]
        pass

    Some.engines, Some.app_engines = engines, list(engines.values())
    suite = unittest.TestSuite()
    by_test: dict[int, Judgement] = {}  # by id(); unittest calls tests of one method equal
    for judgement in judgements:
        for name in ("test_by_default", "test_on_copies"):
            test = Some(name)
            test.judgement = judgement
            by_test[id(test)] = judgement
            suite.addTest(test)
    running: list[Judgement] = []
    result = _Result(by_test, running)
    with (
        # Programs run again more often than tests do; all the same each is to begin in the one transaction.
        mock.patch.object(test_runs, "_MANY", len(judgements) + 1),
        mock.patch.object(report, "ran_twice", lambda test, reason, outcome: _ran_twice(running, reason)),
        # What a program leaves open is told as on real connections or not at all; that is not what is judged.
        warnings.catch_warnings(),
    ):
        warnings.simplefilter("ignore", ResourceWarning)
        warnings.filterwarnings("ignore", message="(?s).*app_role", category=UserWarning)
        logging.disable()  # SQLAlchemy's and psycopg's own, of connections that programs have broken
        try:
            suite.run(result)
        finally:
            logging.disable(logging.NOTSET)
    for test, error in [*result.errors, *result.failures]:
        if id(test) in by_test:
            by_test[id(test)].error = by_test[id(test)].error or error
        else:
            judgements[0].error = f"{test}: {error}"


_run_again = TestRuns._run_again


def _run_again_if_compared(self: Any, test: Any, held: Any, *rest: Any) -> None:
    if test.judgement.is_compared:
        _run_again(self, test, held, *rest)
        return
    held.drop()
    self._threads.drop()
    _close_sessions()


class _Result(unittest.TestResult):
    def __init__(self, by_test: dict[int, Judgement], running: list[Judgement]) -> None:
        super().__init__()
        self._by_test = by_test
        self._running = running

    def startTest(self, test: Any) -> None:
        self._running[:] = [self._by_test[id(test)]]
        super().startTest(test)


def _ran_twice(running: list[Judgement], reason: str) -> None:
    running[0].reason = reason


def _engines(driver: str) -> dict[str, sa.Engine]:
    """Return the engines of the code under test, prepared in different ways."""
    url = URL.format(driver=driver)
    plain = sa.create_engine(url)
    listening = sa.create_engine(url)

    @event.listens_for(listening, "connect")
    def connected(connection: Any, record: Any) -> None:
        connection.cursor().execute("SET statement_timeout = '77s'")
        connection.commit()

    return {
        "plain": plain,
        "other": sa.create_engine(url, pool_size=1, max_overflow=8, pool_pre_ping=True),
        "null": sa.create_engine(url, poolclass=sa.NullPool),
        "auto": sa.create_engine(url, isolation_level="AUTOCOMMIT"),
        "serial": sa.create_engine(url, isolation_level="SERIALIZABLE"),
        "optioned": plain.execution_options(isolation_level="AUTOCOMMIT"),
        "listening": listening,
        "prepared": sa.create_engine(url, connect_args={"options": "-c statement_timeout=66s"}),
    }


def _first_wait(results: Sequence[Any]) -> int | None:
    return next((i for i, each in enumerate(results) if isinstance(each, tuple) and _LOCK_NOT_AVAILABLE in each), None)


def shrunk(judgement: Judgement, driver: str, case: Any = Programs) -> Judgement:
    """Leave out steps for as long as the verdict stays."""
    while True:
        program = judgement.program
        shorter = [shortened(program, index) for index in range(len(program.steps))]
        found = next((each for each in judged(shorter, driver, case) if each.verdict == judgement.verdict), None)
        if found is None:
            return judgement
        judgement = found


def random_programs(count: int, seed: int, *, connections: int = 0, raw: bool = False) -> Iterator[Program]:
    """Return programs, always the same ones for the same arguments."""
    dice = random.Random(seed)
    return (random_program(dice, connections=connections, raw=raw) for _ in range(count))


def run_part(options: argparse.Namespace, part: int) -> tuple[Counter[str], Counter[str]]:
    """Run every n-th of the programs, where n is the number of processes; print the first bad ones."""
    programs = random_programs(options.programs, options.seed, connections=options.connections, raw=options.raw)
    verdicts: Counter[str] = Counter()
    reasons: Counter[str] = Counter()
    mine = islice(programs, part, None, options.processes)
    for judgement in judged(mine, options.driver, _case(options), all_twice=options.asyncio):
        verdicts[judgement.verdict] += 1
        if judgement.reason:
            reasons[_rule(judgement.reason)] += 1
        if judgement.verdict.isupper() and verdicts[judgement.verdict] <= options.show:
            least = shrunk(judgement, options.driver, _case(options))
            print(f"{least.verdict} {least.difference}\n{show(least.program)}\n", flush=True)
    return verdicts, reasons


def _case(options: argparse.Namespace) -> Any:
    if not options.asyncio:
        return Programs
    from tests.aio.oracle import AsyncPrograms

    return AsyncPrograms


def _rule(reason: str) -> str:
    for begin in ("needs real", "met ", "came ", "concerns", "was ", "in autocommit", "it failed", "ended", "lost"):
        if begin in reason:
            return reason[reason.index(begin) :][:90]
    return reason[:90]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--programs", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--driver", choices=("psycopg2", "psycopg", "asyncpg"), default="psycopg2")
    parser.add_argument("--asyncio", action="store_true", help="asynchronous connections, of psycopg or asyncpg")
    parser.add_argument("--raw", action="store_true", help="only the driver's own connections")
    parser.add_argument("--connections", type=int, default=0, help="how many each program has; 2 to 4 if not given")
    parser.add_argument("--show", type=int, default=3, help="how many bad programs to print, for each process")
    parser.add_argument("--reasons", action="store_true", help="print why programs ran again")
    parser.add_argument("--processes", type=int, default=1, help="how many share the programs")
    options = parser.parse_args()
    began = time.monotonic()
    with ProcessPoolExecutor(options.processes, multiprocessing.get_context("spawn")) as pool:
        parts = list(pool.map(run_part, [options] * options.processes, range(options.processes)))
    verdicts = sum((part[0] for part in parts), Counter[str]())
    if options.reasons:
        for reason, count in sum((part[1] for part in parts), Counter[str]()).most_common():
            print(f"{count:7}  {reason}")
    print(
        f"{options.programs} programs, seed {options.seed}, {options.driver}, SQLAlchemy {sa.__version__}, "
        f"{time.monotonic() - began:.0f} s: {dict(verdicts)}"
    )
    return any(verdict.isupper() for verdict in verdicts)


if __name__ == "__main__":
    sys.exit(main())
