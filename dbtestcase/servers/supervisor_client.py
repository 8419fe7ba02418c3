"""The supervisor of this process, the program in ``supervisor/``: start it when first needed, ask it to do things."""

from __future__ import annotations

import atexit
import os
import signal
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from dbtestcase.errors import PostgresNotReady
from dbtestcase.native import Gate, monotonic, new_lock
from dbtestcase.servers.locations import sweep_locations
from dbtestcase.servers.supervisor_connection import CLOSED, ChannelLost, Connection

__all__ = ["Reply", "RequestFailed", "SupervisorClient", "at_end", "current_supervisor"]

_LAST_WAIT, _SHORT_WAIT = 10.0, 1.0
# Seconds that the supervisor has for a request of no duration of its own, and beyond that of others; and after which,
# when it has said nothing, it is asked whether it is there.
_PATIENCE, _SILENCE = 15.0, 5.0


class RequestFailed(Exception):
    """The supervisor could not do what it was asked to.

    ``number`` is the ``errno``, 0 if none; ``kind`` the name of the exception; ``status`` the exit status of a program
    that ended by itself; ``path`` its folder, if there is one.
    """

    def __init__(self, text: str, reply: dict[str, Any]) -> None:
        super().__init__(text)
        self.number: int = reply.get("errno", 0)
        self.kind: str = reply.get("kind", "")
        self.status: int | None = reply.get("status")
        self.path: str | None = reply["path"]


class Reply:
    """The reply to a request, or the notice that a server has ended; it may still be on its way."""

    def __init__(self, supervisor: SupervisorClient, seconds: float) -> None:
        self.number = 0
        self.arrived = 0.0  # when, as monotonic() tells it
        self.message: dict[str, Any] | None = None
        self.problem: BaseException | None = None
        self.gate = Gate()  # opened when there may be something for the thread that waits
        self._supervisor = supervisor
        self._seconds = seconds

    @property
    def is_there(self) -> bool:
        """Whether it has come, or never will."""
        return self.message is not None or self.problem is not None

    def wait(self) -> dict[str, Any]:
        """Wait for it and return it."""
        deadline = monotonic() + self._seconds
        while not self._supervisor.wait_for(self, min(_SILENCE, max(0.0, deadline - monotonic()))):
            # It may be busy with what was asked for; but it always has time to say so.
            if monotonic() >= deadline or not self._supervisor.answers():
                self._supervisor.give_up("it does not answer")
        if self.problem is not None:
            raise self.problem
        assert self.message is not None
        if "error" in self.message:
            raise RequestFailed(self.message["error"], self.message)
        return self.message

    def arrive(self, message: dict[str, Any]) -> None:
        """Give it to whoever waits."""
        self.arrived = monotonic()
        self.message = message
        self.gate.open()

    def fail(self, problem: BaseException) -> None:
        """Let :meth:`wait` raise ``problem``."""
        self.problem = problem
        self.gate.open()


