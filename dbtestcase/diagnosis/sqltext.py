"""SQL as a person reads it in a failure: parameters in place, secrets hidden, the long parts folded.

Nothing here runs while tests pass, so it is written for clarity and not for speed.
"""

from __future__ import annotations

import datetime
import decimal
import json
import re
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from dbtestcase.diagnosis.hidden import HIDDEN_COLUMNS, REPLACEMENT, without_hidden
from dbtestcase.diagnosis.values import VALUES, Token, marked, tokens

HIDDEN = f"'{REPLACEMENT}'"

_LONGEST_TEXT = 80
_LONGEST_STATEMENT = 600
_LONGEST_QUESTION = 120
_TAIL = 200
_SHOWN_IN_LIST = 3
_SHOWN_COLUMNS = 8

_CONTROL = re.compile(
    r"\s*(begin|start\s+transaction|commit|end|rollback|abort|savepoint|release|set\s+transaction|prepare\s+transaction)\b",
    re.IGNORECASE,
)
_ALIAS = re.compile(r"\b(\w+)\.(\w+) AS \1_\2\b")  # SQLAlchemy 2.0 labels each column of a legacy query


class Shortened(str):
    """The beginning of a long text or of many bytes; says how long the whole was."""

    __slots__ = ()


def text_of(sql: object) -> str:
    """Return a statement as text, whatever form the driver was given it in."""
    if isinstance(sql, str):
        return sql
    if isinstance(sql, (bytes, bytearray)):
        return sql.decode("utf-8", "backslashreplace")
    as_string = getattr(sql, "as_string", None)  # psycopg's and psycopg2's composed statements
    if callable(as_string):
        try:
            return str(as_string(None))
        except Exception:
            return repr(sql)
    return str(sql)


def is_transaction_control(sql: object) -> bool:
    """Whether a statement only begins, ends or divides a transaction."""
    return _CONTROL.match(text_of(sql)) is not None


def fingerprint(sql: object) -> str:
    """Return what statements that differ only in their values have in common."""
    parts: list[str] = []
    for token in tokens(text_of(sql)):
        if token.kind in VALUES:
            parts.append("?")
        elif token.kind in ("space", "comment"):
            parts.append(" ")
        else:
            parts.append(token.text)
    return re.sub(r"\(\s*\?(?:\s*,\s*\?)+\s*\)", "(?, ...)", " ".join("".join(parts).split()))


def hidden_values(sql: object, parameters: object, hidden: Iterable[str]) -> list[Any]:
    """Return the values of a statement that belong to hidden columns, its parameters and what stands in its text."""
    found = marked(text_of(sql), hidden)
    if not any(token.is_hidden for token in found):
        return []
    written = [_inner(token.text) for token in found if token.is_hidden and token.kind == "string"]
    sets = parameters if _is_many(parameters) else [parameters]
    return written + [value for given in sets for value in _Rendering(found, given).secrets()]  # type: ignore[attr-defined]


def redacted(sql: object, hidden: Iterable[str]) -> str:
    """Return a statement as it was written, but for what its text has of hidden columns."""
    return "".join(_redacted(token, hidden) for token in marked(text_of(sql), hidden))


def _redacted(token: Token, hidden: Iterable[str]) -> str:
    if token.kind == "string" and not token.is_hidden:
        inner = _inner(token.text)
        shown = without_hidden(inner, hidden)
        return token.text if shown == inner else _quoted(shown)
    return HIDDEN if token.is_hidden and token.kind != "placeholder" else token.text


