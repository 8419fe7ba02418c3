"""Real connections to the sandbox's database: those of the class phase, and all with ``isolation="clone"``."""

from __future__ import annotations

import sys
import weakref
from collections.abc import Iterator
from dataclasses import dataclass
from types import FrameType
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa
from sqlalchemy.pool import ConnectionPoolEntry

from dbtestcase.diagnosis.leftovers import warn_left_open
from dbtestcase.diagnosis.origin import Origin, user_origin
from dbtestcase.diagnosis.watched import watch_connection

from . import words
from .functions import HARMLESS_FUNCTIONS
from .lexer import read
from .problems import IsolationBroken

if TYPE_CHECKING:
    from .sandbox import Sandbox


_PINGS = ("SELECT 1", ";")


@dataclass(eq=False)
class _Opened:
    connection: Any
    record: weakref.ref[ConnectionPoolEntry]
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


class RealConnections:
    """Opens them, remembers where, and closes what was left open."""

    def __init__(self, sandbox: Sandbox) -> None:
        self._sandbox = sandbox
        self._opened: list[_Opened] = []
        self.has_connected = False
        self._count = 0
        self.have_written = False

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
        dialect = engine.dialect
        arguments, parameters = dialect.create_connect_args(self._sandbox.real_url)
        connection: Any = dialect.connect(*arguments, **{**parameters, **self._sandbox.connect_args(engine)})
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
        self._opened.append(_Opened(connection, weakref.ref(record), user_origin()))
        return connection

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
        if sql in _PINGS and _is_ping():
            return
        self.have_written = self.have_written or not _only_reads(sql)
        if self._sandbox.observer is not None:
            self._sandbox.observer.statement_started(connection_label, origin, sql, parameters)

    def statement_finished(self, connection_label: str, rowcount: int, error: BaseException | None) -> None:
        """Hand it on."""
        if self._sandbox.observer is not None:
            self._sandbox.observer.statement_finished(connection_label, rowcount, error)

    def close_all(self, when: str, *, warn: bool = True) -> list[str]:
        """Close them all; warn of those that somebody still holds, return a sentence for each that loses work."""
        opened, self._opened = self._opened, []
        lost = []
        for one in opened:
            if not one.is_open:
                continue
            if one.is_held and warn:
                details = self._details(one.connection)
                if _has_uncommitted_changes(one.connection):
                    lost.append(words.uncommitted(self._sandbox.owner, str(one.origin)))
                else:
                    warn_left_open(words.left_open(self._sandbox.owner, str(one.origin), when, details), one.origin)
            record = one.record()
            if record is not None and record.dbapi_connection is one.connection:
                record.invalidate()
            if one.is_open:
                one.connection.close()
        return lost

    def _details(self, connection: Any) -> list[str]:
        if self._sandbox.locks is None:
            return []
        in_transaction = connection.info.transaction_status in (2, 3)
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


def _has_uncommitted_changes(connection: Any) -> bool:
    try:
        if connection.info.transaction_status not in (2, 3):
            return False
        cursor = connection.cursor()
        cursor.execute("SELECT pg_current_xact_id_if_assigned() IS NOT NULL")
        return bool(cursor.fetchone()[0])
    except Exception:
        return False
