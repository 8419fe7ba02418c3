"""The test process's end of the channel to its supervisor, and the start of that program."""

from __future__ import annotations

import _socket
import fcntl
import os
import posix
import signal
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

from dbtestcase.errors import PostgresNotReady
from dbtestcase.native import monotonic, sleep
from dbtestcase.servers.environment import server_environment
from dbtestcase.servers.supervisor.channel import Reader, encode

__all__ = ["CLOSED", "ChannelLost", "Connection", "identity"]

_START = "import sys; sys.path.append(sys.argv.pop()); from supervisor.process import main; main()"
_CHANNEL = 3  # as the supervisor knows it
# Above the descriptors that are replaced for the new program, also where standard input and output are closed.
_LOWEST_DESCRIPTOR = 10
_LONGEST_SEND = 10.0
_END_TICK = 0.001


CLOSED = "the descriptor of the channel to it was closed, perhaps by os.closerange()"


class ChannelLost(Exception):
    """The channel to the supervisor does not work any more; the text says why."""


class Connection:
    """A supervisor that was started, and the channel to it.

    It is made of what gevent and eventlet do not replace. And before each use it looks whether the descriptor is
    still its own: code that closes all descriptors and opens a file must not find our messages in it.

    Raises:
        PostgresNotReady: The program cannot be started.
    """

    def __init__(self) -> None:
        self._reader = Reader()
        ours, theirs = _socket.socketpair()
        lent = _moved(theirs.fileno())
        # Two, because each has its own timeout and is used under another lock.
        self._incoming, self._outgoing = _Descriptor(ours.fileno()), _Descriptor(ours.fileno())
        ours.close()
        theirs.close()
        try:
            self.pid = _spawn(lent)
        except OSError as exc:
            self.close()
            raise PostgresNotReady(
                f"cannot start a test database: the supervisor of the servers, {sys.executable!r}, "
                f"could not be started: {exc}\nAre more processes or more memory allowed here (ulimit -u, "
                "docker run --pids-limit)?"
            ) from exc
        finally:
            os.close(lent)

    def send(self, message: dict[str, Any]) -> None:
        """Send a message. To be called by one thread at a time.

        Raises:
            ChannelLost: It cannot be sent.
        """
        socket = self._outgoing.socket()
        try:
            socket.settimeout(_LONGEST_SEND)
            socket.sendall(encode(message))
        except OSError as exc:
            raise ChannelLost(f"it takes no more messages ({exc})") from exc

    def receive(self, seconds: float) -> list[dict[str, Any]]:
        """Return the messages that have come; wait for the first one so long, not at all for 0.

        To be called by one thread at a time, which may be another than the one that sends.

        Raises:
            ChannelLost: The channel has ended, or what came is no message.
            TimeoutError: Nothing came in time.
        """
        socket = self._incoming.socket()
        try:
            socket.settimeout(seconds)
            more = socket.recv(64 * 1024)
        except (TimeoutError, BlockingIOError) as exc:
            raise TimeoutError from exc
        except OSError as exc:
            raise ChannelLost(str(exc)) from exc
        if not more:
            raise ChannelLost("it has ended")
        try:
            return self._reader.feed(more)
        except ValueError as exc:
            raise ChannelLost(f"it said something that cannot be understood ({exc})") from exc

    @property
    def is_intact(self) -> bool:
        """Whether nobody has closed our descriptors."""
        return self._incoming.is_intact and self._outgoing.is_intact

    def stop_sending(self) -> None:
        """End the channel in one direction, which tells the supervisor to end."""
        with suppress(OSError, ChannelLost):
            self._outgoing.socket().shutdown(_socket.SHUT_WR)

    def wake(self) -> None:
        """Let it go on, if somebody has stopped it."""
        if self._is_running():  # else its number may be somebody else's by now
            os.kill(self.pid, signal.SIGCONT)

    def wait_for_end(self, seconds: float) -> bool:
        """Wait until the supervisor has ended; return whether it has, in time."""
        deadline = monotonic() + seconds
        while self._is_running():
            if monotonic() > deadline:
                return False
            sleep(_END_TICK)
        return True

    def _is_running(self) -> bool:
        try:
            return posix.waitpid(self.pid, os.WNOHANG) == (0, 0)
        except ChildProcessError:
            return False  # SIGCHLD is ignored, or somebody else has waited for it

    def kill(self) -> None:
        """Kill the supervisor; its servers die with it."""
        if self._is_running():  # else its number may be somebody else's by now
            os.kill(self.pid, signal.SIGKILL)
            self.wait_for_end(_LONGEST_SEND)

    def close(self) -> None:
        """Close the descriptors that are still ours."""
        self._incoming.close()
        self._outgoing.close()


class _Descriptor:
    """A descriptor of the channel, as long as it is one."""

    def __init__(self, descriptor: int) -> None:
        self._socket = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM, 0, _moved(descriptor))
        self._identity = identity(self._socket.fileno())

    @property
    def is_intact(self) -> bool:
        """Whether the descriptor is still that of the channel."""
        descriptor = self._socket.fileno()
        return descriptor >= 0 and identity(descriptor) == self._identity

    def socket(self) -> _socket.socket:
        """Return the socket.

        Raises:
            ChannelLost: Its descriptor was closed, and may be somebody else's file by now.
        """
        if not self.is_intact:
            self._socket.detach()
            raise ChannelLost(CLOSED)
        return self._socket

    def close(self) -> None:
        """Close it, if it is still ours."""
        with suppress(ChannelLost):
            self.socket().close()


def _moved(descriptor: int) -> int:
    return fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, _LOWEST_DESCRIPTOR)


def identity(descriptor: int) -> tuple[int, int] | None:
    """Return what tells an open file from any other that has its descriptor later; ``None`` if none is open."""
    try:
        about = os.fstat(descriptor)
    except OSError:
        return None
    return about.st_dev, about.st_ino


def _spawn(channel: int) -> int:
    program = sys.executable
    if not program:
        raise FileNotFoundError("sys.executable is empty")
    here = str(Path(__file__).parent)
    arguments = [program, "-I", "-S", "-c", _START, str(os.getpid()), here]
    actions = [
        (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDWR, 0),
        (os.POSIX_SPAWN_DUP2, 0, 1),
        (os.POSIX_SPAWN_DUP2, 0, 2),
        (os.POSIX_SPAWN_DUP2, channel, _CHANNEL),
    ]
    try:
        # A session of its own: no Ctrl-C and no signal to our group reaches it.
        return posix.posix_spawn(program, arguments, server_environment(), file_actions=actions, setsid=True)
    except NotImplementedError:
        return posix.posix_spawn(program, arguments, server_environment(), file_actions=actions)  # it does so itself