def render(sql: object, parameters: object = None, hidden: Iterable[str] = HIDDEN_COLUMNS) -> str:
    """Return one statement on one line with its parameters in place, shortened."""
    parts = _one_space(_Rendering(marked(text_of(sql), hidden), parameters).parts(hidden))
    line = "".join(_fold_columns(_fold_rows(_fold_lists(parts)))).strip().rstrip("; ")
    line = _ALIAS.sub(r"\1.\2", line)
    if line.startswith("SELECT pg_catalog.") and len(line) > _LONGEST_QUESTION:
        return f"{line[:_LONGEST_QUESTION]} …"  # SQLAlchemy's own, about tables and the like
    if len(line) <= _LONGEST_STATEMENT:
        return line
    left_out = len(line) - _LONGEST_STATEMENT
    return f"{line[: _LONGEST_STATEMENT - _TAIL]} … {left_out} more characters … {line[-_TAIL:]}"


def literal(value: Any, hidden: Iterable[str] = ()) -> str:
    """Return a value as SQL would spell it, long ones shortened, what JSON keeps under ``hidden`` keys left out."""
    if value is None:
        return "NULL"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, (int, float, decimal.Decimal)):
        return str(value)
    if isinstance(value, str):
        return _quoted(without_hidden(value, hidden))
    if isinstance(value, (bytes, bytearray, memoryview)):
        return _bytes(bytes(value))
    if isinstance(value, (datetime.date, datetime.time, datetime.timedelta, uuid.UUID)):
        return f"'{value}'"
    if isinstance(value, (list, tuple)):
        return _array(value, hidden)
    if isinstance(value, dict):
        return _quoted(json.dumps(without_hidden(value, hidden), default=str, ensure_ascii=False))
    for name in ("adapted", "obj"):  # the drivers' wrappers around bytes, JSON and the like: show what is in them
        inner = getattr(value, name, None)
        if inner is not None and type(inner) is not type(value):
            return literal(inner, hidden)
    return _quoted(str(value))


def _quoted(text: str) -> str:
    is_short = len(text) <= _LONGEST_TEXT or isinstance(text, Shortened)
    shown = text if is_short else f"{text[: _LONGEST_TEXT - 20]}… ({len(text)} characters)"
    shown = shown.replace("'", "''")
    return "'" + re.sub(r"[\x00-\x1f]", lambda found: repr(found[0])[1:-1], shown) + "'"


def _bytes(value: bytes) -> str:
    if len(value) <= 16:
        return f"'\\x{value.hex()}'"
    return f"'\\x{value[:8].hex()}… ({len(value)} bytes)'"


def _array(value: Sequence[Any], hidden: Iterable[str]) -> str:
    shown = [literal(item, hidden) for item in value[:_SHOWN_IN_LIST]]
    if len(value) > _SHOWN_IN_LIST:
        shown.append(f"… {len(value) - _SHOWN_IN_LIST} more")
    return f"ARRAY[{', '.join(shown)}]"


def _is_many(parameters: object) -> bool:
    """Whether these are the parameters of an ``executemany()``."""
    return isinstance(parameters, list) and bool(parameters) and isinstance(parameters[0], (Mapping, tuple, list))


def _inner(text: str) -> str:
    """Return the text in a literal."""
    if text.startswith("$"):
        return text.partition("$")[2].partition("$")[2].rpartition("$")[0].rpartition("$")[0]
    return text[text.index("'") + 1 :].removesuffix("'").replace("''", "'")


