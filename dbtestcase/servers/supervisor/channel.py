"""Messages between the test process and its supervisor: a length, then a dict in marshal's format.

Both ends run the same interpreter, and nobody else holds the socket: that is what marshal asks for.
"""

from __future__ import annotations

import marshal
import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    Message = dict[str, Any]

_LENGTH = 4


def send(descriptor: int, message: Message) -> None:
    """Write one message to the file descriptor ``descriptor``."""
    body = marshal.dumps(message)
    rest = memoryview(len(body).to_bytes(_LENGTH, "big") + body)
    while rest:
        rest = rest[os.write(descriptor, rest) :]


class Receiver:
    """Puts the bytes of a channel together to messages."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._bytes = b""

    def receive(self) -> list[Message] | None:
        """Read once, waiting if need be; return the messages that are whole now, ``None`` at the channel's end."""
        try:
            more = os.read(self._descriptor, 64 * 1024)
        except ConnectionError:
            return None
        if not more:
            return None
        self._bytes += more
        whole: list[Message] = []
        while len(self._bytes) >= _LENGTH:
            end = _LENGTH + int.from_bytes(self._bytes[:_LENGTH], "big")
            if len(self._bytes) < end:
                break
            whole.append(marshal.loads(self._bytes[_LENGTH:end]))
            self._bytes = self._bytes[end:]
        return whole
