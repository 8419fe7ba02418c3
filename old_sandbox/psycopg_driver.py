"""psycopg 3: connections that look like any other and share the one of the test."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from types import SimpleNamespace
from typing import Any, NoReturn

import psycopg
from psycopg import errors, pq
from psycopg._preparing import PrepareManager
from psycopg.adapt import AdaptersMap
from psycopg.transaction import Transaction

from . import words
from .channel import Channel
from .core import Core
from .lexer import ENDING, read
from .problems import IsolationBroken
from .psycopg_cursors import gated, gated_server
from .wire import Turn

_STATUS = {
    pq.TransactionStatus.IDLE: "idle",
    pq.TransactionStatus.ACTIVE: "active",
    pq.TransactionStatus.INTRANS: "intrans",
    pq.TransactionStatus.INERROR: "inerror",
}


class _Prepared(PrepareManager):
    """Forgets its own statements one by one: psycopg's DEALLOCATE ALL would take those of the user's PREPARE along."""

    def clear(self) -> bool:
        names = list(self._names.values())
        if not super().clear():
            return False
        self._to_flush.clear()
        self._to_flush.extend(names)
        return True


class PsycopgPhysical:
    """The one real connection of a test."""

    def __init__(self, connection: psycopg.Connection[Any]) -> None:
        self.connection = connection
        connection._prepared = _Prepared()
        self.pid = connection.info.backend_pid  # kept, because a connection that was cut cannot say it
        # Whose statement is being executed: notices of the server are for that one.
        self.speaker: VirtualConnection | None = None
        connection.add_notice_handler(self._on_notice)

    def _on_notice(self, notice: Any) -> None:
        if self.speaker is not None:
            for handler in list(self.speaker._notice_handlers):
                handler(notice)

    def send(self, sql: str) -> None:
        self._sent(sql)

    def last(self, sql: str) -> str | None:
        value = self._sent(sql).get_value(0, 0)
        return value.decode() if value is not None else None

    def _sent(self, sql: str) -> Any:
        result = self.connection.pgconn.exec_(sql.encode())
        if result.status not in (pq.ExecStatus.COMMAND_OK, pq.ExecStatus.TUPLES_OK):
            raise errors.error_from_result(result, encoding="utf-8")
        return result

    def query(self, sql: str) -> list[tuple[Any, ...]]:
        with self.connection.cursor() as cursor:
            return cursor.execute(sql, prepare=False).fetchall()

    def status(self) -> str:
        return _STATUS.get(pq.TransactionStatus(self.connection.pgconn.transaction_status), "unknown")

    def literal(self, sql: str, parameters: Any) -> str | None:
        try:
            return psycopg.ClientCursor(self.connection).mogrify(sql, parameters)
        except Exception:
            return None

    def forget_plans(self) -> None:
        prepared = self.connection._prepared
        if prepared.clear():
            names = [name.decode() for name in prepared._to_flush if name is not None]
            prepared._to_flush.clear()
            self.send("; ".join(f'DEALLOCATE "{name}"' for name in names))

    def close(self) -> None:
        self.connection.close()

    def cancel(self) -> None:
        with suppress(psycopg.Error):
            self.connection.cancel()

    def cut(self) -> None:
        with socket.socket(fileno=os.dup(self.connection.fileno())) as duplicate:
            duplicate.shutdown(socket.SHUT_RDWR)


class PsycopgDriver:
    """Makes physical connections and the driver's exceptions."""

    name = "psycopg"
    Error: type[Exception] = psycopg.Error

    def __init__(self, parameters: Callable[[], Mapping[str, Any]]) -> None:
        self._parameters = parameters

    def connect(self) -> PsycopgPhysical:
        return PsycopgPhysical(psycopg.connect(autocommit=True, **self._parameters()))

    def virtual_connection(self, core: Core, channel: Channel, engine: Any) -> VirtualConnection:
        return VirtualConnection(core, channel, getattr(engine.dialect, "_psycopg_adapters_map", None))

    def error(self, sqlstate: str, message: str) -> Exception:
        return errors.lookup(sqlstate)(message)

    def sqlstate(self, error: BaseException) -> str | None:
        return getattr(error, "sqlstate", None)


