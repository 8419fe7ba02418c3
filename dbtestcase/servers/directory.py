"""The folder that one server lives in, made, used and deleted through the supervisor."""

from __future__ import annotations

import os
import signal
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from dbtestcase.errors import PostgresNotReady
from dbtestcase.servers.environment import server_environment
from dbtestcase.servers.locations import SOCKET_PATH_LIMIT, socket_locations
from dbtestcase.servers.programs import Programs
from dbtestcase.servers.supervisor_client import RequestFailed, SupervisorClient, current_supervisor

__all__ = [
    "CONNECT_TIMEOUT",
    "LOG",
    "PORT",
    "STOP_TIMEOUT",
    "InstanceDirectory",
    "Launch",
    "directory_request",
    "no_location",
]

PORT = 5432
STOP_TIMEOUT = 10.0
CONNECT_TIMEOUT = 15  # seconds; a server that was stopped, as by SIGSTOP, takes connections and says nothing
LOG = "server.log"


@dataclass(frozen=True)
class Launch:
    """What it takes to start a server.

    Args:
        programs: The programs to run.
        user: The user and group that they run as; ``None`` for the present ones.
        found: The programs as they were found, if ``programs`` are a copy that the user can read.
        alias: What the user and the group have to be called, in a user namespace of their own: the user is root, or has
            no entry in the list of users; ``None`` if neither.
    """

    programs: Programs
    user: tuple[int, int] | None
    found: Programs
    alias: tuple[int, int] | None = None


class InstanceDirectory:
    """The folder of one server: ``data`` and the log, and where the socket is."""

    def __init__(self, supervisor: SupervisorClient, launch: Launch, path: str, short: str | None) -> None:
        self.supervisor = supervisor
        self.folder = Path(path)
        self.data_dir = self.folder / "data"
        self.socket_dir = Path(short or path) / "run"
        self._launch = launch

    @classmethod
    def make(cls, launch: Launch, locations: Sequence[str]) -> Self:
        """Make a folder in the first location that takes it."""
        supervisor = current_supervisor()
        try:
            made = supervisor.request("make", **directory_request(launch, locations, PORT)).wait()
        except RequestFailed as exc:
            raise no_location(launch, exc) from exc
        return cls(supervisor, launch, made["path"], made["short"])

    @property
    def log(self) -> Path:
        """Path of what the server says."""
        return self.folder / LOG

    def run(self, argv: list[str], *, timeout: float) -> tuple[int, str]:
        """Run a program to its end, for so many seconds at most; return its exit status and what it said."""
        log = "program.log"
        details = {"argv": argv, "env": server_environment(), "user": self._launch.user, "alias": self._launch.alias}
        reply = self.supervisor.request("run", folder=str(self.folder), log=log, timeout=timeout, **details).wait()
        output = self.folder / log
        text = output.read_text(errors="replace")
        output.unlink()
        return reply["status"], text

    def read_log(self) -> str:
        """Return what the server has said so far."""
        try:
            return self.log.read_text(encoding="utf-8", errors="replace")
        except OSError:
            return ""

    def end(self, number: int = signal.SIGQUIT, timeout: float = STOP_TIMEOUT) -> None:
        """End what runs in the folder, if anything, and delete it; nobody waits for either.

        If the supervisor is dead, so is the server, and the next supervisor's sweep deletes the folder.
        """
        self.supervisor.notify("end", folder=str(self.folder), signal=int(number), timeout=timeout)

    def delete(self) -> None:
        """Do as :meth:`end`, and wait until the folder's path is gone."""
        with suppress(RequestFailed, PostgresNotReady):  # it is gone already, or is with the supervisor
            self.supervisor.request(
                "end", folder=str(self.folder), signal=int(signal.SIGQUIT), timeout=STOP_TIMEOUT
            ).wait()


def directory_request(launch: Launch, locations: Sequence[str], port: int) -> dict[str, Any]:
    """Return what a request says of the folder, and of who owns it."""
    return {
        "locations": list(locations),
        "socket_locations": socket_locations(launch.user),
        "socket": f".s.PGSQL.{port}",
        "longest_path": SOCKET_PATH_LIMIT,
        "mode": 0o700 if launch.user is None else 0o711,
        "user": launch.user,
        # A server minds being root, but not being unknown.
        "alias": launch.alias if os.geteuid() == 0 else None,
    }


def no_location(launch: Launch, failure: RequestFailed) -> PostgresNotReady:
    return PostgresNotReady(
        f"cannot start a test database: there is no location for it. {failure or 'Nowhere may it write.'}\n"
        "Make room, or set DBTESTCASE_DIR to a folder with room"
        + (" that the unprivileged user of the server can reach." if launch.user is not None else ".")
    )
