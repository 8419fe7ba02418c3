"""The four locks on rows, and which of them keep each other waiting (PostgreSQL manual, "Row-Level Locks")."""

from __future__ import annotations

_CONFLICTS: dict[str, frozenset[str]] = {
    "KEY SHARE": frozenset({"UPDATE"}),
    "SHARE": frozenset({"NO KEY UPDATE", "UPDATE"}),
    "NO KEY UPDATE": frozenset({"SHARE", "NO KEY UPDATE", "UPDATE"}),
    "UPDATE": frozenset({"KEY SHARE", "SHARE", "NO KEY UPDATE", "UPDATE"}),
}


def lock_excludes(wanted: str, held: str) -> bool:
    """Whether a connection that wants a lock on a row waits for another that holds one; "" stands for any."""
    return not wanted or not held or held in _CONFLICTS[wanted]
