"""psycopg2: connections that look like any other and share the one of the test."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any, NoReturn

import psycopg2
import psycopg2.errorcodes
import psycopg2.errors
import psycopg2.extensions as ext

from . import words
from .channel import Channel
from .core import Core
from .problems import IsolationBroken
from .psycopg2_cursors import gated
from .wire import Turn

_STATUS = {
    ext.TRANSACTION_STATUS_IDLE: "idle",
    ext.TRANSACTION_STATUS_ACTIVE: "active",
    ext.TRANSACTION_STATUS_INTRANS: "intrans",
    ext.TRANSACTION_STATUS_INERROR: "inerror",
}
_LEVEL_NAMES = {
    ext.ISOLATION_LEVEL_READ_COMMITTED: "READ COMMITTED",
    ext.ISOLATION_LEVEL_READ_UNCOMMITTED: "READ UNCOMMITTED",
    ext.ISOLATION_LEVEL_REPEATABLE_READ: "REPEATABLE READ",
    ext.ISOLATION_LEVEL_SERIALIZABLE: "SERIALIZABLE",
}
_LEVEL_NUMBERS = {name: number for number, name in _LEVEL_NAMES.items()}
# A connection object that has never been connected; the failed attempt touches no network.
_NOWHERE = "host=/dev/null/dbtestcase port=1 dbname=x user=x connect_timeout=1"


class Psycopg2Physical:
    """The one real connection of a test."""

    def __init__(self, connection: ext.connection) -> None:
        self.connection = connection
        self.pid = connection.get_backend_pid()  # kept, because a connection that was cut cannot say it
        connection.autocommit = True
        self._cursor = connection.cursor()

    def send(self, sql: str) -> None:
        self._cursor.execute(sql)
        if not self.connection.autocommit and self.status() == "idle":
            # A server-side cursor made psycopg2 think of a transaction of its own; see allow_named_cursors().
            self.connection.rollback()
            self.connection.autocommit = True
            del self.connection.notices[:]

    def last(self, sql: str) -> str | None:
        self.send(sql)
        row = self._cursor.fetchone()
        return None if row is None else row[0]

    def query(self, sql: str) -> list[tuple[Any, ...]]:
        self._cursor.execute(sql)
        return self._cursor.fetchall()

    def status(self) -> str:
        if self.connection.closed:
            return "unknown"
        return _STATUS.get(self.connection.get_transaction_status(), "unknown")

    def literal(self, sql: str, parameters: Any) -> str | None:
        try:
            text = self._cursor.mogrify(sql, parameters)
        except Exception:
            return None
        return text.decode() if isinstance(text, bytes) else text

    def forget_plans(self) -> None:
        """psycopg2 prepares nothing."""

    def close(self) -> None:
        self.connection.close()

    def cancel(self) -> None:
        with suppress(psycopg2.Error):
            self.connection.cancel()

    def cut(self) -> None:
        with socket.socket(fileno=os.dup(self.connection.fileno())) as duplicate:
            duplicate.shutdown(socket.SHUT_RDWR)

    def allow_named_cursors(self) -> None:
        """Make psycopg2 send DECLARE: it refuses in autocommit mode, which is how it sees our transaction."""
        if self.connection.autocommit:
            self.connection.autocommit = False
            # psycopg2 sends its own BEGIN now, which the server answers with a warning only.
            self._cursor.execute("SELECT 1")
            del self.connection.notices[:]


class Psycopg2Driver:
    """Makes physical connections and the driver's exceptions."""

    name = "psycopg2"
    Error: type[Exception] = psycopg2.Error

    def __init__(self, parameters: Callable[[], Mapping[str, Any]]) -> None:
        self._parameters = parameters
        self.ready_connection: Any = None

    def connect(self) -> Psycopg2Physical:
        ready, self.ready_connection = self.ready_connection, None
        return Psycopg2Physical(ready or psycopg2.connect(**self._parameters()))

    def virtual_connection(self, core: Core, channel: Channel, engine: Any) -> VirtualConnection:
        return VirtualConnection(core, channel)

    def error(self, sqlstate: str, message: str) -> Exception:
        error: Exception = psycopg2.errors.lookup(sqlstate)(message + "\n")
        error.__setstate__({"pgcode": sqlstate, "pgerror": f"ERROR:  {message}\n"})
        return error

    def sqlstate(self, error: BaseException) -> str | None:
        return getattr(error, "pgcode", None)


