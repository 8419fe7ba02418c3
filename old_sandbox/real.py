"""Real connections to the sandbox's database: those of the class phase, and all with ``isolation="clone"``."""

from __future__ import annotations

import sys
import weakref
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from types import FrameType
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa
from sqlalchemy.pool import ConnectionPoolEntry, Pool

from dbtestcase.diagnosis.leftovers import cursor_left, warn_left_open
from dbtestcase.diagnosis.watched import close_cursors, watch_connection
from dbtestcase.frames import Origin, user_origin

from . import words
from .ahead import ConnectionsAhead, Habits, Way
from .functions import HARMLESS_FUNCTIONS
from .lexer import read
from .problems import IsolationBroken

if TYPE_CHECKING:
    from .sandbox import Sandbox


_IN_TRANSACTION, _IN_ERROR = 2, 3  # transaction_status, as libpq numbers it
_PINGS = ("SELECT 1", ";")


@dataclass(eq=False)
class _Opened:
    connection: Any
    record: weakref.ref[ConnectionPoolEntry]
    pool: Pool
    origin: Origin

    @property
    def is_open(self) -> bool:
        return not self.connection.closed

    @property
    def is_held(self) -> bool:
        record: Any = self.record()
        if record is None or record.dbapi_connection is not self.connection:
            return True
        return record.fairy_ref is not None and record.fairy_ref() is not None

    @property
    def is_idle(self) -> bool:
        """Whether it lies in its pool and is in no transaction."""
        return not self.is_held and self.connection.info.transaction_status == 0

    def detach(self) -> Any:
        """Take it out of the pool, for which it is as good as closed, and return it."""
        record: Any = self.record()
        self.pool.dispatch.invalidate(self.connection, record, None)
        self.pool.dispatch.close(self.connection, record)
        record.dbapi_connection = None
        return self.connection


