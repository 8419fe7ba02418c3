"""What a cluster holds beyond the empty database ``test``."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dbtestcase.servers.instance import Instance

__all__ = ["EMPTY", "Contents"]


@dataclass(frozen=True)
class Contents:
    """How to make what a cluster holds, and how to know it again.

    Args:
        fingerprint: Identifies the content across processes and runs; ``None`` if nothing can.
        prepare: Called once with a running instance to make the content; ``None`` for an empty database.
        token: Without a fingerprint, equal tokens share what was prepared within this process; ``None`` shares nothing.
        background: Whether ``prepare`` may be called from a thread other than the main one.
    """

    fingerprint: str | None
    prepare: Callable[[Instance], None] | None
    token: Hashable = None
    background: bool = True

    @property
    def key(self) -> Hashable:
        """What equal contents have in common, as far as can be known."""
        if self.prepare is None:
            return "empty"
        if self.fingerprint is not None:
            return ("fingerprint", self.fingerprint)
        return ("token", self.token) if self.token is not None else ("this", id(self))


EMPTY = Contents(fingerprint="empty", prepare=None)
