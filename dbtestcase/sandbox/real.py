"""The real connections of a class's engines: opened, observed, and closed when nobody should hold them any more."""

from __future__ import annotations

import asyncio
import weakref
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass, field
from functools import cache
from typing import Any, Protocol

from dbtestcase.frames import UNKNOWN, Origin, user_origin, usual_origin

from . import loops
from .cursors import default_class, text_of
from .drivers import FAILED, IDLE, IN_TRANSACTION, cancel_what_runs
from .observer import Observer
from .rules import Rules

__all__ = ["LeftOpen", "Locks", "RealConnection", "RealConnections"]


class Locks(Protocol):
    """Watches statements on real connections while they run."""

    def statement(
        self, pid: int, sql: object, parameters: object, origin: Origin, *, begins: bool
    ) -> AbstractContextManager[None]: ...

    backends: Any

    def look_at(self, present: Callable[[], tuple[int, object] | None]) -> None: ...

    def scene_of(self, pid: int) -> str | None: ...

    def wake(self) -> None: ...


@dataclass(frozen=True)
class LeftOpen:
    """A connection or cursor that outlived its test or class.

    Attributes:
        origin: The line that opened it, or checked it out.
        pid: The server process of a real connection; 0 if it was none.
        has_uncommitted_changes: Closing it lost work.
        cursors: Lines that opened cursors of it that were still open.
    """

    label: str
    origin: Origin
    pid: int = 0
    has_uncommitted_changes: bool = False
    cursors: tuple[Origin, ...] = ()


@dataclass(eq=False, slots=True)
class RealConnection:
    """One connection that is open; ``origin`` is the line it serves."""

    connection: Any
    pool: Any
    record: Callable[[], Any]
    label: str
    origin: Origin
    pid: int
    loop: asyncio.AbstractEventLoop | None  # in which it was opened; None if it is synchronous
    # SQLAlchemy is at work on it: what cursors send now is not the user's, or is observed already.
    is_inside: bool = True
    has_sent: bool = False  # in the present transaction
    # The ORM session that began a transaction on it last.
    session: Callable[[], Any] | None = None
    cursors: dict[int, tuple[weakref.ref[Any], Origin]] = field(default_factory=dict)

    @property
    def is_async(self) -> bool:
        return self.loop is not None

    @property
    def native(self) -> Any:
        """The driver's own connection."""
        return self.connection.driver_connection if self.is_async else self.connection

    @property
    def is_open(self) -> bool:
        closed = getattr(self.native, "closed", None)
        return not (self.native.is_closed() if closed is None else closed)

    @property
    def is_held(self) -> bool:
        """Whether somebody outside the pool has it."""
        record = self.record()
        return self._is_of(record) and record.fairy_ref is not None

    @property
    def status(self) -> int:
        """The transaction's status as libpq tells it; idle for drivers that do not."""
        native = self.native
        info = getattr(native, "info", None)
        if info is not None:
            return int(info.transaction_status)
        return IN_TRANSACTION if native.is_in_transaction() else IDLE

    @property
    def can_be_closed_anywhere(self) -> bool:
        """Whether any thread may close it, also once its event loop is gone."""
        return self.loop is None or hasattr(self.native, "pgconn")

    def commit(self) -> None:
        """Commit what is open on it, also where no event loop runs."""
        if self.loop is None:
            self.connection.commit()
        elif hasattr(self.native, "pgconn"):
            self.native.pgconn.exec_(b"COMMIT")
        else:
            loops.wait_for(self.loop, self.native.execute, "COMMIT")

    def release_from_session(self) -> None:
        """Let a session that holds it, and has only read, go on with another connection when it is used again."""
        session = None if self.session is None else self.session()
        if session is not None and self.is_held and not self.is_async:
            with suppress(Exception):
                session.rollback()

    def open_cursors(self) -> list[Any]:
        """Return the raw cursors that the user's code has left open, with the lines that opened them."""
        known = [(reference(), origin) for reference, origin in self.cursors.values()]
        return [(cursor, origin) for cursor, origin in known if cursor is not None and not cursor.closed]

    def close(self) -> None:
        """Close it, also where no event loop runs, and let its pool know."""
        record = self.record()
        if self.loop is None and self.is_open:
            with suppress(Exception):
                cancel_what_runs(self.connection)
        if self.loop is not None:
            with suppress(Exception):
                self.native.pgconn.finish() if self.can_be_closed_anywhere else loops.hang_up(self.native, self.loop)
        # An idle one lies in a pool that nobody uses any more. Letting its pool know takes an event loop.
        if (self.loop is None or (self.is_held and loops.in_greenlet())) and self._is_of(record):
            with suppress(Exception):
                record.invalidate()
        with suppress(Exception):
            if self.loop is None and self.is_open:
                self.connection.close()

    def _is_of(self, record: Any) -> bool:
        return record is not None and record.dbapi_connection is self.connection


