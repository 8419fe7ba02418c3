"""What the supervisor says over its channel."""

from __future__ import annotations

import os

from .channel import encode

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .channel import Message
    from .directory import Directory


class Replies:
    """Writes replies to requests, and what happened without one."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self.is_closed = False

    def reply(self, request: Message, **details: object) -> None:
        """Reply to a request that has been carried out; none is wanted if its id is 0."""
        if request["id"]:
            self.say({"id": request["id"], **details})

    def fail(self, request: Message, text: str, directory: Directory | None = None, **details: object) -> None:
        """Reply to a request that failed; ``details``: ``errno``, ``kind`` of exception, ``status`` of a program."""
        self.reply(request, error=text, path=directory.path if directory is not None else None, **details)

    def say(self, message: Message) -> None:
        """Write a message, unless nobody listens any more."""
        if self.is_closed:
            return
        rest = memoryview(encode(message))
        try:
            while rest:
                rest = rest[os.write(self._descriptor, rest) :]
        except OSError:
            self.is_closed = True  # the next read finds the channel ended too, and that ends the loop
