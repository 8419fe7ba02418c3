"""What every kind of server offers to those who use its databases: connections, statements, copies."""

from __future__ import annotations

import os
import socket
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from itertools import count
from typing import Any, Protocol

import psycopg2

from dbtestcase.frames import is_called_from_library
from dbtestcase.servers.connection_log import ConnectionLog
from dbtestcase.servers.naming import PREFIX, shortened
from dbtestcase.sql import quoted_identifier

__all__ = ["BaseInstance", "Databases", "MaintenanceConnections", "ServerState", "awaiting_their_end"]

_SESSIONS = """
SELECT (SELECT count(*) FROM pg_stat_activity WHERE datname = %(name)s), sessions,
    tup_inserted + tup_updated + tup_deleted > 0
FROM pg_stat_database WHERE datname = %(name)s
"""
# How often to look again whether the last connection is closed, and after how long each time, in seconds.
_LOOKS, _BETWEEN_LOOKS = 20, 0.005
_LONGEST_GOODBYE = 1.0  # seconds
_SERVER_MODULES = os.path.dirname(os.path.abspath(__file__)) + os.sep


@contextmanager
def awaiting_their_end(connections: Iterable[Any]) -> Iterator[None]:
    """Wait, after a block that closes these connections of a driver's, until their server processes have ended."""
    sockets = [socket.socket(fileno=os.dup(each.fileno())) for each in connections if not each.closed]
    yield
    for each in sockets:
        with each, suppress(OSError):
            each.settimeout(_LONGEST_GOODBYE)
            while each.recv(1024):
                continue  # with TLS, a last message comes before the end


class MaintenanceConnections:
    """Connections in autocommit that are kept open: one for each thread that needs one at the same time."""

    def __init__(self, dsn: dict[str, Any]) -> None:
        self._dsn = dsn
        self._lock = threading.Lock()
        self._idle: list[Any] = []

    @contextmanager
    def connection(self) -> Iterator[Any]:
        """Lend one for as long as the block runs."""
        with self._lock:
            connection = self._idle.pop() if self._idle else None
        if connection is None or connection.closed:
            connection = self.open()
            connection.autocommit = True
        try:
            yield connection
        finally:
            with self._lock:
                self._idle.append(connection)

    def execute(self, sql: str) -> None:
        """Execute SQL outside any transaction."""
        with self.connection() as connection, connection.cursor() as cursor:
            cursor.execute(sql)

    def query(self, sql: str, parameters: object = None) -> list[tuple[Any, ...]]:
        """Return the rows of a query."""
        with self.connection() as connection, connection.cursor() as cursor:
            cursor.execute(sql, parameters)
            return list(cursor.fetchall())

    def open(self) -> Any:
        """Return a new one."""
        return psycopg2.connect(**self._dsn)

    def close(self, *, wait: bool = False) -> None:
        """Close those that nobody uses.

        Args:
            wait: Until the server does not know of them any more.
        """
        with self._lock:
            idle, self._idle = self._idle, []
        with awaiting_their_end(idle if wait else ()):
            for connection in idle:
                connection.close()


