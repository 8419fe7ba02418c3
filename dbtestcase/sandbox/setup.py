"""How an engine prepares its connections: connect arguments and connect listeners, and the state that these set.

Engines share the one physical connection of a test only if they leave their connections in the same state. What a
listener sets is found out by running it: the statements that it sends, other than reads, are the state.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from types import SimpleNamespace
from typing import Any

import sqlalchemy as sa

from dbtestcase.libpq import asyncpg_arguments, names_server

from .cursors import default_class
from .rules import Rules

__all__ = ["Setup"]

# What says how a connection works, and not how the session on it is to be.
# fmt: off
_OF_THE_CONNECTION = frozenset({
    "client_encoding", "command_timeout", "connect_timeout", "connection_class", "fallback_application_name",
    "keepalives", "keepalives_count", "keepalives_idle", "keepalives_interval", "loop", "tcp_user_timeout", "timeout",
})
# Kept, but of no consequence for what a statement does. "context" holds the types that SQLAlchemy registers on psycopg.
_WITHOUT_EFFECT = frozenset({
    "application_name", "context", "prepare_threshold", "prepared_statement_cache_size", "prepared_statement_name_func",
    "statement_cache_size",
})
# fmt: on
_MODES = ("autocommit", "isolation_level", "readonly", "read_only", "deferrable")


class Setup:
    """How one engine connects and prepares what it has connected.

    Attributes:
        connect_args: What is given to the driver's ``connect()`` whatever the server.
        autocommits: Its connections commit each statement.
        is_async: Its driver is an asynchronous one.
        record_info: What its listeners put into the ``info`` of a pool's record.

    Args:
        as_role: Returns the URL that logs in as the application's role to the database of a URL; ``None`` for whom the
            URL names.
    """

    def __init__(
        self,
        dialect: sa.Dialect,
        connect_args: dict[str, Any],
        listeners: Sequence[Callable[[Any, Any], Any]],
        *,
        first_connect: Callable[[Any, Any], Any] | None,
        user_listeners: Sequence[Callable[[Any, Any], Any]],
        as_role: Callable[[sa.URL], sa.URL] | None = None,
    ) -> None:
        self._dialect: Any = dialect
        self.is_async = bool(dialect.is_async)
        self.connect_args = {
            name: value
            for name, value in connect_args.items()
            if name not in _OF_THE_CONNECTION and not names_server(name)
        }
        self.autocommits = bool(self.connect_args.get("autocommit"))
        self.record_info: dict[Any, Any] = {}
        self._listeners = listeners
        self._as_role = as_role
        self._first_connect = first_connect
        self._has_user_listeners = bool(user_listeners)
        given = {name: value for name, value in self.connect_args.items() if name not in _WITHOUT_EFFECT}
        self._fixed: Hashable = (
            dialect.driver,
            dialect.is_async,
            _by_value(given),
            self._deserializer(),
            as_role is not None,
        )
        self._learned: Hashable = None if user_listeners else ()
        if user_listeners and dialect.is_async:
            # What these send passes an adapter of SQLAlchemy's: only the same listeners leave the same state.
            self._learned = tuple(map(id, user_listeners))

    @property
    def state(self) -> Hashable:
        """What its connections have in common; equal for engines that may share one. ``None`` if not known yet."""
        return None if self._learned is None else (self._fixed, self._learned)

    @property
    def has_met_server(self) -> bool:
        """Whether SQLAlchemy has asked a server what its dialect wants to know: its version, say."""
        return self._dialect.server_version_info is not None

    @property
    def driver(self) -> str:
        """The driver, as a person would name it."""
        return f"{self._dialect.driver}{' (asyncio)' if self.is_async else ''}"

    @property
    def is_bound_to_loop(self) -> bool:
        """Whether a connection of its driver works only in the event loop in which it was opened."""
        return self.is_async and self._dialect.driver != "psycopg"

    @property
    def may_have_own_state(self) -> bool:
        """Whether its connections may be different from those of a plain engine."""
        if self._has_user_listeners or self._as_role is not None:
            return True
        return any(name not in _WITHOUT_EFFECT for name in self.connect_args)

    @property
    def has_role(self) -> bool:
        """Whether its connections are of the application's own role."""
        return self._as_role is not None

    def connect(self, url: sa.URL) -> Any:
        """Open a connection of the driver to a database; nothing prepares it yet."""
        positional, named = self.arguments(url)
        return self._dialect.connect(*positional, **named)

    def arguments(self, url: sa.URL) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Return what the driver's ``connect()`` is called with."""
        positional, named = self._dialect.create_connect_args(url if self._as_role is None else self._as_role(url))
        if self._dialect.driver == "asyncpg":
            named = asyncpg_arguments(named)
        merged = {**named, **self.connect_args}
        if "options" in named and "options" in self.connect_args:
            merged["options"] = f"{self.connect_args['options']} {named['options']}"
        return tuple(positional), merged

    def connects_like(self, other: Setup, url: sa.URL) -> bool:
        """Whether a connection that this opened is what the other would have opened."""
        return type(self._dialect) is type(other._dialect) and self.arguments(url) == other.arguments(url)

    def prepare(self, connection: Any, rules: Rules) -> None:
        """Run the engine's connect listeners, and learn what state they set."""
        record = self._record(connection)
        sent: list[Hashable] = []
        is_recorded = self._learned is None and hasattr(connection, "cursor_factory")
        before = _modes(connection) if is_recorded else ()
        factory = getattr(connection, "cursor_factory", None)
        if is_recorded:
            connection.cursor_factory = _recording(factory or default_class(), sent, rules)
        try:
            for listener in self._listeners:
                listener(connection, record)
        finally:
            if is_recorded:
                connection.cursor_factory = factory
        if is_recorded:
            after = _modes(connection)
            self._learned = (*sent, *([after] if after != before else []))
        self.record_info.update(record.info)

    def register(self, connection: Any) -> None:
        """Run the listeners on a connection that another engine of the same state has opened.

        Only if they set no state: registering types, say, does no harm in the middle of a transaction. A dialect that
        has met no server yet ends the transaction when it does.
        """
        record = self._record(connection)
        if not self.has_met_server and self._first_connect is not None:
            self._first_connect(connection, record)
        if self._learned == () and self._has_user_listeners:
            for listener in self._listeners:
                listener(connection, record)
            self.record_info.update(record.info)

    def _record(self, connection: Any) -> SimpleNamespace:
        """Return what stands for the record of a pool, for listeners."""
        driver_connection = connection.driver_connection if self._dialect.is_async else connection
        return SimpleNamespace(
            dbapi_connection=connection, driver_connection=driver_connection, info={}, record_info={}
        )

    def _deserializer(self) -> Hashable:
        return id(getattr(self._dialect, "_json_deserializer", None))


def _by_value(arguments: dict[str, Any]) -> Hashable:
    return tuple(sorted((name, repr(value)) for name, value in arguments.items()))


def _modes(connection: Any) -> tuple[Any, ...]:
    return tuple(str(getattr(connection, name, None)) for name in _MODES)


def _recording(kind: type, sent: list[Hashable], rules: Rules) -> type:
    """Return a driver's cursor class that writes down what it sends, other than reads."""
    inner = kind.execute  # type: ignore[attr-defined]

    def execute(self: Any, query: Any, *args: Any, **options: Any) -> Any:
        text = query if isinstance(query, (str, bytes)) else str(query)
        effects = rules.of(text)
        if effects.writes or not effects.is_plain:
            sent.append((text, repr(args)))
        return inner(self, query, *args, **options)

    return type(kind.__name__, (kind,), {"execute": execute})
