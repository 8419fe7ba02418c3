"""The one physical connection of a test: all that differs between drivers.

A driver needs three things here: to send our own text, to tell the transaction's status without a round trip, and to
hang up at once, also where no event loop runs.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from time import sleep
from typing import Any

import sqlalchemy as sa

from dbtestcase.errors import IsolationBroken
from dbtestcase.native import monotonic

from . import loops

__all__ = ["FAILED", "IDLE", "IN_TRANSACTION", "PATIENCE", "SUPPORTED", "Physical", "cancel_what_runs", "physical"]

# libpq's PQTRANS_IDLE, PQTRANS_ACTIVE, PQTRANS_INTRANS and PQTRANS_INERROR.
IDLE, ACTIVE, IN_TRANSACTION, FAILED = range(4)
PATIENCE = 2.0  # seconds; longest wait for a statement of another thread's
_DONE = (1, 2)  # libpq's PGRES_COMMAND_OK and PGRES_TUPLES_OK

BEGIN = "BEGIN"

SUPPORTED = ("psycopg2", "psycopg", "asyncpg")


@dataclass(slots=True, kw_only=True)
class Physical:
    """A connection that all engines of a test share.

    Attributes:
        connection: As the dialect's ``connect()`` gave it.
        send: Sends a text of ours and ignores what it returns.
        ask: Sends a text of ours and returns the first column of the first row of the last result.
        status: The state of its transaction as libpq numbers it, told by the driver.
        close: Closes it without waiting for anything.
        pid: Its server process.
        loop: The event loop that alone can use it; ``None`` if any can, and code without one too.
        caches_plans: Whether the driver keeps plans that a change of the schema, or its undoing, makes wrong.
        rolled_back: Lets the driver forget what it forgets when its own connection is rolled back.
        native: What has the connection's descriptor, if that can be told.
        begin: What begins the next transaction; the one before may still be there, to be undone in the same round trip.
    """

    connection: Any
    send: Callable[[str], Any]
    ask: Callable[[str], Any]
    status: Callable[[], int]
    close: Callable[[], Any]
    pid: int
    loop: asyncio.AbstractEventLoop | None = None
    caches_plans: bool = True
    rolled_back: Callable[[], Any] | None = None
    native: Any = None
    begin: str = BEGIN
    _socket: tuple[int, int] | None = field(init=False)

    def __post_init__(self) -> None:
        self._socket = _socket_of(self.native)

    def undo(self) -> None:
        """Undo the transaction before, if that is still there."""
        if self.begin != BEGIN:
            self.begin = BEGIN
            self.send("ROLLBACK")

    @property
    def serves_here(self) -> bool:
        """Whether the caller's event loop can use it."""
        return self.loop is None or self.loop is loops.running()

    @property
    def is_intact(self) -> bool:
        """Whether its descriptor is still its own: somebody may have closed all, and opened a file or socket since."""
        return self._socket == _socket_of(self.native)

    def hang_up(self) -> None:
        """Close it; the server undoes what is open."""
        if not self.is_intact:
            _lost.append(self.connection)
            return
        with suppress(Exception):
            self.close()


# Connections whose descriptors are somebody else's by now: to close them would send to these, and close them.
_lost: list[Any] = []


def _socket_of(native: Any) -> tuple[int, int] | None:
    try:
        about = os.fstat(native.fileno())
    except Exception:  # it is closed; the drivers have errors of their own for that
        return None
    return about.st_dev, about.st_ino


def physical(connection: Any, dialect: sa.Dialect) -> Physical:
    """Make a new connection of a driver the physical one: statements of its own are sent as they are, without BEGIN.

    Raises:
        IsolationBroken: The driver is none that is known.
    """
    make = _MAKERS.get((dialect.driver, bool(dialect.is_async)))
    if make is None:
        raise IsolationBroken(
            f"the driver {dialect.driver!r} is not supported; use one of {', '.join(SUPPORTED)} for PostgreSQL."
        )
    return make(connection)


def cancel_what_runs(connection: Any) -> None:
    """End what another thread executes on a connection of psycopg2 or psycopg: to close it would wait for that."""
    deadline = monotonic() + PATIENCE
    if connection.info.transaction_status == ACTIVE:
        connection.cancel()
    while connection.info.transaction_status == ACTIVE and monotonic() < deadline:
        sleep(0.001)


def _psycopg2(connection: Any) -> Physical:
    connection.autocommit = True

    def hang_up() -> None:
        cancel_what_runs(connection)
        connection.close()

    cursor = connection.cursor()

    def ask(sql: str) -> Any:
        cursor.execute(sql)
        return cursor.fetchone()[0]

    return Physical(
        connection=connection,
        send=cursor.execute,
        ask=ask,
        status=connection.get_transaction_status,
        close=hang_up,
        pid=connection.info.backend_pid,
        caches_plans=False,
        native=connection,
    )


def _psycopg(connection: Any) -> Physical:
    connection.autocommit = True
    return _over_libpq(connection, connection, connection.close)


def _psycopg_async(adapted: Any) -> Physical:
    adapted.autocommit = True
    driver_connection = adapted.driver_connection
    return _over_libpq(adapted, driver_connection, driver_connection.pgconn.finish)


def _over_libpq(connection: Any, driver_connection: Any, hang_up: Callable[[], Any]) -> Physical:
    """Send our texts past psycopg: it takes a third of the time, and needs no event loop.

    They are answered at once; a loop waits for them no longer than for a line of Python.
    """

    native = driver_connection.pgconn

    def run(sql: str) -> Any:
        if native.transaction_status == ACTIVE:
            raise IsolationBroken(f"{sql!r} would have to wait for a statement that was given up.")
        result = native.exec_(sql.encode())
        if result.status not in _DONE:
            raise IsolationBroken(f"PostgreSQL refused {sql!r}: {result.error_message.decode(errors='replace')}")
        return result

    def ask(sql: str) -> Any:
        value = run(sql).get_value(0, 0)
        return None if value is None else value.decode()

    return Physical(
        connection=connection,
        send=run,
        ask=ask,
        status=lambda: native.transaction_status,
        close=hang_up,
        pid=native.backend_pid,
        rolled_back=driver_connection._prepared.clear,
        native=driver_connection,
    )


def _asyncpg(adapted: Any) -> Physical:
    # SQLAlchemy's adapter begins a transaction of its own before the first statement, unless it commits each.
    adapted.isolation_level = adapted._isolation_setting = "autocommit"
    connection = adapted.driver_connection
    loop = asyncio.get_running_loop()

    def send(sql: str) -> Any:
        return loops.wait_for(loop, connection.execute, sql)

    def ask(sql: str) -> Any:
        *before, last = [each for each in sql.split(";") if each.strip()]
        if before:
            send(";".join(before))
        return loops.wait_for(loop, connection.fetchval, last)

    return Physical(
        connection=adapted,
        send=send,
        ask=ask,
        # The driver does not tell a failed transaction; a statement in one is an error.
        status=lambda: IN_TRANSACTION if connection.is_in_transaction() else IDLE,
        close=lambda: loops.hang_up(connection, loop),
        pid=connection.get_server_pid(),
        loop=loop,
    )


_MAKERS: dict[tuple[str, bool], Callable[[Any], Physical]] = {
    ("psycopg2", False): _psycopg2,
    ("psycopg", False): _psycopg,
    ("psycopg", True): _psycopg_async,
    ("asyncpg", True): _asyncpg,
}