class Databases(ABC):
    """The databases of a running server.

    A class gives its databases *logical* names (``test``, ``billing``). On a server of our own they are called so; on
    one that others use too they have names of their own, which :meth:`database_name` tells. Every method here takes
    either.
    """

    maintenance: MaintenanceConnections
    # Called when code outside of this library asks for the address of a database, with its name; returns the name of
    # the one to give.
    address_asked: Callable[[str], str] | None = None
    _numbers: count[int]
    _begun_commits = 0
    _done_commits = 0

    @abstractmethod
    def dsn(self, **kwargs: Any) -> dict[str, Any]:
        """Return what ``psycopg2.connect(**dsn)`` takes, for the database ``test`` unless ``database=`` is given.

        With ``role=``, sessions are those of this role, which :meth:`make_role` has made.
        """

    @abstractmethod
    def url(self, **kwargs: Any) -> str:
        """Return the URL of a database for SQLAlchemy, of ``test`` unless ``database=`` is given.

        With ``role=``, sessions are those of this role, which :meth:`make_role` has made.
        """

    @abstractmethod
    def make_role(self, role: str, owner: str) -> None:
        """Make a role that is no superuser and can be given to :meth:`url` and :meth:`dsn`, unless it is there."""

    @property
    @abstractmethod
    def server_version(self) -> str:
        """The server's version, such as ``"15.18"``."""

    @property
    def major_version(self) -> int:
        """The server's major version, such as 15."""
        digits = self.server_version.partition(".")[0][:2]
        return int("".join(character for character in digits if character.isdigit()) or 0)

    def database_name(self, name: str) -> str:
        """Return what the database of this logical name is called on the server."""
        return name

    def _asked_for(self, database: str) -> str:
        """Return the name of the database whose address is given to whoever asks for this one's."""
        if self.address_asked is None or is_called_from_library(beyond=_SERVER_MODULES):
            return database
        return self.address_asked(database)

    def new_copy_name(self, source: str) -> str:
        """Return a name for a copy of a database, which no other database has."""
        return shortened(f"{PREFIX}{next(self._numbers)}_{source}")

    # Statements

    def own_commits(self) -> tuple[int, int]:
        """Return how many statements of this library's own were begun on the server up to now, and how many ended."""
        return self._begun_commits, self._done_commits

    def connect(self, database: str = "test", **kwargs: Any) -> Any:
        """Return a new psycopg2 connection."""
        return psycopg2.connect(**self.dsn(database=database, **kwargs))

    def execute(self, sql: str, *, database: str | None = None) -> None:
        """Execute SQL outside any transaction, in the maintenance database unless one is named."""
        self._begun_commits += 1
        try:
            if database is None:
                self.maintenance.execute(sql)
                return
            with closing(self.connect(database)) as connection:
                connection.autocommit = True
                with connection.cursor() as cursor:
                    cursor.execute(sql)
        finally:
            self._done_commits += 1

    def query(self, sql: str, parameters: object = None) -> list[tuple[Any, ...]]:
        """Return the rows of a query in the maintenance database."""
        return self.maintenance.query(sql, parameters)

    # Databases

    def create_database(self, name: str) -> None:
        """Make an empty database, by its logical name."""
        self.execute(f"CREATE DATABASE {quoted_identifier(self.database_name(name))}")

    def clone_database(self, source: str, name: str) -> None:
        """Make the database ``name`` as a copy of ``source``, to which nobody may be connected.

        What PostgreSQL keeps outside of a database is not copied; see :class:`DatabaseProperties`.
        """
        source = self.database_name(source)
        # Copying files beats writing each page to the log, the default since there is a choice.
        strategy = " STRATEGY FILE_COPY" if self.major_version >= 15 else ""
        self.execute(f"CREATE DATABASE {quoted_identifier(name)} TEMPLATE {quoted_identifier(source)}{strategy}")

    def drop_database(self, name: str) -> None:
        """Drop a database, if it exists; whoever is connected to it is disconnected."""
        self.execute(f"DROP DATABASE IF EXISTS {quoted_identifier(self.database_name(name))} WITH (FORCE)")

    def count_sessions(self, name: str) -> int | None:
        """Return how many connections a database has had, once all are closed.

        ``None`` if that cannot be known, or if one of them has changed rows, those of the catalogs included.
        """
        if self.major_version < 15:
            return None  # it is written down too late, or not at all
        for _ in range(_LOOKS):
            found = self.query(_SESSIONS, {"name": self.database_name(name)})
            if not found:
                return None  # it was dropped
            present, past, is_changed = found[0]
            if not present:
                return None if is_changed else int(past)
            time.sleep(_BETWEEN_LOOKS)
        return None


class ServerState(Protocol):
    """What belongs to a server as a whole, as it was when this was made."""

    def before_statement(self, sql: str) -> None:
        """Called before a statement on a copy is sent, other than plain reads and changes of rows."""

    def is_unchanged(self) -> bool:
        """Return whether all is as it was."""

    def restore(self, copies: Sequence[str]) -> bool:
        """Remove what a test on these copies has added; return whether all is again as it was."""


class BaseInstance(Databases):
    """The PostgreSQL of one class: a server of its own, or databases of its own on one that is there already."""

    options: Any
    notes: dict[str, Any]
    # The server's log, if it can be read and notes each connection.
    log: ConnectionLog | None = None
    ready_connection: Any

    @property
    @abstractmethod
    def is_roomy(self) -> bool:
        """Whether the server has connections to spare, for what is opened ahead and closed later."""

    @abstractmethod
    def is_ours(self, host: str, port: str, database: str) -> bool:
        """Return whether this is an address of one of the class's databases."""

    def patiently(self, connect: Callable[[], Any]) -> Any:
        """Return the connection that ``connect`` opens."""
        return connect()

    def take_ready_connection(self) -> Any:
        """Return the psycopg2 connection to ``test`` that was opened ahead, or ``None``; it is the caller's then."""
        return self.__dict__.pop("ready_connection", None)  # in one step: any thread may ask

    @abstractmethod
    def state(self) -> ServerState:
        """Return how the server is now, to put it back after a test."""

    @abstractmethod
    def is_alive(self) -> bool:
        """Return whether the class still has its databases, as far as is known without asking the server."""

    @abstractmethod
    def answers(self) -> bool:
        """Return whether the server takes a connection."""

    def end_stopped(self, pid: int) -> bool:
        """End a server process that somebody has stopped, and that so answers nobody; return whether it was one."""
        return False

    def cause_of_end(self) -> str | None:
        """Return what its log says of why the server has ended, or ``""``; ``None`` if it is not our own."""
        return None

    @abstractmethod
    def keep(self, label: str = "", database: str = "") -> None:
        """Have :meth:`stop` keep what is there, for people to look at.

        Args:
            label: What it is to be known by; the owner if left out.
            database: A copy that is to be kept beside the class's databases.
        """

    @abstractmethod
    def open_command(self, database: str) -> str:
        """Return the command that shows a database of what was kept, ``""`` before it has been."""

    @abstractmethod
    def stop(self) -> None:
        """End it and wait for that."""

    @abstractmethod
    def end(self) -> None:
        """End it without waiting longer than is needed."""
