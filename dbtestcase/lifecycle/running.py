"""One test class while it runs: its instance, the sandboxes of its databases, its class data, its present test.

:class:`RunningClass` is all the private state of a test class in one place, so that the class itself, which lives in
its users' namespace, carries a single attribute.
"""

from __future__ import annotations

import threading
import unittest
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager, nullcontext, suppress
from typing import TYPE_CHECKING, Any, Self

from sqlalchemy import URL, Engine, make_url
from sqlalchemy.orm import Session

from dbtestcase import sandbox
from dbtestcase.diagnosis import report
from dbtestcase.diagnosis.explain import Explanations
from dbtestcase.diagnosis.leftovers import ThreadWatch, warn_left_open
from dbtestcase.diagnosis.results import ExplainedResult
from dbtestcase.diagnosis.tracebacks import chain
from dbtestcase.errors import DBTestCaseError, IsolationBroken, SchemaError
from dbtestcase.lifecycle import classdata, postmortem
from dbtestcase.lifecycle import schedule as upcoming
from dbtestcase.lifecycle import validation as declared
from dbtestcase.lifecycle.copies import Cloning
from dbtestcase.lifecycle.isolation import isolation_of, may_clone
from dbtestcase.lifecycle.postmortem import PostMortem
from dbtestcase.sandbox import Sandbox, undeclared
from dbtestcase.schema import SchemaPlan, effects, plan
from dbtestcase.servers import EMPTY, Contents, Instance, expect, running_instance

if TYPE_CHECKING:
    from dbtestcase.case import DatabaseTestCase

__all__ = ["RunningClass", "contents_of"]


def plan_of(test_class: type[DatabaseTestCase]) -> SchemaPlan:
    """Return what the class's ``schema`` asks for.

    Raises:
        SchemaError: The attribute holds something that is no schema.
    """
    return plan(
        test_class._schema(),
        owner=f"{test_class.__qualname__}.schema",
        extensions=test_class.postgres.extensions,
    )


def contents_of(wanted: SchemaPlan) -> Contents:
    """Translate a schema's plan into what a cluster is asked to hold."""
    if wanted.is_empty:
        return EMPTY

    def prepare(instance: Instance) -> dict[str, Any]:
        wanted.create(lambda database: _plain_url(instance, database), instance.execute)
        return effects.notes(instance.connect, wanted.databases)

    return Contents(fingerprint=wanted.fingerprint, prepare=prepare, token=wanted.token, background=wanted.background)


