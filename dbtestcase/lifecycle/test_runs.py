"""How one test is run: in the one transaction, on a private copy, or in the class's database itself; once or twice.

A test begins in the one transaction, as an *attempt*. If that cannot carry it, or if it failed there, what the attempt
came to is dropped and the test runs again on a private copy of the class's databases, with real connections. The runner
sees one test.
"""

from __future__ import annotations

import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from contextvars import Context
from threading import get_ident
from typing import Any

from sqlalchemy.orm import session as all_sessions

from dbtestcase.diagnosis import messages, report, states
from dbtestcase.diagnosis.database_errors import first_line
from dbtestcase.diagnosis.leftovers import ThreadWatch
from dbtestcase.diagnosis.tracebacks import chain
from dbtestcase.errors import IsolationBroken, LockWait
from dbtestcase.frames import user_origin, user_origin_of
from dbtestcase.lifecycle import schedule
from dbtestcase.lifecycle.held import HeldResult, is_debugged
from dbtestcase.lifecycle.isolation import Isolation, isolation_of
from dbtestcase.lifecycle.names import id_of
from dbtestcase.sandbox import Attempt, LeftOpen, Reason, RunAgain, TasksOfTest, accept_interruptions, forks

__all__ = ["TestRuns"]

__unittest = True  # unittest leaves frames of modules with this name out of the tracebacks it prints

# After so many tests of a class ran twice, the rest of it begins on copies.
_MANY = 3
_HAS_MONITORING = hasattr(sys, "monitoring")


