"""This process's relation to one existing server: the lock that proves it alive, connections, what is left of the dead.

The owner of databases holds a session-level advisory lock, whose number is part of their names. PostgreSQL releases it
when the process that holds it ends, however it ends; then the databases belong to nobody, and the next process drops
them.
"""

from __future__ import annotations

import atexit
import multiprocessing
import os
import secrets
import threading
import time
from collections.abc import Callable, Iterable
from concurrent.futures import Future, wait
from contextlib import suppress
from typing import Any

import psycopg2

from dbtestcase.errors import PostgresNotReady
from dbtestcase.servers.existing import marks
from dbtestcase.servers.existing.connections import Connections
from dbtestcase.servers.existing.options import ExistingPostgres
from dbtestcase.servers.workers import Workers
from dbtestcase.sql import quoted_identifier, quoted_literal

__all__ = ["ExistingServer", "at_end", "drop_everything", "server_for"]

OLDEST_VERSION = 13
# A server with fewer usable connections serves a process two: one for its lock and all that is done for it, one for
# its class.
ROOMY = 50
_LAST_WAIT = 20.0

# How often to look whether everybody has left a database that is to be dropped, and after how long, in seconds.
_LOOKS, _BETWEEN_LOOKS = 15, 0.004

_SESSIONS = "SELECT 1 FROM pg_stat_activity WHERE datname = %s LIMIT 1"
_ABOUT = """
SELECT rolcreatedb OR rolsuper, rolsuper, rolcreaterole OR rolsuper, rolname,
    least(current_setting('max_connections')::int - current_setting('superuser_reserved_connections')::int
        - coalesce(current_setting('reserved_connections', true)::int, 0),
        CASE rolconnlimit WHEN -1 THEN 1000000 ELSE rolconnlimit END), current_setting('fsync')
FROM pg_roles WHERE rolname = current_user
"""
_DATABASES = """
SELECT datname, datconnlimit, datistemplate FROM pg_database
WHERE datconnlimit IN %s AND pg_get_userbyid(datdba) = current_user ORDER BY oid
"""
_LOCKS = "SELECT (classid::bigint << 32) | objid::bigint FROM pg_locks WHERE locktype = 'advisory' AND objsubid = 1"


