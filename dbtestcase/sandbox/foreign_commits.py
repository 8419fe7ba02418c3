"""Whether somebody has committed past the engines that are isolated: told by the server's last commit.

``pg_last_committed_xact()`` (PostgreSQL manual, "Transaction ID and Snapshot Information Functions") is asked in the
round trip that undoes a test. Where the server's log notes each connection, that is needed only after the log has
grown, or while somebody else is connected.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from .transaction import SharedTransaction

__all__ = ["CommitWatch", "ServerLog"]

# Its number: the time would be one of the session's time zone. Behind it, whether nobody else is connected to the
# database, and whether the server lets a transaction wait for the next test.
_LAST_COMMIT = """SELECT concat((pg_last_committed_xact()).xid, ' ', pg_stat_get_db_numbackends(oid) = 1, ' ',
current_setting('idle_in_transaction_session_timeout') = '0'
AND coalesce(current_setting('transaction_timeout', true), '0') = '0')
FROM pg_database WHERE datname = current_database()"""


class ServerLog(Protocol):
    """The log of a server that notes each connection."""

    def size(self, checked: bool) -> int | None:
        """Return its size in bytes, ``None`` if nobody can tell; ``checked``: or if it may note connections no more."""

    def has_stranger(self, since: int) -> bool:
        """Return whether somebody other than this library, and not to a copy, has connected since it had that size."""


class CommitWatch:
    """Finds commits that are not ours.

    Args:
        own_commits: Returns how many statements this library has begun to send to the server itself, and how many of
            these have ended.
        server_log: Returns the server's log, ``None`` if that tells nothing.
    """

    def __init__(self, own_commits: Callable[[], tuple[int, int]], server_log: Callable[[], ServerLog | None]) -> None:
        self._own_commits = own_commits
        self._server_log = server_log
        self._last_commit: str | None = None
        self._own_ended = -1
        # When that was asked last: how large the log was, and whether nobody else was connected.
        self._size: int | None = None
        self._saw_nobody = False
        # The size of the log and what we had committed; None if somebody else may have been connected.
        self._alone_since: tuple[int | None, tuple[int, int]] | None = None

    @property
    def is_alone(self) -> bool:
        """Whether nobody can have committed since that was asked: nobody else was connected, and nobody is."""
        log = self._server_log()
        size = None if log is None else log.size(False)
        return size is not None and (size, self._own_commits()) == self._alone_since

    def undo(self, shared: SharedTransaction, *, may_wait: bool) -> bool | None:
        """Undo an attempt; return whether somebody else has committed since that was asked, ``None`` if he may have.

        Args:
            may_wait: Nobody else needs it to be undone before the next attempt.
        """
        if may_wait and self.is_alone and shared.finish_later():
            return False
        return self.ask(shared.finish)

    def ask(self, send: Callable[[str], Any]) -> bool | None:
        """Ask for the last commit; return as :meth:`undo` does.

        Args:
            send: Sends a query, and returns its only value, or ``None`` if it has sent nothing.
        """
        known, own_ended, size, saw_nobody = self._last_commit, self._own_ended, self._size, self._saw_nobody
        if not self._ask(send) or known in (None, self._last_commit):
            return False
        has_stranger = self._has_stranger_since(size)
        if has_stranger is False and saw_nobody and self._saw_nobody:
            return False  # server processes of an earlier copy may commit once more as they end, in theirs
        if self._own_commits()[0] == own_ended:
            return True
        # What we have begun to send since then may be what was committed.
        return None if has_stranger else False

    def _has_stranger_since(self, size: int | None) -> bool | None:
        """Return whether somebody has connected since the log had that size, ``None`` if nobody knows."""
        log = self._server_log()
        return None if size is None or log is None else log.has_stranger(size)

    def begin(self, send: Callable[[str], Any]) -> None:
        """Know what was committed before an attempt, if that is not known."""
        if self._last_commit is None:
            self._ask(send)

    def _ask(self, send: Callable[[str], Any]) -> bool:
        """Ask for the last commit; return whether there was an answer."""
        log, own = self._server_log(), self._own_commits()
        size = None if log is None else log.size(True)
        answer = send(_LAST_COMMIT)
        if answer is None:
            return False  # nothing was sent, and so nothing was asked
        self._last_commit, alone, may_wait = answer.rsplit(" ", 2)
        self._saw_nobody = alone == "t"
        # A connection is counted a moment after it is logged, so the log must have rested since the last time.
        has_rested = self._saw_nobody and size == self._size
        self._alone_since = (size, own) if has_rested and may_wait == "t" else None
        self._size, self._own_ended = size, own[1]
        return True

    def expect(self) -> None:
        """Something of ours commits, or has committed, in another way."""
        self._last_commit = self._alone_since = None
