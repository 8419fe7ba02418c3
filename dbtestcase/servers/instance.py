"""One throwaway server, as a user of it sees it."""

from __future__ import annotations

import json
import os
import signal
from contextlib import suppress
from itertools import count
from pathlib import Path
from typing import Any
from urllib.parse import quote

import psycopg2

from dbtestcase.errors import DBTestCaseError, PostgresNotReady
from dbtestcase.libpq import hide_variables, show_variables
from dbtestcase.servers.archive import keep
from dbtestcase.servers.base import Postgresql
from dbtestcase.servers.connection_log import ConnectionLog
from dbtestcase.servers.databases import BaseInstance, MaintenanceConnections
from dbtestcase.servers.directory import CONNECT_TIMEOUT
from dbtestcase.servers.naming import APPLICATION
from dbtestcase.servers.options import ThrowawayPostgres
from dbtestcase.servers.server import Boot, Server
from dbtestcase.servers.server_process import ServerProcess
from dbtestcase.servers.shared_state import SharedState
from dbtestcase.servers.start_errors import cause_of_end
from dbtestcase.sql import quoted_identifier

__all__ = ["Instance"]


_ROOMY = 50  # connections


class Instance(BaseInstance, Postgresql):  # type: ignore[misc]  # testing.postgresql has no types
    """A running PostgreSQL of its own: own folder, own processes, on a unix socket that nobody else can reach.

    What :class:`testing.postgresql.Postgresql` offers works as there: ``url()``, ``dsn()``, ``stop()``,
    ``terminate()`` and ``start()``, ``is_alive()``, ``server_pid``, ``base_dir``, the context manager. It ends with
    :meth:`stop`, or with the process that made it, however that ends.

    Args:
        server: The running server, which is this instance's from now on.
        owner: For whom it is, for messages.
    """

    def __init__(self, server: Server, *, owner: str = "") -> None:
        self.name = type(self).__name__
        self.settings: dict[str, Any] = {"port": server.port}
        self.options: ThrowawayPostgres = server.options
        self.base_dir: str = str(server.directory.folder)
        self.data_dir: Path = server.directory.data_dir
        self.socket_dir: Path = server.directory.socket_dir
        self.initdb: str = server.launch.programs.initdb
        self.postgres: str = server.launch.programs.postgres
        self.child_process: ServerProcess | None = server.process
        self._server = server
        # What was noted when the contents were prepared (see Contents).
        self.notes: dict[str, Any] = json.loads(server.notes)
        self._owner = owner
        self._owner_pid = os.getpid()
        self._is_ours = True
        if self.options.logs_connections:
            self.log = ConnectionLog(server.directory.log, self.data_dir)
        self._keep_as: str | None = None
        self._kept_name: str | None = None
        self.maintenance = MaintenanceConnections(
            self.dsn(database="postgres", application_name=APPLICATION, connect_timeout=CONNECT_TIMEOUT)
        )
        self._numbers = count(1)
        self._version = ""
        hide_variables()

    # Connecting

    def dsn(self, **kwargs: Any) -> dict[str, Any]:
        """Return what ``psycopg2.connect(**dsn)`` takes: host, port, user, database and whatever is given."""
        database = self._asked_for(kwargs.pop("database", "test"))
        host, port, user = str(self.socket_dir), self._server.port, kwargs.pop("role", "postgres")
        return {"host": host, "port": port, "user": user, "database": database, **kwargs}

    def url(self, **kwargs: Any) -> str:
        """Return the URL of a database for SQLAlchemy, of ``test`` unless ``database=`` is given."""
        parts = self.dsn(**kwargs)
        # SQLAlchemy takes the database's name as it stands there, everything else unquoted.
        user, host = quote(str(parts["user"]), safe=""), quote(str(parts["host"]))
        # SQLAlchemy 2.1 reads a bare "postgresql://" as psycopg 3, so the driver is always named.
        return f"postgresql+psycopg2://{user}@/{parts['database']}?host={host}&port={parts['port']}"

    def tcp_url(self, database: str = "test") -> str:
        """Return the URL of a database for programs that take no unix socket, with the password in it.

        It changes with each instance.

        Raises:
            DBTestCaseError: The options do not say ``tcp=True``.
        """
        if not self._server.password:
            raise DBTestCaseError(
                "instance.tcp_url(): this server listens on a unix socket only. Write "
                "postgres = ThrowawayPostgres(tcp=True) in the test class."
            )
        name = quote(self._asked_for(database), safe="")
        return f"postgresql://postgres:{self._server.password}@127.0.0.1:{self._server.port}/{name}"

    def connect(self, database: str = "test", **kwargs: Any) -> Any:
        """Return a new psycopg2 connection."""
        return super().connect(database, **{"connect_timeout": CONNECT_TIMEOUT, **kwargs})

    # What it is

    def make_role(self, role: str, owner: str) -> None:
        # On the unix socket everybody is who they say.
        self.execute(f"CREATE ROLE {quoted_identifier(role)} LOGIN")

    @property
    def is_roomy(self) -> bool:
        return int(str(self.options.settings.get("max_connections", 100))) >= _ROOMY

    def is_ours(self, host: str, port: str, database: str) -> bool:
        return host == str(self.socket_dir)

    def state(self) -> SharedState:
        return SharedState(self)

    @property
    def server_version(self) -> str:
        """The server's version, such as ``"15.18"``."""
        if not self._version:
            self._version = self._server.launch.found.version
        return self._version

    @property
    def major_version(self) -> int:
        """The server's major version, such as 15."""
        return int(self._server.version.partition(".")[0])

    # Life

    def start(self) -> None:
        """Start the server again after :meth:`terminate`, on the same data.

        Raises:
            PostgresNotReady: It does not start.
        """
        if self.child_process is not None and self.child_process.poll() is None:
            return
        if self._owner_pid != os.getpid():
            raise PostgresNotReady("this instance belongs to the process that this one was forked from.")
        before = self._server
        self._server = Boot(before.launch, self.options, directory=before.directory, version=before.version).wait()
        self._server.notes = before.notes
        self.child_process = self._server.process

    def is_alive(self) -> bool:
        """Return whether the server runs."""
        return self.child_process is not None and self.child_process.poll() is None

    def answers(self) -> bool:
        """Return whether the server takes a connection, and has not lost a process that it does not know of yet."""
        if self.child_process is not None:
            self.child_process.await_dying_children()
        try:
            self.connect("postgres").close()
        except psycopg2.OperationalError:
            return False
        return True

    def end_stopped(self, pid: int) -> bool:
        return self.child_process is not None and self.child_process.end_stopped(pid)

    def cause_of_end(self) -> str:
        return cause_of_end(self.read_bootlog())

    def terminate(self, _signal: int | None = None) -> None:
        """End the server, at once unless ``signal.SIGINT`` is given; the data stay until :meth:`cleanup`."""
        if self.child_process is None or self._owner_pid != os.getpid():
            return
        self._close_maintenance()
        self._server.stop(signal.SIGQUIT if _signal is None else _signal)
        self.child_process = None

    def stop(self, _signal: int | None = None) -> None:
        """End the server and delete its folder. It may be called again, and in a forked child does nothing."""
        if not getattr(self, "_is_ours", False) or self._owner_pid != os.getpid():
            return
        try:
            if self._keep_as is not None and self.is_alive():
                self._stop_and_keep(self._keep_as)
            else:
                self.terminate(_signal)
        finally:
            self.cleanup()

    def cleanup(self) -> None:
        """Delete the folder of a server that was ended."""
        if self.child_process is not None or not self._is_ours or self._owner_pid != os.getpid():
            return
        self.release()
        self._server.directory.delete()

    def end(self) -> None:
        """Do as :meth:`stop` without waiting: the server dies within milliseconds, and its folder goes with it.

        Whatever becomes of this process, that is seen to.
        """
        if self._keep_as is not None:
            self.stop()
        elif self._is_ours and self._owner_pid == os.getpid():
            self.release()
            self.child_process = None
            self._server.end()

    def keep(self, label: str = "", database: str = "") -> None:
        """Have :meth:`stop` keep what is in the server, to be started again by :func:`running_kept`.

        Args:
            label: What it is to be known by; the owner if left out.
            database: Kept as well, as all others are.
        """
        self._keep_as = label

    def open_command(self, database: str) -> str:
        if self._kept_name is None:
            return ""
        which = "" if database == "test" else f" --database {database}"
        return f"python -m dbtestcase start --psql --kept {self._kept_name}{which}"

    def _stop_and_keep(self, label: str) -> None:
        self.terminate(signal.SIGINT)
        self._kept_name = keep(self._server, label or self._owner)

    def release(self) -> None:
        """Leave the server to somebody else: this object neither ends nor deletes it any more."""
        self._close_maintenance()
        if self._is_ours:
            self._is_ours = False
            show_variables()

    def read_bootlog(self) -> str:
        """Return the server's log."""
        return self._server.directory.read_log()

    def get_data_directory(self) -> str:
        """Return the data folder, as testing.postgresql's factory wants it."""
        return str(self.data_dir)

    def __del__(self) -> None:
        with suppress(Exception):
            self.stop()

    def __repr__(self) -> str:
        state = f"pid {self.server_pid}" if self.is_alive() else "stopped"
        return f"<{type(self).__name__} {state} in {self.base_dir}>"

    def _close_maintenance(self) -> None:
        self.maintenance.close()
        connection = self.take_ready_connection()
        if connection is not None:
            connection.close()
