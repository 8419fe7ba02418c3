"""Whether somebody has committed past the engines that are isolated: told by the server's last commit.

``pg_last_committed_xact()`` (PostgreSQL manual, "Transaction ID and Snapshot Information Functions") is asked in the
round trip that undoes a test. Where the server's log notes each connection, that is needed only after the log has
grown, or while somebody else is connected.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from .drivers import Physical
from .transaction import SharedTransaction

__all__ = ["CommitWatch"]

# As a text: drivers have values of their own for a row. Behind it, whether nobody else is connected to the database,
# and the server lets a transaction wait for the next test.
_LAST_COMMIT = """SELECT concat(pg_last_committed_xact(), ' ', pg_stat_get_db_numbackends(oid) = 1
AND current_setting('idle_in_transaction_session_timeout') = '0'
AND coalesce(current_setting('transaction_timeout', true), '0') = '0')
FROM pg_database WHERE datname = current_database()"""


class CommitWatch:
    """Finds commits that are not ours.

    Args:
        own_commits: Returns how many statements this library has begun to send to the server itself, and how many of
            these have ended.
        log_size: Returns the size of the server's log, in bytes; ``None`` unless that notes each connection. Called
            with whether to look if it still does.
    """

    def __init__(self, own_commits: Callable[[], tuple[int, int]], log_size: Callable[[bool], int | None]) -> None:
        self._own_commits = own_commits
        self._log_size = log_size
        self._last_commit: str | None = None
        self._own_ended = -1
        self._size: int | None = None  # of the log, when last asked
        # That, and what we had committed; None if somebody else may have been connected.
        self._alone_since: tuple[int | None, tuple[int, int]] | None = None

    @property
    def is_alone(self) -> bool:
        """Whether nobody can have committed since that was asked: nobody else was connected, and nobody is."""
        size = self._log_size(False)
        return size is not None and (size, self._own_commits()) == self._alone_since

    def undo(self, shared: SharedTransaction, *, may_wait: bool) -> bool:
        """Undo an attempt; return whether somebody else has committed since that was asked.

        Args:
            may_wait: Nobody else needs it to be undone before the next attempt.
        """
        if may_wait and self.is_alone and shared.finish_later():
            return False
        known, own_ended = self._last_commit, self._own_ended
        if not self._ask(shared.finish) or known in (None, self._last_commit):
            return False
        # What we have begun to send since then may be what was committed.
        return self._own_commits()[0] == own_ended

    def begin(self, physical: Physical) -> None:
        """Know what was committed before an attempt, if that is not known."""
        if self._last_commit is None:
            self._ask(physical.ask)

    def _ask(self, send: Callable[[str], Any]) -> bool:
        """Ask for the last commit; return whether there was an answer."""
        size, own = self._log_size(True), self._own_commits()
        answer = send(_LAST_COMMIT)
        if answer is None:
            return False  # nothing was sent, and so nothing was asked
        self._last_commit, _, is_alone = answer.rpartition(" ")
        # A connection is counted a moment after it is logged, so the log must have rested since the last time.
        self._alone_since = (size, own) if is_alone == "t" and size == self._size else None
        self._size, self._own_ended = size, own[1]
        return True

    def expect(self) -> None:
        """Something of ours commits, or has committed, in another way."""
        self._last_commit = self._alone_since = None
