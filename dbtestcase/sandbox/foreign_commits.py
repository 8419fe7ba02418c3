"""Whether somebody has committed past the engines that are isolated: told by the server's last commit.

``pg_last_committed_xact()`` (PostgreSQL manual, "Transaction ID and Snapshot Information Functions") is asked in the
round trip that undoes a test.
"""

from __future__ import annotations

from collections.abc import Callable

from .transaction import SharedTransaction

__all__ = ["CommitWatch"]

# As a text: drivers have values of their own for a row.
_LAST_COMMIT = "SELECT pg_last_committed_xact()::text"


class CommitWatch:
    """Finds commits that are not ours.

    Args:
        own_commits: Returns how many statements this library has begun to send to the server itself, and how many of
            these have ended.
    """

    def __init__(self, own_commits: Callable[[], tuple[int, int]]) -> None:
        self._own_commits = own_commits
        self._own_ended = -1
        self._last_commit: str | None = None

    def undo(self, shared: SharedTransaction) -> bool:
        """Undo an attempt; return whether somebody else has committed since the one before was undone."""
        ended = self._own_commits()[1]
        committed = shared.finish(_LAST_COMMIT)
        if committed is None:
            return False  # nothing was sent, and so nothing was asked
        known, self._last_commit = self._last_commit, committed
        own_ended, self._own_ended = self._own_ended, ended
        if committed == known or known is None:
            return False
        # What we have begun to send since then may be what was committed.
        return self._own_commits()[0] == own_ended

    def expect(self) -> None:
        """Something of ours commits, or has committed, in another way."""
        self._last_commit = None
