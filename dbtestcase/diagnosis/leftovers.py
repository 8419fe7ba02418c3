"""What a test or a class leaves behind: texts for connections and sessions, a watch for threads, and the warning."""

from __future__ import annotations

import sys
import threading
import warnings
import weakref
from collections.abc import Iterable
from concurrent.futures import thread as workers
from contextlib import suppress
from queue import SimpleQueue
from time import sleep
from typing import Any

from sqlalchemy.orm import Session

from dbtestcase.diagnosis.clock import perf_counter
from dbtestcase.diagnosis.states import describe
from dbtestcase.frames import UNKNOWN, Origin, origin_of_caller, user_origin

_seen: dict[Any, Any] = {}


def warn_left_open(text: str, opened: Origin = UNKNOWN) -> None:
    """Issue a ``ResourceWarning`` that Python shows with the line that opened the thing, once per line by default."""
    if opened is UNKNOWN:
        warnings.warn(text, ResourceWarning, stacklevel=3)
    else:
        warnings.warn_explicit(text, ResourceWarning, opened.filename, opened.line, registry=_seen)


def connection_left(owner: str, label: str, opened: Origin, *, after: str, details: Iterable[str] = ()) -> str:
    """Return the text for a connection that was checked out and never given back.

    Args:
        owner: The test or test class.
        after: What it has outlived: "the test", "setUpClass".
        details: Lines of ``Backends.describe()``.
    """
    lines = [f"{owner}: {label}, opened at {opened}, was still open after {after} and has been closed."]
    lines += [f"  {line}" for line in details]
    lines.append("Close it where it is opened: 'with engine.connect() as connection:', or connection.close().")
    return "\n".join(lines)


def session_left(owner: str, session: Session, began: Origin, *, after: str) -> str | None:
    """Return the text for a session whose work was neither committed nor rolled back; ``None`` if it has none.

    A session that only read is closed without a word, as a request's end would do.
    """
    kinds = (("new", session.new), ("changed", session.dirty), ("deleted", session.deleted))
    parts = []
    for what, objects in kinds:
        touched = [describe(each) for each in objects if what != "changed" or session.is_modified(each)]
        if touched:
            parts.append(
                f"{what}: {', '.join(touched[:3])}{f' and {len(touched) - 3} more' if len(touched) > 3 else ''}"
            )
    if not parts:
        return None
    return (
        f"{owner}: a session, begun at {began}, had unsent changes after {after} ({'; '.join(parts)}); they are lost. "
        "Is a commit() missing?"
    )


def cursor_left(owner: str, opened: Origin, *, when: str) -> str:
    """Return the text for a cursor that outlived the test although its connection was given back.

    Args:
        when: How long it was open: "in the test".
    """
    return (
        f"{owner}: the cursor opened at {opened} was left open {when} and has been closed.\n"
        "Close it where it is opened: 'with connection.cursor() as cursor:', cursor.close(), or close() of the result."
    )


class OpenCursors:
    """The cursors that somebody still holds. Each knows the line that opened it, as ``_opened_at``.

    One that SQLAlchemy opens is sent something at once, and by whom is found out then anyway: whoever sends notes that
    line on it, because to find it out twice costs every statement.
    """

    def __init__(self) -> None:
        # By id(), which a later one may take over from one that is gone.
        self._cursors: dict[int, weakref.ref[Any]] = {}

    def add(self, cursor: Any) -> None:
        """Note a cursor that ``cursor()``, which calls this, or ``__init__()``, gives to the user's present line."""
        cursor._opened_at = origin_of_caller(2)
        self._cursors[id(cursor)] = weakref.ref(cursor)

    def close_all(self) -> list[tuple[Any, Origin]]:
        """Close those that are open; return them, each with the line that opened it, as far as it is known."""
        known = [reference() for reference in list(self._cursors.values())]
        left = [cursor for cursor in known if cursor is not None and not cursor.closed]
        for cursor in left:
            with suppress(Exception):  # its transaction is over, and took it along
                cursor.close()
        return [(cursor, cursor._opened_at) for cursor in left if cursor._opened_at not in (None, UNKNOWN)]


