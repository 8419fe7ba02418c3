"""The statements that one test sent.

While tests pass, a statement costs one list of references; objects and text are made when somebody looks.
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import islice
from threading import get_ident
from typing import Any, Literal, cast, overload

from dbtestcase.diagnosis import loads
from dbtestcase.diagnosis.listing import listing, sent
from dbtestcase.diagnosis.redaction import HIDDEN, Redaction
from dbtestcase.diagnosis.sqltext import Shortened, is_transaction_control
from dbtestcase.diagnosis.statement import CAUSE, ERROR, IS_SHOWN, ROWS, SECONDS, SQL, STARTED, Record, Statement
from dbtestcase.errors import DBTestCaseError
from dbtestcase.frames import Origin
from dbtestcase.native import monotonic

__all__ = ["CapturedQueries", "Statement", "StatementLog"]

VARIABLE = "DBTESTCASE_SQL"
Mode = Literal["all", "failed", "off"]

# What is kept of a test that sends very many statements.
_KEPT_FIRST, _KEPT_LAST = 60, 140
_MOST_KEPT = 2 * (_KEPT_FIRST + _KEPT_LAST)
_LONGEST_SQL = 20_000
_LONGEST_VALUE = 4_000
_SETS_KEPT = 3
_VALUES_KEPT = 300
_INSERTS_KEPT = 500  # different texts of a class


class CapturedQueries(Sequence[Statement]):
    """The statements that were sent while a block ran, in order; grows while the block is running."""

    def __init__(self, redaction: Redaction) -> None:
        self._records: list[list[Any]] = []
        self._redaction = redaction

    @overload
    def __getitem__(self, index: int) -> Statement: ...
    @overload
    def __getitem__(self, index: slice) -> list[Statement]: ...
    def __getitem__(self, index: int | slice) -> Statement | list[Statement]:
        if isinstance(index, slice):
            return [Statement(*each, redaction=self._redaction) for each in self._records[index]]
        return Statement(*self._records[index], redaction=self._redaction)

    def __len__(self) -> int:
        return len(self._records)

    def __str__(self) -> str:
        return listing(self)

    def __repr__(self) -> str:
        return f"<{len(self)} queries{': ' if self._records else ''}{'; '.join(map(str, self[:5]))}>"

    def mark_shown(self) -> None:
        """Note that the message of a failed assertion shows them, so that the note on the failure need not."""
        for record in self._records:
            record[IS_SHOWN] = True

    def _add(self, record: list[Any]) -> None:
        if not is_transaction_control(record[SQL]):
            self._records.append(record)


class StatementLog:
    """Remembers what the running test of a class sent. An observer of the class's sandboxes, called from any thread.

    Args:
        redaction: Knows whose values are not to be shown.
        mode: What to do with the statements; read from ``DBTESTCASE_SQL`` if ``None``.
    """

    def __init__(self, redaction: Redaction | None = None, *, mode: Mode | None = None) -> None:
        self.mode: Mode = mode or _mode_wanted()
        self.redaction = redaction or Redaction()
        self._keeps = self.mode != "off"
        self._captures: tuple[CapturedQueries, ...] = ()
        self.is_listening = self._keeps
        self._muted: set[int] = set()
        self._lock = threading.RLock()  # a finalizer that ends a transaction may run at any moment
        self._main = threading.main_thread().ident
        self._records: list[Record] = []
        self._dropped = 0
        self._noted = 0  # how many statements the notes on errors have shown
        self._running: dict[str, list[Any]] = {}  # by connection, each of which runs one statement at a time
        self._name: Callable[[], str] | None = None
        self._inserts: dict[str, str] = {}

    # -- told by the sandbox

    def statement_started(self, connection_label: str, origin: Origin, sql: object, parameters: Any) -> None:
        """Remember a statement that is about to be sent."""
        ident = get_ident()
        if self._muted and ident in self._muted:
            return
        sets = 0
        if parameters:
            if type(parameters) is list and isinstance(parameters[0], (dict, tuple, list)):
                sets = len(parameters)
                parameters = [self._copy(each) for each in parameters[:_SETS_KEPT]]
            else:
                parameters = self._copy(parameters)
        if type(sql) is str and len(sql) > _LONGEST_SQL:
            sql = self._cut(sql)
        thread = None if ident == self._main else threading.current_thread()
        record = [connection_label, origin, sql, parameters, sets, thread, monotonic(), None, None, None, None, False]
        self._running[connection_label] = record
        if self._keeps:
            self._records.append(record)
            if len(self._records) > _MOST_KEPT:
                self._drop_middle()
        if self._captures:
            record[CAUSE] = loads.take(sql)
            for capture in self._captures:
                capture._add(record)

    def statement_finished(self, connection_label: str, rowcount: int | None, error: BaseException | None) -> None:
        """Add to the statement that a connection sent last how it ended."""
        record = self._running.pop(connection_label, None)
        if record is not None:
            record[SECONDS] = monotonic() - record[STARTED]
            record[ROWS] = rowcount
            record[ERROR] = error
            if error is None:
                self.rows_changed(record[SQL])

    def rows_changed(self, sql: object) -> None:
        """Remember which test was the first of the class to insert such rows."""
        if self.mode == "off" or self._name is None or type(sql) is not str or sql[:6] not in ("INSERT", "insert"):
            return
        if sql not in self._inserts and len(self._inserts) < _INSERTS_KEPT:
            self._inserts[sql] = self._name()

    def transaction_ended(self, connection_label: str, origin: Origin, outcome: str) -> None:
        """Remember a ``COMMIT`` or ``ROLLBACK`` of the code under test; shown, not counted."""
        if self._keeps and not (self._muted and get_ident() in self._muted):
            self._records.append((connection_label, origin, outcome))

    # -- told by the test case

    def begin_test(self, name: Callable[[], str] | None = None, *, counts: bool = True) -> None:
        """Forget what was sent so far, except for which tests of the class inserted rows.

        Args:
            name: Returns the id of the test that begins.
            counts: False if it runs again should it fail: what this run sends is shown to nobody.
        """
        self._name = name
        self._keeps = self.mode == "all" or (counts and self.mode != "off")
        self.is_listening = self._keeps or bool(self._captures)
        self._records = []
        self._dropped = 0
        self._noted = 0

    def end_test(self) -> None:
        """Print the statements of the test if ``DBTESTCASE_SQL`` is ``all``."""
        if self.mode == "all" and self._records:
            name = "" if self._name is None else f"{self._name()}: "
            print(f"{name}{sent(self.statements, dropped=self._gap)}", file=sys.stderr)
        self._keeps = self.mode != "off"
        self.is_listening = self._keeps or bool(self._captures)

    @property
    def statements(self) -> list[Statement]:
        """What is kept of the statements of the present test."""
        return [Statement(*each, redaction=self.redaction) for each in self._records]

    def note(self) -> str | None:
        """Return the statements of the test for a failure to show, of a second failure those since the first.

        ``None`` if there are none, or if the failure's own message has shown them.
        """
        fresh = self.statements[self._noted :]
        if not self._keeps or all(each.is_control or each.is_shown for each in fresh):
            return None
        is_first, self._noted = not self._noted, len(self._records)
        if is_first:
            return sent(fresh, dropped=self._gap)
        return sent(fresh, since=" since the failure before this one")

    def earlier_inserts(self) -> dict[str, str]:
        """Return the INSERT statements of earlier tests of the class, each with the name of the first such test."""
        present = self._name() if self._name is not None else ""
        return {sql: test for sql, test in self._inserts.items() if test != present}

    @contextmanager
    def capture(self) -> Iterator[CapturedQueries]:
        """Collect the statements that are sent during the block by any thread."""
        queries = CapturedQueries(self.redaction)
        with self._lock:
            self._captures = (*self._captures, queries)
            self.is_listening = True
        try:
            yield queries
        finally:
            with self._lock:
                self._captures = tuple(each for each in self._captures if each is not queries)
                self.is_listening = self._keeps or bool(self._captures)

    @contextmanager
    def muted(self) -> Iterator[None]:
        """Leave out what this thread sends during the block: the library's own questions."""
        ident = get_ident()
        if ident in self._muted:
            yield
            return
        self._muted.add(ident)
        try:
            yield
        finally:
            self._muted.discard(ident)

    # -- inside

    @property
    def _gap(self) -> tuple[int, int] | None:
        return (_KEPT_FIRST, self._dropped) if self._dropped else None

    def _drop_middle(self) -> None:
        with self._lock:
            number = len(self._records) - _KEPT_FIRST - _KEPT_LAST
            if number > 0:
                self._dropped += sum(isinstance(each, list) for each in self._records[_KEPT_FIRST:-_KEPT_LAST])
                del self._records[_KEPT_FIRST:-_KEPT_LAST]
                self._noted = max(0, self._noted - number)

    def _copy(self, parameters: Any) -> Any:
        """Copy what the caller may change later, and let go of very long values and of very many."""
        kind = type(parameters)
        if kind is dict or (kind is not tuple and isinstance(parameters, Mapping)):
            copy = dict(parameters if len(parameters) <= _VALUES_KEPT else islice(parameters.items(), _VALUES_KEPT))
            if _has_long(copy.values()):
                return {name: self._head(value) if _is_long(value) else value for name, value in copy.items()}
            return copy
        if isinstance(parameters, (tuple, list)):
            kept = tuple(parameters if len(parameters) <= _VALUES_KEPT else parameters[:_VALUES_KEPT])
            return [self._head(each) if _is_long(each) else each for each in kept] if _has_long(kept) else kept
        return parameters

    def _head(self, value: str | bytes) -> str:
        if isinstance(value, bytes):
            return Shortened(f"\\x{value[:8].hex()}… ({len(value)} bytes)")
        if self.redaction.hides_value(value):
            return Shortened(HIDDEN)
        return Shortened(f"{value[:60]}… ({len(value)} characters)")

    def _cut(self, sql: str) -> str:
        """Return the beginning of a very long text, as a comment what it must not be shown for."""
        return f"{sql[:_LONGEST_SQL]} …" if not self.redaction.hides(sql) else f"/* password */ {sql[:_LONGEST_SQL]} …"


def _is_long(value: Any) -> bool:
    return type(value) in (str, bytes) and len(value) > _LONGEST_VALUE


def _has_long(values: Iterable[Any]) -> bool:
    for each in values:  # noqa: SIM110 (asked for each statement: no generator, no call for each value)
        if (type(each) is str or type(each) is bytes) and len(each) > _LONGEST_VALUE:
            return True
    return False


def _mode_wanted() -> Mode:
    wanted = os.environ.get(VARIABLE, "").strip().lower() or "failed"
    if wanted not in ("all", "failed", "off"):
        raise DBTestCaseError(f"{VARIABLE} is {wanted!r}; it can be 'all', 'failed' (the default) or 'off'.")
    return cast("Mode", wanted)
