"""The base class: one PostgreSQL instance for a test class, one undone transaction for a test.

This module only wires: the server comes from :mod:`dbtestcase.servers`, what is in it from :mod:`dbtestcase.schema`,
and that it is undone from :mod:`dbtestcase.sandbox`.
"""

from __future__ import annotations

import unittest
from collections.abc import Collection, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar, NoReturn

from sqlalchemy import URL, Engine
from sqlalchemy.orm import Session

from dbtestcase.assertions import DatabaseAssertions
from dbtestcase.diagnosis import report
from dbtestcase.diagnosis.results import explaining
from dbtestcase.diagnosis.statements import StatementLog
from dbtestcase.errors import DBTestCaseError
from dbtestcase.lifecycle import schedule as upcoming
from dbtestcase.lifecycle.isolation import Isolation
from dbtestcase.lifecycle.running import RunningClass
from dbtestcase.servers import Instance, ThrowawayPostgres

if TYPE_CHECKING:
    from dbtestcase.schema import SchemaLike

__all__ = ["DatabaseTestCase"]

report.begin()

__unittest = True  # unittest leaves frames of modules with this name out of the tracebacks it prints


def _explain_class(test_class: type, error: BaseException) -> None:
    running: RunningClass | None = test_class.__dict__.get("_dbtestcase")
    if running is not None:
        running.explain_class(error)


class _NotSetUp:
    """What ``cls.engine`` and its like are before ``setUpClass``: a sentence instead of an AttributeError."""

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = name

    def __get__(self, test: object, owner: type) -> NoReturn:
        raise DBTestCaseError(
            f"{owner.__qualname__}.{self._name} is there once DatabaseTestCase.setUpClass has run, and not after the "
            f"class has ended.\nIf {owner.__qualname__} or a base class of it defines setUpClass, make "
            "'super().setUpClass()' its first line."
        )