class _Rendering:
    """Puts one set of parameters in the place of their placeholders."""

    def __init__(self, found: list[Token], parameters: object) -> None:
        self._tokens = found
        self._parameters = parameters
        self._next = 0

    def parts(self, hidden: Iterable[str]) -> list[str]:
        """Return the statement's pieces, values in place of placeholders."""
        return [self._shown(token, hidden) for token in self._tokens]

    def secrets(self) -> Iterator[Any]:
        """Return the parameters that stand in hidden places."""
        for token in self._tokens:
            if token.kind == "placeholder":
                given, value = self._value(token.name)
                if given and token.is_hidden:
                    yield value

    def _shown(self, token: Token, hidden: Iterable[str]) -> str:
        if token.kind == "placeholder":
            given, value = self._value(token.name)
            if not given:
                return token.text
            return HIDDEN if token.is_hidden and value is not None else literal(value, hidden)
        if token.is_hidden:
            return HIDDEN
        if token.kind == "string":
            plain = token.text.replace("%%", "%") if self._parameters else token.text
            inner = _inner(plain)
            if plain[-1:] not in ("'", "$"):
                return f"'{inner[: _LONGEST_TEXT - 20]}…"  # its end was not kept
            return (
                plain
                if len(plain) <= _LONGEST_TEXT and without_hidden(inner, hidden) == inner
                else literal(inner, hidden)
            )
        if token.kind in ("space", "comment"):
            return " "
        return token.text.replace("%%", "%") if self._parameters else token.text

    def _value(self, name: str | None) -> tuple[bool, Any]:
        given = self._parameters
        if name is not None:
            return (True, given[name]) if isinstance(given, Mapping) and name in given else (False, None)
        if isinstance(given, (list, tuple)) and self._next < len(given):
            self._next += 1
            return True, given[self._next - 1]
        return False, None


def _one_space(parts: list[str]) -> list[str]:
    return [part for i, part in enumerate(parts) if part != " " or (i > 0 and parts[i - 1] != " ")]


def _fold_lists(parts: list[str]) -> list[str]:
    """Shorten ``IN (1, 2, 3, 4, ...)``."""
    folded: list[str] = []
    i = 0
    while i < len(parts):
        folded.append(parts[i])
        opening = i + 2 if parts[i + 1 : i + 3] == [" ", "("] else i + 1
        if parts[i].lower() == "in" and parts[opening : opening + 1] == ["("]:
            closing = _closing(parts, opening)
            items = _items(parts[opening + 1 : closing])
            if len(items) > _SHOWN_IN_LIST + 1:
                folded.append(f" ({', '.join(items[:_SHOWN_IN_LIST])}, … {len(items) - _SHOWN_IN_LIST} more")
                i = closing - 1
        i += 1
    return folded


def _fold_columns(parts: list[str]) -> list[str]:
    """Shorten ``SELECT a, b, c, ... FROM``."""
    if not parts or parts[0].lower() != "select":
        return parts
    depth = 0
    for end, part in enumerate(parts):
        depth += (part == "(") - (part == ")")
        if depth == 0 and part.lower() == "from":
            columns = _items(parts[1:end])
            if len(columns) <= _SHOWN_COLUMNS + 1:
                return parts
            shown = f" {', '.join(columns[:_SHOWN_COLUMNS])}, … {len(columns) - _SHOWN_COLUMNS} more columns "
            return [parts[0], shown, *parts[end:]]
    return parts


def _fold_rows(parts: list[str]) -> list[str]:
    """Shorten ``VALUES (...), (...), (...)``."""
    at = next((i for i, part in enumerate(parts) if part.lower() == "values"), None)
    if at is None:
        return parts
    rows: list[tuple[int, int]] = []
    i = at + 1
    while i < len(parts) and (parts[i].isspace() or parts[i] in (",", "(")):
        if parts[i] == "(":
            closing = _closing(parts, i)
            rows.append((i, closing))
            i = closing
        i += 1
    if len(rows) < 3:
        return parts
    number = "many" if "…" in parts else len(rows) - 1  # the end of a very long text was not kept
    return [*parts[: rows[0][1] + 1], f", … {number} more rows", *parts[rows[-1][1] + 1 :]]


def _closing(parts: list[str], opening: int) -> int:
    depth = 0
    for i in range(opening, len(parts)):
        depth += (parts[i] == "(") - (parts[i] == ")")
        if depth == 0:
            return i
    return len(parts)


def _items(parts: list[str]) -> list[str]:
    items, depth = [""], 0
    for part in parts:
        depth += (part == "(") - (part == ")")
        if part == "," and depth == 0:
            items.append("")
        else:
            items[-1] += part
    return [item.strip() for item in items]
