"""Redirects every SQLAlchemy connection of the user's code to the test database while migrations run."""

from __future__ import annotations

import threading
from contextlib import suppress
from types import TracebackType
from typing import Any, Self

from sqlalchemy import URL, Engine, event
from sqlalchemy.exc import DisconnectionError
from sqlalchemy.pool import Pool

from dbtestcase.errors import SchemaError
from dbtestcase.libpq import asyncpg_arguments, hidden_variables, names_server
from dbtestcase.schema.connect import connect_arguments

_MAINTENANCE = {"postgres", "template1", "defaultdb"}


class Redirection:
    """While entered, engines of this thread (and of threads begun meanwhile) connect to ``url``, whatever theirs says.

    Connections that such an engine had open are dropped before they are used; those that it makes here are dropped at
    the end, so that the engine is as it was.
    """

    def __init__(self, url: URL, owner: str) -> None:
        self._ours = connect_arguments(url)
        self._owner = owner
        self._connections: list[Any] = []
        self._records: list[Any] = []
        self._refused: set[int] = set()
        self._elsewhere: set[tuple[str, str, str]] = set()

    def __enter__(self) -> Self:
        here = threading.current_thread()
        self._others = {thread for thread in threading.enumerate() if thread is not here}
        event.listen(Engine, "do_connect", self._connect, insert=True)
        event.listen(Pool, "checkout", self._check_out)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        event.remove(Engine, "do_connect", self._connect)
        event.remove(Pool, "checkout", self._check_out)
        for record in self._records:
            if any(record.dbapi_connection is connection for connection in self._connections):
                with suppress(Exception):
                    record.invalidate()

    def own(self, connection: Any) -> Any:
        """Note a connection that leads to the test database."""
        self._connections.append(connection)
        return connection

    def _concerns_this_thread(self) -> bool:
        return threading.current_thread() not in self._others

    def _connect(self, dialect: Any, record: Any, args: list[Any], arguments: dict[str, Any]) -> Any:
        if not self._concerns_this_thread():
            return None
        if dialect.name != "postgresql":
            raise SchemaError(
                f"{self._owner}: env.py connects with an engine for {dialect.name}; its migrations would run with the "
                f"SQL of {dialect.name}, not PostgreSQL's.\nGive the application or env.py any postgresql:// URL for "
                'tests, or let env.py use config.attributes["connection"]; the URL itself is never connected to.'
            )
        self._note_target(arguments)
        if record is not None:
            self._records.append(record)
        with hidden_variables():
            return self.own(dialect.connect(**self._arguments(dialect, arguments)))

    def _check_out(self, connection: Any, record: Any, proxy: Any) -> None:
        if not self._concerns_this_thread() or any(connection is ours for ours in self._connections):
            return
        if id(record) in self._refused:
            raise SchemaError(
                f"{self._owner}: env.py uses an engine with a creator= or pool= of its own, which cannot be led to the "
                "test database, so nothing was sent to it.\nLet env.py use "
                'config.attributes.get("connection") or config.get_main_option("sqlalchemy.url") when it is set.'
            )
        self._refused.add(id(record))
        # Opened before, to wherever the engine's URL leads: the pool drops it and asks for another one.
        raise DisconnectionError("dbtestcase: made before the migrations")

    def _note_target(self, arguments: dict[str, Any]) -> None:
        database = str(arguments.get("dbname") or arguments.get("database") or "")
        host, port = str(arguments.get("host") or ""), str(arguments.get("port") or "")
        if (host, database) == (self._ours.get("host"), self._ours.get("dbname")) or database in _MAINTENANCE:
            return
        self._elsewhere.add((host, port, database))
        if len(self._elsewhere) > 1:
            names = ", ".join(sorted(repr(database) for _, _, database in self._elsewhere))
            raise SchemaError(
                f"{self._owner}: env.py connects to several databases ({names}); they would end up in one.\nGive each "
                'its own migrations: schema = {"main": AlembicMigrations("main.ini"), "audit": AlembicMigrations('
                '"audit.ini")}, or let env.py choose by AlembicMigrations(..., x=("db=audit",)).'
            )

    def _arguments(self, dialect: Any, arguments: dict[str, Any]) -> dict[str, Any]:
        ours = self._ours
        kept = {name: value for name, value in arguments.items() if name not in ours and not names_server(name)}
        if dialect.driver in ("psycopg2", "psycopg", "psycopg_async", "psycopg2cffi"):
            return {**kept, **ours}
        if dialect.driver == "asyncpg":
            return {**kept, **asyncpg_arguments({**ours, "port": int(ours.get("port", 5432))})}
        raise SchemaError(
            f"{self._owner}: env.py connects with the driver {dialect.driver!r}, which cannot be led to the test "
            "database. Use psycopg2, psycopg or asyncpg there."
        )
