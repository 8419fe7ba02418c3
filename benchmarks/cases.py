"""Test classes as users write them: with dbtestcase, and with each peer by hand."""

from __future__ import annotations

import time
import unittest
from typing import Any, ClassVar

from sqlalchemy import Connection, Engine, MetaData
from sqlalchemy.engine import RootTransaction
from sqlalchemy.orm import Session

from benchmarks import workload
from benchmarks.clock import Clock
from benchmarks.servers import Databases


class ServedCase(unittest.TestCase):
    """A class with a database from a peer, started in ``setUpClass`` and stopped in ``tearDownClass``."""

    databases: ClassVar[Databases]
    engine: ClassVar[Engine]

    @classmethod
    def setUpClass(cls) -> None:
        cls.engine = cls.databases.start()

    @classmethod
    def tearDownClass(cls) -> None:
        cls.databases.stop(cls.engine)


class RealCommits:
    """A session on a bare engine; what is committed stays."""

    engine: Any
    session: Session

    def setUp(self) -> None:
        self.session = Session(self.engine)

    def tearDown(self) -> None:
        self.session.close()


class Recipe:
    """SQLAlchemy's manual, "Joining a Session into an External Transaction (such as for test suites)"."""

    engine: Any
    session: Session
    connection: Connection
    transaction: RootTransaction

    def setUp(self) -> None:
        self.connection = self.engine.connect()
        self.transaction = self.connection.begin()
        self.session = Session(bind=self.connection, join_transaction_mode="create_savepoint")

    def tearDown(self) -> None:
        self.session.close()
        self.transaction.rollback()
        self.connection.close()


class Answering:
    """Asks its database once, then does something else for ``behind`` seconds."""

    engine: Any
    clock: ClassVar[Clock]
    behind: ClassVar[float] = 0.0
    waits: ClassVar[bool] = False  # the other work is waiting, not computing

    def test_answer(self) -> None:
        self.clock.ask(self.engine)
        if self.waits:
            time.sleep(self.behind)
        elif self.behind:
            workload.compute(self.behind)


class Untouched:
    """Touches no database."""

    def test(self) -> None:
        pass


class Bodied:
    """Runs one of the bodies, and looks at what it returns."""

    body: ClassVar[Any]
    expected: ClassVar[int | None] = None
    session: Any

    def test(self) -> None:
        found = type(self).body(self.session)
        if self.expected is not None and found != self.expected:
            raise AssertionError(f"{found} rows, not {self.expected}: those of another test are there")


def ours(*bases: type, metadata: Any = None, **attributes: Any) -> type[unittest.TestCase]:
    """Return a new class that uses dbtestcase.

    Args:
        bases: Where its tests come from.
        metadata: Its schema.
    """
    from dbtestcase import DatabaseTestCase

    if isinstance(metadata, MetaData) and not metadata.tables:
        metadata = None  # what a user writes for an empty database; an empty MetaData is taken for a mistake
    return type("Ours", (*bases, DatabaseTestCase), {"schema": metadata, **attributes})


def repeated(base: type, times: int) -> type:
    """Return a class that has the one test ``test`` of ``base`` so many times."""
    found: Any = base
    tests = {f"test_{number:04}": found.test for number in range(times)}
    return type("Repeated", (base,), {**tests, "test": None})