class RealConnections:
    """Opens them, remembers where, and closes what was left open."""

    def __init__(self, sandbox: Sandbox) -> None:
        self._sandbox = sandbox
        self._opened: list[_Opened] = []
        self.has_connected = False
        self._count = 0
        self._is_asking = False
        self.have_written = False
        self.habits = Habits()
        self.ahead: ConnectionsAhead | None = None
        self.made = 0
        # What a new connection is refused with: the database is kept as it was when the test failed.
        self.kept: str | None = None

    @property
    def are_any(self) -> bool:
        return bool(self._opened)

    def connect(self, engine: sa.Engine, record: ConnectionPoolEntry) -> Any:
        """Open a real connection for a pool."""
        if self._sandbox._is_closed:
            raise IsolationBroken(
                f"{self._sandbox.owner}: the class is over, and its database is gone. Engines are given back when a "
                "class ends; make connections from the engine itself, not from a pool that was kept."
            )
        if self.kept is not None:
            raise IsolationBroken(self.kept)
        way = Way(engine.dialect, self._sandbox.connect_args(engine))
        self.habits.connects(way)
        connection: Any = None if self.ahead is None else self.ahead.take(way)
        if connection is None:
            connection = way.connect(self._sandbox.real_url)
            self.made += 1
        self.has_connected = True
        self._count += 1
        held: weakref.ref[Any] = weakref.ref(record)
        watch_connection(
            connection,
            label=f"connection {self._count}",
            opened=user_origin(),
            is_handed_out=lambda: (entry := held()) is not None and entry.fairy_ref is not None,
            observer=lambda: self,
            locks=self._sandbox.locks,
        )
        self._opened = [opened for opened in self._opened if opened.is_open]
        self._opened.append(_Opened(connection, weakref.ref(record), engine.pool, user_origin()))
        return connection

    def use_ahead(self, ahead: ConnectionsAhead | None) -> None:
        """From now on the database is another one, to which these connections are open."""
        self.ahead = ahead
        self.made = 0 if ahead is None else len(ahead)

    def open_ahead(self, url: sa.URL) -> ConnectionsAhead:
        """Open the connections to another database that the next test will probably ask for; in any thread."""
        return ConnectionsAhead(url, self.habits.expected())

    def checked_out(self, connection: Any) -> None:
        """Note that the pool hands a connection out, to the user's present line."""
        origin = user_origin()
        for opened in self._opened:
            if opened.connection is connection:
                opened.origin = origin
        if self._sandbox.locks is not None and not connection.closed:
            self._sandbox.locks.backends.checked_out(connection.info.backend_pid, origin)

    # An observer between the connections and the sandbox's own, which may be none.

    def statement_started(self, connection_label: str, origin: Origin, sql: Any, parameters: Any) -> None:
        """Note whether the statement may change the database; hand it on, unless it is a ping of the pool."""
        if self._is_asking or (sql in _PINGS and _is_ping()):
            return
        self.have_written = self.have_written or not _only_reads(sql)
        if self._sandbox.observer is not None:
            self._sandbox.observer.statement_started(connection_label, origin, sql, parameters)

    def statement_finished(self, connection_label: str, rowcount: int, error: BaseException | None) -> None:
        """Hand it on."""
        if self._sandbox.observer is not None:
            self._sandbox.observer.statement_finished(connection_label, rowcount, error)

    def give_up_idle(self, at_most: int | None = None) -> list[Any]:
        """Take connections that lie idle out of their pools, and return them, to be closed."""
        idle = [opened for opened in self._opened if opened.is_open and opened.is_idle][:at_most]
        self._opened = [opened for opened in self._opened if opened not in idle]
        return [opened.detach() for opened in idle]

    def close_cursors(self, when: str) -> None:
        """Close the cursors that are open on connections that were given back, and warn of them."""
        for one in self._opened:
            if one.is_open and not one.is_held:
                self._close_cursors(one, when)

    def _close_cursors(self, one: _Opened, when: str) -> None:
        for origin in close_cursors(one.connection):
            warn_left_open(cursor_left(self._sandbox.owner, origin, when=when), origin)

    def close_idle(self) -> bool:
        """Close the connections that lie idle; return whether these were all."""
        for connection in self.give_up_idle():
            connection.close()
        return not any(opened.is_open for opened in self._opened)

    def close_all(self, when: str, *, warn: bool = True, must_keep: bool = False) -> list[str]:
        """Close them all, and warn of those that somebody still holds.

        Args:
            must_keep: What they did was meant to last: return a sentence for each that loses work, in place of a
                warning.
        """
        if self.ahead is not None:
            self.ahead.close()
            self.ahead = None
        opened, self._opened = self._opened, []
        lost = []
        for one in opened:
            if not one.is_open:
                continue
            if warn and not one.is_held:
                self._close_cursors(one, when)
            if one.is_held and warn:
                details = self._details(one.connection) + words.with_cursors(close_cursors(one.connection))
                if must_keep and self._has_uncommitted_changes(one.connection):
                    lost.append(words.uncommitted(self._sandbox.owner, str(one.origin)))
                else:
                    warn_left_open(words.left_open(self._sandbox.owner, str(one.origin), when, details), one.origin)
            record = one.record()
            if record is not None and record.dbapi_connection is one.connection:
                record.invalidate()
            if one.is_open:
                one.connection.close()
        return lost

    def keep_work(self, sentence: str) -> None:
        """Commit what is open on them, close them, and refuse others with this sentence."""
        self.kept = sentence
        for one in self._opened:
            with suppress(Exception):  # busy in another thread, or its transaction has failed
                if one.connection.info.transaction_status == _IN_TRANSACTION:
                    one.connection.commit()
        self.close_all("when the test failed", warn=False)

    def _has_uncommitted_changes(self, connection: Any) -> bool:
        self._is_asking = True
        try:
            if connection.info.transaction_status not in (_IN_TRANSACTION, _IN_ERROR):
                return False
            cursor = connection.cursor()
            cursor.execute("SELECT pg_current_xact_id_if_assigned() IS NOT NULL")
            return bool(cursor.fetchone()[0])
        except Exception:
            return False
        finally:
            self._is_asking = False

    def _details(self, connection: Any) -> list[str]:
        if self._sandbox.locks is None:
            return []
        in_transaction = connection.info.transaction_status in (_IN_TRANSACTION, _IN_ERROR)
        return self._sandbox.locks.backends.describe(connection.info.backend_pid, in_transaction=in_transaction)

    def __iter__(self) -> Iterator[Any]:
        return (opened.connection for opened in self._opened if opened.is_open)


def _is_ping() -> bool:
    """Whether SQLAlchemy's pool asks this, for itself."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None and frame.f_code.co_name != "do_ping":
        frame = frame.f_back
    return frame is not None


def _only_reads(sql: Any) -> bool:
    if not isinstance(sql, str):
        return False
    text = read(sql)
    return text.is_plain_read and text.functions <= HARMLESS_FUNCTIONS - {"nextval"}
