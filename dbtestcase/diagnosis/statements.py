"""The statements that one test sent, and how a failure shows them.

While tests pass, a statement costs one small record of references; text is made when a test has failed.
"""

from __future__ import annotations

import itertools
import os
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from threading import get_ident
from typing import Any, Literal, cast, overload

from dbtestcase.diagnosis import loads
from dbtestcase.diagnosis.clock import perf_counter
from dbtestcase.diagnosis.hidden import HiddenNames
from dbtestcase.diagnosis.secrets import hide_secrets
from dbtestcase.diagnosis.sqltext import Shortened, is_transaction_control, render, text_of
from dbtestcase.errors import DBTestCaseError
from dbtestcase.frames import UNKNOWN, Origin

__all__ = ["CapturedQueries", "Statement", "StatementLog", "listing"]

VARIABLE = "DBTESTCASE_SQL"
Mode = Literal["all", "failed", "off"]

# What is kept of a test that sends very many statements, and what of these a failure shows.
_KEPT_FIRST, _KEPT_LAST = 60, 140
_SHOWN_FIRST, _SHOWN_LAST = 15, 35
_LONGEST_SQL = 20_000
_LONGEST_VALUE = 4_000
_SETS_KEPT = 3


class Statement:
    """One statement of the code under test; ``str()`` gives it as a failure shows it.

    Attributes:
        sql: As it was given to the driver, with placeholders.
        parameters: A copy of what was given with it; of an ``executemany()`` the first few sets.
        sets: How many sets of parameters an ``executemany()`` had; 0 if it was none.
        connection: The connection or session that sent it.
        origin: The line of the user's code, "shop/service.py:42 in rename".
        seconds: How long it took; ``None`` if it has not come back.
        rows: How many rows it returned or changed; ``None`` if the driver does not say.
        error: What it failed with.
        cause: What made the ORM send it, where that was asked for.
        is_told: Whether the message of a failed assertion has shown it.
    """

    __slots__ = ("_hidden", "cause", "connection", "error", "is_told", "origin", "parameters", "rows", "seconds",
                 "sets", "sql", "started", "thread")  # fmt: skip

    def __init__(self, connection: str, origin: Origin, sql: object, parameters: Any, hidden: Iterable[str]) -> None:
        self.connection = connection
        self.origin = origin
        self.sql: Any = sql
        self.parameters = parameters
        self.sets = 0
        self.thread = threading.current_thread()
        self.seconds: float | None = None
        self.rows: int | None = None
        self.error: BaseException | None = None
        self.cause: str | None = None
        self.is_told = False
        self._hidden = hidden
        self.started = perf_counter()

    def __str__(self) -> str:
        first = self.parameters[0] if self.sets and self.parameters else self.parameters
        text = render(self.sql, first, self._hidden)
        more = f"{self.sets - 1} more set{'' if self.sets == 2 else 's'} of parameters"
        return f"{text}  (and {more})" if self.sets > 1 else text

    def __repr__(self) -> str:
        return f"<{self}>"

    @property
    def is_control(self) -> bool:
        """Whether it only begins, ends or divides a transaction; such statements are shown and not counted."""
        return is_transaction_control(self.sql)

    def facts(self) -> str:
        """Return rows, time and place of the statement in a line."""
        told = [] if self.rows is None or self.rows < 0 else [f"{self.rows} row{'' if self.rows == 1 else 's'}"]
        told.append("not finished" if self.seconds is None else duration(self.seconds))
        if self.origin is not UNKNOWN:
            told.append(str(self.origin))
        if self.cause:
            told.append(self.cause)
        return ", ".join(told)


class CapturedQueries(Sequence[Statement]):
    """The statements that were sent while a block ran, in order; grows while the block is running."""

    def __init__(self) -> None:
        self._statements: list[Statement] = []

    @overload
    def __getitem__(self, index: int) -> Statement: ...
    @overload
    def __getitem__(self, index: slice) -> list[Statement]: ...
    def __getitem__(self, index: int | slice) -> Statement | list[Statement]:
        return self._statements[index]

    def __len__(self) -> int:
        return len(self._statements)

    def __str__(self) -> str:
        return listing(self._statements)

    def __repr__(self) -> str:
        return f"<{len(self)} queries{': ' if self._statements else ''}{'; '.join(map(str, self._statements[:5]))}>"

    def _add(self, statement: Statement) -> None:
        if not statement.is_control:
            self._statements.append(statement)