class RunningClass:
    """A test class between its ``setUpClass`` and its last class cleanup. A context manager that undoes it all.

    Attributes:
        instance: The class's own PostgreSQL.
        explanations: What the present test sent, and what is known of its failures.
        engine: Engine of its first database.
        url: URL of its first database, isolated for whoever makes an engine from it.
    """

    def __init__(self, test_class: type[DatabaseTestCase]) -> None:
        declared.check(test_class)
        self._class = test_class
        self._undo = ExitStack()
        self._sandboxes: dict[str, Sandbox] = {}
        self._class_data: list[str] = []
        self._test: DatabaseTestCase | None = None
        self._explained: tuple[unittest.TestResult, ExplainedResult] | None = None
        self._has_begun = False
        self._has_failed = False
        self._beginning = threading.RLock()
        self._may_clone = may_clone(test_class)
        self._begins_at_once = self._may_clone
        self._cloning: Cloning | None = None
        self._sequences_known = False
        self._post_mortem: PostMortem | None = None
        self._schema = test_class._schema()
        self._plan: SchemaPlan
        self._threads = ThreadWatch()
        self._runner: int | None = None
        self._is_between_tests = False
        self._class_error: BaseException | None = None
        self._told: list[BaseException] = []
        self.explanations = Explanations(
            lambda: self.main.real_url,
            owner=test_class.__qualname__,
            hidden=test_class.hidden_columns,
            lock_wait=test_class.lock_wait,
        )
        self.instance: Instance

    def __enter__(self) -> Self:
        with ExitStack() as undo:
            name = self._class.__qualname__
            undo.enter_context(report.span("class", name))
            undo.enter_context(self.explanations)
            wanted = self._plan = plan_of(self._class)
            with report.span("wait", name):
                self.instance = undo.enter_context(self._start(wanted))
            for database in wanted.databases:
                self._add_sandbox(database, undo)
            self._use_ready_connection()
            sandbox.activate(self._sandboxes)
            undo.callback(sandbox.deactivate)
            if not self._class.allow_other_databases:
                undeclared.forbid_other_databases(self._class.__qualname__, self._is_ours)
                undo.callback(undeclared.allow_other_databases, self._class.__qualname__)
            self._undo = undo.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        with report.span("stop", self._class.__qualname__):
            self._undo.close()

    @property
    def engine(self) -> Engine:
        return self.main.engine

    @property
    def url(self) -> URL:
        return self.main.url

    @property
    def main(self) -> Sandbox:
        """The sandbox of the first database."""
        return next(iter(self._sandboxes.values()))

    @property
    def is_untouched(self) -> bool:
        """Whether the present test has sent nothing yet."""
        return all(each.is_untouched for each in self._sandboxes.values())

    def sandbox(self, database: str | None) -> Sandbox:
        """Return the sandbox of one of the class's databases, of the first one for ``None``.

        Raises:
            DBTestCaseError: The class has no database of this name.
        """
        if database is None:
            return self.main
        try:
            return self._sandboxes[database]
        except KeyError:
            raise DBTestCaseError(
                f"{self._class.__qualname__} has no database {database!r}; it has "
                f"{', '.join(map(repr, self._sandboxes))}.\n"
                f"Name it in {self._class.__qualname__}.schema: schema = {{..., {database!r}: ...}}."
            ) from None

    def redirect(self, engine: Engine, database: str | None = None) -> None:
        """Point an engine of the code under test to one of the class's databases."""
        self.sandbox(database).redirect(engine)

    def expect(self, following: type[DatabaseTestCase]) -> None:
        """Boot the instance of the class that comes next, in the background."""
        wanted = self._plan
        if following._schema() is not self._schema or following.postgres.extensions != self._class.postgres.extensions:
            try:
                wanted = plan_of(following)
            except SchemaError:
                return  # the class itself will say so, in its own setUpClass
        # A schema that changes until then is seen there too: its plan will want something else than what was booted.
        expect(following.postgres, contents_of(wanted), owner=following.__qualname__)

    def redirect_application(self) -> None:
        """Redirect the engines that the class declares as those of the code under test."""
        for engine in self._class.app_engines:
            self.redirect(engine)

    def add_database(self, database: str) -> None:
        """Create an empty database that the schema did not name, and its sandbox."""
        quoted = database.replace('"', '""')
        for each in self._sandboxes.values():
            each.expect_commit()
        self.instance.execute(f'CREATE DATABASE "{quoted}"')
        self._add_sandbox(database, self._undo)

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
        with Session(self.engine) as session:
            yield session

    def begin_test(self, test: DatabaseTestCase) -> None:
        """Make ready for a test; most of that waits for its first use of a database, so that others cost nothing."""
        self._test = test
        self._has_begun = False
        self._has_failed = False
        self._is_between_tests, self._runner = False, threading.get_ident()
        self._threads.begin()  # those of setUpClass are no test's: a server that runs for the whole class, say
        self._told.clear()
        if self._begins_at_once:
            self.begin()
        else:
            for each in self._sandboxes.values():
                if each.has_real_connections:
                    self.begin()
                    break

    def begin(self) -> None:
        """Begin the present test in earnest, if that has not been done.

        Raises:
            IsolationBroken: The present thread goes on with the work of an earlier test.
        """
        self._refuse_strays()
        if not self._has_begun and self._test is not None:
            with self._beginning:
                self._begin_once()

    def _refuse_strays(self) -> None:
        """Raise in a thread whose work would end up in a test that is not its own, or be committed between two."""
        between = self._is_between_tests and threading.get_ident() != self._runner
        if between or self._threads.is_left_behind():
            thread = threading.current_thread().name
            raise IsolationBroken(
                f"{self._class.__qualname__}: thread {thread!r} used the database "
                f"{'between two tests' if between else 'after the test that it works for was over'}. What it does can "
                "be part of no test, so it was refused. Let the code under test end its threads, and join() them, or "
                "wait for their futures, before the test ends."
            )

    def _begin_once(self) -> None:
        test = self._test
        if self._has_begun or test is None:
            return  # another thread was faster
        self._has_begun = True
        # The last of the test's cleanups to run, wherever its first use may be; addCleanup() has no such place.
        cleanups: list[Any] = test._cleanups  # type: ignore[attr-defined]
        cleanups.insert(0, (self.end_test, (test,), {}))
        self._open_sandboxes(test)

    def _open_sandboxes(self, test: DatabaseTestCase) -> None:
        kind = isolation_of(test) if self._may_clone else "savepoint"
        name = test.id()
        self.explanations.begin_test(name)
        for each in self._sandboxes.values():
            each.use_isolation(kind)
            each.leave_class_phase()
        if self._class.restart_identities and not self._sequences_known:
            self._remember_sequences()
        if kind == "clone":
            with report.span("handover", self._class.__qualname__):
                self._copies().begin_test(following=upcoming.begin_test(self._class))
            self._class.url = self.url
        for each in self._sandboxes.values():
            each.begin_test(name)

    def explained(self, result: unittest.TestResult) -> ExplainedResult:
        """Return what stands in for a result and explains its failures; the same one for all tests."""
        if self._explained is None or self._explained[0] is not result:
            self._explained = (result, ExplainedResult(result, self.explain, self._is_aftermath))
        return self._explained[1]

    def _is_aftermath(self, error: BaseException) -> bool:
        """Whether an error only comes from the database being kept since the test's first failure."""
        return self._post_mortem is not None and postmortem.is_aftermath(error)

    def explain(self, test: DatabaseTestCase, error: BaseException) -> None:
        """Give an error of the test its notes; keep the database as it is now, if that is wanted."""
        self._told += chain(error)
        if self._is_aftermath(error):
            error.add_note(f"{self._class.__qualname__}: {postmortem.NOTHING_MORE}")
            return
        session = self.present_session(test)
        if session is not None and isinstance(error, AssertionError):
            self.explanations.hint_at_unsent(error, session)
        self.explanations.explain(error)
        self._has_failed = True
        if self._test is test and self._post_mortem is None and postmortem.is_wanted():
            self.begin()
            for each in self._sandboxes.values():
                each.keep_work()
            self._post_mortem = PostMortem(self.instance, test.id(), self.main.real_url.database or "test")

    def explain_class(self, error: BaseException) -> None:
        """Give an error of ``setUpClass`` or ``tearDownClass`` its notes, once on its way out of several of them."""
        if error is not self._class_error:
            self._class_error = error
            self.explanations.explain(error)

    def end_test(self, test: DatabaseTestCase) -> None:
        """Undo the test.

        Raises:
            IsolationBroken, LostCommit: The sandbox could not give the test what real connections would have.
        """
        if self._test is not test:
            return
        self._test = None
        self.explanations.cease()
        for each in self._sandboxes.values():
            each.cease()
        self.leave_test(test)
        for text in self._threads.end():
            warn_left_open(text)
        problems = [problem for each in self._sandboxes.values() for problem in each.end_test()]
        if any(each.needs_fresh_database for each in self._sandboxes.values()) or self._is_server_lost(problems):
            self._replace_instance()
        elif self._cloning is not None:
            self._cloning.end_test()
            self._class.url = self.url
        # What the test itself has failed with is not said twice.
        problems = [each for each in problems if not any(each is told for told in self._told)]
        if problems:
            raise _joined(problems)

    def _is_server_lost(self, problems: list[Exception]) -> bool:
        # That it has ended is told a moment late; when a test went wrong, it is worth a connection to know it now.
        went_wrong = self._has_failed or bool(problems)
        return not self.instance.is_alive() or (went_wrong and not self.instance.answers())

    def leave_test(self, test: DatabaseTestCase) -> None:
        """Close and forget what was made for the test outside its database: its session, its copies of class data."""
        for name in self._class_data:
            test.__dict__.pop(name, None)  # the same object may be run again
        session = test.__dict__.pop("session", None)
        if isinstance(session, Session):
            with suppress(Exception) if self._post_mortem is not None else nullcontext():  # its connection is closed
                session.close()

    def drop_test(self, test: DatabaseTestCase) -> None:
        """Leave a test for good; also end it, if its cleanups never ran, as those of a skipped test."""
        try:
            if self._has_begun:
                if self._test is test:
                    self.end_test(test)
                self.explanations.end_test()
            else:
                self._test = None
                if self._class_data or "session" in test.__dict__:
                    self.leave_test(test)
                self._threads.pass_over()
        finally:
            self._is_between_tests = True

    def present_session(self, test: DatabaseTestCase) -> Session | None:
        """Return the test's session if it has one."""
        session = test.__dict__.get("session")
        return session if isinstance(session, Session) else None

    def session_for_test(self) -> Session:
        """Return a new session on the class's engine."""
        return Session(self.engine)

    def _remember_sequences(self) -> None:
        """Note, before the first test, where the sequences stand."""
        self._sequences_known = True
        for database, each in self._sandboxes.items():
            with closing(self.instance.connect(database)) as connection:
                each.restart_sequences(connection)

    def _copies(self) -> Cloning:
        if self._cloning is None:
            self._cloning = Cloning(self.instance, self._sandboxes)
            self._undo.callback(self._cloning.close)
        return self._cloning

    def _start(self, wanted: SchemaPlan) -> Any:
        return running_instance(self._class.postgres, contents_of(wanted), owner=self._class.__qualname__)

    def _add_sandbox(self, database: str, undo: ExitStack) -> None:
        added = Sandbox(
            self._plain_url(database),
            owner=self._class.__qualname__,
            isolation=self._class.isolation,
            observer=self.explanations.log,
            locks=self.explanations.locks,
            kind=(self._class.postgres, self._plan.token, database),
            watches_commits=not self._may_clone and self._class.postgres.tracks_commits,
        )
        undo.callback(added.close)
        added.before_use = self.begin
        self._sandboxes[database] = added

    def _use_ready_connection(self) -> None:
        """Hand over the connection that was opened when the instance answered; nobody else may be connected to it."""
        connection = self.instance.take_ready_connection()
        if connection is not None and "test" in self._sandboxes:
            self._sandboxes["test"].use_ready_connection(connection)
        elif connection is not None:
            connection.close()

    def _is_ours(self, host: str, port: str) -> bool:
        return host == str(self.instance.socket_dir)

    def _plain_url(self, database: str) -> URL:
        return _plain_url(self.instance, database)

    def _replace_instance(self) -> None:
        """Go on with a fresh instance, after a test that ended our transaction and so may have changed this one."""
        if self._cloning is not None:
            self._cloning.close()
            self._cloning = None
        self.instance.stop()
        if self._post_mortem is not None:
            self._post_mortem.done()
            self._post_mortem = None
        self.instance = self._undo.enter_context(self._start(plan_of(self._class)))
        self._class.instance = self.instance
        for database, each in self._sandboxes.items():
            each.move_to(self._plain_url(database))
        self._class.url = self.url
        self._use_ready_connection()
        classdata.take_back(self._class, self._class_data)
        self.make_class_data()
        self._sequences_known = False


def _plain_url(instance: Instance, database: str) -> URL:
    # Set afterwards, because SQLAlchemy 2.0 reads a name that is quoted in a URL's text as it stands.
    return make_url(instance.url()).set(database=database)


def _joined(problems: list[Exception]) -> Exception:
    """Return the first problem, with the others as notes, so that one error names them all."""
    first, *others = problems
    for other in others:
        first.add_note(f"{type(other).__name__}: {other}")
    return first
