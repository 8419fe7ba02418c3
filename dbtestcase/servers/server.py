"""A server in a folder of its own, through the supervisor: begin to boot it, wait for it, end it, delete it."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import threading
from time import perf_counter
from typing import Any

from dbtestcase.diagnosis import report
from dbtestcase.errors import PostgresNotReady
from dbtestcase.servers.cache import NO_NOTES, Pack
from dbtestcase.servers.directory import (
    LOG,
    PORT,
    SOCKET,
    STOP_TIMEOUT,
    InstanceDirectory,
    Launch,
    directory_request,
    no_location,
)
from dbtestcase.servers.environment import server_environment
from dbtestcase.servers.locations import instance_locations
from dbtestcase.servers.options import ThrowawayPostgres
from dbtestcase.servers.start_errors import start_error
from dbtestcase.servers.supervisor_client import Reply, RequestFailed, current_supervisor

__all__ = ["Boot", "PackLost", "Server", "ServerProcess"]

BOOT_TIMEOUT = 60.0
# Stands in the configuration for the folder, which the supervisor makes.
_SOCKET_DIR_HERE = "@socket_dir@"


class PackLost(Exception):
    """The packed template cannot be read, or not be unpacked."""


class ServerProcess:
    """The server's main process, as far as :class:`subprocess.Popen` is known of it."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.returncode: int | None = None
        self._over = threading.Event()

    def ended(self, status: int | None) -> None:
        """Take note of its end."""
        if not self._over.is_set():
            self.returncode = -signal.SIGKILL if status is None else status
            self._over.set()

    def poll(self) -> int | None:
        """Return the exit status, ``None`` while it runs."""
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """Wait for its end and return the exit status."""
        if not self._over.wait(timeout):
            raise subprocess.TimeoutExpired("postgres", timeout or 0.0)
        assert self.returncode is not None
        return self.returncode

    def send_signal(self, number: int) -> None:
        """Send it a signal, unless it has ended."""
        if self.returncode is None:
            os.kill(self.pid, number)

    def terminate(self) -> None:
        """Ask it to end when all connections have."""
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """End it the hard way."""
        self.send_signal(signal.SIGKILL)


class Boot:
    """A server on its way."""

    def __init__(
        self,
        launch: Launch,
        options: ThrowawayPostgres,
        *,
        pack: Pack | None = None,
        probe_database: str | None = None,
        directory: InstanceDirectory | None = None,
    ) -> None:
        """Begin to boot; returns at once.

        Args:
            pack: The template to unpack first; ``None`` if the data folder is in ``directory`` already.
            probe_database: A database to connect to once, so that the caches of the server are filled.
            directory: Where the data folder is.

        Raises:
            PostgresNotReady: There is no supervisor.
        """
        self._launch = launch
        self._options = options
        self._pack = pack
        self._probe_database = probe_database
        self._directory = directory
        self._supervisor = directory.supervisor if directory is not None else current_supervisor()
        self._locations = instance_locations(pack.unpacked, launch.user) if pack is not None else []
        self._begun = perf_counter()
        self._reply = self._request()

    def _request(self) -> Reply:
        details = {
            "argv": [self._launch.programs.postgres, "-D"],
            "env": server_environment(),
            "user": self._launch.user,
            "socket": SOCKET,
            "log": LOG,
            "configuration_file": "postgresql.conf",
            "configuration": self._options.configuration(_SOCKET_DIR_HERE, PORT, self._major()),
            "socket_dir_here": _SOCKET_DIR_HERE,
            "probe_database": self._probe_database,
            "timeout": BOOT_TIMEOUT,
        }
        if self._directory is not None:
            return self._supervisor.request("boot", folder=str(self._directory.folder), **details)
        return self._supervisor.request(
            "launch",
            pack=str(self._pack.path) if self._pack else None,
            **{**details, **directory_request(self._launch, self._locations)},
        )

    def _major(self) -> int:
        if self._pack is not None:
            version = self._pack.server_version
        else:
            assert self._directory is not None
            version = (self._directory.data_dir / "PG_VERSION").read_text()
        return int(version.split(".")[0])

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
                full = exc.number in (errno.ENOSPC, errno.EDQUOT) or "No space left" in str(problem)
                self.cancel()
                if not full or not self._try_next_location(exc):
                    raise problem from exc
            except BaseException:
                self.cancel()
                raise
            else:
                directory = self._directory or self._at(reply["path"], reply["short"])
                report.in_background("boot", directory.folder.name, self._begun, self._reply.arrived)
                server = Server(directory, reply["pid"], self._reply.number, self._launch, self._options)
                if self._pack is not None:
                    server.notes = self._pack.notes
                return server

    def _at(self, path: str, short: str | None) -> InstanceDirectory:
        return InstanceDirectory(self._supervisor, self._launch.user, path, short)

    def _try_next_location(self, failure: RequestFailed) -> bool:
        location = os.path.dirname(failure.path or "")
        if location not in self._locations:
            return False
        self._locations = self._locations[self._locations.index(location) + 1 :]
        if not self._locations:
            return False
        self._reply = self._request()
        return True

    def _start_error(self, failure: RequestFailed) -> Exception:
        lost = failure.kind == "DamagedPack" or (self._pack is not None and not os.access(self._pack.path, os.R_OK))
        if lost:
            return PackLost(str(failure))
        if failure.path is None and self._directory is None:
            return no_location(self._launch, failure)
        directory = self._directory or self._at(failure.path or "", None)
        return start_error(failure, self._options, self._launch.programs, directory.read_log())

    def cancel(self) -> None:
        """End it, booted or not, and delete its folder; nobody waits for that."""
        self._supervisor.notify("end", launch=self._reply.number, signal=int(signal.SIGQUIT), timeout=STOP_TIMEOUT)


class Server:
    """A server that answers.

    Attributes:
        notes: What was noted when its contents were prepared: the text of a JSON object.
    """

    def __init__(
        self, directory: InstanceDirectory, pid: int, number: int, launch: Launch, options: ThrowawayPostgres
    ) -> None:
        self.directory = directory
        self.launch = launch
        self.options = options
        self.notes = NO_NOTES
        self.process = ServerProcess(pid)
        self._number = number
        directory.supervisor.watch(number, self.process.ended)

    def address(self) -> dict[str, Any]:
        """Return what connects psycopg2 to its database ``test``."""
        return {"host": str(self.directory.socket_dir), "port": PORT, "user": "postgres", "dbname": "test"}

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
        supervisor.unwatch(self._number)
        self.process.ended(status)
        return self.process.returncode

    def end(self) -> None:
        """End the server and delete its folder; it is told so at once, and dead a few milliseconds later."""
        self.directory.supervisor.unwatch(self._number)
        self.directory.end()
        self.process.ended(-signal.SIGQUIT)
