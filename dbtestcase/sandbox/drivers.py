"""The one physical connection of a test: all that differs between drivers.

A driver needs three things here: to send our own text, to tell the transaction's status without a round trip, and to
hang up at once, also where no event loop runs.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Any

import sqlalchemy as sa
from sqlalchemy.util import await_only

from dbtestcase.errors import IsolationBroken

__all__ = ["SUPPORTED", "Physical", "physical"]

_IN_TRANSACTION = (2, 3)  # libpq's PQTRANS_INTRANS and PQTRANS_INERROR
_IN_ERROR = 3

SUPPORTED = ("psycopg2", "psycopg", "asyncpg")


class Physical:
    """A connection that all engines of a test share.

    Attributes:
        connection: As the dialect's ``connect()`` gave it.
        send: Sends a text of ours and ignores what it returns.
        ask: Sends a text of ours and returns the first column of the first row of the last result.
        in_transaction: Whether a transaction is open, told by the driver.
        is_failed: Whether that transaction has failed.
        pid: Its server process.
        keeps: Whether it may serve the next test, which may have another event loop.
        caches_plans: Whether the driver keeps plans that a change of the schema, or its undoing, makes wrong.
    """

    __slots__ = ("_hang_up", "ask", "caches_plans", "connection", "in_transaction", "is_failed", "keeps", "pid", "send")

    def __init__(
        self,
        connection: Any,
        *,
        send: Callable[[str], Any],
        ask: Callable[[str], Any],
        in_transaction: Callable[[], bool],
        is_failed: Callable[[], bool],
        hang_up: Callable[[], Any],
        pid: int,
        keeps: bool = True,
        caches_plans: bool = True,
    ) -> None:
        self.connection = connection
        self.send = send
        self.ask = ask
        self.in_transaction = in_transaction
        self.is_failed = is_failed
        self.pid = pid
        self.keeps = keeps
        self.caches_plans = caches_plans
        self._hang_up = hang_up

    def hang_up(self) -> None:
        """Close it; the server undoes what is open."""
        with suppress(Exception):
            self._hang_up()


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


def _psycopg2(connection: Any) -> Physical:
    connection.autocommit = True
    cursor = connection.cursor()
    status = connection.get_transaction_status

    def ask(sql: str) -> Any:
        cursor.execute(sql)
        return cursor.fetchone()[0]

    return Physical(
        connection,
        send=cursor.execute,
        ask=ask,
        in_transaction=lambda: status() in _IN_TRANSACTION,
        is_failed=lambda: status() == _IN_ERROR,
        hang_up=connection.close,
        pid=connection.info.backend_pid,
        caches_plans=False,
    )


def _psycopg(connection: Any) -> Physical:
    connection.autocommit = True
    cursor = connection.cursor()
    native = connection.pgconn

    def ask(sql: str) -> Any:
        cursor.execute(sql, prepare=False)
        while cursor.nextset():
            pass
        return cursor.fetchone()[0]

    return Physical(
        connection,
        send=lambda sql: cursor.execute(sql, prepare=False),
        ask=ask,
        in_transaction=lambda: native.transaction_status in _IN_TRANSACTION,
        is_failed=lambda: native.transaction_status == _IN_ERROR,
        hang_up=connection.close,
        pid=connection.info.backend_pid,
    )


def _psycopg_async(adapted: Any) -> Physical:
    adapted.autocommit = True
    connection = adapted.driver_connection
    native = connection.pgconn

    async def answer(sql: str) -> Any:
        cursor = await connection.execute(sql, prepare=False)
        while cursor.nextset():
            pass
        return (await cursor.fetchone())[0]

    return Physical(
        adapted,
        send=lambda sql: await_only(connection.execute(sql, prepare=False)),
        ask=lambda sql: await_only(answer(sql)),
        in_transaction=lambda: native.transaction_status in _IN_TRANSACTION,
        is_failed=lambda: native.transaction_status == _IN_ERROR,
        hang_up=native.finish,
        pid=native.backend_pid,
    )


def _asyncpg(adapted: Any) -> Physical:
    # SQLAlchemy's adapter begins a transaction of its own before the first statement, unless it commits each.
    adapted.isolation_level = adapted._isolation_setting = "autocommit"
    connection = adapted.driver_connection

    def ask(sql: str) -> Any:
        *before, last = [each for each in sql.split(";") if each.strip()]
        if before:
            await_only(connection.execute(";".join(before)))
        return await_only(connection.fetchval(last))

    return Physical(
        adapted,
        send=lambda sql: await_only(connection.execute(sql)),
        ask=ask,
        in_transaction=connection.is_in_transaction,
        is_failed=lambda: False,  # the driver does not tell; a statement in a failed transaction is an error
        hang_up=connection.terminate,
        pid=connection.get_server_pid(),
        # Its transport belongs to the event loop of the test that made it.
        keeps=False,
    )


_MAKERS: dict[tuple[str, bool], Callable[[Any], Physical]] = {
    ("psycopg2", False): _psycopg2,
    ("psycopg", False): _psycopg,
    ("psycopg", True): _psycopg_async,
    ("psycopg_async", True): _psycopg_async,
    ("asyncpg", True): _asyncpg,
}
