"""What a cluster holds beyond the empty database ``test``."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass
from typing import Any

from dbtestcase.servers.databases import Databases

__all__ = ["EMPTY", "Contents"]


@dataclass(frozen=True)
class Contents:
    """What a cluster holds: how to make it, and how to recognize it.

    Args:
        fingerprint: Identifies the content across processes and runs; ``None`` if nothing can.
        prepare: Called once with a running instance to make the content; ``None`` for an empty database. It may return
            notes, a mapping that JSON can hold: they are kept with the content, and every instance that starts with
            it has them as ``instance.notes``. An empty database has those of
            :func:`dbtestcase.schema.notes_of`.
        token: Without a fingerprint, equal tokens share what was prepared within this process; ``None`` shares nothing.
        background: Whether ``prepare`` may be called from a thread other than the main one.
        databases: The logical names of the databases that ``prepare`` fills.
    """

    fingerprint: str | None
    prepare: Callable[[Databases], Mapping[str, Any] | None] | None
    token: Hashable = None
    background: bool = True
    databases: tuple[str, ...] = ("test",)

    @property
    def key(self) -> Hashable:
        """What equal contents have in common, as far as can be known."""
        if self.prepare is None:
            return "empty"
        if self.fingerprint is not None:
            return ("fingerprint", self.fingerprint)
        return ("token", self.token) if self.token is not None else ("this", id(self))


EMPTY = Contents(fingerprint="empty", prepare=None)