class StatementLog:
    """Listens to the sandboxes of a test class, remembers what the running test sent and explains its failures with it.

    It is an ``Observer`` of :mod:`dbtestcase.sandbox`. Threads of the code under test may call it at any time.

    Args:
        hidden: Columns whose values are not to be shown, besides those that are always hidden.
        mode: What to do with the statements; read from ``DBTESTCASE_SQL`` if ``None``.
    """

    def __init__(self, *, hidden: Iterable[str] = (), mode: Mode | None = None) -> None:
        self.mode: Mode = mode or _mode_wanted()
        self.hidden = hidden if isinstance(hidden, HiddenNames) else HiddenNames(hidden)
        self._keep = self.mode != "off"
        self._captures: tuple[CapturedQueries, ...] = ()
        self._muted: set[int] = set()
        self._lock = threading.Lock()
        self._running: dict[int, Statement] = {}
        self.begin_test("")

    # -- told by the sandbox

    def statement_started(
        self, connection: str, origin: Origin, sql: object, parameters: Any, *, many: bool | None = None
    ) -> None:
        """Remember a statement that is about to be sent."""
        if not (self._keep or self._captures):
            return
        thread = get_ident()
        if thread in self._muted:
            return
        if parameters is not None:
            if many is None:
                many = type(parameters) is list and bool(parameters) and isinstance(parameters[0], (dict, tuple, list))
            sets = len(parameters) if many else 0
            parameters = [_copy(each) for each in parameters[:_SETS_KEPT]] if many else _copy(parameters)
        else:
            sets = 0
        if type(sql) is str and len(sql) > _LONGEST_SQL:
            sql = f"{sql[:_LONGEST_SQL]} …"
        statement = Statement(connection, origin, sql, parameters, self.hidden)
        statement.sets = sets
        self._running[thread] = statement
        if self._keep:
            self._remember(statement)
        if self._captures:
            statement.cause = loads.take(sql)
            for capture in self._captures:
                capture._add(statement)

    def statement_finished(self, connection: str, rowcount: int | None, error: BaseException | None) -> None:
        """Add to the statement that this thread sent last how it ended."""
        now = perf_counter()
        statement = self._running.pop(get_ident(), None)
        if statement is not None:
            statement.seconds = now - statement.started
            statement.rows = rowcount
            statement.error = error

    def transaction_ended(self, connection: str, origin: Origin, outcome: str) -> None:
        """Remember a ``COMMIT`` or ``ROLLBACK`` of the code under test; shown, not counted."""
        if self._keep and get_ident() not in self._muted:
            statement = Statement(connection, origin, outcome, None, self.hidden)
            statement.seconds = 0.0
            self._remember(statement)

    # -- told by the test case

    def begin_test(self, name: str) -> None:
        """Forget what was sent so far."""
        self._name = name
        self._first: list[Statement] = []
        self._last: deque[Statement] = deque(maxlen=_KEPT_LAST)
        self._later = 0
        self._explained = -1

    def end_test(self) -> None:
        """Print the statements of the test if ``DBTESTCASE_SQL`` is ``all``; forget them."""
        if self.mode == "all" and self._first:
            name = f"{self._name}: " if self._name else ""
            print(f"{name}{self.text()}", file=sys.stderr)
        self.begin_test("")

    def explain(self, error: BaseException) -> None:
        """Add the statements sent so far to an error as a note, so that every test runner prints them.

        The second error of one test, of a subtest say, gets only what was sent since the first. Values of hidden
        columns are also taken out of the words of the database's own errors.
        """
        self.hide_secrets(error)
        kept = self._kept()
        fresh = [each for i, each in enumerate(kept) if i > self._explained]
        if not self._keep or all(each.is_control or each.is_told for each in fresh):
            return
        earlier = self._explained >= 0
        self._explained = len(kept) - 1
        error.add_note(self._text(fresh, since=" since the failure before this one" if earlier else ""))

    def hide_secrets(self, error: BaseException) -> Callable[[str], str]:
        """Take values of hidden columns out of a database error; return what does so with texts that quote it."""
        return hide_secrets(error, [(each.sql, each.parameters) for each in self._kept()], self.hidden)

    @property
    def statements(self) -> list[Statement]:
        """What is kept of the statements of the present test."""
        return self._kept()

    def text(self) -> str:
        """Return the statements of the present test."""
        return self._text(self._kept())

    @contextmanager
    def capture(self) -> Iterator[CapturedQueries]:
        """Collect the statements that are sent during the block by any thread."""
        queries = CapturedQueries()
        with self._lock:
            self._captures = (*self._captures, queries)
        try:
            yield queries
        finally:
            with self._lock:
                self._captures = tuple(each for each in self._captures if each is not queries)

    @contextmanager
    def muted(self) -> Iterator[None]:
        """Leave out what this thread sends during the block: the library's own questions."""
        thread = get_ident()
        if thread in self._muted:
            yield
            return
        self._muted.add(thread)
        try:
            yield
        finally:
            self._muted.discard(thread)

    # -- inside

    def _remember(self, statement: Statement) -> None:
        # No lock for these: threads that come here at once at most make it some more.
        if len(self._first) < _KEPT_FIRST:
            self._first.append(statement)
            return
        with self._lock:
            self._later += 1
            self._last.append(statement)

    def _kept(self) -> list[Statement]:
        return [*self._first, *self._last]

    def _text(self, statements: list[Statement], since: str = "") -> str:
        dropped = self._later - len(self._last)
        counted = sum(not each.is_control for each in statements) + (0 if since else dropped)
        took = sum(each.seconds or 0.0 for each in statements)
        head = f"SQL sent{since}: {counted} statement{'' if counted == 1 else 's'}, {duration(took)}"
        gap = None if since or not dropped else (len(self._first), dropped)
        return f"{head}\n{listing(statements, gap)}"