class TestRuns:
    """Runs the tests of one class, one after the other.

    Attributes:
        test: The one that runs now, ``None`` between two.

    Args:
        home: The :class:`~dbtestcase.lifecycle.running.RunningClass`.
    """

    def __init__(self, home: Any) -> None:
        accept_interruptions()
        self._is_debugging = schedule.is_debugging()
        self._home = home
        self._ran_twice = 0
        self._beginning = threading.RLock()
        self._attempt: Attempt | None = None
        self.test: Any = None
        self._thread = 0
        self._threads = ThreadWatch()
        self._may_attempt = False
        self._may_run_again = False
        self._has_used_database = self._is_broken = False
        self._is_on_copies = False
        self._postponed: Callable[[], list[Exception]] | None = None
        self._problems: list[Exception] | None = None
        # In an asynchronous class.
        self.tasks: TasksOfTest | None = None

    @property
    def is_untouched(self) -> bool:
        """Whether the present test has used no database yet."""
        return not self._has_used_database

    @contextmanager
    def between_tests(self) -> Iterator[None]:
        """Let what is done in the block be no part of the test that is about to begin."""
        test, self.test = self.test, None
        try:
            yield
        finally:
            self.test, self._attempt, self._has_used_database = test, None, False

    # -- told by whoever uses a database

    def before_use(self) -> Attempt | None:
        """Begin the present test in earnest, if that has not been done.

        Returns:
            The attempt that connections are to take part in; ``None`` where they are real.

        Raises:
            IsolationBroken: The present thread goes on with the work of an earlier test.
        """
        if get_ident() != self._thread:
            self._refuse_late_thread()
        attempt = self._attempt
        if attempt is not None and not attempt.is_over:
            return attempt
        with self._beginning:
            if not self._has_used_database and self.test is not None:
                self._has_used_database = True
                if self._may_attempt:
                    self._attempt = Attempt(self._home.name, may_run_again=self._may_run_again, tasks=self.tasks)
                    self._attempt.thread = self._thread
                counts = not (self._may_attempt and self._may_run_again)
                self._home.first_use(self.test, is_attempt=self._may_attempt, counts=counts)
            attempt = self._attempt
        return None if attempt is None or attempt.is_over else attempt

    def _refuse_late_thread(self) -> None:
        if self._threads.is_late():
            thread = threading.current_thread().name
            raise IsolationBroken(messages.LATE_THREAD.format(owner=self._home.name, thread=thread))

    def need_real(self, rule: str) -> None:
        """Let the present test be one on a copy, because of something that it asks for.

        Raises:
            RunAgain: It runs in the one transaction.
        """
        attempt = self.before_use()
        if attempt is not None:
            attempt.stop(Reason(rule, "", user_origin()))

    # -- running a test

    def run(self, test: Any, result: Any, run: Callable[[Any], Any]) -> None:
        """Run a test, once or twice, and tell the result what it came to.

        Args:
            run: ``unittest.TestCase.run`` of the test.
        """
        kind = isolation_of(test)
        held = HeldResult(result)
        if self._home.connections.are_of_class and kind != "class":
            self.leave_class()
        try:
            if kind == "auto" and not self._begins_on_copies():
                self._run_auto(test, held, run)
            elif kind == "savepoint":
                self._run_attempt(test, held, run, may_run_again=False)
            else:
                self._run_for_real(test, held, run, "class" if kind == "class" else "clone")
        finally:
            held.tell(test)

    def leave_class(self) -> None:
        """The class's databases are about to be left for the first test, or for the first after one of "class"."""
        self._home.always_real = self._home.always_real or self._home.connections.learn_code()

    def run_once(self, test: Any, debug: Callable[[], Any]) -> None:
        """Run a test as ``debug()`` does: once, without collecting errors, on real connections if it may be."""
        kind = isolation_of(test)
        self._begin(test, is_attempt=kind == "savepoint", may_run_again=False)
        problems: list[Exception] = []
        try:
            self._use_databases(kind)
            self._home.begin_test(test)
            debug()
        except Exception as error:
            self._home.explain(test, error)
            raise
        finally:
            problems = self.end_run(test)
            self._home.after_test(test, problems, has_failed=False)
        if problems:
            raise problems[0]

    def threads_left(self) -> list[threading.Thread]:
        """Return the threads that go on with what the tests have begun."""
        return self._threads.left()

    def end_postponed(self) -> None:
        """End the test before, if a debugger was to find it as it ended."""
        postponed, self._postponed = self._postponed, None
        if postponed is not None:
            for problem in postponed():
                warnings.warn(f"{self._home.name}: {problem}", ResourceWarning, stacklevel=2)

    def _begins_on_copies(self) -> bool:
        if self._ran_twice >= _MANY or self._home.always_real or self._is_debugging:
            return True
        # From CPython 3.12 on, debuggers may do without a trace function.
        return (_HAS_MONITORING or sys.gettrace() is not None) and is_debugged()

    def _run_auto(self, test: Any, held: HeldResult, run: Callable[[Any], Any]) -> None:
        before = test.__dict__.copy()
        if self.tasks is not None:
            # An asynchronous test runs in a context of its own, in which it may set context variables.
            before = {name: value.copy() if isinstance(value, Context) else value for name, value in before.items()}
        self._run_attempt(test, held, run, may_run_again=True)
        attempt = self._attempt
        if attempt is None or self._is_broken:
            return
        reason = attempt.reason
        if reason is None and not held.has_failed:
            return
        first = held.errors_held
        if reason is None and any(isinstance(each, LockWait) for error in first for each in chain(error)):
            held.explain_held(self._home.explain)
            return  # somebody outside holds a lock that the test needs, as it would on real connections
        self._run_again(test, held, run, before)
        self._report_second_run(test, held, reason, first)

    def _run_attempt(self, test: Any, held: HeldResult, run: Callable[[Any], Any], *, may_run_again: bool) -> None:
        """Run the test in the one transaction."""
        self._begin(test, is_attempt=True, may_run_again=may_run_again)
        watches = self._home.connections.visitors.may_come
        if not may_run_again:
            held.explain_with(self._home.explain)
        try:
            if self._home.connections.are_shared and not (watches or self._home.prepares_tests):
                states.begin_test()  # all that the other way would do
                run(held)
            else:
                self._run_prepared(test, held, run, "savepoint")
        except RunAgain as error:
            if self._attempt is None:
                raise
            self._attempt.let_alone()
            _tidy_up(test, error)
        finally:
            if forks.has_child_tried():
                self._attempt = self._attempt or Attempt(self._home.name, may_run_again=may_run_again)
                self._attempt.reason = self._attempt.reason or Reason(forks.RULE)
            if self._attempt is None and not (watches or held.has_failed) and self._home.has_left_nothing(test):
                self.test = None  # a test that has used no database pays nothing
            else:
                self._leave_attempt(test, held)

    def _leave_attempt(self, test: Any, held: HeldResult) -> None:
        problems = self.end_run(test)
        attempt = self._attempt
        if not (problems or held.has_failed or attempt is None or attempt.reason is not None):
            problems = self._after_test(test, problems, has_failed=False)  # most tests end so
            if problems:
                held.add_problems(test, problems)
            return
        # Somebody has committed past us, and would do so again.
        self._is_broken = any(isinstance(each, IsolationBroken) for each in problems)
        if held.has_failed and (attempt is None or self._is_broken):
            held.explain_held(self._home.explain)  # that counts, whoever runs it
        problems = [*self._broken_silently(held), *problems]
        held.add_problems(test, problems)
        if attempt is not None or problems:
            held.add_problems(test, self._after_test(test, problems, has_failed=held.has_failed))

    def _after_test(self, test: Any, problems: list[Exception], *, has_failed: bool) -> list[Exception]:
        try:
            self._home.after_test(test, problems, has_failed=has_failed)
        except Exception as error:
            return [error]
        return []

    def _run_prepared(self, test: Any, held: HeldResult, run: Callable[[Any], Any], kind: Isolation) -> None:
        """Run the test on the databases that it is to have; that there are none is an error of it."""
        try:
            self._use_databases(kind)
            self._home.begin_test(test)
        except Exception as error:
            held.startTest(test)
            held.addError(test, (type(error), error, error.__traceback__))
        except RunAgain:
            held.startTest(test)
        else:
            run(held)

    def _broken_silently(self, held: HeldResult) -> list[Exception]:
        """Return the error of an attempt that may not run again and whose end the test has swallowed."""
        attempt = self._attempt
        if attempt is None or attempt.may_run_again or attempt.reason is None:
            return []
        if any(isinstance(error, IsolationBroken) for error in held.errors_held):
            return []
        return [IsolationBroken(attempt.broken_rule())]

    def _run_again(self, test: Any, held: HeldResult, run: Callable[[Any], Any], before: dict[str, Any]) -> None:
        held.drop()
        self._threads.drop()
        _close_sessions()
        test.__dict__.clear()
        test.__dict__.update(before, _cleanups=[])
        self._run_for_real(test, held, run, "clone")

    def _run_for_real(self, test: Any, held: HeldResult, run: Callable[[Any], Any], kind: Isolation) -> None:
        """Run the test on real connections."""
        self._begin(test, is_attempt=False, may_run_again=False)
        held.explain_with(self._home.explain)

        def end() -> list[Exception]:
            problems = self.end_run(test)
            return problems + self._after_test(test, problems, has_failed=held.has_failed)

        try:
            self._run_prepared(test, held, run, kind)
        finally:
            if self._is_debugging:
                self._postponed = end  # the debugger opens, and pytest calls tearDown, once this has returned
            else:
                held.add_problems(test, end())

    def _begin(self, test: Any, *, is_attempt: bool, may_run_again: bool) -> None:
        if self._postponed is not None:
            self.end_postponed()
        self.test = test
        self._attempt = None
        self._thread = get_ident()
        self._threads.begin()
        self._has_used_database = self._is_broken = False
        self._may_attempt, self._may_run_again = is_attempt, may_run_again
        self._is_on_copies = False
        self._problems = None

    def _use_databases(self, kind: Isolation) -> None:
        # The last replacement failed: tests must not go on without their class data.
        if any(each.needs_fresh_database for each in self._home.databases.values()):
            with self.between_tests():
                self._home.replace_instance()
        if kind == "savepoint":
            self._home.use_shared()
        elif kind == "class":
            self._home.connections.use_class_databases()
        else:
            self._is_on_copies = True
            self._home.use_copies()

    # -- ending it

    @property
    def will_run_again(self) -> bool:
        """Whether what the present run comes to is of no interest any more."""
        return self._attempt is not None and self._attempt.reason is not None

    def end_run(self, test: Any) -> list[Exception]:
        """End the present run, unless that is done: undo it, close what it has left open; return what went wrong.

        An asynchronous test does so in its own event loop, where its connections live.
        """
        if self._problems is None:
            problems = self._end_attempt(test) if self._may_attempt else self._end_real(test)
            self._problems = self._home.without_errors_of_lost_server(problems) if problems else problems
        return self._problems

    def _end_attempt(self, test: Any) -> list[Exception]:
        """Undo the attempt; return what went wrong."""
        attempt, self.test = self._attempt, None
        problems: list[Exception] = []
        self._threads.end()
        if attempt is not None:
            attempt.finish()
        try:
            self._home.leave_test(test)
        except Exception as error:
            problems.append(error)
        if attempt is None:
            self._guarded(problems, self._home.connections.visitors.check)
            return problems
        left: list[LeftOpen] = []
        databases = self._home.databases.values()
        for database in databases:
            try:
                database.sessions.close()
                left += database.finish()
            except Exception as error:
                problems.append(error)
            if database.restoring_sql:
                for each in databases:  # it commits, and each would take that for somebody else's
                    each.expect_commits()
        if left and attempt.reason is None:
            self._guarded(problems, lambda: self._home.warn_left_open(left, when="in the test"))
        return problems

    def _end_real(self, test: Any) -> list[Exception]:
        self.test = None
        self._threads.end()
        problems: list[Exception] = []
        left: list[LeftOpen] = []
        self._guarded(problems, lambda: self._home.leave_test(test))
        if self._is_on_copies:  # else the class's tests go on with what there is
            self._guarded(problems, lambda: left.extend(self._home.leave_copies()))
        self._guarded(problems, lambda: self._home.warn_left_open(left, when="in the test"))
        return problems

    @staticmethod
    def _guarded(problems: list[Exception], act: Callable[[], Any]) -> None:
        """Do something that has to be done whatever went wrong before."""
        try:
            act()
        except Exception as error:
            problems.append(error)

    # -- reporting the second run

    def _report_second_run(
        self, test: Any, held: HeldResult, reason: Reason | None, first: list[BaseException]
    ) -> None:
        self._ran_twice += _MANY if reason is not None and reason.of_class else 1
        if reason is not None:
            cause, outcome = str(reason), "failed" if held.has_failed else "passed"
            note = f"(This test ran twice, here on real connections; it first {_as_rest(reason)}.)"
        else:
            words = first_line(first[0]) if first else "a failure"
            cause = f"it failed in the one transaction ({words})"
            outcome = "failed" if held.has_failed else report.FAILED_FIRST
            note = "(This test ran twice: in one undone transaction, and here on real connections.)"
            if first and held.errors_held and words != first_line(held.errors_held[0]):
                note = f"{note[:-1]} The first run failed otherwise: {words}{_location_of(first[0])}.)"
        for error in held.errors_held:
            error.add_note(note)
        if reason is not None or not held.has_failed:
            report.ran_twice(id_of(test), cause, outcome)


def _location_of(error: BaseException) -> str:
    origin = user_origin_of(error.__traceback__)
    return "" if origin is None else f" at {origin}"


def _tidy_up(test: Any, error: BaseException) -> None:
    """Do what unittest leaves out after an interrupt: cleanups and ``tearDown``, unless ``setUp`` was interrupted."""
    if not _passed(error, "_callSetUp"):
        with suppress(BaseException):
            test.tearDown()
    with suppress(BaseException):
        test.doCleanups()


def _passed(error: BaseException, function: str) -> bool:
    traceback = error.__traceback__
    while traceback is not None:
        if traceback.tb_frame.f_code.co_name == function:
            return True
        traceback = traceback.tb_next
    return False


def _close_sessions() -> None:
    """Close all sessions: one that a module keeps must not carry a run into the next."""
    # close_all_sessions() of SQLAlchemy ends at the first that cannot be closed now, since another thread uses it.
    for session in list(all_sessions._sessions.values()):
        with suppress(Exception):
            session.close()


def _as_rest(reason: Reason) -> str:
    return f"met: {reason}" if reason.sql else f"met this: {reason}"