class ThreadWatch:
    """Finds the threads that a test started and left running."""

    def __init__(self) -> None:
        self._before: list[threading.Thread] = []
        self._workers: list[threading.Thread] = []
        self._work_before: set[Any] = set()
        # What each thread was at when its test ended: a worker's piece of work, None for all of the thread's life.
        self._left: weakref.WeakKeyDictionary[threading.Thread, Any] = weakref.WeakKeyDictionary()

    def begin(self) -> None:
        """Remember which threads there are, and what the workers among them are at."""
        threads = threading.enumerate()
        if threads == self._before and not self._workers:
            return  # most tests start none, and are not to pay for this
        self._before = threads
        self._workers = [each for each in threads if _is_worker(each)]
        self._work_before = {_work_of(each) for each in self._workers}

    def end(self, bound: float = 0.5) -> list[str]:
        """Wait briefly for the threads that are new, and return a text for each that goes on.

        Args:
            bound: Longest wait for all of them together, in seconds; a fifth of it for daemon threads, which often
                go on for ever, but may as well be about to end, as that of a request which a server has answered.
        """
        if not self._workers and threading.enumerate() == self._before:
            return []
        new = self._new_threads()
        begun = perf_counter()
        for thread in sorted(new, key=lambda each: each.daemon):
            deadline = begun + (bound / 5 if thread.daemon else bound)
            while _is_worker(thread) and not _waits_for_work(thread) and perf_counter() < deadline:
                sleep(0.001)
            if not _is_worker(thread):
                thread.join(max(0.0, deadline - perf_counter()))
        left = [thread for thread in new if thread.is_alive() and not _waits_for_work(thread)]
        self._leave_behind(left)
        return [_thread_text(thread) for thread in left]

    def pass_over(self) -> None:
        """End a test that used no database, without a word: what it left running may be none of our business."""
        if self._workers or threading.enumerate() != self._before:
            self._leave_behind(self._new_threads())

    def _leave_behind(self, threads: Iterable[threading.Thread]) -> None:
        for thread in threads:
            work = _work_of(thread)
            if work is not None or not _is_worker(thread):
                self._left[thread] = work

    def _new_threads(self) -> list[threading.Thread]:
        return [
            each
            for each in threading.enumerate()
            if not _is_ours(each) and (self._has_new_work(each) if _is_worker(each) else each not in self._before)
        ]

    def _has_new_work(self, worker: threading.Thread) -> bool:
        return not _waits_for_work(worker) and ((work := _work_of(worker)) is None or work not in self._work_before)

    def is_left_behind(self) -> bool:
        """Whether the present thread goes on with something that a test before this one began."""
        if not self._left:
            return False
        thread = threading.current_thread()
        if thread not in self._left:
            return False
        work = self._left[thread]
        return work is None or work is _work_of(thread)


def _is_ours(thread: threading.Thread) -> bool:
    return thread.name.startswith("dbtestcase") or isinstance(thread, threading._DummyThread)


def _is_worker(thread: threading.Thread) -> bool:
    """Whether it is a worker of a ``ThreadPoolExecutor``, which outlives tests by design."""
    return getattr(getattr(thread, "_target", None), "__module__", "") == workers.__name__


def _waits_for_work(thread: threading.Thread) -> bool:
    """Whether it is a worker that is at nothing, and for whom nothing is waiting."""
    if not _is_worker(thread) or _work_of(thread) is not None:
        return False
    return not any(each.qsize() for each in getattr(thread, "_args", ()) if isinstance(each, SimpleQueue))


def _work_of(thread: threading.Thread) -> Any:
    """Return what a worker of a ``ThreadPoolExecutor`` is at, None for other threads."""
    frame = sys._current_frames().get(thread.ident or 0)
    while frame is not None and frame.f_code is not workers._WorkItem.run.__code__:
        frame = frame.f_back
    return frame.f_locals["self"] if frame is not None else None


def _thread_text(thread: threading.Thread) -> str:
    target: Any = getattr(thread, "_target", None)
    code = getattr(target, "__code__", None)
    runs = (
        f", which runs {target.__name__}() ({Origin(code.co_filename, code.co_firstlineno, code.co_name)})"
        if code
        else ""
    )
    now = _present_line(thread)
    where = f"; it is now at {now}" if now is not UNKNOWN else ""
    return (
        f"thread {thread.name!r}{runs} was started by the test and is still running after it{where}. Its statements "
        "from now on are errors. Let the code under test end it, and join() it in the test."
    )


def _present_line(thread: threading.Thread) -> Origin:
    frame = sys._current_frames().get(thread.ident or 0)
    return user_origin(frame) if frame is not None else UNKNOWN
