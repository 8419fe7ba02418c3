"""What a test or a class leaves behind: the warning, and the threads that work for a test that is over."""

from __future__ import annotations

import sys
import threading
import warnings
import weakref
from time import sleep
from types import FrameType
from typing import Any

from dbtestcase.diagnosis.tracebacks import chain
from dbtestcase.frames import UNKNOWN, Origin
from dbtestcase.native import monotonic

__all__ = ["ThreadWatch", "forget_warnings", "warn_left_open", "warnings_for"]

_PATIENCE = 0.05  # seconds; how long a test may take to wait for a thread that works for it
_WAITING_FOR_WORK = (
    "asyncio",
    "concurrent.futures",
    "multiprocessing",
    "queue",
    "selectors",
    "socket",
    "ssl",
    "subprocess",
)
# What threading.enumerate() copies, which takes a lock for it and three times as long: asked for before each test.
_active: dict[int, threading.Thread] = threading._active  # type: ignore[attr-defined]
_registry: dict[Any, Any] = {}
_warned: list[str] = []
_MOST_WARNED = 20
_SAYS_CLOSED = (
    "already closed",
    "connection is closed",
    "cursor is closed",
    "until invalid transaction is rolled back",
)


def warn_left_open(text: str, opened: Origin = UNKNOWN) -> None:
    """Issue a ``ResourceWarning`` that Python shows with the line that opened the thing, once per line by default."""
    if len(_warned) < _MOST_WARNED:
        _warned.append(text)
    if opened is UNKNOWN:
        warnings.warn(text, ResourceWarning, stacklevel=3)
    else:
        warnings.warn_explicit(text, ResourceWarning, opened.filename, opened.line, registry=_registry)


def warnings_for(error: BaseException) -> list[str]:
    """Return the warnings of the class that may explain an error: it says that a connection is closed."""
    is_closed = any(words in str(each) for each in chain(error) for words in _SAYS_CLOSED)
    return list(_warned) if is_closed else []


def forget_warnings() -> None:
    """Forget them: the class is over."""
    _warned.clear()


class ThreadWatch:
    """Tells threads that work for the present test from those that go on with an earlier one.

    A thread is judged when it uses the database, not for being there. One that an earlier test of the class started is
    a late one, unless it waited for work when that test ended (a worker of a queue or pool, a server), or the present
    test waits for it now. One of an earlier class's is judged likewise; one of a run that was dropped is always late.
    """

    _left: weakref.WeakSet[threading.Thread] = weakref.WeakSet()  # by the tests of earlier classes

    def __init__(self) -> None:
        self._runner = 0
        self._at_begin: list[threading.Thread] = []  # of the test
        self._dropped: weakref.WeakSet[threading.Thread] = weakref.WeakSet()  # with a run that does not count
        # The threads that there are, while all of them are early ones or ours.
        self._usual: list[threading.Thread] | None = None
        self._early: weakref.WeakSet[threading.Thread] = weakref.WeakSet()  # from before the first test
        self._busy: weakref.WeakSet[threading.Thread] = weakref.WeakSet()  # with what an earlier test began
        self._users: weakref.WeakSet[threading.Thread] = weakref.WeakSet()  # of the database in this test
        self._waited_for: weakref.WeakSet[threading.Thread] = weakref.WeakSet()

    def begin(self) -> None:
        """A test begins: note which threads are in the middle of something."""
        self._runner = threading.get_ident()
        self._at_begin = [*_active.values()]
        if self._at_begin != self._usual:  # most tests start none, and are not to pay for this
            self._note()

    def drop(self) -> None:
        """The run was dropped: what it has started works for nobody any more, unless it waits for work."""
        known = set(self._at_begin)
        self._dropped.update(each for each in list(_active.values()) if each not in known and not _is_idle(each))

    def left(self) -> list[threading.Thread]:
        """Return, at the end of the class, the threads that its tests have started and that do not wait for work."""
        if self._usual is None:
            return []  # there was no test
        runner = threading.current_thread()
        left = [each for each in _not_ours() if not (each in self._early or each is runner or _is_idle(each))]
        self._left.update(left)
        return left

    def is_late(self) -> bool:
        """Whether the present thread, which is about to use the database, works for an earlier test."""
        if threading.get_ident() == self._runner:
            return False
        thread = threading.current_thread()
        if thread in self._dropped:
            return True
        if thread in self._busy:
            if not self._test_waits():
                return True
            self._busy.discard(thread)
        self._users.add(thread)
        return False

    def end(self, bound: float = 0.1) -> None:
        """A test ends: let threads that used the database finish what they are at, all within ``bound`` seconds."""
        if not self._users:
            return
        deadline = monotonic() + bound
        for thread in list(self._users):
            if thread in self._waited_for:
                continue  # it goes on for long, and is waited for once
            while thread.is_alive() and not _is_idle(thread) and monotonic() < deadline:
                sleep(0.001)
            if monotonic() >= deadline:
                self._waited_for.add(thread)
        self._users.clear()

    def _test_waits(self) -> bool:
        """Whether the test waits for other threads now, or begins to within a moment."""
        deadline = monotonic() + _PATIENCE
        before: tuple[FrameType | None, int] = (None, 0)
        while monotonic() < deadline:
            frame = sys._current_frames().get(self._runner)
            now = (frame, frame.f_lasti if frame is not None else 0)
            # Twice at the same place, since one may also pass through such a function.
            if now == before and _is_waiting(frame, for_work=False):
                return True
            before = now
            sleep(0.001)
        return False

    def _note(self) -> None:
        frames = sys._current_frames()
        threads = _not_ours()
        if self._usual is None:
            self._early.update(each for each in threads if each not in self._left)
        started = [each for each in threads if each not in self._early]
        self._busy = weakref.WeakSet(each for each in started if not _is_waiting(frames.get(each.ident or 0)))
        self._usual = [] if started else [*_active.values()]


def _not_ours() -> list[threading.Thread]:
    return [each for each in threading.enumerate() if not each.name.startswith("dbtestcase")]


def _is_idle(thread: threading.Thread) -> bool:
    """Whether a thread waits for work."""
    return _is_waiting(_frame_of(thread))


def _frame_of(thread: threading.Thread) -> FrameType | None:
    return sys._current_frames().get(thread.ident or 0)


def _is_waiting(frame: FrameType | None, *, for_work: bool = True) -> bool:
    """Whether a thread at this frame waits for others; ``for_work``: for a queue, a pool or a socket only."""
    while frame is not None:
        module = str(frame.f_globals.get("__name__", ""))
        if module.startswith(_WAITING_FOR_WORK):
            return True
        if module != "threading":
            return False
        if not for_work:
            return True
        frame = frame.f_back
    return False
