"""One test: its savepoint stack, its virtual connections, and what went wrong in it."""

from __future__ import annotations

import itertools
import weakref
from collections import deque
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from dbtestcase.diagnosis.hidden import present
from dbtestcase.diagnosis.leftovers import OpenCursors
from dbtestcase.diagnosis.sqltext import redacted

from .belongings import Belongings
from .settings import InForce
from .transactions import Change, Transactions, VirtualTransaction

if TYPE_CHECKING:
    from .channel import Channel
    from .shape import Shape


class Run:
    """Made by ``begin_test()``, over with ``end_test()``."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.transactions = Transactions()
        self.problems: list[Exception] = []
        # By id(), which a later one may take over from one that is gone: cheaper than a WeakSet for each test.
        self._sessions: dict[int, weakref.ref[Any]] = {}
        self.over = False
        self.broken: Exception | None = None
        self.is_kept = False
        self.cursors = OpenCursors()
        self.has_settled_effects = False
        self.last_statements: deque[tuple[str, str]] = deque(maxlen=5)
        self.has_ddl = False
        self.altered: set[str] = set()
        self.holds_session_locks = False
        self.settings = InForce()
        self.belongings = Belongings()
        # Who moved a sequence last, as far as texts tell.
        self.sequence_user: Channel | None = None
        self.prepared: dict[str, VirtualTransaction] = {}
        self.shapes: dict[Change, Shape | None] = {}
        self.warned: set[tuple[Any, ...]] = set()
        # Two threads may come with one each at the same moment.
        self._channels: list[weakref.ref[Channel]] = []
        self._numbers = itertools.count(1)

    @property
    def is_shared(self) -> bool:
        """Whether more than one connection took part so far."""
        return len(self._channels) > 1

    def add(self, channel: Channel) -> int:
        """Take a virtual connection in and return its number."""
        self._channels.append(weakref.ref(channel))
        return next(self._numbers)

    def channels(self) -> Iterator[Channel]:
        """Yield the virtual connections that are still there."""
        for known in list(self._channels):
            channel = known()
            if channel is not None:
                yield channel

    def has_session(self, session: Any) -> None:
        """Note an ORM session that works in the test."""
        self._sessions[id(session)] = weakref.ref(session)

    def sessions(self) -> Iterator[Any]:
        """Yield the ORM sessions that are still there."""
        for known in list(self._sessions.values()):
            session = known()
            if session is not None:
                yield session

    def record(self, problem: Exception) -> None:
        """Remember a problem, so that the test is an error even if the code under test swallows the exception."""
        if not any(str(problem) == str(known) for known in self.problems):
            self.problems.append(problem)

    def recent(self) -> str:
        """Return the last statements as lines of a message."""
        return "\n".join(f"  {label}: {shorten(sql)}" for label, sql in self.last_statements)


def shorten(sql: str, limit: int = 200) -> str:
    """Return SQL on one line, cut to a readable length, without the values of hidden columns."""
    line = " ".join(redacted(sql, present()).split())
    return line if len(line) <= limit else line[: limit - 1] + "…"