class ExistingServer:
    """An existing server as an owner of databases sees it.

    Args:
        options: Which server.

    Raises:
        PostgresNotReady: It cannot be reached, is too old, or the role may not create databases.
    """

    def __init__(self, options: ExistingPostgres) -> None:
        self.options = options
        self.pid = os.getpid()
        self.owner = secrets.randbits(64) - (1 << 63)
        self.connections = Connections(options, self.owner)
        # In the URL's own database.
        self.execute, self.query = self.connections.execute, self.connections.query
        try:
            self.version, self.major_version = self._version()
            may_create, self.is_superuser, self.may_create_roles, self.user, self.usable, fsync = self.query(_ABOUT)[0]
            if not may_create:
                raise PostgresNotReady(
                    f"{options.origin}: the role {self.user!r} may not create databases on the server at "
                    f"{options.place}. Let an administrator execute: ALTER ROLE {quoted_identifier(self.user)} CREATEDB"
                )
        except BaseException:
            self.connections.owner.close()
            raise
        # Copying files is faster than writing each page to the log, but needs checkpoints, which all others on the
        # server would feel if what is written had to reach the disk.
        self._strategy = " STRATEGY FILE_COPY" if self.major_version >= 15 and fsync == "off" else ""
        self.is_roomy: bool = self.usable >= ROOMY
        # Whether a class is known to come: then the process lives long enough for what is done in the background.
        self.expects_more = False
        if self.is_roomy:
            self.connections.allow(2)
        self.workers = Workers(2, "dbtestcase-existing")
        self._numbers = iter(range(1, 1 << 62))
        self._lock = threading.Lock()
        self._databases: set[str] = set()
        self._going: set[Future[None]] = set()
        self.in_background(self.sweep)

    def _version(self) -> tuple[str, int]:
        number = self.connections.owner.server_version
        version = f"{number // 10000}.{number % 10000}"
        if number // 10000 < OLDEST_VERSION:
            raise PostgresNotReady(
                f"{self.options.origin}: the server at {self.options.place} is PostgreSQL {version}; "
                f"{OLDEST_VERSION} or newer is needed."
            )
        return version, number // 10000

    def is_alive(self) -> bool:
        """Return whether the databases of this owner are still its own."""
        return self.connections.is_alive()

    # Databases of this owner

    def new_name(self, label: str) -> str:
        """Return a name for a database of this owner, which no other has."""
        with self._lock:
            name = marks.database_name(self.owner, next(self._numbers), label)
            self._databases.add(name)
        return name

    def create(self, name: str, source: str | None = None) -> None:
        """Make a marked database, a copy of ``source`` if one is named.

        Raises:
            psycopg2.Error: PostgreSQL refuses.
        """
        template = f" TEMPLATE {quoted_identifier(source)}" if source is not None else ""
        sql = f"CREATE DATABASE {quoted_identifier(name)}{template}{self._strategy} CONNECTION LIMIT {marks.MARK}"
        for pause in (0.1, 0.3, 1.0, None):
            try:
                self.execute(sql)
                return
            except psycopg2.errors.ObjectInUse:
                # PostgreSQL has waited for five seconds already; template1 is everybody's, so somebody else is next.
                if pause is None or source is not None:
                    raise
                time.sleep(pause)

    def drop(self, name: str) -> None:
        """Drop a database of this owner, whoever is connected."""
        # While a server process is on its way out, PostgreSQL waits for 100 ms before it looks again.
        for _ in range(_LOOKS):
            if not self.query(_SESSIONS, [name]):
                break
            time.sleep(_BETWEEN_LOOKS)
        self.execute(_dropping(name))
        with self._lock:
            self._databases.discard(name)

    def keep(self, name: str, label: str) -> None:
        """Leave a database of this owner to people who want to look at it."""
        self.execute(f"ALTER DATABASE {quoted_identifier(name)} CONNECTION LIMIT {marks.KEPT}")
        self.execute(f"COMMENT ON DATABASE {quoted_identifier(name)} IS {quoted_literal(label)}")
        with self._lock:
            self._databases.discard(name)

    def drop_all(self, names: Iterable[str], *, wait: bool) -> None:
        """Drop databases of this owner.

        Args:
            wait: Until they are gone, and all else that was begun in the background too.
        """
        for name in names:
            self.in_background(self.drop, name)
        if wait:
            self.settle()

    def in_background(self, act: Callable[..., None], *arguments: Any) -> None:
        """Do something while tests run; that it fails is no harm, since the next process sweeps."""

        def guarded() -> None:
            with suppress(psycopg2.Error, PostgresNotReady):
                act(*arguments)

        try:
            future = self.workers.submit(guarded)
        except RuntimeError:  # Python is ending
            guarded()
            return
        with self._lock:
            self._going = {each for each in self._going if not each.done()} | {future}

    def settle(self) -> None:
        """Wait until what was begun in the background is done, within a bound."""
        with self._lock:
            going = set(self._going)
        wait(going, timeout=_LAST_WAIT)

    # Databases of the dead

    def lying_about(self) -> list[tuple[str, bool]]:
        """Return the names of all databases of ours that this role has made, and whether each may be dropped.

        That is so for what a dead process has left, and for templates that were never finished.
        """
        found = self.query(_DATABASES, [(marks.MARK, marks.KEPT, marks.DROPPED_HALFWAY)])
        # Asked afterwards: an owner holds its lock before it makes a database.
        held = {number for (number,) in self.query(_LOCKS)}
        known = []
        for name, limit, is_published in found:
            meaning = marks.understood(name)
            if meaning is not None:
                known.append((name, limit != marks.KEPT and not is_published and meaning.id not in held))
        return known

    def sweep(self) -> None:
        """Drop what dead processes have left."""
        for name, is_dead in self.lying_about():
            if is_dead:
                with suppress(psycopg2.Error):  # somebody else drops it, or a superuser looks at it
                    self._drop_dead(name)

    def _drop_dead(self, name: str) -> None:
        meaning = marks.understood(name)
        assert meaning is not None
        if not meaning.is_template:
            self.execute(_dropping(name))
            return
        # Whoever makes this template now waits until it is gone, or has begun before and holds the lock.
        with self.connections.connection() as connection, connection.cursor() as cursor:
            cursor.execute("SELECT pg_try_advisory_lock(%s)", [meaning.id])
            if cursor.fetchone()[0]:
                try:
                    cursor.execute("SELECT datistemplate FROM pg_database WHERE datname = %s", [name])
                    if cursor.fetchone() == (False,):
                        cursor.execute(_dropping(name))
                finally:
                    cursor.execute("SELECT pg_advisory_unlock(%s)", [meaning.id])

    # The end

    def close(self) -> None:
        """Drop all databases of this owner and let go of the server."""
        self.settle()
        if self.is_alive():
            with self._lock:
                left = list(self._databases)
            for name in left:
                with suppress(psycopg2.Error, PostgresNotReady):
                    self.drop(name)
        self.workers.shutdown(wait=False)
        self.connections.close()
        self.connections.owner.close()

    def forget(self) -> None:
        """Let go of it in a forked child, whose parent's it is, without a word to the server."""
        null = os.open(os.devnull, os.O_RDWR)
        for connection in {*self.connections._idle, self.connections.owner}:
            if not connection.closed:
                # Closing it would end the parent's session; so what is sent goes nowhere.
                os.dup2(null, connection.fileno())
        os.close(null)


