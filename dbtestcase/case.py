"""The base class: one PostgreSQL instance for a test class, one undone transaction for a test.

This module only declares and wires: what happens is in :mod:`dbtestcase.lifecycle`.
"""

from __future__ import annotations

import unittest
from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from sqlalchemy import URL, Engine
from sqlalchemy.orm import Session

from dbtestcase.assertions import DatabaseAssertions
from dbtestcase.diagnosis import report
from dbtestcase.diagnosis.results import explaining
from dbtestcase.lifecycle import schedule, wiring
from dbtestcase.lifecycle.isolation import Isolation
from dbtestcase.lifecycle.running import RunningClass
from dbtestcase.schema import SchemaLike
from dbtestcase.servers import DEFAULT, BaseInstance, PostgresOptions

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncEngine

__all__ = ["DatabaseTestCase"]

report.begin()

__unittest = True  # unittest leaves frames of modules with this name out of the tracebacks it prints


class DatabaseTestCase(DatabaseAssertions):
    """Run each test against a real PostgreSQL and undo what it wrote.

    The class gets a throwaway PostgreSQL instance of its own, started by :meth:`setUpClass` and gone after the class.
    Whatever the code under test commits, rolls back or leaves open is undone before the next test; only sequences keep
    counting. A test runs in one transaction. Where that cannot give it what real connections would, it runs again, by
    itself, on a private copy of the database.

    Nothing has to be set: what the attributes are by default is a throwaway server with an empty database.
    """

    schema: SchemaLike | None = None
    """What exists once ``setUpClass`` has run; an empty database if ``None``.

    A ``MetaData``, a declarative base, a Flask-SQLAlchemy ``db``, a ``Path`` to a .sql file or to a folder of them (run
    in the order of their names), ``AlembicMigrations(...)``, a callable taking a ``Connection``, a sequence of these,
    or a mapping of database names to these. The first name of a mapping is the database of ``engine``, ``url`` and
    ``session``.
    """

    postgres: ClassVar[PostgresOptions] = DEFAULT
    """The server, ``ThrowawayPostgres(...)``, or ``ExistingPostgres(url)`` for one that is there already.

    A class that does not set it gets a throwaway one, or what the environment variable ``DBTESTCASE_SERVER`` names.
    """

    isolation: ClassVar[Isolation] = "auto"
    """How tests are kept apart.

    * ``"auto"``: a test runs in one undone transaction; again, on real connections to a private copy of the database,
      if that transaction cannot carry it or if it failed there.
    * ``"savepoint"``: in one undone transaction, and never twice. What would run again is an ``IsolationBroken``.
    * ``"clone"``: on a private copy of the class's database, with real commits.
    * ``"class"``: on the class's database itself. Tests see what earlier ones committed; it is gone with the class.
    """

    app_engines: ClassVar[Sequence[Engine | AsyncEngine]] = ()
    """Engines of the code under test, of both kinds; they point to the class's database while the class runs."""

    app_role: ClassVar[str | None] = None
    """The role that ``app_engines`` and other engines of the code under test connect as, such as ``"shop_app"``.

    It is no superuser. It is made before the schema, whose GRANTs and policies can name it; if the schema grants it
    nothing, it may read and change the rows of all tables. ``engine``, ``url`` and the class data stay the owner's.
    With ``None``, these engines connect as the owner too, whom neither grants nor row level security bind.
    """

    allow_other_databases: ClassVar[bool | Collection[str | URL]] = False
    """Whether engines that were declared nowhere may connect to other servers.

    ``True`` for all servers, or a list of hosts or URLs. Elsewhere to connect raises ``UndeclaredDatabase``.
    """

    restart_identities: ClassVar[bool] = False
    """Let generated keys start at the same value in every test."""

    hidden_columns: ClassVar[Collection[str]] = ()
    """Names of columns and settings, beside ``password``, ``token`` and their like.

    A statement or message that names one of them shows no values.
    """

    lock_wait: ClassVar[float] = 5.0
    """Longest wait of a statement for a lock, in seconds, before it ends in ``LockWait``; 0 waits for ever."""

    engine: ClassVar[Engine] = wiring.SetByClass()  # type: ignore[assignment]
    """An engine of the class's database, the first one if there are several. There from ``setUpClass`` on."""

    url: ClassVar[URL] = wiring.SetByClass()  # type: ignore[assignment]
    """The SQLAlchemy URL of that database. An engine that is made from it is isolated like ``engine``."""

    instance: ClassVar[BaseInstance] = wiring.SetByClass()  # type: ignore[assignment]
    """The running server; ``url()`` and ``dsn()`` name its databases for other drivers."""

    _dbtestcase: ClassVar[Any] = wiring.NotRunning(RunningClass)

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        for name, before in (("setUpClass", None), ("tearDownClass", wiring.end_tests)):
            hook = getattr(cls, name).__func__
            if not hasattr(hook, "is_explained"):
                setattr(cls, name, classmethod(explaining(hook, wiring.explain_class, before)))

    def __init__(self, methodName: str = "runTest") -> None:
        super().__init__(methodName)
        schedule.announce(type(self))

    @classmethod
    def setUpTestData(cls, session: Session) -> None:
        """Add rows that every test of the class sees.

        Called once, by :meth:`setUpClass`; what it leaves in the session is committed into the class's instance. A
        persistent object that it keeps as a class attribute arrives in each test as a copy of its own in
        ``self.session``. Does nothing by default.
        """

    @classmethod
    def setUpClass(cls) -> None:
        """Start the instance, create the schema, redirect ``app_engines`` and run :meth:`setUpTestData`.

        Raises:
            DBTestCaseError: An attribute of the class has a value that it cannot have, or a name that nobody reads.
            PostgresNotFound: No PostgreSQL programs are installed.
            PostgresNotReady: The server did not start.
            SchemaError: ``schema`` is not usable, or PostgreSQL refused it.
        """
        super().setUpClass()
        wiring.set_up(cls, lambda following: issubclass(following, DatabaseTestCase))

    @classmethod
    def redirect_engine(cls, engine: Engine | AsyncEngine, database: str | None = None) -> None:
        """Point an engine of the code under test to the class's database until the class has ended.

        For engines that do not exist yet when the class body runs. Nothing is ever sent to the server that the engine
        was made for, and after the class the engine is what it was.

        Args:
            engine: A SQLAlchemy engine, synchronous or asynchronous.
            database: Which of the databases, if ``schema`` is a mapping; its first one if ``None``.

        Raises:
            DBTestCaseError: ``engine`` is none, ``schema`` names no such database, or ``setUpClass`` has not run.
        """
        wiring.running_class(cls).redirect(engine, database)

    @classmethod
    def engine_for(cls, database: str) -> Engine:
        """Return the engine of one of the databases that ``schema`` names.

        Raises:
            DBTestCaseError: ``schema`` names no such database, or ``setUpClass`` has not run.
        """
        engine: Engine = wiring.running_class(cls).engine_for(database)
        return engine

    @wiring.SessionOfTest
    def session(self) -> Session:
        """The test's session; made at first use, closed after the test."""
        session: Session = wiring.running_class(type(self)).session_for_test()
        return session

    @property
    def external_url(self) -> str:
        """The test's database as ``postgresql://...`` for psql, a worker process or another driver.

        Other programs see only what is committed for real, so asking for it makes the test one on a private copy.
        """
        url: str = wiring.running_class(type(self)).external_url()
        return url

    def run(self, result: unittest.TestResult | None = None) -> unittest.TestResult | None:
        """Run the test, around ``setUp`` and ``tearDown`` whether or not these call ``super()``; undo what it did."""
        if result is None:
            return super().run(result)
        wiring.run_test(self, result, super().run)
        return result

    def debug(self) -> None:
        """Run the test without collecting errors, once, on real connections; undo what it did."""
        wiring.debug_test(self, super().debug)
