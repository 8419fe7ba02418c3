"""psycopg2: cursors that let each call through the gate."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import lru_cache
from typing import Any

import psycopg2
import psycopg2.extensions as ext
from psycopg2.sql import Composable

from dbtestcase.frames import Origin

from . import words
from .evidence import Many
from .problems import IsolationBroken
from .wire import Turn


class _Gate:
    """Comes before the user's cursor class and lets each call through the gate."""

    _virtual: Any = None
    _run: Any = None
    _opened_at: Origin | None = None
    # Of an executemany() that was sent as several statements.
    _rowcount: int | None = None
    # How many bytes of what was sent are ours.
    _ours = 0
    # Whether its class is psycopg2's own, which keeps to itself what it is given.
    _is_plain = False

    @property
    def connection(self) -> Any:
        return self._virtual if self._virtual is not None else super().connection  # type: ignore[misc]

    def _through(
        self,
        sql: str,
        parameters: Any,
        call: Callable[[str | None], Any],
        *,
        rowcount: Callable[[], int] | None = None,
        each: Callable[[Any], int] | None = None,
        join: Callable[[str], Any] | None = None,
    ) -> Any:
        virtual = self._virtual
        if virtual is None:
            return call(None)
        virtual._check_open()
        if self._run is not virtual._core.run:
            raise IsolationBroken(words.outlived(virtual._core.owner, virtual._channel))
        this: Any = self
        try:
            return virtual._core.execute(
                virtual._channel,
                sql,
                parameters,
                call,
                rowcount,
                is_fresh=this.query is None,
                each=each,
                join=join,
            )
        finally:
            if self._opened_at is None:
                self._opened_at = virtual._channel.sent_from

    def execute(self, query: Any, vars: Any = None) -> Any:
        upper: Any = super()
        self._rowcount = None

        def call(other: str | None) -> Any:
            self._ours = 0
            return upper.execute(query, vars) if other is None else upper.execute(other)

        def join(ours: str) -> Any:
            sql = upper.mogrify(query, vars)
            self._ours = len(ours) + 2
            return upper.execute(b"%b; %b" % (ours.encode(), sql))

        return self._through(
            self._text(query),
            vars,
            call,
            rowcount=lambda: int(upper.rowcount),
            join=join if self._is_plain else None,
        )

    def executemany(self, query: Any, vars_list: Iterable[Any]) -> Any:
        upper: Any = super()
        text = self._text(query)
        self._rowcount = None
        if self._virtual is not None and self._virtual._channel.commits_each:
            # psycopg2 sends them one by one, and each is a transaction of its own.
            total = 0
            for vars in vars_list:
                self.execute(text, vars)
                total += max(upper.rowcount, 0)
            self._rowcount = total
            return None
        known = Many(vars_list)

        def each(vars: Any) -> int:
            upper.execute(text, vars)
            self._rowcount = max(self._rowcount or 0, 0) + max(upper.rowcount, 0)
            return int(upper.rowcount)

        return self._through(text, known, lambda other: upper.executemany(text, known), each=each)

    @property
    def query(self) -> bytes | None:
        sent: bytes | None = super().query  # type: ignore[misc]
        return sent[self._ours :] if self._ours and sent is not None else sent

    @property
    def rowcount(self) -> int:
        return int(super().rowcount if self._rowcount is None else self._rowcount)  # type: ignore[misc]

    def callproc(self, procname: str, *arguments: Any) -> Any:
        upper: Any = super()
        parameters = arguments[0] if arguments else None
        return self._through(
            f"SELECT * FROM {procname}(", parameters, lambda other: upper.callproc(procname, *arguments)
        )

    def copy_expert(self, sql: Any, file: Any, size: int = 8192) -> Any:
        upper: Any = super()
        text = self._text(sql)
        return self._through(text, None, lambda other: upper.copy_expert(text, file, size))

    def copy_from(self, file: Any, table: str, *arguments: Any, **options: Any) -> Any:
        upper: Any = super()
        sql = f'COPY "{table}" FROM STDIN'
        return self._through(sql, None, lambda other: upper.copy_from(file, table, *arguments, **options))

    def copy_to(self, file: Any, table: str, *arguments: Any, **options: Any) -> Any:
        upper: Any = super()
        sql = f'COPY "{table}" TO STDOUT'
        return self._through(sql, None, lambda other: upper.copy_to(file, table, *arguments, **options))

    def _text(self, query: Any) -> Any:
        if isinstance(query, str):
            return query
        cursor: Any = self
        if isinstance(query, Composable):
            return query.as_string(cursor)
        if isinstance(query, bytes | bytearray):
            return bytes(query).decode(ext.encodings[self.connection.encoding])
        raise TypeError("argument 1 must be a string or unicode object")


class _NamedGate(_Gate):
    """Server-side cursors ask the server for each page: every fetch takes its turn too."""

    _transaction: Any = None

    def execute(self, query: Any, vars: Any = None) -> Any:
        upper: Any = super(_Gate, self)
        this: Any = self
        text = self._text(query)
        virtual = self._virtual
        if virtual is not None and virtual._channel.autocommit and not this.withhold:
            raise psycopg2.ProgrammingError("can't use a named cursor outside of transactions")

        def declare(other: str | None) -> Any:
            if virtual is not None:
                self._transaction = virtual._channel.transaction
                virtual._physical.allow_named_cursors()
            return upper.execute(text, vars)

        hold = " WITH HOLD" if this.withhold else ""
        return self._through(f'DECLARE "{this.name}" CURSOR{hold} FOR {text}', vars, declare)

    def _fetch(self, call: Callable[[], Any]) -> Any:
        virtual = self._virtual
        if virtual is None:
            return call()
        virtual._check_open()
        if self._run is not virtual._core.run:
            raise IsolationBroken(words.outlived(virtual._core.owner, virtual._channel))
        this: Any = self
        if not this.withhold and self._transaction is not virtual._channel.transaction:
            raise psycopg2.ProgrammingError("named cursor isn't valid anymore")
        with virtual._core.aside(virtual._channel, f'FETCH FROM "{this.name}"'):
            return call()

    def fetchone(self) -> Any:
        upper: Any = super()
        return self._fetch(upper.fetchone)

    def fetchmany(self, *arguments: Any, **options: Any) -> Any:
        upper: Any = super()
        return self._fetch(lambda: upper.fetchmany(*arguments, **options))

    def fetchall(self) -> Any:
        upper: Any = super()
        return self._fetch(upper.fetchall)

    def scroll(self, *arguments: Any, **options: Any) -> Any:
        upper: Any = super()
        return self._fetch(lambda: upper.scroll(*arguments, **options))

    def __next__(self) -> Any:
        upper: Any = super()
        return self._fetch(upper.__next__)

    def close(self) -> Any:
        upper: Any = super()
        virtual = self._virtual
        if virtual is None or virtual._core.run is not self._run or virtual._channel.is_failed:
            return None
        if self._transaction is not virtual._channel.transaction and not self.withhold:  # type: ignore[attr-defined]
            return None
        with Turn(virtual._core, virtual._channel):
            return upper.close()


@lru_cache(maxsize=64)
def gated(factory: Any, *, named: bool = False) -> Any:
    if not isinstance(factory, type):
        raise TypeError(f"cursor_factory must be a subclass of psycopg2.extensions.cursor, not {factory!r}")
    attributes = {"__module__": factory.__module__, "_is_plain": factory is ext.cursor}
    return type(factory.__name__, (_NamedGate if named else _Gate, factory), attributes)
