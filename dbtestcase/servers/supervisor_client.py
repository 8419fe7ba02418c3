"""The supervisor of this process, the program in ``supervisor/``: start it when first needed, ask it to do things."""

from __future__ import annotations

import atexit
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from time import perf_counter
from typing import Any

from dbtestcase.errors import PostgresNotReady
from dbtestcase.servers.locations import sweep_locations
from dbtestcase.servers.supervisor import channel

__all__ = ["Reply", "RequestFailed", "SupervisorClient", "at_end", "current_supervisor"]

_LAST_WAIT = 10.0
_START = "import sys; sys.path.append(sys.argv.pop()); from supervisor.process import main; main()"


class RequestFailed(Exception):
    """The supervisor could not do what it was told.

    ``number`` is the ``errno``, 0 if none; ``kind`` the name of the exception; ``status`` the exit status of a program
    that ended by itself; ``path`` its folder, if there is one.
    """

    def __init__(self, text: str, answer: dict[str, Any]) -> None:
        super().__init__(text)
        self.number: int = answer["errno"]
        self.kind: str = answer["kind"]
        self.status: int | None = answer["status"]
        self.path: str | None = answer["path"]


class Reply:
    """The reply to a request, once it is there."""

    def __init__(self) -> None:
        self.number = 0
        self.arrived = 0.0  # when, as perf_counter() tells it
        self._there = threading.Event()
        self._message: dict[str, Any] = {}
        self._problem: BaseException | None = None

    def wait(self) -> dict[str, Any]:
        """Wait for the answer and return it.

        Raises:
            RequestFailed: The request could not be carried out.
            PostgresNotReady: The supervisor is dead.
        """
        self._there.wait()
        if self._problem is not None:
            raise self._problem
        if "error" in self._message:
            raise RequestFailed(self._message["error"], self._message)
        return self._message

    def arrive(self, message: dict[str, Any]) -> None:
        """Be answered."""
        self.arrived = perf_counter()
        self._message = message
        self._there.set()

    def fail(self, problem: BaseException) -> None:
        """Be the reply that never comes."""
        self._problem = problem
        self._there.set()


class SupervisorClient:
    """The supervisor of this process, running."""

    def __init__(self) -> None:
        self.pid = os.getpid()
        self._lock = threading.Lock()
        self._number = 0
        self._open: dict[int, Reply] = {}
        self._watchers: dict[int, Callable[[int], None]] = {}
        self._ends: dict[int, int] = {}
        self.is_alive = True
        self._last_words = ""
        self._socket, theirs = socket.socketpair()
        with theirs:
            try:
                self._process = subprocess.Popen(
                    [sys.executable, "-I", "-S", "-c", _START, str(theirs.fileno()), str(self.pid), _here()],
                    pass_fds=[theirs.fileno()],
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL,
                    start_new_session=True,
                )
            except OSError as exc:
                self._socket.close()
                raise PostgresNotReady(
                    "cannot start a test database: the process that keeps the servers, "
                    f"{sys.executable!r}, could not be started: {exc}"
                ) from exc
        # A daemon: a test run that ends never waits for it.
        self._listener = threading.Thread(target=self._listen, name="dbtestcase supervisor", daemon=True)
        self._listener.start()

    def request(self, do: str, **details: Any) -> Reply:
        """Send a request and return at once; the reply comes later."""
        answer = Reply()
        with self._lock:
            if not self.is_alive:
                answer.fail(self._gone())
                return answer
            self._number += 1
            answer.number = self._number
            self._open[self._number] = answer
            try:
                channel.send(self._socket.fileno(), {"do": do, "id": self._number, **details})
            except OSError:
                del self._open[self._number]
                answer.fail(self._gone())
        return answer

    def notify(self, do: str, **details: Any) -> None:
        """Send a request that is not replied to."""
        with self._lock:
            if self.is_alive:
                try:
                    channel.send(self._socket.fileno(), {"do": do, "id": 0, **details})
                except OSError:
                    return

    def watch(self, number: int, when_ended: Callable[[int], None]) -> None:
        """Have ``when_ended`` called with the exit status, in another thread, if the server ends by itself.

        Args:
            number: That of the answer that told of the server.
        """
        with self._lock:
            self._watchers[number] = when_ended
            status = self._ends.pop(number, None)
        if status is not None:
            when_ended(status)

    def unwatch(self, number: int) -> None:
        """Undo :meth:`watch`."""
        with self._lock:
            self._watchers.pop(number, None)
            self._ends.pop(number, None)

    def _listen(self) -> None:
        receiver = channel.Receiver(self._socket.fileno())
        while True:
            try:
                messages = receiver.receive()
            except OSError:
                messages = None
            if messages is None:
                break
            for message in messages:
                self._arrive(message)
        with self._lock:
            self.is_alive = False
            waiting, self._open = self._open, {}
            watchers, self._watchers = self._watchers, {}
        for answer in waiting.values():
            answer.fail(self._gone())
        for when_ended in watchers.values():
            when_ended(-signal.SIGQUIT)  # they die with their supervisor

    def _arrive(self, message: dict[str, Any]) -> None:
        if "crash" in message:
            self._last_words = message["crash"]
            return
        if "ended" in message:
            with self._lock:
                watcher = self._watchers.pop(message["ended"], None)
                if watcher is None:
                    self._ends[message["ended"]] = message["status"]
            if watcher is not None:
                watcher(message["status"])
            return
        with self._lock:
            answer = self._open.pop(message["id"], None)
        if answer is not None:
            answer.arrive(message)

    def _gone(self) -> PostgresNotReady:
        return PostgresNotReady(
            "the process that keeps the test servers has ended, and all servers with it.\n"
            + (f"Its last words: {self._last_words}\n" if self._last_words else "")
            + "Was it killed, by hand or for want of memory? The next test class starts a new one."
        )

    def close(self) -> None:
        """Have every server ended and every folder deleted, and wait for that."""
        with suppress(OSError):  # it is dead already
            self._socket.shutdown(socket.SHUT_WR)
        try:
            self._process.wait(_LAST_WAIT)
        except subprocess.TimeoutExpired:
            return  # it works on, and the next run sweeps what it leaves
        # Its end ends the listener; only then may the descriptor's number be somebody else's.
        self._listener.join(_LAST_WAIT)
        self._socket.close()

    def forget(self) -> None:
        """Let go of it in a forked child, whose parent's it is: only then does the parent's end end it."""
        self._socket.close()
        self._process.returncode = 0  # not ours to wait for


def _here() -> str:
    return str(Path(__file__).parent)


_lock = threading.Lock()
_supervisor: SupervisorClient | None = None
_last_acts: list[Callable[[], None]] = []


def current_supervisor() -> SupervisorClient:
    """Return this process's supervisor, started now if there is none.

    Raises:
        PostgresNotReady: It cannot be started.
    """
    global _supervisor
    with _lock:
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
        act()
    _supervisor.close()


def _after_fork_in_child() -> None:
    global _supervisor, _lock
    _lock = threading.Lock()
    if _supervisor is not None:
        _supervisor.forget()
        _supervisor = None
        atexit.unregister(_end)


os.register_at_fork(after_in_child=_after_fork_in_child)