class RealConnections:
    """All real connections of one database's engines."""

    def __init__(self, rules: Rules, observer: Callable[[], Observer | None], locks: Locks | None) -> None:
        self._rules = rules
        self._observer = observer
        self._locks = locks
        self._open: dict[int, RealConnection] = {}
        self._closed: weakref.WeakSet[Any] = weakref.WeakSet()  # by us, while somebody held them
        self._count = 0
        self.made = 0
        self.have_written = False
        self.have_altered = False  # the schema, or may have
        # Called before a statement that does not just read or change rows, with why one transaction could not carry
        # it ("" if it could) and its text.
        self.before_special: Callable[[str, str], None] | None = None

    @property
    def are_any(self) -> bool:
        return bool(self._open)

    @property
    def were_any(self) -> bool:
        """Whether there has ever been one."""
        return self._count > 0

    def add(self, connection: Any, dialect: Any, pool: Any, record: Any) -> None:
        """Take note of a connection that was opened for a pool."""
        self._count += 1
        native = connection.driver_connection if dialect.is_async else connection
        info = getattr(native, "info", None)
        pid = int(info.backend_pid) if info is not None else int(native.get_server_pid())
        known = RealConnection(
            connection,
            pool,
            weakref.ref(record),
            f"connection {self._count}",
            user_origin(),
            pid,
            asyncio.get_running_loop() if dialect.is_async else None,
        )
        self._open[id(connection)] = known
        if self._locks is not None:
            self._locks.backends.opened(pid, known.label, known.origin)
        if not dialect.is_async:
            factory = connection.cursor_factory or default_class()
            connection.cursor_factory = observed_class(factory, _Observed(self, weakref.ref(connection)))

    def get(self, connection: Any) -> RealConnection | None:
        known = self._open.get(id(connection))
        return known if known is not None and known.connection is connection else None

    def checked_out(self, connection: Any, record: Any, fairy: Any) -> None:
        """Note that the pool hands it out to the user's present line."""
        known = self.get(connection)
        if known is not None:
            known.origin = user_origin()
            known.is_inside = False
            if self._locks is not None:
                self._locks.backends.checked_out(known.pid, known.origin)

    def checked_in(self, connection: Any, record: Any) -> None:
        """Note that the pool has it back; what is sent now is SQLAlchemy's own."""
        known = self.get(connection)
        if known is not None:
            known.is_inside = True

    def execute(
        self, connection: Any, cursor: Any, sql: Any, parameters: Any, send: Callable[[], Any], how: str = "one"
    ) -> Any:
        """Send a statement of the user's, observed and watched."""
        known = self.get(connection)
        if known is None or known.is_inside:
            return send()
        effects = self._rules.of(sql)
        if not self.have_written:
            self.have_written = not effects.is_plain or effects.writes or _counts(sql)
        self.have_altered = self.have_altered or effects.alters or bool(effects.real)
        if not effects.is_plain and self.before_special is not None:
            self.before_special(effects.real, sql)
        origin = usual_origin(sql)
        observer = self._observer()
        if observer is not None:
            observer.statement_started(known.label, origin, sql, parameters)
        watched: AbstractContextManager[None] = nullcontext()
        if self._locks is not None and known.pid:
            begins = known.status == IDLE
            watched = self._locks.statement(known.pid, sql, parameters, origin, begins=begins)
        known.is_inside = known.has_sent = True
        try:
            with watched:
                result = send()
        except BaseException as error:
            if observer is not None:
                observer.statement_finished(known.label, -1, error)
            raise
        finally:
            known.is_inside = False
        if observer is not None:
            observer.statement_finished(known.label, getattr(cursor, "rowcount", -1), None)
        return result

    def were_closed(self, connection: Any) -> bool:
        """Whether a connection was closed here although somebody held it."""
        return connection in self._closed

    def ended(self, connection: Any, outcome: str) -> None:
        """Tell the observer that the user's code has ended a transaction, if it has sent something in it."""
        known = self.get(connection)
        if known is not None and known.has_sent:
            known.has_sent = False
            observer = self._observer()
            if observer is not None:
                observer.transaction_ended(known.label, user_origin(), outcome)

    def give_up_idle(self, at_most: int | None = None) -> list[RealConnection]:
        """Take connections that lie idle in their pools out of them, and return them, to be closed."""
        # Where somebody still has a cursor of one, that is to be told when they are all closed.
        idle = [
            each
            for each in self._open.values()
            if each.can_be_closed_anywhere and each.is_open and not each.is_held and not each.open_cursors()
        ][:at_most]
        for each in idle:
            del self._open[id(each.connection)]
        return idle

    def held(self) -> list[LeftOpen]:
        """Return those that somebody outside the pools has."""
        return [LeftOpen(each.label, each.origin, each.pid) for each in self._open.values() if each.is_held]

    def close_all(self, *, checks_changes: bool = False) -> list[LeftOpen]:
        """Close them all; return those that somebody still held.

        Args:
            checks_changes: Find out whether work is lost by that.
        """
        left = []
        opened, self._open = list(self._open.values()), {}
        for each in opened:
            if not each.is_open:
                continue
            cursors = each.open_cursors()
            if each.is_held or cursors:
                changed = checks_changes and each.is_held and self._has_changes(each)
                lines = tuple(origin for _, origin in cursors if origin is not UNKNOWN)
                label = each.label if each.is_held else ""
                if each.is_held and not each.is_async:
                    self._closed.add(each.connection)
                if label or lines:
                    left.append(LeftOpen(label, each.origin, each.pid, changed, lines))
                if checks_changes and not changed:
                    each.release_from_session()
            each.close()
        return left

    def commit_all(self) -> None:
        """Commit what is open on them and close them, for somebody to look at."""
        for each in self._open.values():
            with suppress(Exception):  # busy in another thread, or its transaction has failed
                if each.status == IN_TRANSACTION:
                    each.commit()
        self.close_all()

    def _has_changes(self, one: RealConnection) -> bool:
        if one.is_async or one.status not in (IN_TRANSACTION, FAILED):
            return False
        one.is_inside = True
        try:
            cursor = one.connection.cursor()
            cursor.execute("SELECT pg_current_xact_id_if_assigned() IS NOT NULL")
            return bool(cursor.fetchone()[0])
        except Exception:
            return False
        finally:
            one.is_inside = False


