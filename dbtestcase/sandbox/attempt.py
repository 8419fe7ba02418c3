"""One run of a test in the one transaction, and how it ends early.

What ends it is a :class:`BaseException` in the test's own thread, because handlers, retries and ``suppress(Exception)``
of the code under test must not eat it. In other threads it is the driver's ``OperationalError``: a worker that hands on
``Exception`` to whoever waits for it would otherwise let the test hang.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from threading import get_ident
from typing import NoReturn, Protocol

from dbtestcase.diagnosis.sqltext import fingerprint
from dbtestcase.errors import IsolationBroken
from dbtestcase.frames import UNKNOWN, Origin

__all__ = [
    "Attempt",
    "Reason",
    "RunAgain",
    "TasksOfTest",
    "accept_interruptions",
    "signal_tests_of",
    "when_signalled",
]

# How long an attempt that cannot count any more may go on, in seconds.
_BOUND = 5.0
# How often it is told again to end.
_BETWEEN = 0.5
# So many times at most a thread looks for exceptions that another one has raised in it.
_CHECKS = 100
_LONGEST_TEXT = 80


class RunAgain(BaseException):
    """This attempt cannot count; the test runs again on real connections."""


@dataclass(frozen=True)
class Reason:
    """Why one transaction cannot carry a test faithfully.

    Attributes:
        rule: What was met, as the rest of a sentence: "met uncommitted work of another connection".
        sql: The statement that met it, or what else was done.
        origin: The user's line that did so.
        other: What was met, if it was a statement, and its line.
        of_class: The other tests of the class will probably meet it too.
    """

    rule: str
    sql: str = ""
    origin: Origin = UNKNOWN
    other: tuple[str, Origin] | None = None
    of_class: bool = False

    def __str__(self) -> str:
        text = f"{_shortened(self.sql)}{_at(self.origin)} {self.rule}" if self.sql else f"{self.rule}{_at(self.origin)}"
        if self.other is not None:
            text += f": {_shortened(self.other[0])}{_at(self.other[1])}"
        return text


class TasksOfTest(Protocol):
    """The tasks in which an asynchronous test runs."""

    def is_test(self) -> bool:
        """Whether the caller is the test itself, and not a task that it has started."""

    def attempt_died(self) -> None:
        """The attempt cannot count: what its tasks come to from now on is of no interest."""

    def cancel(self) -> bool:
        """Cancel them, from another thread; False if their event loop does nothing."""


class Attempt:
    """One run of one test in the one transaction.

    Args:
        owner: The name of the test's class.
        may_run_again: False if the class or test says ``isolation = "savepoint"``: what would make it run again is
            then an error at the statement.
        tasks: The tasks of an asynchronous test.
    """

    reason: Reason | None = None
    is_over = False
    _interruption: _Interruption | None = None

    def __init__(self, owner: str, *, may_run_again: bool = True, tasks: TasksOfTest | None = None) -> None:
        self.owner = owner
        self.may_run_again = may_run_again
        self.thread = get_ident()
        self.tasks = tasks

    def stop(self, reason: Reason, error: Callable[[str], Exception] | None = None) -> NoReturn:
        """End the attempt, for good.

        Args:
            error: Makes the error for other threads and tasks than the test's own: the driver's ``OperationalError``,
                if there is a driver.

        Raises:
            RunAgain: In the test itself.
            IsolationBroken: The test may not run again.
            Exception: What ``error`` returned, elsewhere.
        """
        self.spoil(reason)
        if not self.may_run_again:
            raise IsolationBroken(self.broken_rule())
        is_test = get_ident() == self.thread and (self.tasks is None or self.tasks.is_test())
        if not is_test:
            raise (error or IsolationBroken)(f"dbtestcase runs this test again on real connections: {self.reason}")
        raise RunAgain(str(self.reason))

    def spoil(self, reason: Reason) -> None:
        """Note that the attempt cannot count any more, where nothing can be raised."""
        if self.reason is not None:
            return
        self.reason = reason
        if self.may_run_again:
            if self.tasks is not None:
                self.tasks.attempt_died()
            self._interruption = _Interruption(self.thread, self.tasks)

    def let_alone(self) -> None:
        """Interrupt the test no more; called in its thread."""
        if self._interruption is not None:
            self._interruption.cancel()

    def finish(self) -> None:
        """Let it be over: connections take part no more."""
        self.let_alone()
        self.is_over = True

    def broken_rule(self) -> str:
        """Return the sentence for a test that needs real connections and may not run again."""
        return (
            f"{self.owner}: one undone transaction cannot give this test what real connections would: {self.reason}.\n"
            f'What to do: mark the test with @isolate("clone"), which gives it a private copy of the database and real '
            f'commits, or let it decide by itself with isolation = "auto" on {self.owner}.'
        )


def _at(origin: Origin) -> str:
    return "" if origin is UNKNOWN else f" at {origin}"


def _shortened(sql: str) -> str:
    words = fingerprint(sql)  # without values: some may be nobody's business
    return words if len(words) <= _LONGEST_TEXT else f"{words[: _LONGEST_TEXT - 2]} …"


class _Interruption:
    """Ends a test whose attempt is dead, though it may wait for something that will not come.

    Args:
        thread: The identifier of the test's thread.
        tasks: The tasks of an asynchronous test.
    """

    def __init__(self, thread: int, tasks: TasksOfTest | None) -> None:
        self._thread = thread
        self._tasks = tasks
        self._lock = threading.Lock()
        self.is_cancelled = False
        self._timer = _after(_BOUND, self._interrupt)

    def _interrupt(self) -> None:
        with self._lock:
            if self.is_cancelled:
                return
            if self._tasks is None or not self._tasks.cancel():
                self._interrupt_thread()
            self._timer = _after(_BETWEEN, self._interrupt)

    def _interrupt_thread(self) -> None:
        # A wait without a timeout sees no exception of another thread's, but a signal ends it.
        if self._thread == threading.main_thread().ident and _can_signal():
            _present[:] = [self]
            signal.pthread_kill(self._thread, _SIGNAL)
        else:
            import ctypes  # a millisecond, and hardly ever needed

            ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(self._thread), ctypes.py_object(RunAgain))

    def cancel(self) -> None:
        """Let the thread alone from now on; called in that thread."""
        while True:
            try:
                with self._lock:
                    self.is_cancelled = True
                    self._timer.cancel()
                for _ in range(_CHECKS):
                    pass  # what was raised already arrives here
                return
            except RunAgain:
                continue


# A signal that is ignored by default and that hardly anybody uses. SIGINT would not do: a shell's background jobs
# ignore it, and "unittest -c" has a handler of its own.
_SIGNAL = signal.SIGURG
_present: list[_Interruption] = []
_acts: list[Callable[[], None]] = []


def accept_interruptions() -> None:
    """Let a test in the main thread be interrupted while it waits; called in that thread, does nothing elsewhere."""
    if threading.current_thread() is threading.main_thread() and signal.getsignal(_SIGNAL) is signal.SIG_DFL:
        signal.signal(_SIGNAL, _signalled)


def _can_signal() -> bool:
    return signal.getsignal(_SIGNAL) is _signalled


def when_signalled(act: Callable[[], None]) -> None:
    """Have something done in the main thread when another process has called :func:`signal_tests_of`."""
    _acts.append(act)


def signal_tests_of(process: int) -> None:
    """Interrupt a process, from which this one was forked, where its tests accept that."""
    if _can_signal():
        with suppress(OSError):  # it has ended
            os.kill(process, _SIGNAL)


def _signalled(*_: object) -> None:
    for act in _acts:
        act()
    if _present and not _present.pop().is_cancelled:
        raise RunAgain


def _after(seconds: float, act: Callable[[], None]) -> threading.Timer:
    timer = threading.Timer(seconds, act)
    timer.daemon = True
    timer.name = "dbtestcase end of an attempt"
    with suppress(RuntimeError):  # no thread can be started: the test goes on for as long as it likes
        timer.start()
    return timer
