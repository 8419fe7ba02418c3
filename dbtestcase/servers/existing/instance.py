"""The databases of one class on an existing server, as a user of them sees it."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable
from contextlib import closing
from typing import Any

import psycopg2

from dbtestcase.errors import PostgresNotReady
from dbtestcase.servers.databases import BaseInstance, Databases
from dbtestcase.servers.existing.connections import connect, once_there_is_room
from dbtestcase.servers.existing.effects import ServerEffects
from dbtestcase.servers.existing.options import ExistingPostgres
from dbtestcase.servers.existing.roles import make_role, session_options
from dbtestcase.servers.existing.server import ExistingServer
from dbtestcase.servers.existing.templates import Template

__all__ = ["ExistingInstance", "Filling"]


class OnExistingServer(Databases):
    """Databases on an existing server, by logical names.

    Args:
        names: What they are called on the server.
    """

    def __init__(self, server: ExistingServer, names: dict[str, str]) -> None:
        self.options: ExistingPostgres = server.options
        self.maintenance = server.connections
        self._server = server
        self._names = names

    def dsn(self, **kwargs: Any) -> dict[str, Any]:
        """Return what ``psycopg2.connect(**dsn)`` takes, for the database ``test`` unless ``database=`` is given."""
        given = {**kwargs}
        database = given.pop("dbname", None) or given.pop("database", None) or next(iter(self._names), "test")
        if "role" in given:
            options = [given.get("options") or self.options.dsn().get("options"), session_options(given.pop("role"))]
            given["options"] = " ".join(filter(None, options))
        return {**self.options.dsn(), **given, "dbname": self.database_name(self._asked_for(database))}

    def url(self, **kwargs: Any) -> str:
        """Return the URL of a database for SQLAlchemy, of the first one unless ``database=`` is given."""
        parts = self.dsn(**kwargs)
        return self.options.url(parts.pop("dbname"), **parts)

    def connect(self, database: str = "", **kwargs: Any) -> Any:
        """Return a new psycopg2 connection, to the first database unless one is named, once the server has room."""
        return connect(self.options, **self.dsn(database=database, **kwargs))

    def make_role(self, role: str, owner: str) -> None:
        make_role(self._server, role, owner)

    def database_name(self, name: str) -> str:
        return self._names.get(name, name)

    @property
    def server_version(self) -> str:
        return self._server.version


class Filling(OnExistingServer):
    """The databases of a template while they are filled. Those that it will hold exist already."""

    def create_database(self, name: str) -> None:
        if name not in self._names:
            raise PostgresNotReady(f"the schema creates a database {name!r} that it has not named.")


class ExistingInstance(OnExistingServer, BaseInstance):
    """Databases on a server that is there already, for one class. They are gone once :meth:`stop` or :meth:`end` ran.

    Args:
        server: This process's owner of databases there.
        template: What they are made from.
        owner: For whom they are, for messages.

    Raises:
        psycopg2.Error: PostgreSQL could not make them.
    """

    def __init__(self, server: ExistingServer, template: Template, *, owner: str = "") -> None:
        super().__init__(server, {})
        self.notes = template.notes
        self._owner = owner
        self._pid = os.getpid()
        self._lock = threading.Lock()
        self._made: set[str] = set()
        self._label: str | None = None
        self._is_kept = False
        self._kept: set[str] = set()
        try:
            for logical, source in template.databases.items():
                name = self._new_name(logical)
                server.create(name, source)
                self._names[logical] = name
                if logical in template.properties:
                    self._give_properties(name, template.properties[logical].statements(name))
        except BaseException:
            self.stop()
            raise

    # Databases

    def create_database(self, name: str) -> None:
        actual = self._new_name(name)
        self._server.create(actual)
        self._names[name] = actual

    def new_copy_name(self, source: str) -> str:
        return self._new_name(source)

    def clone_database(self, source: str, name: str) -> None:
        self._server.create(name, self.database_name(source))

    def drop_database(self, name: str) -> None:
        actual = self.database_name(name)
        if actual in self._made:
            self._server.drop(actual)
            with self._lock:
                self._made.discard(actual)

    def is_ours(self, host: str, port: str, database: str) -> bool:
        return database in self._made

    def _new_name(self, label: str) -> str:
        name = self._server.new_name(label)
        with self._lock:
            self._made.add(name)
        return name

    def _give_properties(self, name: str, statements: Iterable[str]) -> None:
        sql = ";\n".join(statements)
        if sql:
            self._server.execute(sql)

    @property
    def is_roomy(self) -> bool:
        return self._server.is_roomy

    def state(self) -> ServerEffects:
        return ServerEffects(self, lambda: list(self._made), self.options.place)

    def patiently(self, connect: Callable[[], Any]) -> Any:
        """Return the connection that ``connect`` opens, once the server has room for it."""
        connection: Any = once_there_is_room(connect)
        return connection

    # Life

    def open_ready_connection(self) -> None:
        """Open the connection that :meth:`take_ready_connection` will return."""
        if "test" in self._names:
            self.ready_connection = connection = self.connect("test")
            # A server process is slow in its first transaction, in which it reads the system catalogs.
            with connection.cursor() as cursor:
                cursor.execute("SELECT 1")
            connection.rollback()

    def is_alive(self) -> bool:
        """Return whether its databases are still its own: whether the lock is held that proves it."""
        return self._server.is_alive()

    def answers(self) -> bool:
        """Return whether its first database takes a connection."""
        try:
            with closing(psycopg2.connect(**self.dsn())):
                pass
        except psycopg2.OperationalError:
            return False
        return self.is_alive()

    def stop(self) -> None:
        """Drop its databases, or keep them if :meth:`keep` was called, and wait for that."""
        self._leave(wait=True)

    def end(self) -> None:
        """Do as :meth:`stop`, in the background while there is more to come."""
        self._leave(wait=not self._server.expects_more)

    def _leave(self, *, wait: bool) -> None:
        if self._pid != os.getpid():
            return
        connection = self.take_ready_connection()
        if connection is not None:
            connection.close()
        with self._lock:
            made, self._made = self._made, set()
        if self._label is not None and self.is_alive():
            made -= self._keep(self._label)
        self._server.drop_all(made, wait=wait)

    def keep(self, label: str = "", database: str = "") -> None:
        """Have :meth:`stop` leave the class's databases on the server, until ``python -m dbtestcase clean``."""
        self._label = label
        self._kept = {database} & self._made

    def open_command(self, database: str) -> str:
        if not self._is_kept:
            return ""
        parts = self.options.dsn()
        known = {name: parts[name] for name in ("host", "hostaddr", "port", "user") if name in parts}
        address = " ".join(f"{name}={value}" for name, value in known.items())
        return f"psql '{address} dbname={self.database_name(database)}'"

    def _keep(self, label: str) -> set[str]:
        kept = self._kept | set(self._names.values())
        for name in kept:
            self._server.keep(name, label or self._owner)
        self._is_kept = True
        return kept

    def __repr__(self) -> str:
        return f"<{type(self).__name__} of {self._owner or 'nobody'} at {self.options.place}>"
