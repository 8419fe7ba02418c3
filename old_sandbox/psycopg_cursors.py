"""psycopg 3: cursors that let each call through the gate."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from typing import Any

from psycopg import errors
from psycopg.sql import Composable

from dbtestcase.frames import Origin

from . import words
from .evidence import Many
from .problems import IsolationBroken
from .wire import Turn


class _Gate:
    """Comes before the user's cursor class."""

    _conn: Any
    _run: Any = None
    _opened_at: Origin | None = None

    def _check_run(self) -> None:
        virtual = self._conn
        virtual._check_connection_ok()
        if self._run is not virtual._core.run:
            raise IsolationBroken(words.outlived(virtual._core.owner, virtual._channel))

    def _through(
        self,
        sql: str,
        parameters: Any,
        call: Callable[[str | None], Any],
        *,
        rowcount: Callable[[], int] | None = None,
        each: Callable[[Any], int] | None = None,
    ) -> Any:
        self._check_run()
        virtual = self._conn

        def send(other: str | None) -> Any:
            virtual._speak()
            return call(other)

        this: Any = self
        try:
            return virtual._core.execute(
                virtual._channel,
                sql,
                parameters,
                send,
                rowcount,
                is_fresh=this.pgresult is None,
                each=each,
            )
        finally:
            if self._opened_at is None:
                self._opened_at = virtual._channel.sent_from

    def execute(self, query: Any, params: Any = None, **options: Any) -> Any:
        upper: Any = super()

        def call(other: str | None) -> Any:
            return upper.execute(query, params, **options) if other is None else upper.execute(other)

        self._through(_text(query, self._conn), params, call, rowcount=lambda: int(upper.rowcount))
        return self

    def executemany(self, query: Any, params_seq: Any, **options: Any) -> Any:
        upper: Any = super()
        known = Many(params_seq)
        total = 0

        def each(params: Any) -> int:
            nonlocal total
            self._conn._speak()
            upper.execute(query, params)
            touched = int(this.rowcount)
            this._rowcount = total = total + max(touched, 0)
            return touched

        this: Any = self
        return self._through(
            _text(query, self._conn),
            known,
            lambda other: upper.executemany(query, known, **options),
            each=None if options.get("returning") else each,
        )

    def stream(self, query: Any, params: Any = None, *, binary: bool | None = None, size: int = 1) -> Iterator[Any]:
        # Row by row would keep the wire busy while others share it.
        self.execute(query, params, binary=binary)
        yield from self.fetchall()  # type: ignore[attr-defined]

    @contextmanager
    def copy(self, statement: Any, params: Any = None, **options: Any) -> Iterator[Any]:
        upper: Any = super()
        self._check_run()
        virtual = self._conn
        sql = _text(statement, virtual)
        with virtual._core.aside(virtual._channel, sql, parameters=params, busy=True):
            virtual._speak()
            with upper.copy(statement, params, **options) as copy:
                yield copy


class _ServerGate(_Gate):
    """Server-side cursors ask the server for each page: every fetch takes its turn too."""

    _transaction: Any = None
    name: str
    withhold: bool

    def __del__(self) -> None:
        # psycopg warns of a cursor that nobody closed; once its test is over, it has been closed.
        if self._conn._core.run is self._run and self._run is not None and not self._run.over:
            upper: Any = super()
            upper.__del__()

    def execute(self, query: Any, params: Any = None, **options: Any) -> Any:
        upper: Any = super(_Gate, self)
        virtual = self._conn
        hold = " WITH HOLD" if self.withhold else ""
        sql = f'DECLARE "{self.name}" CURSOR{hold} FOR {_text(query, virtual)}'
        if virtual._channel.autocommit and not virtual._channel.explicit and not self.withhold:
            raise virtual._core.driver.error("25P01", "DECLARE CURSOR can only be used in transaction blocks")

        def call(other: str | None) -> Any:
            self._transaction = virtual._channel.transaction
            return upper.execute(query, params, **options)

        self._through(sql, params, call)
        return self

    def _fetch(self, call: Callable[[], Any]) -> Any:
        self._check_run()
        virtual = self._conn
        if not self.withhold and self._transaction is not virtual._channel.transaction:
            raise errors.InvalidCursorName(f'cursor "{self.name}" does not exist')
        with virtual._core.aside(virtual._channel, f'FETCH FROM "{self.name}"'):
            virtual._speak()
            return call()

    def fetchone(self) -> Any:
        upper: Any = super()
        return self._fetch(upper.fetchone)

    def fetchmany(self, size: int = 0) -> Any:
        upper: Any = super()
        return self._fetch(lambda: upper.fetchmany(size))

    def fetchall(self) -> Any:
        upper: Any = super()
        return self._fetch(upper.fetchall)

    def __next__(self) -> Any:
        upper: Any = super()
        return self._fetch(upper.__next__)

    def scroll(self, value: int, mode: str = "relative") -> Any:
        upper: Any = super()
        return self._fetch(lambda: upper.scroll(value, mode))

    def close(self) -> None:
        this: Any = self
        upper: Any = super()
        if this.closed:
            return
        virtual = self._conn
        is_gone = not self.withhold and self._transaction is not virtual._channel.transaction
        if virtual.closed or virtual._core.run is not self._run or virtual._channel.is_failed or is_gone:
            this._close()
            return
        with Turn(virtual._core, virtual._channel):
            upper.close()


def _text(query: Any, connection: Any) -> str:
    if isinstance(query, str):
        return query
    if isinstance(query, bytes):
        return query.decode("utf-8", "replace")
    if isinstance(query, Composable):
        return query.as_string(connection)
    strings = getattr(query, "strings", None)  # a template string, Python 3.14
    return "%s".join(strings) if strings else str(query)


@lru_cache(maxsize=64)
def gated(factory: Any) -> Any:
    """Return a subclass of a cursor class whose statements pass the gate."""
    return type(factory.__name__, (_Gate, factory), {"__module__": factory.__module__})


@lru_cache(maxsize=64)
def gated_server(factory: Any) -> Any:
    """Return a subclass of a server-side cursor class whose statements pass the gate."""
    return type(factory.__name__, (_ServerGate, factory), {"__module__": factory.__module__})
