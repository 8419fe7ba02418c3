"""Clocks, threads and locks as the interpreter made them, whatever the code under test or its tests have patched.

freezegun stops ``time.monotonic()``; gevent and eventlet turn threads into greenlets, which wait for each other where
real threads would not. What watches over a test, or works beside it, must keep its own time and its own thread.
And a folder for temporary files, also where Python finds none.
"""

from __future__ import annotations

import _thread
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from typing import Any

__all__ = [
    "Gate",
    "monotonic",
    "new_lock",
    "sleep",
    "start_new_thread",
    "start_thread",
    "temporary_folder",
    "wall_clock",
]

# freezegun and time-machine leave this function alone, as far as it does not tell the date. Neither a Python function
# nor perf_counter(): each statement asks twice, and freezegun replaces the latter.
# Returns the seconds of a clock that only runs forward; processes of one machine can compare theirs.
monotonic: Callable[[], float] = partial(time.clock_gettime, time.CLOCK_MONOTONIC)
# Returns the seconds since 1970, as the system has them.
wall_clock: Callable[[], float] = partial(time.clock_gettime, time.CLOCK_REALTIME)


def _original(name: str) -> Any:
    """Return a function of the module ``_thread`` from before gevent or eventlet replaced it."""
    gevent = sys.modules.get("gevent.monkey")
    if gevent is not None:
        return gevent.get_original("_thread", name)
    eventlet = sys.modules.get("eventlet.patcher")
    if eventlet is not None:
        return getattr(eventlet.original("_thread"), name)
    return getattr(_thread, name)


# Starts a thread that calls a function with these arguments.
start_new_thread: Callable[[Callable[..., object], tuple[object, ...]], int] = _original("start_new_thread")
# Makes a lock, as threading.Lock() does.
new_lock: Callable[[], _thread.LockType] = _original("allocate_lock")


def start_thread(function: Callable[..., object], *arguments: object) -> bool:
    """Run a function in a daemon thread; return whether it was started, which a limit on processes may prevent."""
    try:
        start_new_thread(function, arguments)
    except RuntimeError:
        return False
    return True


def sleep(seconds: float) -> None:
    """Do nothing for so long; no other greenlet does anything either."""
    Gate().wait(seconds)


def temporary_folder() -> str:
    """Return the folder for temporary files; where none can be written to, the one that they would be in."""
    try:
        return tempfile.gettempdir()
    except FileNotFoundError:
        return "/tmp"


class Gate:
    """Lets one thread wait for another; one that was opened before the wait lets it pass."""

    def __init__(self) -> None:
        self._lock = new_lock()
        self._lock.acquire()

    def open(self) -> None:
        """Let the one who waits pass, or the next who comes."""
        try:
            self._lock.release()
        except RuntimeError:
            return  # it is open

    def wait(self, seconds: float | None = None) -> bool:
        """Wait until it is open, and close it again; return whether it was, in time."""
        return self._lock.acquire(True, -1 if seconds is None else max(0.0, seconds))
