"""A server in a folder of its own, through the supervisor: begin to boot it, wait for it, end it, delete it."""

from __future__ import annotations

import _socket
import errno
import os
import secrets
import signal
from contextlib import closing
from typing import Any

import psycopg2

from dbtestcase.diagnosis import report
from dbtestcase.errors import PostgresNotReady
from dbtestcase.libpq import hidden_variables
from dbtestcase.native import monotonic
from dbtestcase.servers.cache import NO_NOTES, Pack
from dbtestcase.servers.directory import (
    CONNECT_TIMEOUT,
    LOG,
    PORT,
    STOP_TIMEOUT,
    InstanceDirectory,
    Launch,
    directory_request,
    no_location,
)
from dbtestcase.servers.environment import server_environment
from dbtestcase.servers.locations import instance_locations
from dbtestcase.servers.options import ThrowawayPostgres
from dbtestcase.servers.server_process import ServerProcess
from dbtestcase.servers.start_errors import start_error
from dbtestcase.servers.supervisor_client import Reply, RequestFailed, current_supervisor

__all__ = ["Boot", "PackLost", "Server"]

BOOT_TIMEOUT = 60.0
# Stands in the configuration for the folder, which the supervisor makes.
_SOCKET_DIR_HERE = "@socket_dir@"
_PORTS_TO_TRY = 5
_PORT_TAKEN = "could not create any TCP/IP sockets"


class PackLost(Exception):
    """The packed template cannot be read, or not be unpacked."""


class Boot:
    """A server on its way; its public attributes are those of the :class:`Server` to be."""

    def __init__(
        self,
        launch: Launch,
        options: ThrowawayPostgres,
        *,
        pack: Pack | None = None,
        directory: InstanceDirectory | None = None,
        version: str = "",
    ) -> None:
        """Begin to boot; returns at once.

        Args:
            pack: The template to unpack first; ``None`` if the data folder is in ``directory`` already.
            directory: Where the data folder is.
            version: Major version of the data folder in ``directory``.

        Raises:
            PostgresNotReady: There is no supervisor.
        """
        self.launch = launch
        self.options = options
        self.pack = pack
        self.version = pack.server_version if pack is not None else version
        self._directory = directory
        self._supervisor = directory.supervisor if directory is not None else current_supervisor()
        self._locations = instance_locations(pack.unpacked, launch.user) if pack is not None else []
        self._ports_to_try = _PORTS_TO_TRY
        self._begin()

    def _begin(self) -> None:
        self.port = _free_port() if self.options.tcp else PORT
        self._begun = monotonic()
        self._reply = self._request()

    def _request(self) -> Reply:
        major = int(self.version.partition(".")[0])
        details = {
            "argv": [self.launch.programs.postgres, "-D"],
            "env": server_environment(),
            "log": LOG,
            "configuration_file": "postgresql.conf",
            "configuration": self.options.configuration(_SOCKET_DIR_HERE, self.port, major),
            "timeout": BOOT_TIMEOUT,
            **directory_request(self.launch, self._locations, self.port),
        }
        if self._directory is not None:
            return self._supervisor.request("boot", folder=str(self._directory.folder), **details)
        if self.pack is not None:
            details["pack"] = str(self.pack.path)
            details["base"] = str(self.pack.base) if self.pack.base is not None else None
        return self._supervisor.request("launch", **details)

    def wait(self) -> Server:
        """Wait until the server answers, and return it. If it does not, nothing is left of it.

        Raises:
            PackLost: The template cannot be read.
            PostgresNotReady: It did not start; the message has the server's words.
        """
        while True:
            try:
                reply = self._reply.wait()
            except RequestFailed as exc:
                problem = self._start_error(exc)
                self.cancel()
                if not self._try_again(exc, problem):
                    raise problem from exc
            except BaseException:
                self.cancel()
                raise
            else:
                directory = self._directory or self._at(reply["path"], reply["short"])
                report.in_background("boot", directory.folder.name, self._begun, self._reply.arrived)
                server = Server(self, directory, ServerProcess(reply["pid"], self._supervisor, self._reply.number))
                if self.options.tcp:
                    server.set_password()
                return server

    def _at(self, path: str, short: str | None) -> InstanceDirectory:
        return InstanceDirectory(self._supervisor, self.launch, path, short)

    def _try_again(self, failure: RequestFailed, problem: Exception) -> bool:
        """Begin again elsewhere, if that could help; return whether it could."""
        if self._directory is not None:
            return False
        if self.options.tcp and _PORT_TAKEN in str(problem):
            self._ports_to_try -= 1
            if not self._ports_to_try:
                return False
        elif failure.number in (errno.ENOSPC, errno.EDQUOT) or "No space left" in str(problem):
            location = os.path.dirname(failure.path or "")
            if location not in self._locations[:-1]:
                return False
            self._locations = self._locations[self._locations.index(location) + 1 :]
        else:
            return False
        self._begin()
        return True

    def _start_error(self, failure: RequestFailed) -> Exception:
        if failure.kind == "DamagedPack" or (self.pack is not None and not self.pack.is_there):
            return PackLost(str(failure))
        if failure.path is None and self._directory is None:
            return no_location(self.launch, failure)
        directory = self._directory or self._at(failure.path or "", None)
        return start_error(failure, self.options, self.launch.programs, directory.read_log())

    def cancel(self) -> None:
        """End it, booted or not, and delete its folder; nobody waits for that."""
        self._supervisor.notify("end", launch=self._reply.number, signal=int(signal.SIGQUIT), timeout=STOP_TIMEOUT)