class VirtualConnection(psycopg.Connection[Any]):
    """A connection of the code under test; what it sends runs inside the test's transaction."""

    def __init__(self, core: Core, channel: Channel, adapters: AdaptersMap | None) -> None:
        self._core = core
        self._channel = channel
        self._threshold: int | None = 5
        # The real pgconn is the physical connection's, found when it is needed: see the property below.
        super().__init__(SimpleNamespace())  # type: ignore[arg-type]
        # A connection of a pool does not warn when it is forgotten.
        self._pool = None
        if adapters is not None:
            self._adapters = AdaptersMap(adapters)

    def __del__(self, *_: Any) -> None:
        """Nothing of the server's hangs on a virtual connection, so there is nothing to warn of."""

    def __repr__(self) -> str:
        return f"<{type(self).__qualname__} {self._channel.label} of {self._core.owner}>"

    # -- what is shared

    @property
    def _physical(self) -> PsycopgPhysical:
        with Turn(self._core, self._channel):
            physical = self._core.connected()
            assert isinstance(physical, PsycopgPhysical)
            return physical

    @property
    def pgconn(self) -> Any:
        self._check_connection_ok()
        return self._physical.connection.pgconn

    @pgconn.setter
    def pgconn(self, value: Any) -> None:
        """Set by psycopg's own ``__init__``; there is nothing to keep."""

    @property
    def _prepared(self) -> Any:
        # Names of prepared statements must be unique on the physical connection.
        return self._physical.connection._prepared

    @_prepared.setter
    def _prepared(self, value: Any) -> None:
        """Set by psycopg's own ``__init__``; there is nothing to keep."""

    @property
    def prepare_threshold(self) -> int | None:
        return self._threshold

    @prepare_threshold.setter
    def prepare_threshold(self, value: int | None) -> None:
        self._threshold = value

    def _speak(self) -> None:
        """Called within a turn, before a statement is sent."""
        physical = self._core.connected()
        assert isinstance(physical, PsycopgPhysical)
        physical.speaker = self
        physical.connection._prepared.prepare_threshold = self._threshold

    # -- state

    @property
    def closed(self) -> bool:
        return self._channel.closed or self.broken

    @property
    def broken(self) -> bool:
        run = self._core.run
        return run is not None and run.broken is not None and self._channel.run is run

    @property
    def info(self) -> Any:
        return _Info(self)

    def _transaction_status(self) -> pq.TransactionStatus:
        if self.closed:
            return pq.TransactionStatus.UNKNOWN
        if self._channel.is_failed:
            return pq.TransactionStatus.INERROR
        return pq.TransactionStatus.INTRANS if self._channel.in_transaction else pq.TransactionStatus.IDLE

    def _check_connection_ok(self) -> None:
        if self._channel.stale:
            raise IsolationBroken(words.outlived(self._core.owner, self._channel))
        if self._channel.closed:
            raise psycopg.OperationalError("the connection is closed")

    def close(self) -> None:
        if not self._channel.closed:
            self._channel.two_phase = None
            self._core.rollback(self._channel)
            self._channel.closed = self._closed = True

    # -- cursors

    def cursor(
        self,
        name: str = "",
        *,
        binary: bool = False,
        row_factory: Any = None,
        scrollable: bool | None = None,
        withhold: bool = False,
    ) -> Any:
        self._check_connection_ok()
        row_factory = row_factory or self.row_factory
        if name:
            server_factory: Any = self.server_cursor_factory
            factory = gated_server(server_factory)
            cursor = factory(self, name=name, row_factory=row_factory, scrollable=scrollable, withhold=withhold)
        else:
            client_factory: Any = self.cursor_factory
            cursor = gated(client_factory)(self, row_factory=row_factory)
        cursor._run = run = self._core.run
        if run is not None:
            run.cursors.add(cursor)
        if binary:
            cursor.format = pq.Format.BINARY
        return cursor

    # -- transactions

    def commit(self) -> None:
        self._check_connection_ok()
        self._refuse_within("commit")
        self._core.commit(self._channel)

    def rollback(self) -> None:
        if self._channel.stale:
            return
        self._check_connection_ok()
        self._refuse_within("rollback")
        self._core.rollback(self._channel)

    def _refuse_within(self, what: str) -> None:
        if self._num_transactions:
            raise psycopg.ProgrammingError(f"Explicit {what}() forbidden within a Transaction context.")
        if self._channel.two_phase is not None:
            raise psycopg.ProgrammingError(f"{what}() cannot be used during a two-phase transaction")

    @contextmanager
    def transaction(self, savepoint_name: str | None = None, force_rollback: bool = False) -> Iterator[Transaction]:
        self._check_connection_ok()
        context = Transaction(self, savepoint_name, force_rollback)
        context.pgconn = _Status(self)  # type: ignore[assignment]
        with context:
            yield context

    def _start_query(self) -> Iterator[Any]:  # type: ignore[override]
        """psycopg would send BEGIN here; the gate has seen to that."""
        return iter(())

    def _exec_command(self, command: Any, result_format: Any = pq.Format.TEXT) -> Any:
        """Keep what psycopg itself sends to begin and end transactions from the server."""
        text = command if isinstance(command, str) else command.decode() if isinstance(command, bytes) else ""
        found = read(text)
        if found.savepoint is None and found.verb not in ENDING:
            return (yield from super()._exec_command(command, result_format))
        core, channel = self._core, self._channel
        with Turn(core, channel) as run:
            if found.savepoint is not None:
                core.savepoint(channel, run, *found.savepoint, text)
            elif found.verb == "BEGIN":
                channel.begin()
                channel.explicit = True
            elif found.verb == "COMMIT":
                core.commit(channel)
            else:
                core.rollback(channel)
        return None

    def pipeline(self) -> AbstractContextManager[Any]:  # type: ignore[override]
        """Statements are sent one by one here: the others share the wire, and it has one pipeline."""
        self._check_connection_ok()
        return nullcontext(_OneByOne())

    # -- the kind of the next transaction

    @property
    def autocommit(self) -> bool:
        return self._channel.autocommit

    @autocommit.setter
    def autocommit(self, value: bool) -> None:
        self.set_autocommit(value)

    def set_autocommit(self, value: bool) -> None:
        self._check_idle("autocommit")
        self._channel.autocommit = bool(value)

    @property
    def isolation_level(self) -> psycopg.IsolationLevel | None:
        level = self._channel.isolation
        return None if level is None else psycopg.IsolationLevel[level.replace(" ", "_")]

    @isolation_level.setter
    def isolation_level(self, value: psycopg.IsolationLevel | None) -> None:
        self.set_isolation_level(value)

    def set_isolation_level(self, value: psycopg.IsolationLevel | None) -> None:
        self._check_idle("isolation_level")
        self._channel.isolation = None if value is None else psycopg.IsolationLevel(value).name.replace("_", " ")

    @property
    def read_only(self) -> bool | None:
        return self._channel.read_only

    @read_only.setter
    def read_only(self, value: bool | None) -> None:
        self.set_read_only(value)

    def set_read_only(self, value: bool | None) -> None:
        self._check_idle("read_only")
        self._channel.read_only = None if value is None else bool(value)

    @property
    def deferrable(self) -> bool | None:
        return self._channel.deferrable

    @deferrable.setter
    def deferrable(self, value: bool | None) -> None:
        self.set_deferrable(value)

    def set_deferrable(self, value: bool | None) -> None:
        self._check_idle("deferrable")
        self._channel.deferrable = None if value is None else bool(value)

    def _check_idle(self, attribute: str) -> None:
        self._check_connection_ok()
        if self._num_transactions:
            raise psycopg.ProgrammingError(
                f"can't change {attribute!r} now: connection.transaction() context in progress"
            )
        if self._channel.in_transaction:
            raise psycopg.ProgrammingError(
                f"can't change {attribute!r} now: connection in transaction status {self._transaction_status().name}"
            )

    # -- two-phase transactions: prepared ones are kept as open virtual transactions

    def tpc_begin(self, xid: Any) -> None:
        self._check_idle("tpc_begin")
        if self._channel.autocommit:
            raise psycopg.ProgrammingError("can't use two-phase transactions in autocommit mode")
        self._core.tpc_begin(self._channel, str(xid))

    def tpc_prepare(self) -> None:
        if self._channel.two_phase is None:
            raise psycopg.ProgrammingError("'tpc_prepare()' must be called inside a two-phase transaction")
        if self._channel.two_phase[1]:
            raise psycopg.ProgrammingError("'tpc_prepare()' cannot be used during a prepared two-phase transaction")
        self._core.tpc_prepare(self._channel)

    def tpc_commit(self, xid: Any = None) -> None:
        self._finish_two_phase("tpc_commit()", xid, commit=True)

    def tpc_rollback(self, xid: Any = None) -> None:
        self._finish_two_phase("tpc_rollback()", xid, commit=False)

    def tpc_recover(self) -> list[Any]:
        return [psycopg.Xid.from_string(xid) for xid in self._core.prepared_transactions(self._channel)]

    def _finish_two_phase(self, what: str, xid: Any, *, commit: bool) -> None:
        if xid is None and self._channel.two_phase is None:
            raise psycopg.ProgrammingError(f"{what} without xid must must be called inside a two-phase transaction")
        if xid is not None and self._channel.two_phase is not None:
            raise psycopg.ProgrammingError(f"{what} with xid must must be called outside a two-phase transaction")
        self._core.tpc_finish(self._channel, None if xid is None else str(xid), commit=commit)

    # -- what cannot be shared

    def cancel(self) -> None:
        if not self.closed and self._core.physical is not None:
            self._core.physical.cancel()

    def cancel_safe(self, *, timeout: float = 30.0) -> None:
        self.cancel()

    def notifies(self, **options: Any) -> NoReturn:
        raise IsolationBroken(
            f"{self._core.owner}: notifications are sent at a real commit, and a test in a savepoint has none. "
            f"For tests of LISTEN and NOTIFY, {words.CLONE}."
        )


class _Status:
    """What psycopg's transaction blocks ask the wire for."""

    def __init__(self, virtual: VirtualConnection) -> None:
        self._virtual = virtual

    @property
    def transaction_status(self) -> pq.TransactionStatus:
        return self._virtual._transaction_status()

    @property
    def status(self) -> pq.ConnStatus:
        return pq.ConnStatus.BAD if self._virtual.closed else pq.ConnStatus.OK


class _Info(psycopg.ConnectionInfo):
    """``connection.info`` of the physical connection, but for the state of the transaction."""

    def __init__(self, virtual: VirtualConnection) -> None:
        self._virtual = virtual

    @property
    def pgconn(self) -> Any:  # type: ignore[override]
        return self._virtual.pgconn

    @property
    def transaction_status(self) -> pq.TransactionStatus:
        return self._virtual._transaction_status()

    @property
    def status(self) -> pq.ConnStatus:
        return pq.ConnStatus.BAD if self._virtual.closed else pq.ConnStatus.OK


class _OneByOne:
    """A pipeline in which each statement has been executed when it returns."""

    status = pq.PipelineStatus.OFF

    def sync(self) -> None:
        """Nothing is under way."""