def _dropping(name: str) -> str:
    return f"DROP DATABASE IF EXISTS {quoted_identifier(name)} WITH (FORCE)"


_lock = threading.Lock()
_servers: dict[ExistingPostgres, ExistingServer] = {}
_last_acts: list[Callable[[], None]] = []
_is_at_end = False


def server_for(options: ExistingPostgres) -> ExistingServer:
    """Return this process's owner of databases on a server; a new one if that one has lost its lock.

    Raises:
        PostgresNotReady: It cannot be reached, is too old, or the role may not create databases.
    """
    global _is_at_end
    with _lock:
        known = _servers.get(options)
        if known is None or not known.is_alive():
            known = _servers[options] = ExistingServer(options)
            if not _is_at_end:
                _is_at_end = True
                _when_process_ends(drop_everything)
        return known


def at_end(act: Callable[[], None]) -> None:
    """Have ``act`` called when the process ends in order, before its databases are dropped."""
    _last_acts.append(act)


def _when_process_ends(act: Callable[[], None]) -> None:
    if multiprocessing.parent_process() is None:
        atexit.register(act)
    else:
        # Processes of multiprocessing end without the functions of atexit.
        from multiprocessing.util import Finalize

        Finalize(None, act, exitpriority=100)


def drop_everything() -> None:
    """Drop all databases of this process on all servers and let go of them, as the end of the process does."""
    for act in _last_acts:
        act()
    for server in _servers.values():
        if server.pid == os.getpid():
            server.close()
    _servers.clear()


def _after_fork_in_child() -> None:
    global _lock, _is_at_end
    _lock = threading.Lock()
    _is_at_end = False
    atexit.unregister(drop_everything)
    for server in _servers.values():
        server.forget()
        _forgotten.append(server)
    _servers.clear()


# Held for ever: to collect them would be to close their connections.
_forgotten: list[ExistingServer] = []

os.register_at_fork(after_in_child=_after_fork_in_child)
