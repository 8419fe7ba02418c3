"""The main process of a server, as far as :class:`subprocess.Popen` is known of it."""

from __future__ import annotations

import os
import signal
import subprocess
from contextlib import suppress

from dbtestcase.native import monotonic, sleep
from dbtestcase.servers.supervisor_client import Reply, SupervisorClient

__all__ = ["ServerProcess"]

_TICK = 0.001
_LONGEST_STATUS = 0.05
_EXITING = 4  # PF_EXITING, among the flags of a process


class ServerProcess:
    """A server's main process, a child of the supervisor, which reports its end by the boot request's number."""

    def __init__(self, pid: int, supervisor: SupervisorClient, number: int) -> None:
        self.pid = pid
        self.number = number
        self.returncode: int | None = None
        self._supervisor = supervisor
        self._end: Reply = supervisor.end_of(number)
        self._is_visible = os.path.exists(f"/proc/{pid}/stat")  # on Linux, unless others' processes are hidden

    def ended(self, status: int | None) -> None:
        """Take note of its end."""
        if self.returncode is None:
            self.returncode = -signal.SIGKILL if status is None else status

    def poll(self) -> int | None:
        """Return the exit status, ``None`` while it runs; takes microseconds and asks nobody."""
        if self.returncode is None:
            self._note_end()
            if self.returncode is None and self._is_visible and _is_over(self.pid):
                self._await_status()
        return self.returncode

    def _await_status(self) -> None:
        """Wait a moment for the supervisor to report the exit status of a process that is known to have ended."""
        deadline = monotonic() + _LONGEST_STATUS
        while self.returncode is None and monotonic() < deadline:
            sleep(_TICK)
            self._note_end()
        self.ended(None)

    def await_dying_children(self, seconds: float = 1.0) -> None:
        """Wait until the server has taken note of the end of each process of its own that is ending; Linux only.

        One that crashes hangs up before the server can know of it, and for a moment the server takes connections as if
        nothing had been.
        """
        deadline = monotonic() + seconds
        while any(_is_over(pid, gone=False) for pid in self._children()):
            if self.poll() is not None or monotonic() > deadline:
                return
            sleep(_TICK)

    def end_stopped(self, pid: int) -> bool:
        """End a process of the server that somebody has stopped, and that so answers nobody; Linux only.

        Returns:
            Whether it was one. The whole server ends with it, as after a crash.
        """
        if str(pid) not in self._children() or (_fields(pid) or [""])[0] != "T":
            return False
        with suppress(OSError):
            os.kill(pid, signal.SIGKILL)
        return True

    def _children(self) -> list[str]:
        try:
            with open(f"/proc/{self.pid}/task/{self.pid}/children", encoding="ascii") as file:
                return file.read().split()
        except OSError:
            return []  # it has ended, or the system does not tell

    def wait(self, timeout: float | None = None) -> int:
        """Wait for its end and return the exit status."""
        if self.returncode is None and not self._supervisor.wait_for(self._end, timeout):
            raise subprocess.TimeoutExpired("postgres", timeout or 0.0)
        self._note_end()
        assert self.returncode is not None
        return self.returncode

    def _note_end(self) -> None:
        self._supervisor.refresh()
        if self._end.message is not None:
            self.ended(self._end.message["status"])

    def send_signal(self, number: int) -> None:
        """Send it a signal, unless it has ended."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def terminate(self) -> None:
        """Ask it to end when all connections have."""
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """End it the hard way."""
        self.send_signal(signal.SIGKILL)


def _is_over(pid: int | str, *, gone: bool = True) -> bool:
    """Return whether a process ends just now or has ended; ``gone`` if there is none of that number to be seen."""
    fields = _fields(pid)
    if fields is None:
        return gone
    return not fields or fields[0] in "ZX" or bool(int(fields[6]) & _EXITING)


def _fields(pid: int | str) -> list[str] | None:
    """Return what Linux tells of a process, from its state on; ``None`` if there is none of that number to be seen."""
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as file:
            return file.read().rpartition(")")[2].split()
    except OSError:
        return None