def _counts(sql: str | bytes) -> bool:
    """Whether a text that only reads advances a sequence."""
    return "nextval" in str(sql).lower()


@dataclass(frozen=True, eq=True)
class _Observed:
    connections: RealConnections
    connection: Callable[[], Any]

    def __hash__(self) -> int:
        return id(self)


def observed_class(kind: type, observed: _Observed) -> type:
    """Return a driver's cursor class whose statements are observed; those that SQLAlchemy sends are so already."""
    return type(kind.__name__, (_observing(kind),), {"_dbtestcase_observed": observed})


@cache
def _observing(kind: type) -> type:
    def sending(name: str) -> Callable[..., Any]:
        inner = getattr(kind, name)

        def send(self: Any, query: Any, *args: Any, **options: Any) -> Any:
            observed = self._dbtestcase_observed
            connection = observed.connection()
            known = observed.connections.get(connection)
            if known is None or known.is_inside:
                return inner(self, query, *args, **options)
            known.cursors[id(self)] = (weakref.ref(self), user_origin())
            text = text_of(query, self) or type(query).__name__
            parameters = args[0] if args else options.get("vars", options.get("params"))
            return observed.connections.execute(
                connection, self, text, parameters, lambda: inner(self, query, *args, **options)
            )

        send.__name__ = name
        return send

    return type(kind.__name__, (kind,), {name: sending(name) for name in ("execute", "executemany")})
