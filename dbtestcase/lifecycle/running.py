"""One test class while it runs: its instance, its databases, its class data and its tests.

:class:`RunningClass` is all the private state of a test class in one place, so that the class itself, which lives in
its users' namespace, carries a single attribute.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from typing import Any, Self

import psycopg2
from sqlalchemy import URL, Engine
from sqlalchemy.orm import Session

from dbtestcase import sandbox
from dbtestcase.diagnosis import leftovers, messages, report, states
from dbtestcase.diagnosis.explain import Explanations
from dbtestcase.errors import DBTestCaseError, SchemaError
from dbtestcase.lifecycle import classdata, lost_server, postmortem, validation
from dbtestcase.lifecycle.app_role import logging_in, warn_of_superuser
from dbtestcase.lifecycle.connections import ClassConnections
from dbtestcase.lifecycle.isolation import check_not_set_by
from dbtestcase.lifecycle.names import coroutine_tests, id_of, id_of_class
from dbtestcase.lifecycle.plans import contents_of, plain_url, plan_of
from dbtestcase.lifecycle.test_runs import TestRuns
from dbtestcase.sandbox import ClassContext, LeftOpen, Rules, SandboxedDatabase
from dbtestcase.schema import SchemaPlan
from dbtestcase.servers import BaseInstance, begin, expect, running_instance

__all__ = ["RunningClass"]


class RunningClass:
    """A test class between its ``setUpClass`` and its last class cleanup. A context manager that undoes it all.

    Attributes:
        kind: What makes the running class of a subclass of this test class.
        instance: The class's own PostgreSQL.
        databases: Its databases by name; the first is the main one.
        explanations: What the present test sent, and what is known of its failures.
        always_real: Why its tests begin on copies; "" if they begin in the one transaction.
        runs: Runs its tests.
        run_test: See :meth:`TestRuns.run`.
        prepares_tests: Something is done before each test.
        connections: What those to its databases are at present.
        awaits_tests: Whether a test may be a coroutine function.
        coroutines: Names of methods that are coroutine functions where nobody awaits them.
    """

    awaits_tests = False

    def __init__(self, test_class: Any) -> None:
        validation.check(test_class)
        self.name = test_class.__qualname__
        self.kind = type(self)
        self.coroutines = frozenset[str]() if self.awaits_tests else coroutine_tests(test_class)
        self.databases: dict[str, SandboxedDatabase] = {}
        self.always_real = ""
        self.runs = TestRuns(self)
        self.instance: BaseInstance
        self.explanations = Explanations(
            lambda: self.main.real_url,
            owner=self.name,
            hidden=test_class.hidden_columns,
            lock_wait=test_class.lock_wait,
            end_stopped=lambda pid: self.instance.end_stopped(pid),
        )
        self._class = test_class
        self._undo = ExitStack()
        self._class_data: list[str] = []
        self.connections = ClassConnections(test_class, self.databases)
        self._kept: tuple[str, str] | None = None  # the failed test whose databases are being kept, and its main one
        self._plan: SchemaPlan
        self._class_error: BaseException | None = None
        # Without a call between, since a test that uses no database is to cost next to nothing.
        self.run_test: Callable[[Any, Any, Callable[[Any], Any]], None]
        self.run_test = self._run_reported if report.is_wanted() else self.runs.run
        self.prepares_tests = type(self).begin_test is not RunningClass.begin_test

    def __enter__(self) -> Self:
        with ExitStack() as undo:
            undo.enter_context(report.span("class", id_of_class(self._class)))
            undo.enter_context(self.explanations)
            begin(self._class.postgres)  # it boots while the schema is read
            wanted = self._plan = plan_of(self._class, self.schema)
            with report.span("wait", id_of_class(self._class)):
                self._take(undo.enter_context(self.start(wanted)))
            for database in wanted.databases:
                self._add(database, undo)
            self.connections.use_ready_connection()
            undo.callback(self.connections.forget_copies)
            sandbox.activate(self.databases)
            undo.callback(sandbox.deactivate)
            undo.callback(self.runs.threads_left)
            if self._class.allow_other_databases is not True:
                undo.enter_context(
                    self.connections.forbidding_others(self._class.allow_other_databases or (), self.runs.threads_left)
                )
            self._undo = undo.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        with report.span("stop", id_of_class(self._class)):
            self.runs.end_postponed()
            self._undo.close()

    # -- what it has

    @classmethod
    def schema_of(cls, test_class: Any) -> Any:
        """Return what the database of a test class is to hold."""
        return test_class.schema

    @property
    def schema(self) -> Any:
        """What the class's database is to hold."""
        return self.schema_of(self._class)

    @property
    def main(self) -> SandboxedDatabase:
        """The first database."""
        return next(iter(self.databases.values()))

    def engine_for(self, database: str | None) -> Any:
        """Return the engine of one of the databases, as tests know it."""
        return self.database(database).engine

    @property
    def url(self) -> URL:
        """The URL of the first database; whoever makes an engine of it is isolated too."""
        return self.main.url

    @property
    def has_data_as_made(self) -> bool:
        """Whether the rows of ``setUpTestData`` are certainly as it left them."""
        # Of the class's own databases nobody knows: there tests commit.
        return self.runs.is_untouched and not self.connections.are_of_class

    def database(self, name: str | None) -> SandboxedDatabase:
        """Return one of the class's databases, the first one for ``None``.

        Raises:
            DBTestCaseError: The class has no database of this name.
        """
        if name is None:
            return self.main
        try:
            return self.databases[name]
        except KeyError:
            raise DBTestCaseError(
                f"{self.name} has no database {name!r}; it has {', '.join(map(repr, self.databases))}.\n"
                f"Name it in {self.name}.schema: schema = {{..., {name!r}: ...}}."
            ) from None

    def redirect(self, engine: Any, database: str | None = None) -> None:
        """Point an engine of the code under test to one of the class's databases, and to none of the others."""
        if not isinstance(getattr(engine, "sync_engine", engine), Engine):
            raise DBTestCaseError(f"{self.name}.redirect_engine() needs an Engine or AsyncEngine, not {engine!r}.")
        wanted = self.database(database)
        for each in self.databases.values():
            if each is not wanted:
                each.restore(engine)
        warn_of_superuser(self._class, self.instance, engine)
        wanted.redirect(engine)

    def redirect_application(self) -> None:
        """Redirect the engines that the class declares as those of the code under test."""
        for engine in self._class.app_engines:
            self.redirect(engine)

    def add_database(self, database: str) -> None:
        """Create an empty database that the schema did not name."""
        for each in self.databases.values():
            each.expect_commits()
        self.instance.create_database(database)
        self._add(database, self._undo)
        sandbox.activate(self.databases)
        self.connections.forget_copies()
        if not self.connections.are_of_class:
            self.databases[database].use_shared()

    def external_url(self) -> str:
        """Return the present test's database as libpq reads it; makes it a test on a copy.

        Raises:
            RunAgain: The test runs in the one transaction.
        """
        self.runs.need_real("asked for the address of its database")
        return self.connections.external_url(next(iter(self.databases)))

    def _address_asked(self, database: str) -> str:
        """Let a test that asks the instance for an address be one on a copy; return the name to give."""
        if self.runs.test is not None:
            self.runs.need_real("asked for the address of its database")
        return self.connections.address_given(database)

    def expect(self, following: Any, kind: type[RunningClass], position: int) -> None:
        """Boot the instance of a class that comes soon, in the background.

        Args:
            position: How many other classes come before it.

        Raises:
            DBTestCaseError: That class cannot be what it says.
        """
        validation.check(following)
        wanted = self._plan
        schema = kind.schema_of(following)
        if schema is not self.schema or following.postgres.extensions != self._class.postgres.extensions:
            try:
                wanted = plan_of(following, schema)
            except SchemaError:
                return  # the class itself will say so, in its own setUpClass
        # A schema that changes until then is seen there too: its plan will want something else than what was booted.
        contents = contents_of(wanted, following)
        expect(following.postgres, contents, owner=following.__qualname__, position=position)

    # -- class data

    def make_class_data(self) -> None:
        """Run ``setUpTestData`` and put what it left on the class within every test's reach."""
        before = dict(vars(self._class))
        with self.class_data_session() as session:
            self._class.setUpTestData(session)
            session.commit()
            self._class_data = classdata.hand_out(self._class, before, session)

    @contextmanager
    def class_data_session(self) -> Iterator[Session]:
        """The session that ``setUpTestData`` is given."""
        with Session(self.main.engine) as session:
            yield session

    # -- one test

    def _run_reported(self, test: Any, result: Any, run: Callable[[Any], Any]) -> None:
        with report.span("test", id_of(test)):
            self.runs.run(test, result, run)

    def begin_test(self, test: Any) -> None:
        """Make ready for a run of a test; most of that waits for its first use of a database."""
        states.begin_test()  # a test before may have used sessions, and no database

    def first_use(self, test: Any, *, is_attempt: bool, counts: bool) -> None:
        """Make ready for a test that uses a database, when it does so for the first time.

        Args:
            counts: Whether a failure of this run is the test's, and not a reason to run it again.
        """
        self.explanations.begin_test(partial(id_of, test), counts=counts)

    def use_shared(self) -> None:
        """Let connections share one transaction from now on."""
        left = self._on_living_server(self.connections.use_shared)
        if left:
            self.warn_left_open(left, when="before the first test")

    def use_copies(self) -> None:
        """Give the test private copies of the class's databases."""
        self.warn_left_open(self._on_living_server(self.connections.use_copies), when="before the first test")
        self._class.url = self.url

    def leave_copies(self) -> list[LeftOpen]:
        """Go back to the class's own databases; return what was left open on the copies."""
        left = self.connections.leave_copies()
        self._class.url = self.url
        return left

    def leave_test(self, test: Any) -> None:
        """Close and forget what was made for a test outside its database: its session, its copies of class data."""
        if not self.runs.is_untouched:
            states.cease()  # what happens to its objects now is the library's own clearing up
        own = test.__dict__
        for name in self._class_data:
            own.pop(name, None)  # the same object may be run again
        session = own.pop("session", None)
        if isinstance(session, Session):
            if self._kept is None:
                session.close()
            else:
                with suppress(Exception):  # its connection is closed
                    session.close()
        if "isolation" in own:
            check_not_set_by(test)

    def has_left_nothing(self, test: Any) -> bool:
        """Whether there is nothing to close or forget after a test that has used no database."""
        own = test.__dict__
        return not self._class_data and "session" not in own and "isolation" not in own

    def without_errors_of_lost_server(self, problems: list[Exception]) -> list[Exception]:
        """Return what went wrong at the end of a run, but for what only tells that the test has ended its server."""
        if not lost_server.is_lost(self.instance):
            return problems
        self.main.needs_fresh_database = True
        return lost_server.without_aftermath(problems)

    def after_test(self, test: Any, problems: list[Exception], *, has_failed: bool) -> None:
        """A run of a test is over and undone: see whether the next can begin on what is there."""
        if not self.runs.is_untouched:
            self.explanations.log.end_test()
        is_spoilt = self._kept is not None
        # What has just undone the test needs not be asked whether it lives.
        has_answered = not (has_failed or problems)
        for database in self.databases.values():
            is_spoilt = is_spoilt or database.needs_fresh_database
            has_answered = has_answered and database.physical is not None
        if not (is_spoilt or has_answered):
            is_spoilt = self.connections.is_server_lost(has_failed or bool(problems))
        if is_spoilt:
            self.replace_instance()

    def present_session(self, test: Any) -> Session | None:
        """Return the test's session if it has one."""
        session = test.__dict__.get("session")
        return session if isinstance(session, Session) else None

    def session_for_test(self) -> Any:
        """Return a new session on the class's engine."""
        return Session(self.main.engine)

    def warn_left_open(self, left: list[LeftOpen], *, when: str) -> None:
        """Warn of connections and cursors that somebody has kept, and that were closed."""
        for each in left:
            if each.label:
                lines = self.explanations.locks.backends.describe(each.pid) if each.pid else ()
                details = "".join(f"\n  {line}" for line in lines)
                text = messages.CONNECTION_LEFT.format(
                    owner=self.name, label=each.label, opened=each.origin, when=when, details=details
                )
                leftovers.warn_left_open(text, each.origin)
            for origin in each.cursors:
                text = messages.CURSOR_LEFT.format(owner=self.name, opened=origin, when=when)
                leftovers.warn_left_open(text, origin)

    # -- failures

    def explain(self, test: Any, error: BaseException) -> bool:
        """Give an error of the test its notes; keep the database as it is now, if that is wanted.

        Returns:
            False if it only follows from the database having been kept.
        """
        if self.runs.is_untouched:
            self.explanations.begin_test(partial(id_of, test), counts=True)  # what is logged is an earlier test's
        if self._kept is not None and postmortem.is_aftermath(error):
            if postmortem.NOTHING_MORE not in str(error):
                error.add_note(f"{self.name}: {postmortem.NOTHING_MORE}")
            return False
        session = self.present_session(test)
        if session is not None and isinstance(error, AssertionError):
            self.explanations.hint_at_unsent(error, session)
        self.explanations.explain(error)
        lost_server.explain(error, self.instance, self.name)
        if self.runs.test is test and self._kept is None and postmortem.is_wanted():
            self.runs.before_use()
            self._keep(test)
        return True

    def _keep(self, test: Any) -> None:
        """Keep the databases as they are now, and refuse whatever is sent from now on."""
        for each in self.databases.values():
            each.keep_work(f"{self.name}: {postmortem.NOTHING_MORE}")
        self._kept = id_of(test), self.main.real_url.database or "test"
        self.instance.keep(*self._kept)

    def explain_class(self, error: BaseException) -> None:
        """Give an error of ``setUpClass`` or ``tearDownClass`` its notes, once on its way out of several of them."""
        if error is not self._class_error:
            self._class_error = error
            self.explanations.explain(error)

    # -- inside

    def start(self, wanted: SchemaPlan) -> Any:
        """Return the context in which an instance with the class's schema runs."""
        return running_instance(self._class.postgres, contents_of(wanted, self._class), owner=self.name)

    def _take(self, instance: BaseInstance) -> None:
        self.instance = instance
        instance.address_asked = self._address_asked
        self.connections.begin(instance)

    def _add(self, database: str, undo: ExitStack) -> None:
        facts = self.instance.notes.get("effects", {}).get(database) or {}
        rules = Rules(facts)
        self.always_real = self.always_real or rules.always_real
        about = ClassContext(
            owner=self.name,
            before_use=self.runs.before_use,
            observer=self.explanations.log,
            locks=self.explanations.locks,
            as_role=logging_in(lambda: self.instance, self._class.app_role),
            own_commits=(lambda: self.instance.own_commits()) if self.instance.options.tracks_commits else None,
            server_log=lambda: None if self.connections.visitors.may_come else self.instance.log,
        )
        kind = (self.instance.options, self._plan.token, database)
        url = plain_url(self.instance, database)
        added = SandboxedDatabase(url, about, rules=rules, kind=kind)
        added.connects = self.instance.patiently
        undo.callback(added.close)
        self.databases[database] = added

    def _on_living_server(self, use: Callable[[], list[LeftOpen]]) -> list[LeftOpen]:
        """Do something that a test begins with; if the server has ended since the test before, on a fresh one."""
        try:
            return use()
        except psycopg2.Error:
            if not lost_server.is_lost(self.instance):
                raise
        warnings.warn(
            f"{self.name}: the server has ended between two tests, which lost what it held; a fresh one with the "
            "class's schema and data takes its place.",
            RuntimeWarning,
            stacklevel=2,
        )
        with self.runs.between_tests():
            self.replace_instance()
        return use()

    def replace_instance(self) -> None:
        """Go on with a fresh instance: a test has changed this one for good, or the server did not survive it."""
        self.main.needs_fresh_database = True  # until all is there
        self.connections.forget_copies()
        for each in self.databases.values():
            each.hang_up()
        self.instance.stop()
        if self._kept is not None:
            failed, database = self._kept
            postmortem.note(failed, self.instance.open_command(database))
            self._kept = None
        self._take(self._undo.enter_context(self.start(plan_of(self._class, self.schema))))
        self._class.instance = self.instance
        for name, each in self.databases.items():
            each.use_real(plain_url(self.instance, name))
            each.expect_commits()
        self._class.url = self.url
        self.connections.use_ready_connection()
        classdata.take_back(self._class, self._class_data)
        self._class_data = []
        self.make_class_data()
        for each in self.databases.values():
            each.needs_fresh_database = False