class VirtualConnection(ext.connection):
    """A connection of the code under test; what it sends runs inside the test's transaction."""

    def __init__(self, core: Core, channel: Channel) -> None:
        with suppress(psycopg2.OperationalError):
            super().__init__(_NOWHERE)
        self._core = core
        self._channel = channel
        self._cursor_factory: Any = None
        self._tpc_xid: Any = None

    def __repr__(self) -> str:
        return f"<{type(self).__qualname__} {self._channel.label} of {self._core.owner}>"

    # -- cursors

    def cursor(
        self,
        name: str | bytes | None = None,
        cursor_factory: Any = None,
        withhold: bool = False,
        scrollable: bool | None = None,
    ) -> Any:
        self._check_open()
        run = self._core.check(self._channel)
        factory = gated(cursor_factory or self._cursor_factory or ext.cursor, named=name is not None)
        if name is None:
            cursor = factory(self._physical.connection)
        else:
            cursor = factory(self._physical.connection, name)
            cursor.withhold = withhold
            cursor.scrollable = scrollable
        cursor._virtual = self
        cursor._run = run
        run.cursors.add(cursor)
        if self.string_types:
            cursor.string_types = dict(self.string_types)
        if self.binary_types:
            cursor.binary_types = dict(self.binary_types)
        return cursor

    @property
    def cursor_factory(self) -> Any:
        return self._cursor_factory

    @cursor_factory.setter
    def cursor_factory(self, factory: Any) -> None:
        self._cursor_factory = factory

    # -- transactions

    def commit(self) -> None:
        self._check_open()
        self._refuse_in_two_phase("commit")
        self._core.commit(self._channel)

    def rollback(self) -> None:
        if self._channel.stale:
            return
        self._check_open()
        self._refuse_in_two_phase("rollback")
        self._core.rollback(self._channel)

    def close(self) -> None:
        if not self._channel.closed:
            self._channel.two_phase = None
            self._core.rollback(self._channel)
            self._channel.closed = True

    def reset(self) -> None:
        self._check_open()
        self._core.rollback(self._channel)
        self.set_session(isolation_level="DEFAULT", readonly="DEFAULT", deferrable="DEFAULT", autocommit=False)

    def __enter__(self) -> VirtualConnection:
        self._check_open()
        return self

    def __exit__(self, kind: Any, error: Any, traceback: Any) -> None:
        if kind is None:
            self.commit()
        else:
            self.rollback()

    @property
    def closed(self) -> int:
        if self._channel.closed:
            return 1
        return 2 if self._is_broken() else 0

    @property
    def status(self) -> int:
        if self._channel.two_phase is not None and self._channel.two_phase[1]:
            return int(ext.STATUS_PREPARED)
        return int(ext.STATUS_BEGIN if self._channel.in_transaction else ext.STATUS_READY)

    def get_transaction_status(self) -> int:
        if self.closed:
            return int(ext.TRANSACTION_STATUS_UNKNOWN)
        if self._channel.is_failed:
            return int(ext.TRANSACTION_STATUS_INERROR)
        return int(ext.TRANSACTION_STATUS_INTRANS if self._channel.in_transaction else ext.TRANSACTION_STATUS_IDLE)

    # -- the kind of the next transaction

    @property
    def autocommit(self) -> bool:
        return self._channel.autocommit

    @autocommit.setter
    def autocommit(self, value: bool) -> None:
        self._check_idle("autocommit")
        self._channel.autocommit = bool(value)

    @property
    def isolation_level(self) -> int | None:
        self._check_open()
        if self._channel.autocommit:
            return int(ext.ISOLATION_LEVEL_AUTOCOMMIT)
        level = self._channel.isolation
        return None if level is None else _LEVEL_NUMBERS[level]

    @isolation_level.setter
    def isolation_level(self, level: int | str | bytes | None) -> None:
        self._check_idle("isolation_level")
        self._channel.isolation = _level_name(level)

    def set_isolation_level(self, level: int | None) -> None:
        self._check_open()
        self._core.rollback(self._channel)
        self._channel.autocommit = level == ext.ISOLATION_LEVEL_AUTOCOMMIT
        self._channel.isolation = None if self._channel.autocommit else _level_name(level)

    @property
    def readonly(self) -> bool | None:
        return self._channel.read_only

    @readonly.setter
    def readonly(self, value: bool | str | None) -> None:
        self._check_idle("readonly")
        self._channel.read_only = _tristate(value)

    @property
    def deferrable(self) -> bool | None:
        return self._channel.deferrable

    @deferrable.setter
    def deferrable(self, value: bool | str | None) -> None:
        self._check_idle("deferrable")
        self._channel.deferrable = _tristate(value)

    def set_session(
        self,
        isolation_level: Any = None,
        readonly: Any = None,
        deferrable: Any = None,
        autocommit: Any = None,
    ) -> None:
        self._check_idle("set_session")
        if isolation_level is not None:
            self._channel.isolation = _level_name(isolation_level)
        if readonly is not None:
            self._channel.read_only = _tristate(readonly)
        if deferrable is not None:
            self._channel.deferrable = _tristate(deferrable)
        if autocommit is not None:
            self._channel.autocommit = bool(autocommit)

    # -- two-phase transactions: prepared ones are kept as open virtual transactions

    def xid(self, format_id: int, gtrid: str, bqual: str) -> Any:
        return ext.Xid(format_id, gtrid, bqual)

    def tpc_begin(self, xid: Any) -> None:
        self._check_idle("tpc_begin")
        if self._channel.autocommit:
            raise psycopg2.ProgrammingError("tpc_begin can't be called in autocommit mode")
        self._core.tpc_begin(self._channel, str(xid))

    def tpc_prepare(self) -> None:
        self._check_open()
        if self._channel.two_phase is None:
            raise psycopg2.ProgrammingError("prepare must be called inside a two-phase transaction")
        self._core.tpc_prepare(self._channel)

    def tpc_commit(self, xid: Any = None) -> None:
        self._finish_two_phase(xid, commit=True)

    def tpc_rollback(self, xid: Any = None) -> None:
        self._finish_two_phase(xid, commit=False)

    def tpc_recover(self) -> list[Any]:
        self._check_open()
        make: Any = ext.Xid.from_string
        return [make(xid) for xid in self._core.prepared_transactions(self._channel)]

    def _finish_two_phase(self, xid: Any, *, commit: bool) -> None:
        self._check_open()
        word = "commit" if commit else "rollback"
        if xid is None and self._channel.two_phase is None:
            raise psycopg2.ProgrammingError(
                f"tpc_commit/tpc_rollback with no parameter must be called in a two-phase transaction ({word})"
            )
        if xid is not None and self._channel.two_phase is not None:
            raise psycopg2.ProgrammingError(
                f"tpc_commit/tpc_rollback with a xid must be called outside a two-phase transaction ({word})"
            )
        self._core.tpc_finish(self._channel, None if xid is None else str(xid), commit=commit)

    def _refuse_in_two_phase(self, what: str) -> None:
        if self._channel.two_phase is not None:
            raise psycopg2.ProgrammingError(f"{what} cannot be used during a two-phase transaction")

    # -- what the physical connection knows

    @property
    def encoding(self) -> str:
        return str(self._real.encoding)

    def set_client_encoding(self, encoding: str) -> None:
        if encoding.replace("-", "").replace("_", "").upper() not in (
            self.encoding,
            "UNICODE" * (self.encoding == "UTF8"),
        ):
            raise self._not_here(f"client_encoding = {encoding!r}", "its encoding is the one of all connections")

    @property
    def info(self) -> Any:
        return _Info(self, self._real.info)

    @property
    def dsn(self) -> str:
        return str(self._real.dsn)

    def get_dsn_parameters(self) -> dict[str, str]:
        return dict(self._real.get_dsn_parameters())

    def get_parameter_status(self, parameter: str) -> str | None:
        return self._real.get_parameter_status(parameter)

    def get_backend_pid(self) -> int:
        return self._real.get_backend_pid()

    def get_native_connection(self) -> Any:
        real: Any = self._real
        return real.get_native_connection()

    @property
    def pgconn_ptr(self) -> int | None:
        return self._real.pgconn_ptr

    @property
    def notices(self) -> list[str]:
        physical = self._core.physical
        return physical.connection.notices if isinstance(physical, Psycopg2Physical) else []

    @notices.setter
    def notices(self, value: list[str]) -> None:
        self._real.notices = value

    @property
    def notifies(self) -> list[Any]:  # type: ignore[override]
        return []

    @property
    def server_version(self) -> int:
        return int(self._real.server_version)

    @property
    def protocol_version(self) -> int:
        return int(self._real.protocol_version)

    def cancel(self) -> None:
        self._check_open()
        if self._core.physical is not None:
            self._core.physical.cancel()

    def isexecuting(self) -> bool:
        return False

    def poll(self) -> int:
        return int(ext.POLL_OK)

    def fileno(self) -> int:
        return self._real.fileno()

    def lobject(self, *arguments: Any, **options: Any) -> NoReturn:
        raise self._not_here("large objects", "they are read and written past the statements that can be undone")

    # -- inner

    @property
    def _physical(self) -> Psycopg2Physical:
        physical = self._core.physical
        if physical is None:
            with Turn(self._core, self._channel):
                physical = self._core.connected()
        assert isinstance(physical, Psycopg2Physical)
        return physical

    @property
    def _real(self) -> ext.connection:
        self._check_open()
        return self._physical.connection

    def _is_broken(self) -> bool:
        run = self._core.run
        return run is not None and run.broken is not None and self._channel.run is run

    def _check_open(self) -> None:
        if self._channel.closed:
            if self._channel.stale:
                raise IsolationBroken(words.outlived(self._core.owner, self._channel))
            raise psycopg2.InterfaceError("connection already closed")

    def _check_idle(self, what: str) -> None:
        self._check_open()
        if self._channel.in_transaction:
            raise psycopg2.ProgrammingError(f"{what} cannot be used inside a transaction")

    def _not_here(self, what: str, why: str) -> IsolationBroken:
        return IsolationBroken(f"{self._core.owner}: {what} cannot be had in a savepoint: {why}. {words.CLONE}.")


class _Info:
    """``connection.info`` of the physical connection, but for the state of the transaction."""

    def __init__(self, virtual: VirtualConnection, info: Any) -> None:
        self._virtual = virtual
        self._info = info

    @property
    def transaction_status(self) -> int:
        return self._virtual.get_transaction_status()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._info, name)


def _level_name(level: int | str | bytes | None) -> str | None:
    if isinstance(level, bytes):
        level = level.decode()
    if level is None or (isinstance(level, str) and level.upper() == "DEFAULT"):
        return None
    if isinstance(level, str):
        if level.upper() not in _LEVEL_NUMBERS:
            raise ValueError(f"bad value for isolation_level: {level!r}")
        return level.upper()
    if level not in _LEVEL_NAMES:
        raise ValueError("isolation_level must be between 1 and 4")
    return _LEVEL_NAMES[level]


def _tristate(value: bool | str | None) -> bool | None:
    return None if value is None or (isinstance(value, str) and value.upper() == "DEFAULT") else bool(value)
