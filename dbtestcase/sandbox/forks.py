"""Children that are forked while tests run: they take no part in the one transaction.

Two processes that send on one connection, each with its own notes of what was sent, would undo each other's work. So a
child that tries gets an error, and the test of its parent runs again on real connections, which a child opens itself.
"""

from __future__ import annotations

import mmap
import os
import threading
import weakref
from collections.abc import Callable
from functools import partial
from typing import Any, NoReturn, Protocol

from .attempt import Attempt, Reason, signal_tests_of, when_signalled
from .messages import forked_child

__all__ = ["RULE", "Inherited", "count", "has_child_tried", "watch"]

RULE = "used the database in a forked child process"


class Inherited(Protocol):
    """What a child inherits: a database that its parent's tests use."""

    owner: str
    is_shared: bool
    shared: Any
    ahead: Any
    lock: Any
    before_use: Callable[[], Attempt | None]


_watched: weakref.WeakSet[Inherited] = weakref.WeakSet()
# Memory that this process shares with its children: whether one of them has tried.
_page = mmap.mmap(-1, 1)
# How often this process has forked.
count = 0


def watch(database: Inherited) -> None:
    """Let children leave the connections to a database to this process."""
    _watched.add(database)


def has_child_tried() -> bool:
    """Whether a child has used the database since that was asked."""
    if not _page[0]:
        return False
    _page[0] = 0
    return True


def _after_fork_in_parent() -> None:
    global count
    count += 1


def _end_attempts() -> None:
    """Let the test that runs end: it may wait for an answer of the child that tried, which will not come."""
    if not _page[0]:
        return
    for database in list(_watched):
        attempt = database.before_use() if database.is_shared else None
        if attempt is not None and attempt.may_run_again:
            attempt.spoil(Reason(RULE))
        elif attempt is not None and attempt.reason is None:
            attempt.stop(Reason(RULE))


def _after_fork_in_child() -> None:
    global _page
    of_parent, _page = _page, mmap.mmap(-1, 1)
    parent = os.getppid()
    for database in list(_watched):
        database.ahead = database.shared = None
        database.lock = threading.RLock()  # another thread may have held it
        if database.is_shared:
            database.before_use = partial(_refuse, database.owner, of_parent, parent)


def _refuse(owner: str, page: mmap.mmap, parent: int) -> NoReturn:
    page[0] = 1
    signal_tests_of(parent)
    raise forked_child(owner)


when_signalled(_end_attempts)
os.register_at_fork(after_in_parent=_after_fork_in_parent, after_in_child=_after_fork_in_child)
