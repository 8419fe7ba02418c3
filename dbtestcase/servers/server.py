"""A server in a folder of its own, through the keeper: begin to boot it, wait for it, end it, delete it."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import threading
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Any, Self

from dbtestcase.diagnosis import report
from dbtestcase.errors import PostgresNotReady
from dbtestcase.servers.cache import Pack
from dbtestcase.servers.keeping import Answer, Failure, Keeper, current_keeper
from dbtestcase.servers.options import ThrowawayPostgres
from dbtestcase.servers.places import SOCKET_PATH_LIMIT, instance_places, short_places
from dbtestcase.servers.programs import Programs
from dbtestcase.servers.refusal import explained
from dbtestcase.servers.surroundings import server_environment

__all__ = ["Boot", "Launch", "Lodging", "PackLost", "Server", "ServerProcess"]

PORT = 5432
BOOT_TIMEOUT = 60.0
STOP_TIMEOUT = 10.0
_LOG = "server.log"
_SOCKET = f".s.PGSQL.{PORT}"
# Stands in the configuration for the folder, which the keeper makes.
_SOCKET_DIR_HERE = "@socket_dir@"


class PackLost(Exception):
    """The packed template cannot be read, or not be unpacked."""


@dataclass(frozen=True)
class Launch:
    """What it takes to start a server: the programs, and the user they run as (``None``: the present one)."""

    programs: Programs
    user: tuple[int, int] | None


class Lodging:
    """The folder of one server: ``data`` and the log, and where the socket is."""

    def __init__(self, keeper: Keeper, user: tuple[int, int] | None, path: str, short: str | None) -> None:
        self.keeper = keeper
        self.folder = Path(path)
        self.data_dir = self.folder / "data"
        self.socket_dir = Path(short or path) / "run"
        self._user = user

    @classmethod
    def make(cls, launch: Launch, places: Sequence[str]) -> Self:
        """Make a folder in the first place that takes it.

        Raises:
            PostgresNotReady: None does.
        """
        keeper = current_keeper()
        try:
            made = keeper.order("make", **_make_order(launch, places)).wait()
        except Failure as exc:
            raise _no_place(launch, exc) from exc
        return cls(keeper, launch.user, made["path"], made["short"])

    @property
    def log(self) -> Path:
        """Path of what the server says."""
        return self.folder / _LOG

    def run(self, argv: list[str]) -> tuple[int, str]:
        """Run a program to its end; return its exit status and what it said.

        Raises:
            Failure: It could not be started.
        """
        log = "program.log"
        answer = self.keeper.order(
            "run", folder=str(self.folder), argv=argv, env=server_environment(), user=self._user, log=log
        ).wait()
        output = self.folder / log
        text = output.read_text(errors="replace")
        output.unlink()
        return answer["status"], text

    def read_log(self) -> str:
        """Return what the server has said so far."""
        try:
            return self.log.read_text(encoding="utf-8", errors="replace")
        except OSError:
            return ""

    def end(self, number: int = signal.SIGQUIT, timeout: float = STOP_TIMEOUT) -> None:
        """End what runs in the folder, if anything, and delete it; nobody waits for either.

        If the keeper is dead, so is the server, and the next keeper's sweep deletes the folder.
        """
        self.keeper.tell("end", folder=str(self.folder), signal=int(number), timeout=timeout)

    def delete(self) -> None:
        """Do as :meth:`end`, and wait until the folder's path is gone."""
        with suppress(Failure, PostgresNotReady):  # it is gone already, or is with the keeper
            self.keeper.order("end", folder=str(self.folder), signal=int(signal.SIGQUIT), timeout=STOP_TIMEOUT).wait()


def _make_order(launch: Launch, places: Sequence[str]) -> dict[str, Any]:
    return {
        "places": list(places),
        "short_places": short_places(launch.user),
        "socket": _SOCKET,
        "longest_path": SOCKET_PATH_LIMIT,
        "mode": 0o700 if launch.user is None else 0o711,
        "user": launch.user,
    }


