"""The main process of a server, as far as :class:`subprocess.Popen` is known of it."""

from __future__ import annotations

import os
import signal
import subprocess

from dbtestcase.servers.supervisor_client import Reply, SupervisorClient

__all__ = ["ServerProcess"]


class ServerProcess:
    """A server's main process. It is a child of the supervisor, which tells of its end.

    Args:
        number: Of the request that started it.
    """

    def __init__(self, pid: int, supervisor: SupervisorClient, number: int) -> None:
        self.pid = pid
        self.number = number
        self.returncode: int | None = None
        self._supervisor = supervisor
        self._end: Reply = supervisor.end_of(number)

    def ended(self, status: int | None) -> None:
        """Take note of its end."""
        if self.returncode is None:
            self.returncode = -signal.SIGKILL if status is None else status

    def poll(self) -> int | None:
        """Return the exit status, ``None`` while it runs; takes microseconds and asks nobody."""
        if self.returncode is None:
            self._supervisor.refresh()
            self._note_end()
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """Wait for its end and return the exit status.

        Raises:
            subprocess.TimeoutExpired: It has not ended within so many seconds.
        """
        if self.returncode is None and not self._supervisor.wait_for(self._end, timeout):
            raise subprocess.TimeoutExpired("postgres", timeout or 0.0)
        self._note_end()
        assert self.returncode is not None
        return self.returncode

    def _note_end(self) -> None:
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
