"""Threads that work beside the tests; where none can be started, their work is done by whoever wants it."""

from __future__ import annotations

import _queue
import _thread
import queue
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Generic, TypeVar

from dbtestcase.native import start_new_thread

__all__ = ["Workers"]

Result = TypeVar("Result")
_NO_THREAD = "can't start new thread"  # as Python says it


def _can_threads_wait() -> bool:
    """Return whether threads and queues are of one kind: gevent may have been told to replace only one of them."""
    return (queue.SimpleQueue is _queue.SimpleQueue) is (_thread.start_new_thread is start_new_thread)


class _Work(Generic[Result]):
    """A function that is called once, by whoever comes first."""

    def __init__(self, function: Callable[[], Result]) -> None:
        self.future: Future[Result] = Future()
        self._function = function
        self._begun = threading.Lock()

    def do(self) -> None:
        if not self._begun.acquire(blocking=False):
            return
        try:
            result = self._function()
        except BaseException as error:
            self.future.set_exception(error)
        else:
            self.future.set_result(result)

    def over(self, done: Future[None]) -> None:
        if done.cancelled():
            self.future.cancel()


class Workers:
    """Some threads, started when they are needed.

    Args:
        count: How many at most.
        name: What their names begin with.
    """

    def __init__(self, count: int, name: str) -> None:
        self._pool = ThreadPoolExecutor(max_workers=count, thread_name_prefix=name)

    def submit(self, function: Callable[..., Result], *arguments: Any) -> Future[Result]:
        """Have a function called in one of the threads, or here and now if there is none and none can be started."""
        work = _Work(lambda: function(*arguments))
        try:
            if not _can_threads_wait():
                raise RuntimeError(_NO_THREAD)
            self._pool.submit(work.do).add_done_callback(work.over)
        except RuntimeError as error:
            if str(error) != _NO_THREAD:
                raise
            work.do()
        return work.future

    def shutdown(self, *, wait: bool) -> None:
        """Cancel what was not begun; wait for the rest if that is wanted."""
        self._pool.shutdown(wait=wait, cancel_futures=True)
