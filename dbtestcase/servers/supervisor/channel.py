"""Messages between a test process and its supervisor: a length, then a dict in a format that holds plain data only.

The bytes may come from somebody else who got hold of the channel, so reading them makes nothing but None, bool, int,
float, str, list and dict. (The module json would double the supervisor's start.)
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    Message = dict[str, Any]

_LENGTH = 4
_LONGEST = 16 * 1024 * 1024
_DEEPEST = 8
_END = b"e"


class Unreadable(ValueError):
    """What came over the channel is no message."""


def encode(message: Message) -> bytes:
    """Return a message as bytes, its length in front."""
    parts: list[bytes] = []
    _write(message, parts)
    body = b"".join(parts)
    return len(body).to_bytes(_LENGTH, "big") + body


def _write(value: object, parts: list[bytes]) -> None:
    if value is None:
        parts.append(b"n")
    elif isinstance(value, bool):
        parts.append(b"t" if value else b"f")
    elif isinstance(value, int):
        parts.append(b"i%d;" % value)
    elif isinstance(value, float):
        parts.append(b"r%s;" % repr(value).encode())
    elif isinstance(value, str):
        text = value.encode("utf-8", "surrogatepass")  # paths may hold bytes that are no text
        parts.append(b"s%d;" % len(text))
        parts.append(text)
    elif isinstance(value, list | tuple):
        parts.append(b"l")
        for item in value:
            _write(item, parts)
        parts.append(_END)
    elif isinstance(value, dict):
        parts.append(b"d")
        for key, item in value.items():
            _write(str(key), parts)
            _write(item, parts)
        parts.append(_END)
    else:
        raise TypeError(f"{type(value).__name__} is not plain data")


class Reader:
    """Puts the bytes of a channel together to messages."""

    def __init__(self) -> None:
        self._bytes = b""

    def feed(self, more: bytes) -> list[Message]:
        """Take what was read; return the messages that are whole now."""
        self._bytes += more
        whole: list[Message] = []
        while len(self._bytes) >= _LENGTH:
            length = int.from_bytes(self._bytes[:_LENGTH], "big")
            if length > _LONGEST:
                raise Unreadable(f"a message of {length} bytes")
            end = _LENGTH + length
            if len(self._bytes) < end:
                break
            whole.append(_decode(self._bytes[_LENGTH:end]))
            self._bytes = self._bytes[end:]
        return whole


def _decode(body: bytes) -> Message:
    try:
        value, end = _read(body, 0, 0)
    except (ValueError, IndexError) as exc:
        raise Unreadable(str(exc) or "not a message") from exc
    if end != len(body) or not isinstance(value, dict):
        raise Unreadable("not a message")
    return value


def _read(body: bytes, at: int, depth: int) -> tuple[Any, int]:
    if depth > _DEEPEST:
        raise Unreadable("too deep")
    kind = body[at : at + 1]
    at += 1
    if kind in (b"n", b"t", b"f"):
        return {b"n": None, b"t": True, b"f": False}[kind], at
    if kind in (b"i", b"r", b"s"):
        stop = body.index(b";", at)
        number = body[at:stop]
        if kind == b"i":
            return int(number), stop + 1
        if kind == b"r":
            return float(number), stop + 1
        end = stop + 1 + int(number)
        if not stop < end <= len(body):
            raise Unreadable("a text that is too short")
        return body[stop + 1 : end].decode("utf-8", "surrogatepass"), end
    if kind == b"l":
        items = []
        while body[at : at + 1] != _END:
            item, at = _read(body, at, depth + 1)
            items.append(item)
        return items, at + 1
    if kind == b"d":
        found = {}
        while body[at : at + 1] != _END:
            key, at = _read(body, at, depth + 1)
            if not isinstance(key, str):
                raise Unreadable("a key that is no text")
            found[key], at = _read(body, at, depth + 1)
        return found, at + 1
    raise Unreadable(f"a value that begins with {kind!r}")
