"""The first connection to a server that has just become ready, made by the supervisor itself.

It proves that the server answers, and the server fills the caches that every first connection to a database fills,
so that the test's own connection finds them. It speaks the few bytes of the protocol that this takes.
"""

from __future__ import annotations

import _socket

_PROTOCOL_3 = 196608
_READY_FOR_QUERY = b"Z\0\0\0\5I"
_TERMINATE = b"X\0\0\0\4"


class ReadinessProbe:
    """One connection to ``database``, through the socket at ``path``: begun, answered, and closed by the server."""

    def __init__(self, path: str, database: str | None) -> None:
        self._socket: _socket.socket | None = None
        self._answer = b""
        if database is None:
            return
        # Not the module socket: importing it would double the supervisor's start.
        self._socket = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM)
        try:
            self._socket.connect(path)
            body = _PROTOCOL_3.to_bytes(4, "big") + b"user\0postgres\0database\0" + database.encode() + b"\0\0"
            self._socket.send((len(body) + 4).to_bytes(4, "big") + body)
            self._socket.setblocking(False)
        except OSError:
            self._close()

    def is_over(self) -> bool:
        """Return whether the server has answered and has ended the connection, or there was none to make."""
        while self._socket is not None:
            try:
                more = self._socket.recv(8192)
            except BlockingIOError:
                return False
            except OSError:
                more = b""
            if not more:
                self._close()
                break
            self._answer = (self._answer + more)[-len(_READY_FOR_QUERY) :]
            if self._answer == _READY_FOR_QUERY:
                self._socket.send(_TERMINATE)
        return True

    def _close(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None