class SupervisorClient:
    """The running supervisor of this process.

    No thread listens to it. Whoever waits for something reads whatever comes, also for others; and whoever asks whether
    a server lives reads what is there.
    """

    def __init__(self) -> None:
        self.pid = os.getpid()
        self.is_alive = True
        self._lock = new_lock()
        self._reading = new_lock()
        self._number = 0
        self._waiting: dict[int, Reply] = {}
        self._ends: dict[int, Reply] = {}
        self._crash = ""
        self._end_reason = ""
        self._connection = Connection()

    @property
    def supervisor_pid(self) -> int:
        """The process id of the supervisor."""
        return self._connection.pid

    # Requests

    def request(self, do: str, **details: Any) -> Reply:
        """Send a request and return at once; the reply comes later."""
        reply = Reply(self, details.get("timeout", 0.0) + _PATIENCE)
        with self._lock:
            if self.is_alive:
                self._number += 1
                reply.number = self._number
                self._waiting[reply.number] = reply
        self._send(do, reply.number, details)
        if not reply.number:
            reply.fail(self._gone())
        return reply

    def notify(self, do: str, **details: Any) -> None:
        """Send a request that is not replied to."""
        self._send(do, 0, details)

    def _send(self, do: str, number: int, details: dict[str, Any]) -> None:
        try:
            with self._lock:
                if self.is_alive:
                    self._connection.send({"do": do, "id": number, **details})
        except ChannelLost as exc:
            self._end(str(exc))

    def end_of(self, number: int) -> Reply:
        """Return the notice of the end of a server; its ``status`` is the exit status.

        Args:
            number: That of the reply to the request that started it.
        """
        end = Reply(self, 0.0)
        with self._lock:
            known = self._ends.setdefault(number, end)
        if known is end and not self.is_alive:
            self._forget_end(number, -signal.SIGQUIT)
        return known

    def forget_end_of(self, number: int) -> None:
        """Undo :meth:`end_of`."""
        with self._lock:
            self._ends.pop(number, None)

    # Reading

    def wait_for(self, reply: Reply, seconds: float | None) -> bool:
        """Read until the reply is there; return whether it is, in time."""
        deadline = None if seconds is None else monotonic() + seconds
        while not reply.is_there:
            left = None if deadline is None else deadline - monotonic()
            if left is not None and left <= 0:
                return False
            if not self._reading.acquire(False):
                reply.gate.wait(left)
                continue
            try:
                if not reply.is_there:
                    self._read(left if left is not None else _PATIENCE)
            finally:
                self._reading.release()
                self._wake_others()
        return True

    def refresh(self) -> None:
        """Read what is there, without waiting."""
        if not self.is_alive:
            return
        if not self._connection.is_intact:
            self._end(CLOSED)  # even while another thread waits for what will never come
        elif self._reading.acquire(False):
            try:
                self._read(0.0)
            finally:
                self._reading.release()
                self._wake_others()

    def _wake_others(self) -> None:
        # Somebody else may have to go on reading.
        with self._lock:
            waiting = [*self._waiting.values(), *self._ends.values()]
        for reply in waiting:
            reply.gate.open()

    def _read(self, seconds: float) -> None:
        try:
            messages = self._connection.receive(seconds)
        except TimeoutError:
            return
        except ChannelLost as exc:
            self._end(str(exc))
            return
        try:
            for message in messages:
                self._arrive(message)
        except (KeyError, TypeError) as exc:
            self._end(f"it said something that cannot be understood ({type(exc).__name__}: {exc})")

    def _arrive(self, message: dict[str, Any]) -> None:
        if "crash" in message:
            self._crash = str(message["crash"])
        elif "ended" in message:
            self._forget_end(message["ended"], message["status"])
        else:
            with self._lock:
                reply = self._waiting.pop(message.get("id", 0), None)
            if reply is not None:
                reply.arrive(message)

    def _forget_end(self, number: int, status: int | None) -> None:
        with self._lock:
            end = self._ends.setdefault(number, Reply(self, 0.0))
        end.arrive({"status": status})

    def answers(self) -> bool:
        """Return whether it says something when it is asked to."""
        reply = self.request("ping")
        return self.wait_for(reply, _PATIENCE) and reply.problem is None

    # Its end

    def give_up(self, reason: str) -> None:
        """Kill it, since it does not work any more; its servers die with it."""
        self._connection.kill()
        self._end(reason)

    def _end(self, reason: str) -> None:
        with self._lock:
            if not self.is_alive:
                return
            self.is_alive = False
            self._end_reason = reason
            waiting, self._waiting = self._waiting, {}
            ends = dict(self._ends)
        for reply in waiting.values():
            reply.fail(self._gone())
        for number in ends:
            self._forget_end(number, -signal.SIGQUIT)  # they die with their supervisor

    def _gone(self) -> PostgresNotReady:
        return PostgresNotReady(
            f"the supervisor of the test servers (process {self._connection.pid}) is lost, and all servers with it: "
            f"{self._end_reason}.\n"
            + (f"It ended with: {self._crash}\n" if self._crash else "")
            + "Was it killed or stopped, by hand or for want of memory? The next test class starts a new one."
        )

    def close(self) -> None:
        """Have every server ended and every folder deleted, and wait for that."""
        self.is_alive = False
        if self._connection.is_intact:
            self._connection.stop_sending()
            self._connection.wake()
            if not self._connection.wait_for_end(_LAST_WAIT):
                return  # it works on, and the next run sweeps what it leaves
        # Its end of the channel may stay open for ever: a forked child may have ours too.
        elif not self._connection.wait_for_end(_SHORT_WAIT):
            self._connection.kill()
        self._connection.close()

    def forget(self) -> None:
        """Close a forked child's copy of the channel: the supervisor ends when the last copy is closed."""
        self.is_alive = False
        self._connection.close()


_lock = new_lock()
_supervisor: SupervisorClient | None = None
_last_acts: list[Callable[[], None]] = []


def current_supervisor() -> SupervisorClient:
    """Return this process's supervisor, started now if there is none."""
    global _supervisor
    with _lock:
        if _supervisor is not None:
            _supervisor.refresh()
        if _supervisor is None or not _supervisor.is_alive:
            first = _supervisor is None
            if _supervisor is not None:
                _supervisor.close()
            _supervisor = SupervisorClient()
            # What earlier runs could not delete because they were killed, and their supervisors too.
            _supervisor.notify("sweep", locations=sweep_locations())
            if first:
                atexit.register(_end)
        return _supervisor


def at_end(act: Callable[[], None]) -> None:
    """Have ``act`` called when the process ends in order, before the supervisor is told to end."""
    _last_acts.append(act)


def _end() -> None:
    if _supervisor is None or _supervisor.pid != os.getpid():
        return
    for act in _last_acts:
        with suppress(Exception):
            act()
    _supervisor.close()


def _after_fork_in_child() -> None:
    global _supervisor, _lock
    _lock = new_lock()
    if _supervisor is not None:
        _supervisor.forget()
        _supervisor = None
        atexit.unregister(_end)


os.register_at_fork(after_in_child=_after_fork_in_child)