def listing(statements: Sequence[Statement], gap: tuple[int, int] | None = None) -> str:
    """Return statements as numbered lines; repeated ones are folded, of very many the middle is left out.

    Args:
        gap: After how many statements how many were not kept.
    """
    several_connections = len({each.connection for each in statements}) > 1
    several_threads = len({each.thread for each in statements}) > 1
    number, last_number = 0, sum(not each.is_control for each in statements) + (gap[1] if gap else 0)
    width = len(str(last_number))
    blocks: list[str] = []
    for at, run in _runs(statements):
        if gap and at <= gap[0] < at + len(run):
            number += gap[1]
            blocks.append(f"{'':{width + 2}}  … {gap[1]} statements were not kept …")
        first = run[0]
        if first.is_control:
            where = "" if first.origin is UNKNOWN else f"  ({first.origin})"
            blocks.append(f"{'':{width + 2}}  {first}{where}")
            continue
        number += 1
        facts = first.facts()
        facts += f", on {first.connection}" if several_connections else ""
        if several_threads and first.thread is not threading.main_thread():
            facts += f", in thread {first.thread.name!r}"
        lines = [f"{number:{width + 2}}. {first}", f"{'':{width + 2}}  {facts}"]
        if len(run) > 1:
            number += len(run) - 1
            took = duration(sum(each.seconds or 0.0 for each in run[1:]))
            lines.append(f"{'':{width + 2}}  … and {len(run) - 1} times more from the same line, {took}")
        lines += [f"{'':{width + 2}}  failed: {_reason(each.error)}" for each in run if each.error is not None]
        blocks.append("\n".join(lines))
    if len(blocks) > _SHOWN_FIRST + _SHOWN_LAST + 1:
        left_out = f"{'':{width + 2}}  … {len(blocks) - _SHOWN_FIRST - _SHOWN_LAST} more …"
        blocks = [*blocks[:_SHOWN_FIRST], left_out, *blocks[-_SHOWN_LAST:]]
    return "\n".join(blocks)


def duration(seconds: float) -> str:
    """Return a time as a person reads it."""
    return f"{seconds:.1f} s" if seconds >= 1 else f"{seconds * 1000:.1f} ms"


def _runs(statements: Sequence[Statement]) -> Iterator[tuple[int, list[Statement]]]:
    """Divide into runs of the same statement from the same line; runs of two stay apart."""
    at = 0
    for _, group in itertools.groupby(statements, lambda each: (text_of(each.sql), each.origin, each.connection)):
        run = list(group)
        if len(run) > 2:
            yield at, run
        else:
            yield from ((at + i, [each]) for i, each in enumerate(run))
        at += len(run)


def _reason(error: BaseException | None) -> str:
    words = str(error).strip().splitlines()
    return f"{type(error).__name__}: {words[0]}" if words else type(error).__name__


def _copy(parameters: Any) -> Any:
    """Copy what the caller may change later, and let go of very long values."""
    if type(parameters) is dict or isinstance(parameters, Mapping):
        copy = dict(parameters)
        for name, value in copy.items():
            if type(value) in (str, bytes) and len(value) > _LONGEST_VALUE:
                copy[name] = _head(value)
        return copy
    if isinstance(parameters, (tuple, list)):
        return [
            _head(each) if type(each) in (str, bytes) and len(each) > _LONGEST_VALUE else each for each in parameters
        ]
    return parameters


def _head(value: str | bytes) -> str:
    if isinstance(value, bytes):
        return Shortened(f"\\x{value[:8].hex()}… ({len(value)} bytes)")
    return Shortened(f"{value[:60]}… ({len(value)} characters)")


def _mode_wanted() -> Mode:
    wanted = os.environ.get(VARIABLE, "").strip().lower() or "failed"
    if wanted not in ("all", "failed", "off"):
        raise DBTestCaseError(f"{VARIABLE} is {wanted!r}; it can be 'all', 'failed' (the default) or 'off'.")
    return cast("Mode", wanted)
