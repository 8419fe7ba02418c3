"""The standbys: instances of the next classes, made while the present class's tests run."""

from __future__ import annotations

import os
from collections.abc import Hashable
from contextlib import suppress
from typing import Any

import psycopg2

from dbtestcase.errors import DBTestCaseError
from dbtestcase.libpq import hidden_variables
from dbtestcase.native import Gate, monotonic, new_lock, start_thread
from dbtestcase.servers import existing
from dbtestcase.servers.choice import PostgresOptions, chosen
from dbtestcase.servers.contents import Contents
from dbtestcase.servers.databases import BaseInstance
from dbtestcase.servers.existing import ExistingStandby
from dbtestcase.servers.instance import Instance
from dbtestcase.servers.options import ThrowawayPostgres
from dbtestcase.servers.recipe import Recipe
from dbtestcase.servers.server import Boot, Server
from dbtestcase.servers.supervisor_client import at_end
from dbtestcase.servers.supervisor_connection import identity
from dbtestcase.servers.template import begin_boot, boot

__all__ = ["discard_standby", "expect", "expects", "take"]


# A server process reads its catalogs when it runs its first queries, milliseconds that no class needs to wait for.
# These need what the first query of a test needs, and the question who has committed last.
_WARM_UP = """
SELECT count(*) || replace(current_setting('transaction_isolation'), ' ', '-') FROM pg_class WHERE oid = 0;
SELECT concat(CASE WHEN current_setting('track_commit_timestamp') = 'on' THEN pg_last_committed_xact()::text END, ' ',
pg_stat_get_db_numbackends(oid) = 1, coalesce(current_setting('transaction_timeout', true), '0') = '0')
FROM pg_database WHERE datname = current_database()"""


class Standby:
    """A server that is wanted soon: it is on its way, or is ready, with a connection open."""

    def __init__(self, options: ThrowawayPostgres, contents: Contents, owner: str) -> None:
        self._options = options
        self._contents = contents
        self._owner = owner
        self._lock = new_lock()
        self._is_unwanted = False
        self._over = Gate()
        self._begun = monotonic()
        self.seconds = 0.0  # that it took
        self._recipe: Recipe | None = None
        self._boot: Boot | None = None
        self._server: Server | None = None
        self._connection: Any = None
        self._socket: tuple[int, int] | None = None  # that of the connection
        self._error: BaseException | None = None
        if not start_thread(self._make):
            self._over.open()

    # In the thread that makes it

    def _make(self) -> None:
        try:
            # Whatever goes wrong before there is a template goes wrong again for the one who wants the instance.
            with suppress(Exception):
                self._recipe = Recipe(self._options, self._contents, self._owner)
                server = self._booted(self._recipe)
                if server is not None:
                    self._connect(server)
        finally:
            self.seconds = monotonic() - self._begun
            self._over.open()

    def _connect(self, server: Server) -> None:
        try:
            with hidden_variables():
                connection = psycopg2.connect(**server.address())
            with connection.cursor() as cursor:
                cursor.execute(_WARM_UP)
            connection.rollback()
        except psycopg2.Error:
            server.end()  # whoever wants the instance gets another, or is told there what goes wrong
            return
        with self._lock:
            is_unwanted = self._is_unwanted
            if not is_unwanted:
                self._server, self._connection, self._socket = server, connection, identity(connection.fileno())
        if is_unwanted:
            connection.close()
            server.end()

    def _booted(self, recipe: Recipe) -> Server | None:
        begun = begin_boot(recipe)
        if begun is not None:
            with self._lock:
                self._boot = begun
                is_unwanted = self._is_unwanted
            if is_unwanted:
                begun.cancel()
                return None
            return begun.wait()
        if not self._contents.background:
            return None  # only the main thread can make its template
        try:
            return boot(recipe)
        except BaseException as exc:
            self._error = exc
            return None

    # In the thread that wants it

    def take(self) -> Instance | None:
        """Wait until it is ready and return it; ``None`` if it has to be done all over again."""
        try:
            self._over.wait()
        except BaseException:
            self.discard()
            raise
        if self._error is not None:
            raise self._error
        server, connection = self._let_go()
        if server is None or self._recipe is None:
            return None
        instance = Instance(server, owner=self._owner)
        instance.ready_connection = connection
        return instance

    def discard(self) -> None:
        """End it, wherever it is, and delete it."""
        server, connection = self._let_go()
        if connection is not None:
            connection.close()
        if server is not None:
            server.end()
        elif self._boot is not None:
            self._boot.cancel()

    def _let_go(self) -> tuple[Server | None, Any]:
        with self._lock:
            self._is_unwanted = True
            server, self._server = self._server, None
            connection, self._connection = self._connection, None
        if connection is not None and identity(connection.fileno()) != self._socket:
            _lost.append(connection)
            connection = None
        return server, connection


