"""What no message may show: the values of statements and messages that name a hidden column or setting.

There is one rule, and it looks at names only: a text that names one of them, wherever it stands, is shown without any
value. To tell which value belongs to which name would take a parser of SQL, and each of its gaps would be a leak.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from dbtestcase.diagnosis.tracebacks import from_driver, sqlstate
from dbtestcase.sql import Token, tokens

__all__ = ["HIDDEN", "Redaction", "without_values"]

HIDDEN = "(hidden)"
HIDDEN_NAMES = ("password", "passwd", "pwd", "passphrase", "secret", "token", "api_key", "credential")

# Names of fewer letters are looked for as words, so that "pin" does not hide what is said of shipping.
_ANYWHERE = 5
_LONGEST_NAME = 100
_PARTS = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+|[^\W\d_]+")
# What divides the items of an array, of CSV or of a tuple.
_BEFORE_ITEM, _AFTER_ITEM = r"(?:^|[\[{(,;|\t])[ ]*[\w$-]*?", r"[ ]*(?:$|[\]}),;|\t])"
_PASSWORD_IN_URL = r"://[^\s/:@'\"]*:[^\s/@'\"]+@"
# A row that is quoted by the server: whose columns it has is not said.
_QUOTED_ROW = re.compile(r"row contains \(|\bCOPY (?:\S+\.)?\"?(?P<table>[^\s\",.]+)\"?, line ")
# SQLSTATEs, or classes of them, whose first line has names of tables, columns and constraints in it, never a value.
_NAMES_ONLY = ("08", "23", "25", "3F", "40", "53", "55", "57", "42P01", "42P07", "42501", "42704", "42883")
_VALUES_IN_QUOTES = ("22", "42")
_OF_ASYNCPG = re.compile(r"(?<=invalid input for query argument ).*")  # what it quotes, it quotes otherwise
# What the client's library says, without an SQLSTATE, of a server that has ended.
_LOST = re.compile(
    r"(?:consuming input failed: )?server closed the connection unexpectedly$|the connection is (?:lost|closed)$"
)


class Redaction:
    """Knows the hidden names of a test class.

    Args:
        names: Columns and settings whose values no message may show, beside those that are always hidden.
        columns: Gives all columns of the database with their tables, ``None`` if it does not answer. Asked on failures
            only, for values that stand in a row without the names of its columns.
    """

    def __init__(
        self,
        names: Iterable[str] = (),
        columns: Callable[[], Iterable[tuple[str, str]] | None] = lambda: None,
    ) -> None:
        self._columns = columns
        patterns = [_pattern(name) for name in dict.fromkeys((*HIDDEN_NAMES, *names)) if _PARTS.search(name)]
        named = "|".join(patterns)
        self._names = re.compile(f"{named}|{_PASSWORD_IN_URL}")
        self._named_values = re.compile(
            rf"(?:{named})[\w$-]*(?:[\"']|\s*[:=>])|{_BEFORE_ITEM}(?:{named})[\w$-]*{_AFTER_ITEM}|{_PASSWORD_IN_URL}",
            re.MULTILINE,
        )

    def hides(self, text: str) -> bool:
        """Whether a text names a hidden column or setting, or has a URL with a password in it."""
        return self._names.search(text) is not None

    def hides_value(self, value: object) -> bool:
        """Whether a value is the name of a hidden setting, or holds hidden values with their names, as JSON does."""
        text = str(value)
        is_name = len(text) < _LONGEST_NAME and not any(map(str.isspace, text))
        return (self._names if is_name else self._named_values).search(text) is not None

    def hides_statement(self, text: str, values: Iterable[object] = ()) -> bool:
        """Whether the values of a statement must not be shown, those in its text and its parameters."""
        return self.hides(text) or any(map(self.hides_value, values)) or self._hides_row_of(text)

    def cell(self, name: str, value: Any, shown: str) -> str:
        """Return a value of a column as it may be shown: ``shown``, or that it is hidden."""
        return HIDDEN if value is not None and (self.hides(name) or self.hides_value(value)) else shown

    def hides_message(self, error: BaseException) -> bool:
        """Whether what the database said names a hidden column or quotes a row that has one."""
        text = str(error)
        if self.hides(text):
            return True
        quoted = _QUOTED_ROW.search(text)
        if quoted is None:
            return False
        table = quoted["table"] or getattr(getattr(error, "diag", None), "table_name", None)
        return self._may_hide_in(table)

    def _hides_row_of(self, text: str) -> bool:
        """Whether a statement gives the values of a row by position, to a table with a hidden column."""
        words = [each for each in tokens(text) if each.kind not in ("space", "comment")]
        if words and words[0].text.lower() == "execute":
            return True
        for i, word in enumerate(words):
            if word.kind == "name" and word.text.lower() == "insert":
                table, names_columns = _target(words[i + 1 :])
                if not names_columns and self._may_hide_in(table):
                    return True
        return False

    def _may_hide_in(self, table: str | None) -> bool:
        columns = self._columns()
        if columns is None or table is None:
            return True
        own = [column for name, column in columns if name == table]
        return not own or any(map(self.hides, own))


def without_values(error: BaseException) -> str:
    """Return what of a database's message can have no value in it."""
    if not from_driver(error):  # SQLAlchemy makes one of its own of asyncpg's
        return without_values(error.__cause__) if error.__cause__ is not None else HIDDEN
    state = sqlstate(error) or ""
    diag: Any = getattr(error, "diag", None)
    text = str(getattr(diag, "message_primary", None) or error)
    first = text.strip().partition("\n")[0]
    if getattr(diag, "source_function", None) == "exec_stmt_raise":
        return HIDDEN  # a function of the user's, whose words may be anything
    if state.startswith(_NAMES_ONLY) or (not state and _LOST.match(first)):
        return first
    if state.startswith(_VALUES_IN_QUOTES):
        before = _OF_ASYNCPG.sub("", first.partition('"')[0])
        return first if before == first else f"{before}{HIDDEN}"
    return HIDDEN


def _pattern(name: str) -> str:
    parts = _PARTS.findall(name)
    if len("".join(parts)) >= _ANYWHERE:
        return rf"(?i:{'[^a-z0-9]?'.join(map(re.escape, parts))})"
    word = "".join(parts)
    # As a word, also within camelCase, also in the plural.
    return rf"(?:(?<![A-Za-z])(?i:{word})|(?<=[a-z]){word.capitalize()})(?:[eE]?[sS])?(?![a-z])"


def _target(words: Sequence[Token]) -> tuple[str | None, bool]:
    """Return the table of the INSERT whose further words these are, and whether it names its columns."""
    table, i = None, 0
    if words and words[0].text.lower() == "into":
        i = 1
        while i < len(words) and words[i].kind in ("name", "quoted"):
            table = words[i].identifier
            if words[i + 1 : i + 2] and words[i + 1].text == ".":
                i += 2
                continue
            i += 1
            break
        if i < len(words) and words[i].text.lower() == "as":
            i += 2
    after = [each.text.lower() for each in words[i : i + 2]]
    return table, after[:1] == ["("] and after[1:] not in (["select"], ["values"], ["with"], ["table"])
