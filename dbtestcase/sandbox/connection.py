"""What a pool takes for a DBAPI connection during an attempt: one of many that share the physical one.

It has what the driver's connection has. SQLAlchemy's own use of it passes; what the user's code asks of a raw
connection, beyond cursors, ``commit()``, ``rollback()`` and ``close()``, is the business of a real one, and so makes
the test run again.
"""

from __future__ import annotations

import sys
import weakref
from collections.abc import Callable
from typing import Any, Literal, Protocol

import sqlalchemy as sa

from . import cursors, loops
from .drivers import Physical
from .setup import Setup
from .transaction import Work

__all__ = ["Engine", "Gate", "How", "SandboxConnection"]

_SQLALCHEMY = sa.__file__.rpartition("/")[0]
_POOL = sa.pool.base.__file__

# What anybody may read of the physical connection: it is the same for all connections of the driver.
_SAME_FOR_ALL = frozenset({
    "adapters", "broken", "connection", "cursor_factory", "encoding", "row_factory", "server_version", "string_types",
    "binary_types", "dbapi",
})  # fmt: skip
_OWN = frozenset({"autocommits", "database", "engine", "is_closed", "is_given_up", "record", "work"})


How = Literal["one", "many", "copy"]


class Engine(Protocol):
    """The engine that a connection belongs to."""

    dialect: Any
    setup: Setup


class Gate(Protocol):
    """What decides about the statements of all connections to one database."""

    @property
    def physical(self) -> Physical | None: ...

    def physical_for(self, connection: SandboxConnection) -> Physical: ...

    @property
    def sessions(self) -> Any: ...

    def work_of(self, connection: SandboxConnection) -> Work: ...

    def execute(
        self,
        connection: SandboxConnection,
        cursor: Any,
        sql: Any,
        parameters: Any,
        send: Callable[[], Any],
        how: How = "one",
    ) -> Any: ...

    def end(self, connection: SandboxConnection, *, keep: bool) -> None: ...

    def stop(self, connection: SandboxConnection, rule: str, *, of_class: bool = False) -> Any: ...


class SandboxConnection:
    """One connection of the code under test in the one transaction.

    Attributes:
        work: What it does in the present attempt; of an earlier one, or ``None``, before its first statement.
        autocommits: Whether each of its statements is a transaction of its own.
        record: Refers to the pool's record of it.
    """

    __slots__ = ("__weakref__", "autocommits", "database", "engine", "is_closed", "is_given_up", "record", "work")

    database: Gate
    engine: Engine
    work: Work | None
    autocommits: bool
    is_closed: bool
    is_given_up: bool
    record: Any

    def __init__(self, database: Gate, engine: Engine, record: Any) -> None:
        self.database = database
        self.engine = engine
        self.work = None
        self.autocommits = False
        self.is_closed = False
        self.is_given_up = False
        self.record = weakref.ref(record)

    def join(self, work: Work) -> None:
        """Take part in an attempt."""
        object.__setattr__(self, "work", work)

    @property
    def is_checked_out(self) -> bool:
        """Whether somebody outside the pool holds it."""
        record = self.record()
        if record is None or record.dbapi_connection is not self:
            return False
        return record.fairy_ref is not None and record.fairy_ref() is not None

    def give_up(self) -> None:
        """Be of no use any more to whoever still holds it."""
        self.is_closed = self.is_given_up = True
        record = self.record()
        if self.engine.dialect.is_async and loops.in_greenlet() and record is not None:
            record.invalidate()  # or SQLAlchemy complains as well, when it is thrown away

    def commit(self) -> None:
        if self.is_closed:
            self.check_open()
        self.database.end(self, keep=True)

    def rollback(self) -> None:
        if self.is_given_up:
            return  # nothing is left of it; SQLAlchemy, which so puts back what nobody closed, would log an error
        if self.is_closed:
            self.check_open()
        self.database.end(self, keep=False)

    def close(self) -> None:
        self.is_closed = True
        self.database.end(self, keep=False)

    terminate = close

    def check_open(self) -> None:
        """Raise what the driver raises if it was closed."""
        if self.is_closed:
            dbapi = self.engine.dialect.loaded_dbapi
            if self.engine.dialect.driver == "psycopg2":
                raise dbapi.InterfaceError("connection already closed")
            raise dbapi.OperationalError("the connection is closed")

    def __enter__(self) -> SandboxConnection:
        self.check_open()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            self.commit()
        else:
            self.rollback()
        if self.engine.dialect.driver == "psycopg":
            self.close()

    @property
    def closed(self) -> Any:
        physical = self.database.physical
        closed = getattr(physical.connection, "closed", False) if physical is not None else False
        return (self.is_closed and (1 if type(closed) is int else True)) or closed

    @property
    def autocommit(self) -> bool:
        return self.autocommits

    def cursor(self, *args: Any, **options: Any) -> Any:
        """Return a cursor: the driver's own to SQLAlchemy, one with a gate before it to anybody else."""
        if self.is_closed:
            self.check_open()
        physical = self.database.physical_for(self)
        if _calls_sqlalchemy(sys._getframe(1)):
            if not args and not options:
                return physical.connection.cursor()
            return cursors.client_side(physical.connection, self)
        if self.engine.dialect.is_async:
            self.database.stop(self, "a raw cursor of an asynchronous driver needs real connections")
        if args or "name" in options:
            self.database.stop(self, "a raw server-side cursor needs real connections")
        return cursors.gated(physical.connection, self, options)

    def __getattr__(self, name: str) -> Any:
        connection = self.database.physical_for(self).connection
        found = getattr(connection, name)  # an AttributeError is the driver's own
        caller = sys._getframe(1)
        if name not in _SAME_FOR_ALL and not (_calls_sqlalchemy(caller) or self._is_drivers(caller)):
            self.database.stop(self, f"{name!r} of a raw connection needs a real one")
        if name.startswith("tpc_"):
            self.database.stop(self, "a two-phase transaction needs real connections")
        return found

    def _is_drivers(self, frame: Any) -> bool:
        """Whether a call comes from the driver itself, which asks a cursor for its connection."""
        folder = self.engine.dialect.loaded_dbapi.__file__.rpartition("/")[0]
        return frame.f_code.co_filename.startswith(f"{folder}/")  # type: ignore[no-any-return]

    def __setattr__(self, name: str, value: Any) -> None:
        if name in _OWN:
            object.__setattr__(self, name, value)
        else:
            self.database.stop(self, f"setting {name!r} of a raw connection needs a real one")


def _calls_sqlalchemy(frame: Any) -> bool:
    """Whether a call comes from SQLAlchemy itself, not through a pool's proxy from somebody else."""
    if frame.f_code.co_filename == _POOL:
        frame = frame.f_back
    return frame.f_code.co_filename.startswith(_SQLALCHEMY)  # type: ignore[no-any-return]