def _free_port() -> int:
    """Return a port of the loopback interface that nobody uses at the moment."""
    with closing(_socket.socket(_socket.AF_INET, _socket.SOCK_STREAM)) as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


class Server:
    """A server that answers.

    Attributes:
        launch: How it was started.
        options: Its options.
        version: Its major version.
        pack: What its data folder was unpacked from; ``None`` if from nothing.
        port: Its port, which is part of the socket's name.
        password: What lets a superuser in over TCP; empty if nobody comes in there.
        notes: What was noted when its contents were prepared: the text of a JSON object.
    """

    def __init__(self, boot: Boot, directory: InstanceDirectory, process: ServerProcess) -> None:
        self.directory = directory
        self.process = process
        self.launch = boot.launch
        self.options = boot.options
        self.version = boot.version
        self.pack = boot.pack
        self.port = boot.port
        self.password = ""
        self.notes = boot.pack.notes if boot.pack is not None else NO_NOTES

    def address(self) -> dict[str, Any]:
        """Return what connects psycopg2 to its database ``test``."""
        host = str(self.directory.socket_dir)
        return {
            "host": host,
            "port": self.port,
            "user": "postgres",
            "dbname": "test",
            "connect_timeout": CONNECT_TIMEOUT,
        }

    def set_password(self) -> None:
        """Give the superuser a new password, which is needed over TCP only."""
        self.password = secrets.token_urlsafe(24)
        with hidden_variables(), closing(psycopg2.connect(**self.address())) as connection:
            connection.autocommit = True
            with connection.cursor() as cursor:
                cursor.execute("ALTER ROLE postgres PASSWORD %s", [self.password])

    def stop(self, number: int = signal.SIGQUIT, timeout: float = STOP_TIMEOUT) -> int | None:
        """End the server and wait for that; return its exit status. The folder stays.

        Args:
            number: ``SIGQUIT`` ends it at once, ``SIGINT`` in order.
            timeout: Seconds until it is killed.
        """
        supervisor = self.directory.supervisor
        try:
            reply = supervisor.request("stop", folder=str(self.directory.folder), signal=int(number), timeout=timeout)
            status = reply.wait()["status"]
        except (RequestFailed, PostgresNotReady):
            status = None  # the supervisor is dead, and so is the server
        supervisor.forget_end_of(self.process.number)
        self.process.ended(status)
        return self.process.returncode

    def end(self) -> None:
        """End the server and delete its folder; it is told so at once, and dead a few milliseconds later."""
        self.directory.supervisor.forget_end_of(self.process.number)
        self.directory.end()
        self.process.ended(-signal.SIGQUIT)
