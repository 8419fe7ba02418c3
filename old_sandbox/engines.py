"""Take an Engine over, and give it back as it was.

Only its pool is replaced. Dialect object, URL and events stay, so whatever was derived from the engine before goes on
working. An engine of another database, or of another PostgreSQL driver, gets a dialect of ours for the time.
"""

from __future__ import annotations

import gc
import sys
from collections import deque
from collections.abc import Callable, Hashable, Iterator
from types import FrameType
from typing import Any

import sqlalchemy as sa
from sqlalchemy import event, util
from sqlalchemy.engine.base import OptionEngine
from sqlalchemy.orm import session as session_module
from sqlalchemy.pool import ConnectionPoolEntry, Pool, QueuePool

from dbtestcase.frames import Origin, user_origin

from .introductions import introduced
from .problems import IsolationBroken

Creator = Callable[[ConnectionPoolEntry], Any]
_CONNECTIONS_OF_THE_TEST = 5
_OWN_LISTENERS = ("create_engine.<locals>.", "DefaultDialect._builtin_onconnect.<locals>.")


def root(engine: sa.Engine) -> sa.Engine:
    """Return the engine that ``engine.execution_options()`` was called on, or the engine itself."""
    while isinstance(engine, OptionEngine):
        engine = engine._proxied
    return engine


class TakenEngine:
    """An engine while it is ours: its pool is."""

    def __init__(
        self,
        engine: sa.Engine,
        *,
        drivername: str,
        kind: Hashable,
        creator: Creator,
        on_checkout: Callable[[Any], None],
    ) -> None:
        self.engine = engine
        self._pool, self._dialect = engine.pool, engine.dialect
        self._dialect_state = dict(vars(engine.dialect))
        self.connect_args = _connect_args(engine.pool)
        self._options: list[OptionEngine] = []
        if engine.dialect.name == "postgresql" and engine.dialect.driver == drivername.partition("+")[2]:
            self._keep_adapters()
            ours = _derived(engine.pool, engine.dialect, kind)
        else:
            ours = self._swap_dialect(drivername)
        self._pings = ours._pre_ping
        ours._creator = creator  # type: ignore[assignment]
        event.listen(ours, "checkout", self._check)
        self._on_checkout = on_checkout
        engine.pool = _with_room_for_the_test(ours)
        self.expect_pings(False)

    def expect_pings(self, is_real: bool) -> None:
        """Let the pool ping as the engine's own does, if the connections of tests are real ones."""
        # The one connection of a test is there or the test is an error: to ask costs a round trip and tells nothing.
        self.engine.pool._pre_ping = is_real and self._pings

    def _check(self, connection: Any, record: ConnectionPoolEntry, fairy: Any) -> None:
        self._on_checkout(connection)
        channel = getattr(connection, "_channel", None)
        if self._pings and channel is not None and channel.closed:
            # What a ping would have found, without asking.
            raise sa.exc.DisconnectionError("the code under test closed this connection")

    def give_back(self) -> None:
        """Make the engine exactly what it was."""
        engine = self.engine
        ours, engine.pool = engine.pool, self._pool
        ours.dispose()
        if engine.dialect is not self._dialect:
            self._use(self._dialect)
        vars(self._dialect).clear()
        vars(self._dialect).update(self._dialect_state)

    def _keep_adapters(self) -> None:
        dialect: Any = self.engine.dialect
        adapters = getattr(dialect, "_psycopg_adapters_map", None)
        if adapters is not None:
            # initialize() registers the types that it finds in our database; they are not the other one's.
            dialect._psycopg_adapters_map = type(adapters)(adapters)

    def _swap_dialect(self, drivername: str) -> Pool:
        engine = self.engine
        known: Any = engine.dialect
        options: dict[str, Any] = {"poolclass": QueuePool}
        for option in ("json_serializer", "json_deserializer"):
            value = getattr(known, f"_{option}", None)
            if value is not None:
                options[option] = value
        level = getattr(known, "_on_connect_isolation_level", None)
        if level in ("AUTOCOMMIT", "READ COMMITTED", "READ UNCOMMITTED", "REPEATABLE READ", "SERIALIZABLE"):
            options["isolation_level"] = level
        donor = sa.create_engine(sa.URL.create(drivername), **options)
        for name in ("connect", "checkout", "checkin", "reset", "invalidate", "soft_invalidate", "close"):
            for listener in list(_listeners(self._pool, name)):
                if not listener.__qualname__.startswith(_OWN_LISTENERS) and not _is_first_connect(listener):
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


