"""Take an engine over, and give it back as it was.

Its pool is replaced, and a few functions are put before those of its dialect *object*: so whatever was derived from the
engine with ``execution_options()``, before or after, is met as well. Dialect, URL and events stay what they were. An
engine of another kind of database, or of a driver that is not supported, gets a dialect of ours for the time.
"""

from __future__ import annotations

import gc
from collections import deque
from collections.abc import Callable, Hashable, Iterator
from typing import Any, Protocol

import sqlalchemy as sa
from sqlalchemy import event
from sqlalchemy.engine.base import OptionEngine
from sqlalchemy.pool import Pool, QueuePool

from dbtestcase.errors import IsolationBroken

from . import registry
from .connection import Gate, How, SandboxConnection
from .drivers import SUPPORTED
from .first_connect import answered_once
from .real import RealConnections
from .rules import Rules
from .setup import Setup

__all__ = ["TakenEngine", "is_supported", "root"]

# In production the code under test has the pool to itself; here the test's own sessions hold connections as well.
_CONNECTIONS_OF_THE_TEST = 5
# What SQLAlchemy and this module listen with.
_OWN_LISTENERS = (
    "create_engine.<locals>.", "DefaultDialect._builtin_onconnect.<locals>.", "TakenEngine.", "RealConnections.",
)  # fmt: skip
_MODES = ("set_isolation_level", "reset_isolation_level", "get_isolation_level", "set_readonly", "set_deferrable")
_PAST_THE_GATE = ("do_execute", "do_executemany", "do_execute_no_params")
_POOL_EVENTS = ("connect", "checkout", "checkin", "reset", "invalidate", "soft_invalidate", "close")


def root(engine: Any) -> sa.Engine:
    """Return the engine that ``execution_options()`` was called on, of an ``AsyncEngine`` the one within it."""
    engine = getattr(engine, "sync_engine", engine)
    while isinstance(engine, OptionEngine):
        engine = engine._proxied
    return engine  # type: ignore[no-any-return]


def is_supported(dialect: sa.Dialect) -> bool:
    """Whether an engine may keep its own dialect."""
    return dialect.name == "postgresql" and dialect.driver.removesuffix("_async") in SUPPORTED


class Database(Gate, Protocol):
    """What an engine's connections are made by."""

    owner: str
    real: RealConnections
    rules: Rules

    def before_use(self) -> Any: ...

    def real_connection(self, taken: TakenEngine, record: Any) -> Any: ...

    def meet_server(self, connection: SandboxConnection) -> None: ...

    def execute_real(
        self, connection: Any, cursor: Any, sql: Any, parameters: Any, send: Callable[[], Any], how: How = "one"
    ) -> Any: ...


