"""Everything that explains the failures of one test class, in one object."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import ExitStack
from types import TracebackType
from typing import Self

from sqlalchemy import URL
from sqlalchemy.orm import Session

from dbtestcase.diagnosis import leftovers, messages, states
from dbtestcase.diagnosis.backends import columns_of
from dbtestcase.diagnosis.database_errors import Hidden, redact
from dbtestcase.diagnosis.failed_checks import hint_for_check
from dbtestcase.diagnosis.hints import hint_for
from dbtestcase.diagnosis.locks import LockWatch
from dbtestcase.diagnosis.redaction import Redaction
from dbtestcase.diagnosis.statements import StatementLog
from dbtestcase.diagnosis.tracebacks import chain, database_of, leave_out_ours

__all__ = ["Explanations"]


class Explanations:
    """The log, the lock watch and the hints of a test class. A context manager for the time that the class runs.

    Attributes:
        log: Observes the statements of all sandboxes of the class.
        locks: Watches the statements on real connections.
        redaction: Knows which values no message may show.

    Args:
        url: The class's database as it is at present; asked on failures only.
        owner: The name of the test class.
        hidden: Columns whose values are not to be shown.
        lock_wait: How long a statement may wait for a lock, in seconds; 0: for ever.
    """

    def __init__(
        self,
        url: Callable[[], URL],
        *,
        owner: str,
        hidden: Iterable[str] = (),
        lock_wait: float = 5.0,
        end_stopped: Callable[[int], bool] = lambda pid: False,
    ) -> None:
        self._url = url
        self._known_columns: dict[str | None, list[tuple[str, str]]] = {}
        self.redaction = Redaction(hidden, self._columns)
        self.log = StatementLog(self.redaction)
        self.locks = LockWatch(url, owner=owner, limit=lock_wait, redaction=self.redaction, end_stopped=end_stopped)
        self._undo = ExitStack()

    def __enter__(self) -> Self:
        self._undo.enter_context(states.watching())
        self._undo.callback(leftovers.forget_warnings)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._undo.close()

    def begin_test(self, name: Callable[[], str], *, counts: bool) -> None:
        """Forget what the test before has sent.

        Args:
            name: Returns the id of the test that begins.
            counts: False if it runs again should it fail: only that run will be explained.
        """
        self.log.begin_test(name, counts=counts)
        if not counts:
            states.cease()
        self._known_columns.clear()

    def hint_at_unsent(self, error: BaseException, session: Session) -> None:
        """Note what the test's session holds back, since nobody else sees it."""
        unsent = states.unsent(session, self.redaction)
        if unsent and unsent not in str(error):
            error.add_note(f"What to do: {messages.COMMIT_FIRST.format(unsent=unsent)}")

    def explain(self, error: BaseException) -> None:
        """Add to an error of the test, as notes, what to do about it and the statements that were sent.

        Values that must not be shown are taken out of the database's own words.
        """
        _gather_notes(error)
        statements = self.log.statements
        is_hidden = self.redact(error)
        hint = hint_for(error, tables=lambda: self._tables(database_of(error)), is_hidden=is_hidden)
        if hint is None:
            hint = hint_for_check(error, statements, self.log.earlier_inserts())
        if hint and not any(hint in note for note in getattr(error, "__notes__", ())):
            error.add_note(f"What to do: {hint}")
        for warning in leftovers.warnings_for(error):
            error.add_note(messages.CLOSED_BY_US.format(warning=warning))
        note = self.log.note()
        if note is not None:
            error.add_note(note)
        leave_out_ours(error, values=any(map(is_hidden, chain(error))))

    def redact(self, error: BaseException) -> Hidden:
        """Take the values that must not be shown out of an error and its causes; return which those were."""
        return redact(error, self.log.statements, self.redaction)

    def _tables(self, database: str | None) -> list[str]:
        return list(dict.fromkeys(table for table, _ in self._columns(database) or ()))

    def _columns(self, database: str | None = None) -> list[tuple[str, str]] | None:
        """Return all columns of a database, the class's own if ``None``, with their tables."""
        if database not in self._known_columns:
            found = columns_of(self._url() if database is None else self._url().set(database=database))
            if found is None:
                return None
            self._known_columns[database] = found
        return self._known_columns[database]


def _gather_notes(error: BaseException) -> None:
    """Move what was noted on the errors that an error was raised from to its own end, where it is read."""
    for each in list(chain(error))[1:]:
        for note in getattr(each, "__notes__", ()):
            error.add_note(note)
        if getattr(each, "__notes__", None):
            each.__notes__.clear()
