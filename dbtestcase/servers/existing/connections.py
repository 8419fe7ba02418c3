"""Connections of ours to an existing server: one that holds a lock, others that wait for a server that is full."""

from __future__ import annotations

import select
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import psycopg2

from dbtestcase.diagnosis.tracebacks import chain
from dbtestcase.errors import PostgresNotReady
from dbtestcase.servers.databases import MaintenanceConnections
from dbtestcase.servers.existing.options import ExistingPostgres
from dbtestcase.servers.naming import APPLICATION

__all__ = ["Connections", "connect", "once_there_is_room"]

Result = TypeVar("Result")

# What a server that is full, or starting, says; psycopg2 tells no SQLSTATE of a connection that failed.
_LATER = ("too many clients", "too many connections", "connection slots", "is starting up", "not yet accepting")
_LONGEST_WAIT = 60.0  # seconds


def connect(options: ExistingPostgres, /, **others: Any) -> Any:
    """Return a new psycopg2 connection; wait for a server that is full or starting, for a minute at most.

    Raises:
        PostgresNotReady: It cannot be reached, or takes no connection of this user.
    """
    try:
        return once_there_is_room(lambda: psycopg2.connect(**{**options.dsn(), **others}))
    except psycopg2.OperationalError as exc:
        raise PostgresNotReady(_unreachable(options, options.redacted(str(exc).strip()))) from None


def once_there_is_room(act: Callable[[], Result]) -> Result:
    """Return what ``act`` returns; called again while its error says that the server is full or starting."""
    deadline, pause = time.monotonic() + _LONGEST_WAIT, 0.02
    while True:
        try:
            return act()
        except Exception as exc:
            if not _says_later(exc) or time.monotonic() > deadline:
                raise
        time.sleep(pause)
        pause = min(pause * 1.5, 1.0)


def _says_later(exc: BaseException) -> bool:
    return any(words in str(each) for each in chain(exc) for words in _LATER)


def _unreachable(options: ExistingPostgres, text: str) -> str:
    if any(words in text for words in _LATER):
        return (
            f"{options.origin}: the server at {options.place} takes no further connection. It says:\n  {text}\n"
            "Run fewer test processes at once, or raise its max_connections; each process takes three and what its "
            "tests open."
        )
    return (
        f"{options.origin}: cannot connect to the server at {options.place}. It says:\n  {text}\n"
        f"Correct the URL, or start the server. Without {options.origin.partition('(')[0]}, a throwaway server is used."
    )


class Connections(MaintenanceConnections):
    """The connections of one owner, the first of which holds its lock and is never closed before the end."""

    def __init__(self, options: ExistingPostgres, lock_number: int) -> None:
        super().__init__(options.dsn())
        self._options = options
        self.owner = connect(options, application_name=APPLICATION)
        self.owner.autocommit = True
        with self.owner.cursor() as cursor:
            # So that a lock does not outlive a machine that has lost its power by hours, and a class that takes hours
            # does not lose it.
            cursor.execute(
                "SET tcp_keepalives_idle = 60; SET tcp_keepalives_interval = 10; SET tcp_keepalives_count = 6"
            )
            if self.owner.server_version >= 140000:
                cursor.execute("SET idle_session_timeout = 0")
            cursor.execute("SELECT pg_advisory_lock(%s)", [lock_number])
        self._idle.append(self.owner)
        self._seats = threading.Semaphore(1)
        self._mine = threading.local()

    def allow(self, number: int) -> None:
        """Use so many at the same time."""
        for _ in range(number - 1):
            self._seats.release()

    @contextmanager
    def connection(self) -> Iterator[Any]:
        """Lend one for as long as the block runs; within it, the same one to the same thread."""
        if getattr(self._mine, "connection", None) is not None:
            yield self._mine.connection
            return
        with self._seats, super().connection() as connection:
            self._mine.connection = connection
            try:
                yield connection
            finally:
                self._mine.connection = None

    def open(self) -> Any:
        return connect(self._options, application_name=APPLICATION)

    def close(self, *, wait: bool = False) -> None:
        """Close all but the owner's, if it is idle."""
        with self._lock:
            kept = [each for each in self._idle if each is self.owner]
            self._idle = [each for each in self._idle if each is not self.owner]
        super().close(wait=wait)
        with self._lock:
            self._idle += kept

    def is_alive(self) -> bool:
        """Return whether the lock is still held, as far as can be told without asking the server."""
        with self._lock:
            if self.owner.closed:
                return False
            if not any(each is self.owner for each in self._idle):
                return True  # somebody is using it
            readable, _, _ = select.select([self.owner], [], [], 0)
            if not readable:
                return True
            try:
                self.owner.poll()
            except psycopg2.Error:
                self.owner.close()
        return bool(self.owner.closed == 0)