class DatabaseTestCase(DatabaseAssertions):
    """Run each test against a real PostgreSQL and undo what it wrote.

    The class gets a throwaway PostgreSQL instance of its own, started by :meth:`setUpClass` and gone after the class.
    Whatever the code under test commits, rolls back or leaves open is undone before the next test; only sequences keep
    counting.

    These attributes may be set on a subclass:

    * ``schema``: what exists once :meth:`setUpClass` has run: a ``MetaData``, a declarative base, a Flask-SQLAlchemy
      ``db``, a ``Path`` to a .sql file or to a folder of them, ``AlembicMigrations(...)``, a callable taking a
      ``Connection``, a sequence of these, or a mapping of database names to these. An empty database if ``None``.
    * ``postgres``: the options of the instance, a :class:`ThrowawayPostgres`.
    * ``isolation``: ``"savepoint"``, or ``"clone"`` to give each test a private copy of the class's database in which
      it commits for real.
    * ``app_engines``: engines of the code under test; they point to the class's database while the class runs.
    * ``allow_other_databases``: let other engines connect to servers that are not ours.
    * ``restart_identities``: generated keys start at the same value in every test.
    * ``hidden_columns``: names of columns whose values no message shows, beside ``password``, ``token`` and their like.
    * ``lock_wait``: longest wait of a statement for a lock, in seconds; 0 waits for ever.

    And these are there to read:

    * ``engine``, ``url``: Engine and URL of the class's database. Engines made from ``url`` are isolated too.
    * ``session``: the test's ``Session``, made at first use and removed after the test.
    * ``instance``: the running :class:`~dbtestcase.servers.Instance`.
    """

    schema: ClassVar[SchemaLike | None] = None
    postgres: ClassVar[ThrowawayPostgres] = ThrowawayPostgres()
    isolation: ClassVar[Isolation] = "savepoint"
    app_engines: ClassVar[Sequence[Engine]] = ()
    allow_other_databases: ClassVar[bool] = False
    restart_identities: ClassVar[bool] = False
    hidden_columns: ClassVar[Collection[str]] = ()
    lock_wait: ClassVar[float] = 5.0

    engine: ClassVar[Engine] = _NotSetUp()  # type: ignore[assignment]
    url: ClassVar[URL] = _NotSetUp()  # type: ignore[assignment]
    instance: ClassVar[Instance] = _NotSetUp()  # type: ignore[assignment]

    _dbtestcase: ClassVar[RunningClass | None] = None
    _running_kind: ClassVar[type[RunningClass]] = RunningClass

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        for name in ("setUpClass", "tearDownClass"):
            hook = getattr(cls, name).__func__
            if not hasattr(hook, "is_explained"):
                setattr(cls, name, classmethod(explaining(hook, _explain_class)))

    def __init__(self, methodName: str = "runTest") -> None:
        super().__init__(methodName)
        upcoming.announce(type(self))

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
            PostgresNotFound: No PostgreSQL programs are installed.
            PostgresNotReady: The server did not start.
            SchemaError: ``schema`` is not usable, or PostgreSQL refused it.
        """
        super().setUpClass()
        # Class cleanups, not tearDownClass: unittest skips tearDownClass when setUpClass raises, and the server would
        # outlive the class.
        cls.addClassCleanup(upcoming.finish, cls)
        try:
            running = cls.enterClassContext(cls._running_kind(cls))
        except DBTestCaseError as error:
            # The reader needs the sentence and the place in his own code, not our frames.
            raise error.with_traceback(None) from error.__cause__
        cls.addClassCleanup(cls._forget_running)
        cls._dbtestcase = running
        cls.instance, cls.engine, cls.url = running.instance, running.engine, running.url
        running.redirect_application()
        with report.span("data", cls.__qualname__):
            running.make_class_data()
        following = upcoming.after(cls)
        if following is not None and issubclass(following, DatabaseTestCase):
            running.expect(following)

    @classmethod
    def redirect_engine(cls, engine: Engine, database: str | None = None) -> None:
        """Point an engine of the code under test to the class's database until the class has ended.

        For engines that do not exist yet when the class body runs. Nothing is ever sent to the server that the engine
        was made for, and after the class the engine is what it was.

        Args:
            database: Which of the databases, if ``schema`` is a mapping; its first one if ``None``.
        """
        cls._running().redirect(engine, database)

    @classmethod
    def engine_for(cls, database: str) -> Engine:
        """Return the engine of one of the databases that ``schema`` names."""
        return cls._running().sandbox(database).engine

    @cached_property
    def session(self) -> Session:
        """The test's session; made at first use, closed after the test."""
        return self._running().session_for_test()

    def run(self, result: unittest.TestResult | None = None) -> unittest.TestResult | None:
        """Run the test inside its sandbox, around ``setUp`` and ``tearDown`` whether or not these call ``super()``."""
        result = result or self.defaultTestResult()
        running = type(self).__dict__.get("_dbtestcase")
        explained = result if running is None else running.explained(result)
        if not self._begin(running) or running is None:
            super().run(explained)
            return result
        try:
            if report.is_wanted():
                with report.span("test", self.id()):
                    super().run(explained)
            else:
                super().run(explained)
        finally:
            running.drop_test(self)
        return result

    def debug(self) -> None:
        """Run the test without collecting errors, in its sandbox as :meth:`run` does."""
        running = type(self).__dict__.get("_dbtestcase")
        has_begun = self._begin(running)
        try:
            super().debug()
        except Exception as error:
            if running is not None:
                running.explain(self, error)
            raise
        finally:
            if has_begun and running is not None:
                running.drop_test(self)

    @property
    def _dbtestcase_log(self) -> StatementLog:
        return self._running().explanations.log

    def _begin(self, running: RunningClass | None) -> bool:
        """Begin the test in its class; False if that went wrong, and the test is an error now whoever runs it."""
        try:
            (running or self._running()).begin_test(self)
        except Exception as error:
            self._fail_with(error)
            return False
        return True

    def _fail_with(self, error: Exception) -> None:
        """Let the test be an error instead of running it, reported as any other."""

        def raise_it() -> NoReturn:
            raise error.with_traceback(None) from error.__cause__

        self.setUp = self.tearDown = lambda: None  # type: ignore[method-assign]
        setattr(self, self._testMethodName, raise_it)

    @classmethod
    def _running(cls) -> RunningClass:
        running: RunningClass | None = cls.__dict__.get("_dbtestcase")
        if running is None:
            raise DBTestCaseError(
                f"{cls.__qualname__} has no database: DatabaseTestCase.setUpClass did not run for it.\n"
                f"If {cls.__qualname__} or a base class of it defines setUpClass, make 'super().setUpClass()' its "
                "first line. If the runner leaves class fixtures out, let it run whole classes (unittest-parallel: "
                "--level class)."
            )
        return running

    @classmethod
    def _schema(cls) -> SchemaLike | None:
        return cls.schema

    @classmethod
    def _forget_running(cls) -> None:
        for name in ("_dbtestcase", "instance", "engine", "url"):
            if name in cls.__dict__:
                delattr(cls, name)