def _no_place(launch: Launch, failure: Failure) -> PostgresNotReady:
    return PostgresNotReady(
        f"cannot start a test database: there is no place for it. {failure or 'Nowhere may it write.'}\n"
        "Make room, or set DBTESTCASE_DIR to a folder with room"
        + (" that the unprivileged user of the server can reach." if launch.user is not None else ".")
    )


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
        greet: str | None = None,
        lodging: Lodging | None = None,
    ) -> None:
        """Begin to boot; returns at once.

        Args:
            pack: The template to unpack first; ``None`` if the data folder is in ``lodging`` already.
            greet: A database to connect to once, so that the first connection of the test finds its caches filled.
            lodging: Where the data folder is.

        Raises:
            PostgresNotReady: There is no keeper.
        """
        self._launch = launch
        self._options = options
        self._pack = pack
        self._greet = greet
        self._lodging = lodging
        self._keeper = lodging.keeper if lodging is not None else current_keeper()
        self._places = instance_places(pack.unpacked, launch.user) if pack is not None else []
        self._begun = perf_counter()
        self._answer = self._order()

    def _order(self) -> Answer:
        order = {
            "argv": [self._launch.programs.postgres, "-D"],
            "env": server_environment(),
            "user": self._launch.user,
            "socket": _SOCKET,
            "log": _LOG,
            "configuration_file": "postgresql.conf",
            "configuration": self._options.configuration(_SOCKET_DIR_HERE, PORT, self._major()),
            "socket_dir_here": _SOCKET_DIR_HERE,
            "greet": self._greet,
            "timeout": BOOT_TIMEOUT,
        }
        if self._lodging is not None:
            return self._keeper.order("boot", folder=str(self._lodging.folder), **order)
        return self._keeper.order(
            "launch",
            pack=str(self._pack.path) if self._pack else None,
            **{**order, **_make_order(self._launch, self._places)},
        )

    def _major(self) -> int:
        if self._pack is not None:
            version = self._pack.server_version
        else:
            assert self._lodging is not None
            version = (self._lodging.data_dir / "PG_VERSION").read_text()
        return int(version.split(".")[0])

    def wait(self) -> Server:
        """Wait until the server answers, and return it. If it does not, nothing is left of it.

        Raises:
            PackLost: The template cannot be read.
            PostgresNotReady: It did not start; the message has the server's words.
        """
        while True:
            try:
                answer = self._answer.wait()
            except Failure as exc:
                problem = self._explained(exc)
                full = exc.number in (errno.ENOSPC, errno.EDQUOT) or "No space left" in str(problem)
                self.cancel()
                if not full or not self._try_next_place(exc):
                    raise problem from exc
            except BaseException:
                self.cancel()
                raise
            else:
                lodging = self._lodging or self._at(answer["path"], answer["short"])
                report.in_background("boot", lodging.folder.name, self._begun, self._answer.arrived)
                return Server(lodging, answer["pid"], self._answer.number)

    def _at(self, path: str, short: str | None) -> Lodging:
        return Lodging(self._keeper, self._launch.user, path, short)

    def _try_next_place(self, failure: Failure) -> bool:
        place = os.path.dirname(failure.path or "")
        if place not in self._places:
            return False
        self._places = self._places[self._places.index(place) + 1 :]
        if not self._places:
            return False
        self._answer = self._order()
        return True

    def _explained(self, failure: Failure) -> Exception:
        lost = failure.kind == "DamagedPack" or (self._pack is not None and not os.access(self._pack.path, os.R_OK))
        if lost:
            return PackLost(str(failure))
        if failure.path is None and self._lodging is None:
            return _no_place(self._launch, failure)
        lodging = self._lodging or self._at(failure.path or "", None)
        return explained(failure, self._options, self._launch.programs, lodging.read_log())

    def cancel(self) -> None:
        """End it, booted or not, and delete its folder; nobody waits for that."""
        self._keeper.tell("end", launch=self._answer.number, signal=int(signal.SIGQUIT), timeout=STOP_TIMEOUT)


class Server:
    """A server that answers."""

    def __init__(self, lodging: Lodging, pid: int, number: int) -> None:
        self.lodging = lodging
        self.process = ServerProcess(pid)
        self._number = number
        lodging.keeper.watch(number, self.process.ended)

    def address(self) -> dict[str, Any]:
        """Return what connects psycopg2 to its database ``test``."""
        return {"host": str(self.lodging.socket_dir), "port": PORT, "user": "postgres", "dbname": "test"}

    def stop(self, number: int = signal.SIGQUIT, timeout: float = STOP_TIMEOUT) -> int | None:
        """End the server and wait for that; return its exit status. The folder stays.

        Args:
            number: ``SIGQUIT`` ends it at once, ``SIGINT`` in order.
            timeout: Seconds until it is killed.
        """
        keeper = self.lodging.keeper
        try:
            status = keeper.order("stop", folder=str(self.lodging.folder), signal=int(number), timeout=timeout).wait()[
                "status"
            ]
        except (Failure, PostgresNotReady):
            status = None  # the keeper is dead, and so is the server
        keeper.unwatch(self._number)
        self.process.ended(status)
        return self.process.returncode

    def end(self) -> None:
        """End the server and delete its folder; it is told so at once, and dead a few milliseconds later."""
        self.lodging.keeper.unwatch(self._number)
        self.lodging.end()
        self.process.ended(-signal.SIGQUIT)
