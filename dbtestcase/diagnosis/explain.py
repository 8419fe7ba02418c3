"""All that explains the failures of one test class, in one object for the test case to wire."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import ExitStack
from functools import partial
from types import TracebackType
from typing import Self

import psycopg2
from sqlalchemy import URL
from sqlalchemy.orm import Session

from dbtestcase.diagnosis import states
from dbtestcase.diagnosis.backends import ask_server
from dbtestcase.diagnosis.hidden import HiddenNames, hiding
from dbtestcase.diagnosis.hints import hint_for
from dbtestcase.diagnosis.locks import LockWatch
from dbtestcase.diagnosis.statements import StatementLog
from dbtestcase.diagnosis.tracebacks import chain, database_of, leave_out_ours

_TABLES = """
SELECT c.relname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE c.relkind IN ('r', 'p', 'v', 'm', 'f') AND n.nspname <> 'information_schema' AND n.nspname NOT LIKE 'pg\\_%'
"""

_COLUMNS = """
SELECT array_agg(a.attname::text ORDER BY a.attnum) FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid
JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE c.relname IN (%s, %s) AND c.relkind IN ('r', 'p', 'v', 'f') AND n.nspname !~ '^pg_'
  AND n.nspname <> 'information_schema' AND a.attnum > 0 AND NOT a.attisdropped
GROUP BY c.oid
"""


class Explanations:
    """The log, the lock watch and the hints of a test class. A context manager for the time that the class runs.

    Attributes:
        log: Observes the statements of all sandboxes of the class.
        locks: Watches the statements on real connections.

    Args:
        url: The class's database as it is at present; is asked on failures only.
        owner: The name of the test class.
        hidden: Columns whose values are not to be shown.
        lock_wait: How long a statement may wait for a lock, in seconds; 0: for ever.
    """

    def __init__(
        self, url: Callable[[], URL], *, owner: str, hidden: Iterable[str] = (), lock_wait: float = 5.0
    ) -> None:
        self._url = url
        self._columns: dict[str, list[str] | None] = {}
        self.log = StatementLog(hidden=HiddenNames(hidden, self._columns_of))
        self.locks = LockWatch(url, owner=owner, limit=lock_wait, hidden=self.log.hidden)
        self._undo = ExitStack()

    def __enter__(self) -> Self:
        self._undo.enter_context(states.watching())
        self._undo.enter_context(hiding(self.log.hidden))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._undo.close()

    def begin_test(self, name: str) -> None:
        """Forget what the test before has sent."""
        self.log.begin_test(name)
        self._columns.clear()

    def cease(self) -> None:
        """The test is over: what happens to its objects now is our own tidying up."""
        states.cease()

    def end_test(self) -> None:
        """Print the test's statements if that is wanted for all tests; forget them."""
        self.log.end_test()
        states.begin_test()

    def hint_at_unsent(self, error: BaseException, session: Session) -> None:
        """Note what the test's session holds back, since nobody else sees it."""
        held = states.unsent(session)
        if held and held not in str(error):
            error.add_note(
                f"What to do: commit() first? {held} Requests and other sessions see only what was committed."
            )

    def explain(self, error: BaseException) -> None:
        """Add to an error of the test, as notes, what to do about it and the statements that were sent."""
        _gather_notes(error)
        without_secrets = self.log.hide_secrets(error)
        hint = hint_for(error, tables=partial(self._tables, database_of(error)), statements=self.log.statements)
        if hint is not None and not any(hint in note for note in getattr(error, "__notes__", ())):
            error.add_note(f"What to do: {without_secrets(hint)}")
        self.log.explain(error)
        leave_out_ours(error)

    def _columns_of(self, table: str) -> list[str] | None:
        if table not in self._columns:
            self._columns[table] = self._ask_columns(table)
        return self._columns[table]

    def _ask_columns(self, table: str) -> list[str] | None:
        try:
            tables = ask_server(self._url(), _COLUMNS, (table, table.lower()))
        except psycopg2.Error:
            return None
        return tables[0][0] if len(tables) == 1 else None

    def _tables(self, database: str | None) -> list[str]:
        url = self._url() if database is None else self._url().set(database=database)
        try:
            return [name for (name,) in ask_server(url, _TABLES)]
        except psycopg2.Error:
            return []


def _gather_notes(error: BaseException) -> None:
    """Move what was noted on the errors that an error was raised from to its own end, where it is read."""
    for each in list(chain(error))[1:]:
        for note in getattr(each, "__notes__", ()):
            error.add_note(note)
        if getattr(each, "__notes__", None):
            each.__notes__.clear()