class TakenEngine:
    """An engine while its connections are ours.

    Attributes:
        setup: How the engine prepares its connections.
    """

    def __init__(
        self,
        engine: sa.Engine,
        database: Database,
        drivername: str,
        kind: Hashable,
        as_role: Callable[[sa.URL], sa.URL] | None = None,
    ) -> None:
        self.engine = engine
        self._database = database
        self._kind = kind
        self._as_role = as_role
        self._original_pool, self._original_dialect = engine.pool, engine.dialect
        self._original_state = dict(vars(engine.dialect))
        self._options: list[OptionEngine] = []
        self._template = engine.pool if is_supported(engine.dialect) else self._swap_dialect(drivername)
        self._keep_adapters()
        self.dialect: Any = engine.dialect
        self._has_asked = False
        self._as_role = as_role
        self.setup = self._read_setup()
        self._shared_pool: Pool | None = None
        self._put_gates_up()
        self.use_real()

    def _read_setup(self) -> Setup:
        listeners = list(_listeners(self._template, "connect"))
        first_connect = next((self._once(each) for each in listeners if _is_first_connect(each)), None)
        return Setup(
            self.dialect,
            self._connect_args(),
            # The order is SQLAlchemy's: its own come first.
            [first_connect if first_connect is not None and _is_first_connect(each) else each for each in listeners],
            first_connect=first_connect,
            user_listeners=[each for each in listeners if not _is_sqlalchemys(each)],
            as_role=self._as_role,
        )

    def _connect_args(self) -> dict[str, Any]:
        """Return what the engine's own ``connect()`` would be called with, as far as SQLAlchemy tells.

        An engine of our plugin has the class's URL; what that says is said by the URL of its database already.
        """
        given, url = _connect_args(self._template), self.engine.url
        said = self.dialect.create_connect_args(url)[1] if registry.is_ours(url) else {}
        return {name: value for name, value in given.items() if name not in said or said[name] != value}

    # -- pools

    def use_shared(self) -> None:
        """Give connections that share the one transaction."""
        self._keep_added_listeners()
        if self._shared_pool is None:
            pool = self._derived_pool(self._shared_connection)
            _listeners(pool, "connect").clear()
            event.listen(pool, "connect", self._after_connect)
            # The one connection of a test is there, or the test is an error: to ask costs a round trip, tells nothing.
            pool._pre_ping = False
            self._shared_pool = pool
        self.engine.pool = self._shared_pool

    def use_real(self) -> None:
        """Give real connections to the database as it is at present."""
        self._keep_added_listeners()
        self._shared_pool = None  # whoever holds a connection of it keeps that one, and starves nobody
        self.engine.pool = pool = self._derived_pool(self._real_connection)
        real = self._database.real
        # A thread of an earlier test must not get one that lies ready either.
        event.listen(pool, "checkout", lambda *_: self._database.before_use())
        event.listen(pool, "checkout", real.checked_out)
        event.listen(pool, "checkin", real.checked_in)

    def renew_pool(self) -> None:
        """Let go of the connections that are checked out: somebody has kept them, and they starve nobody then."""
        self._shared_pool = None
        self.use_shared()

    @property
    def may_be_checked_out(self) -> bool:
        """Whether somebody may hold a connection of the shared pool; a pool that does not count them may."""
        pool = self._shared_pool
        return pool is not None and getattr(pool, "checkedout", _one)() > 0

    @property
    def may_have_been_waited_for(self) -> bool:
        """Whether somebody may have waited for a connection of the shared pool, which binds it to his event loop."""
        pool = self._shared_pool
        return isinstance(pool, QueuePool) and pool.checkedin() >= pool.size()

    def dispose(self) -> None:
        """Close what lies idle in the present pool."""
        self.engine.pool.dispose()

    def _derived_pool(self, creator: Callable[..., Any]) -> Pool:
        pool = self._template.recreate()
        listeners = _listeners(pool, "connect")
        for index, listener in enumerate(listeners):
            if _is_first_connect(listener):
                listeners[index] = self._once(listener)
        pool._creator = creator
        if isinstance(pool, QueuePool) and pool._max_overflow >= 0:
            pool._max_overflow += _CONNECTIONS_OF_THE_TEST
        return pool

    def _once(self, first_connect: Any) -> Callable[[Any, Any], None]:
        """Return SQLAlchemy's listener for a first connection, without its memory, which is the original pool's."""
        inner = _inner(first_connect)
        ask = answered_once(self.engine.dialect, None if self._may_have_own_state() else self._kind, inner)

        def listener(connection: Any, record: Any) -> None:
            if not self._has_asked:
                (inner if self._may_have_own_state() else ask)(connection, record)
                self._has_asked = True

        return listener

    def _may_have_own_state(self) -> bool:
        """Whether a server may answer its connections otherwise: they may have another search_path."""
        listeners = (*_listeners(self._template, "connect"), *_listeners(self.engine.pool, "connect"))
        has_options = self._as_role is not None or "options" in self._connect_args()
        return has_options or not all(map(_is_sqlalchemys, listeners))

    def _keep_added_listeners(self) -> bool:
        """Let listeners that were added to the present pool be the engine's own, as they would be without us.

        Returns:
            Whether its connections are prepared otherwise by that.
        """
        is_prepared_otherwise = False
        for name in _POOL_EVENTS:
            known, present = _listeners(self._template, name), list(_listeners(self.engine.pool, name))
            added = [each for each in present if each not in known and not _is_sqlalchemys(each)]
            for each in added:
                if each is present[0]:  # event.listen(..., insert=True)
                    known.appendleft(each)
                else:
                    known.append(each)
            if added and name == "connect":
                is_prepared_otherwise = True
                self._has_asked = False
                self.setup = self._read_setup()
        return is_prepared_otherwise

    def _real_connection(self, record: Any) -> Any:
        return self._database.real_connection(self, record)

    def _shared_connection(self, record: Any) -> Any:
        if self._keep_added_listeners():
            listeners = _listeners(self.engine.pool, "connect")
            listeners.clear()
            listeners.append(self._after_connect)
        connection = SandboxConnection(self._database, self, record)
        if any(getattr(self.dialect.dispatch, name) for name in _PAST_THE_GATE):
            # These are given the driver's cursor, and may send what they like.
            self._database.stop(connection, "the engine has listeners for do_execute", of_class=True)
        level = getattr(self.dialect, "_on_connect_isolation_level", None)
        if level:
            self._set_level(connection, level)
        elif self.setup.autocommits:
            connection.autocommits = True
        return connection

    def _after_connect(self, connection: Any, record: Any) -> None:
        # A checkout listener of the user's may want what a connect listener has put into the record.
        if not self.setup.has_met_server or self.setup.state is None:
            self._database.meet_server(connection)
        record.info.update(self.setup.record_info)

    # -- the dialect object

    def _put_gates_up(self) -> None:
        dialect, kind, database = self.dialect, type(self.dialect), self._database
        state = vars(dialect)

        def gate(name: str) -> Callable[..., Any]:
            inner = getattr(kind, name)
            how: How = "many" if name == "do_executemany" else "one"

            def execute(cursor: Any, sql: Any, parameters: Any, context: Any = None) -> Any:
                connection = context.root_connection._dbapi_connection.dbapi_connection
                run: Callable[..., Any] = database.execute_real
                if type(connection) is SandboxConnection:
                    run = self._stream if context._is_server_side else database.execute
                return run(
                    connection, cursor, sql, parameters,
                    lambda: inner(dialect, cursor, sql, parameters, context), how,
                )  # fmt: skip

            return execute

        def without_parameters(cursor: Any, sql: Any, context: Any = None) -> Any:
            connection = context.root_connection._dbapi_connection.dbapi_connection
            run = database.execute if type(connection) is SandboxConnection else database.execute_real
            return run(connection, cursor, sql, None, lambda: kind.do_execute_no_params(dialect, cursor, sql, context))

        def mode(name: str) -> Callable[..., Any]:
            inner = getattr(kind, name)

            def change(connection: Any, *value: Any) -> Any:
                if type(connection) is not SandboxConnection:
                    return inner(dialect, connection, *value)
                return self._change_mode(connection, name, *value)

            return change

        def driver_connection(connection: Any) -> Any:
            if type(connection) is SandboxConnection:
                database.stop(connection, "the driver's own connection was asked for")
            known = database.real.get(connection)
            if known is not None and not known.is_inside:
                database.real.have_written = True  # nobody sees what the user does with it
            return kind.get_driver_connection(dialect, connection)

        def ending(name: str, outcome: str) -> Callable[[Any], None]:
            inner = getattr(kind, name)

            def end(connection: Any) -> None:
                native = getattr(connection, "dbapi_connection", connection)
                if type(native) is SandboxConnection:
                    return native.commit() if outcome == "COMMIT" else native.rollback()
                try:
                    inner(dialect, connection)
                except Exception:
                    # close() of a session that was left open is what we ask for; nothing is left to roll back.
                    if outcome == "ROLLBACK" and database.real.were_closed(native):
                        return None
                    raise
                return database.real.ended(native, outcome)

            return end

        state["do_commit"], state["do_rollback"] = ending("do_commit", "COMMIT"), ending("do_rollback", "ROLLBACK")
        state["do_execute"], state["do_executemany"] = gate("do_execute"), gate("do_executemany")
        state["do_execute_no_params"] = without_parameters
        state["get_driver_connection"] = driver_connection
        for name in _MODES:
            if hasattr(kind, name):
                state[name] = mode(name)

    def _stream(self, connection: SandboxConnection, cursor: Any, sql: Any, *rest: Any) -> Any:
        """Send what is meant for a server-side cursor; see :func:`cursors.client_side`."""
        if connection.autocommits or not self._database.rules.of(sql).is_query:
            self._database.stop(connection, "a server-side cursor in autocommit, or for no query, needs a real one")
        try:
            return self._database.execute(connection, cursor, sql, *rest)
        except self.dialect.loaded_dbapi.Error:
            self._database.stop(connection, "a query that fails on a server-side cursor needs a real one")

    def _change_mode(self, connection: SandboxConnection, name: str, value: Any = None) -> Any:
        if name == "get_isolation_level":
            return "READ COMMITTED"  # what a server says of a connection that commits each statement as well
        if name == "set_isolation_level":
            return self._set_level(connection, value)
        if name == "reset_isolation_level":
            level = getattr(self.dialect, "_on_connect_isolation_level", None)
            return self._set_level(connection, level or "READ COMMITTED")
        if value:
            self._database.stop(connection, f"{name.removeprefix('set_')} transactions need real connections")
        return None

    def _set_level(self, connection: SandboxConnection, level: str) -> None:
        level = level.replace("_", " ").upper()
        if level not in ("AUTOCOMMIT", "READ COMMITTED"):
            self._database.stop(connection, f"the isolation level {level} needs real connections")
        connection.autocommits = level == "AUTOCOMMIT"

    # -- giving back

    def give_back(self) -> None:
        """Make the engine exactly what it was."""
        engine = self.engine
        self._keep_added_listeners()
        ours, engine.pool = engine.pool, self._original_pool
        if not engine.dialect.is_async:
            ours.dispose()
        if engine.dialect is not self._original_dialect:
            self._use(self._original_dialect)
        vars(self._original_dialect).clear()
        vars(self._original_dialect).update(self._original_state)

    def _keep_adapters(self) -> None:
        dialect: Any = self.engine.dialect
        adapters = getattr(dialect, "_psycopg_adapters_map", None)
        if adapters is not None:
            # initialize() registers the types that it finds in our database; they are not the other one's.
            dialect._psycopg_adapters_map = type(adapters)(adapters)

    def _swap_dialect(self, drivername: str) -> Pool:
        engine = self.engine
        known: Any = engine.dialect
        if known.is_async != sa.make_url(f"{drivername}://").get_dialect(_is_async=known.is_async).is_async:
            raise IsolationBroken(
                f"{self._database.owner}: the engine {engine!r} is asynchronous, and no asynchronous driver for "
                "PostgreSQL is installed. Install one: pip install 'dbtestcase[asyncio]'."
            )
        options: dict[str, Any] = {}
        for option in ("json_serializer", "json_deserializer"):
            value = getattr(known, f"_{option}", None)
            if value is not None:
                options[option] = value
        level = getattr(known, "_on_connect_isolation_level", None)
        if level in ("AUTOCOMMIT", "READ COMMITTED", "READ UNCOMMITTED", "REPEATABLE READ", "SERIALIZABLE"):
            options["isolation_level"] = level
        if known.is_async:
            options["_is_async"] = True
        else:
            options["poolclass"] = QueuePool
        donor = sa.create_engine(sa.URL.create(drivername), **options)
        for name in _POOL_EVENTS:
            for listener in list(_listeners(self._original_pool, name)):
                if not _is_sqlalchemys(listener):
                    event.listen(donor.pool, name, listener)
        self._options = [found for found in _option_engines(engine) if found.dialect is known]
        self._use(donor.dialect)
        return donor.pool

    def _use(self, dialect: sa.Dialect) -> None:
        """Let the engine, and those made of it by ``execution_options()``, speak this dialect."""
        for engine in (self.engine, *self._options):
            known, engine.dialect = engine.dialect, dialect
            for listener in engine.dispatch.engine_connect:
                # Execution options such as isolation_level are kept in a listener that remembers the dialect.
                if listener.__qualname__.endswith(".set_connection_characteristics"):
                    for cell in listener.__closure__ or ():
                        if cell.cell_contents is known:
                            cell.cell_contents = dialect


