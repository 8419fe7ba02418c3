"""The base class for asyncio: tests are coroutines, their engine is an ``AsyncEngine``.

What it adds to :class:`~dbtestcase.DatabaseTestCase` is in :mod:`dbtestcase.aio.running`.
"""

from __future__ import annotations

import unittest
from typing import ClassVar

from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession

from dbtestcase.aio.assertions import AsyncDatabaseAssertions
from dbtestcase.aio.running import RunningAsyncClass
from dbtestcase.case import DatabaseTestCase
from dbtestcase.lifecycle import wiring

__all__ = ["AsyncDatabaseTestCase"]

__unittest = True  # unittest leaves frames of modules with this name out of the tracebacks it prints


class AsyncDatabaseTestCase(AsyncDatabaseAssertions, DatabaseTestCase, unittest.IsolatedAsyncioTestCase):
    """Run each test, a coroutine, against a real PostgreSQL and undo what it wrote.

    All that :class:`~dbtestcase.DatabaseTestCase` promises holds, ``asyncSetUp`` and ``asyncTearDown`` are there as in
    ``unittest.IsolatedAsyncioTestCase``, and each test has an event loop of its own. Engines of the code under test
    may have been made and used in any other loop before.

    ``setUpTestData`` stays synchronous. A persistent object that it keeps as a class attribute arrives in each test
    as a copy in ``self.session`` with the values that it had when it was made.

    Assertions on rows and on the schema are awaited; a test that forgets to do so is an error.
    """

    engine: ClassVar[AsyncEngine]  # type: ignore[assignment]
    """An ``AsyncEngine`` of the class's database.

    Its driver is that of the first asynchronous engine among ``app_engines``, or else asyncpg if that is installed, or
    else psycopg.
    """

    session: AsyncSession  # type: ignore[assignment]
    """The test's session, made at first use and closed after the test.

    Its objects keep their values over a commit (``expire_on_commit=False``); ``await self.session.refresh(obj)`` reads
    what others wrote.
    """

    _dbtestcase = wiring.NotRunning(RunningAsyncClass)

    @classmethod
    def engine_for(cls, database: str) -> AsyncEngine:  # type: ignore[override]
        """Return the engine of one of the databases that ``schema`` names."""
        engine: AsyncEngine = wiring.running_class(cls).engine_for(database)
        return engine
