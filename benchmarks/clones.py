"""Group ``clones``: a private database for each test, from the end of a test to the first answer in the next."""

from __future__ import annotations

import time
import unittest
from typing import Any, ClassVar

from sqlalchemy import create_engine

from benchmarks import workload
from benchmarks.cases import ours, repeated
from benchmarks.clock import Clock
from benchmarks.plan import Contender, Group, Row, Table, Target
from benchmarks.servers import PEERS, Databases

Series = dict[str, list[float]]

TABLES = 100
TABLES_TWICE = 30
_WARM_UP = 3


class Asking:
    """Asks its database, looks whether it is really private, writes a row for good, then computes."""

    engine: Any
    clock: ClassVar[Clock]
    behind: ClassVar[float] = 0.0
    writes: ClassVar[bool] = True

    def test(self) -> None:
        self.clock.ask(self.engine)
        with self.engine.begin() as connection:
            if connection.execute(workload.COUNT).scalar():
                raise AssertionError("this database is not private: it has rows of another test")
            if self.writes:
                connection.execute(workload.INSERT)
        if self.behind:
            workload.compute(self.behind)


class MeetingTwice:
    """Does what one transaction cannot carry, at once: each test runs twice."""

    engine: Any
    lengths: ClassVar[list[float]]

    def test(self) -> None:
        begun = time.perf_counter()
        with self.engine.connect() as one, self.engine.connect() as other:
            one.execute(workload.INSERT)
            if other.execute(workload.COUNT).scalar():
                raise AssertionError("the other connection sees what was not committed")
        self.lengths.append(time.perf_counter() - begun)


class DatabaseEach(unittest.TestCase):
    """Each test has a database from a peer."""

    databases: ClassVar[Databases]
    engine: Any

    def setUp(self) -> None:
        self.engine = self.databases.start()

    def tearDown(self) -> None:
        self.databases.stop(self.engine)


def measure_ours(behind: float, number: int, writes: bool = True, driver: str = "psycopg2") -> Series:
    """Run so many tests with ``isolation = "clone"``."""
    clock = Clock()
    # The application's driver is the class's.
    engines = [create_engine(f"postgresql+{driver}://never-connected-to/")]
    attributes = {"clock": clock, "behind": behind, "writes": writes, "isolation": "clone", "app_engines": engines}
    clock.run([ours(repeated(Asking, number + _WARM_UP), metadata=workload.schema(TABLES), **attributes)])
    return {"hand-over": clock.gaps()[_WARM_UP:]}


def measure_twice(number: int) -> Series:
    """Run classes of three tests that run twice each; beyond three, a class would begin on copies."""
    beyond: list[float] = []
    for _ in range(number):
        clock, lengths = Clock(), list[float]()
        metadata = workload.schema(TABLES_TWICE)
        clock.run([ours(repeated(MeetingTwice, 3), metadata=metadata, lengths=lengths)])
        # The first of them waits for the copies of the whole class, and is told apart.
        beyond += [length - own for length, own in zip(clock.lengths(), lengths[1:], strict=True)]
    return {"beyond": beyond}


def measure_peer(peer: str, number: int) -> Series:
    """Run so many tests, each with a database from a peer."""
    clock, databases = Clock(), PEERS[peer](workload.schema(TABLES))
    attributes = {"clock": clock, "databases": databases}
    try:
        clock.run([type("Theirs", (repeated(Asking, number + _WARM_UP), DatabaseEach), attributes)])
    finally:
        databases.close()
    return {"hand-over": clock.gaps()[_WARM_UP:]}


_BACK_TO_BACK, _BEHIND_60 = "dbtestcase, back to back", "dbtestcase, tests of 60 ms"
_PSYCOPG_60 = f"{_BEHIND_60}, psycopg 3"
_FORK, _TEMPLATE = "pgmem, a fork each", "pytest-postgresql, a database from a template"
_CONTENDERS = (
    Contender(_BACK_TO_BACK, "clones:measure_ours", {"behind": 0, "number": 30}),
    Contender(_BEHIND_60, "clones:measure_ours", {"behind": 0.060, "number": 30}),
    Contender(_PSYCOPG_60, "clones:measure_ours", {"behind": 0.060, "number": 30, "driver": "psycopg"}),
    Contender("dbtestcase, tests that only read", "clones:measure_ours", {"behind": 0, "number": 30, "writes": False}),
    Contender(_FORK, "clones:measure_peer", {"peer": _FORK, "number": 20}),
    Contender(_TEMPLATE, "clones:measure_peer", {"peer": _TEMPLATE, "number": 20}, unprivileged=True),
)

_TWICE = "dbtestcase, a test that runs twice"

CLONES = Group(
    "clones",
    "a private database per test",
    (*_CONTENDERS, Contender(_TWICE, "clones:measure_twice", {"number": 10})),
    (
        Table(
            f"A test that runs twice, {TABLES_TWICE} tables, back to back: what it takes beyond its own time",
            (Row(_TWICE, "beyond"),),
            reference=_TWICE,
            targets=(Target(_TWICE, at_most=0.035),),
        ),
        Table(
            f"A private database for each test, {TABLES} tables: from a test's end to the first answer in the next",
            tuple(Row(contender.name, "hand-over") for contender in _CONTENDERS),
            reference=_BACK_TO_BACK,
            targets=(
                Target(_BACK_TO_BACK, at_most=0.040),
                Target(_BEHIND_60, at_most=0.003),
                Target(_PSYCOPG_60, at_most=0.003),
            ),
        ),
    ),
)