def _one() -> int:
    return 1


def _listeners(pool: Pool, name: str) -> deque[Any]:
    collection: Any = getattr(pool.dispatch, name)
    return collection.for_modify(pool.dispatch).listeners  # type: ignore[no-any-return]


def _inner(listener: Any) -> Any:
    """Return the function inside ``util.only_once``, or the listener itself."""
    code = getattr(listener, "__code__", None)
    if code is not None and code.co_name == "go" and "once" in code.co_freevars:
        return listener.__closure__[code.co_freevars.index("fn")].cell_contents
    return listener


def _is_first_connect(listener: Any) -> bool:
    return getattr(_inner(listener), "__qualname__", "") == "create_engine.<locals>.first_connect"


def _is_sqlalchemys(listener: Any) -> bool:
    return getattr(_inner(listener), "__qualname__", "").startswith(_OWN_LISTENERS)


def _connect_args(pool: Pool) -> dict[str, Any]:
    creator: Any = pool._creator
    code = getattr(creator, "__code__", None)
    if code is None or "cparams" not in code.co_freevars:
        return {}
    return dict(creator.__closure__[code.co_freevars.index("cparams")].cell_contents)


def _option_engines(engine: sa.Engine) -> Iterator[OptionEngine]:
    for found in gc.get_referrers(engine):
        owner = found if isinstance(found, OptionEngine) else None
        if owner is None and isinstance(found, dict) and found.get("_proxied") is engine:
            owner = next((o for o in gc.get_referrers(found) if isinstance(o, OptionEngine)), None)
        if owner is not None and owner._proxied is engine:
            yield owner
            yield from _option_engines(owner)