def _derived(pool: Pool, dialect: sa.Dialect, kind: Hashable) -> Pool:
    """Return a pool like this one, events included, in which the dialect has not been initialized yet."""
    derived = pool.recreate()
    listeners = _listeners(derived, "connect")
    for index, listener in enumerate(listeners):
        if _is_first_connect(listener):
            # SQLAlchemy's once-only listener belongs to the original pool: running it here would use it up there.
            ask = introduced(dialect, kind, _inner(listener))
            listeners[index] = util.only_once(ask, retry_on_exception=True)
    return derived


def _with_room_for_the_test(pool: Pool) -> Pool:
    # In production the code under test has the pool to itself; here the sessions of the test hold connections as well.
    # A small pool would let a request wait for a connection that its own test holds.
    if isinstance(pool, QueuePool) and pool._max_overflow >= 0:
        pool._max_overflow += _CONNECTIONS_OF_THE_TEST
    return pool


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


# What create_engine(connect_args=...) may say that does not depend on the server.
_KEPT_ARGUMENTS = ("options", "application_name", "autocommit", "cursor_factory", "row_factory", "prepare_threshold")


def _connect_args(pool: Pool) -> dict[str, Any]:
    """Return the connection arguments that an engine was made with, as far as they hold for any server."""
    creator: Any = pool._creator
    code = getattr(creator, "__code__", None)
    if code is None or "cparams" not in code.co_freevars:
        return {}
    parameters = creator.__closure__[code.co_freevars.index("cparams")].cell_contents
    return {name: parameters[name] for name in _KEPT_ARGUMENTS if name in parameters}


_connect_at = 0  # how many frames below line_of_connect() Engine.connect() was the last time


def line_of_connect() -> Origin | None:
    """Return the user's line that checks a connection out now; ``None`` if it is a session that does so.

    A session connects when it sends its first statement, whose line is found out anyway.
    """
    global _connect_at
    frame = _frame_of_connect(_connect_at)
    if frame is None:
        _connect_at = next((at for at in range(1, 20) if _frame_of_connect(at + 1) is not None), 0)
        frame = _frame_of_connect(_connect_at)
    caller = frame.f_back if frame is not None else None
    if caller is None:
        return user_origin()
    code = caller.f_code
    is_session = code.co_name == "_connection_for_bind" and code.co_filename == session_module.__file__
    return None if is_session else user_origin(caller)


def _frame_of_connect(depth: int) -> FrameType | None:
    try:
        frame = sys._getframe(depth + 1)
    except ValueError:
        return None
    return frame if frame.f_code is sa.Engine.connect.__code__ else None


def _option_engines(engine: sa.Engine) -> Iterator[OptionEngine]:
    for found in gc.get_referrers(engine):
        owner = found if isinstance(found, OptionEngine) else None
        if owner is None and isinstance(found, dict) and found.get("_proxied") is engine:
            owner = next((o for o in gc.get_referrers(found) if isinstance(o, OptionEngine)), None)
        if owner is not None and owner._proxied is engine:
            yield owner
            yield from _option_engines(owner)


def refuse_async(engine: sa.Engine, owner: str) -> None:
    """Raise for engines that no virtual connection can serve."""
    if engine.dialect.is_async:
        raise IsolationBroken(
            f"{owner}: the engine {engine!r} is asynchronous ({engine.dialect.driver}), and only synchronous engines "
            "can be redirected. Point the code under test at a synchronous engine of the class, or give it a URL of "
            "cls.instance and clean up after each test."
        )