# Connections whose descriptors somebody has closed, and opened a file or socket since: to close them would close that.
_lost: list[Any] = []


def _key(options: PostgresOptions, contents: Contents) -> Hashable:
    return (options, contents.key, os.environ.get("DBTESTCASE_BIN_DIR"))


# A second one is booted beside the first while classes are shorter than a boot.
_MOST = 2
_lock = new_lock()
_standbys: list[tuple[Hashable, Standby | ExistingStandby]] = []  # in the order in which they are wanted
_last_taken = 0.0  # seconds of the clock
_are_classes_short = False


def expects() -> int:
    """Return how many of the instances that are wanted next are best made ahead: two while classes are short.

    That is, if the last class took less than twice as long as a boot.
    """
    return _MOST if _are_classes_short else 1


def expect(options: PostgresOptions, contents: Contents, *, owner: str = "", position: int = 0) -> None:
    """Begin to make an instance for this in the background; those that wait for something else are ended.

    Never raises: an error is raised by the :func:`running_instance` that wants the instance.

    Args:
        position: How many others are wanted before it; less than :func:`expects`.
    """
    with suppress(DBTestCaseError):
        options = chosen(options)
        key = _key(options, contents)
        with _lock:
            unwanted = _standbys[position:]
            if position > len(_standbys) or (unwanted and unwanted[0][0] == key):
                return
            del _standbys[position:]
        _end(unwanted)
        if isinstance(options, ThrowawayPostgres):
            standby: Standby | ExistingStandby = Standby(options, contents, owner)
        elif position == 0:
            standby = ExistingStandby(options, contents, owner)
        else:
            return  # a server that others use too is not asked for more than one
        with _lock:
            _standbys.append((key, standby))


def take(options: PostgresOptions, contents: Contents) -> BaseInstance | None:
    """Return the first standby if it fits and lives; ``None`` if there is none, and what does not fit is ended."""
    global _last_taken, _are_classes_short
    with _lock:
        fits = bool(_standbys) and _standbys[0][0] == _key(options, contents)
        standbys = _standbys[: 1 if fits else None]
        del _standbys[: len(standbys)]
    if not fits:
        _end(standbys)
        return None
    standby = standbys[0][1]
    instance: BaseInstance | None = standby.take()
    previous, _last_taken = _last_taken, monotonic()
    _are_classes_short = _last_taken - previous < 2 * standby.seconds
    if instance is not None and not instance.is_alive():
        instance.end()
        return None
    return instance


def discard_standby() -> None:
    """End and delete the standbys that nobody took."""
    with _lock:
        standbys = _standbys[:]
        _standbys.clear()
    _end(standbys)


def _end(standbys: list[tuple[Hashable, Standby | ExistingStandby]]) -> None:
    for _, standby in standbys:
        with suppress(Exception):
            standby.discard()


def _after_fork_in_child() -> None:
    # The standbys are the parent's.
    global _lock
    _lock = new_lock()
    _standbys.clear()


at_end(discard_standby)
existing.at_end(discard_standby)
os.register_at_fork(after_in_child=_after_fork_in_child)
