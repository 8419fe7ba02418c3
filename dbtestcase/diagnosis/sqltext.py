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

HIDDEN_COLUMNS = frozenset({"password", "passwd", "pwd", "passphrase", "secret", "token", "api_key", "apikey"})
HIDDEN = "'(hidden)'"

_LONGEST_TEXT = 80
_LONGEST_STATEMENT = 600
_TAIL = 200
_SHOWN_IN_LIST = 3
_SHOWN_COLUMNS = 8

_TOKEN = re.compile(
    r"""
    (?P<comment>--[^\n]*|/\*.*?\*/)
  | (?P<string>[eE]'(?:[^'\\]|''|\\.)*'|'(?:[^']|'')*'|\$(?P<tag>\w*)\$.*?\$(?P=tag)\$)
  | (?P<placeholder>(?:%\((?P<name>[^)]*)\)[sbt]|%[sbt])  # with the cast that SQLAlchemy adds for psycopg 3
      (?:::[A-Z]+(?:\(\d+(?:,[ ]?\d+)?\))?(?:[ ]WITH(?:OUT)?[ ]TIME[ ]ZONE)?(?:\[\])*)?)
  | (?P<percent>%%)
  | (?P<number>(?<![\w$.])\d+(?:\.\d+)?(?:[eE][+-]?\d+)?)
  | (?P<word>"(?:[^"]|"")*"|[^\W\d][\w$]*)
  | (?P<space>\s+)
  | (?P<sign>::|<>|!=|<=|>=|.)
    """,
    re.VERBOSE | re.DOTALL,
)
_COMPARISONS = {"=", "<>", "!=", "like", "ilike", "is", "to", "in", "any", "("}
_CONTROL = re.compile(
    r"\s*(begin|start\s+transaction|commit|end|rollback|abort|savepoint|release|set\s+transaction|prepare\s+transaction)\b",
    re.IGNORECASE,
)
_ALIAS = re.compile(r"\b(\w+)\.(\w+) AS \1_\2\b")  # SQLAlchemy 2.0 labels each column of a legacy query
_NUMBERED = re.compile(r"_+\d+$")


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
    for kind, text, _ in _tokens(text_of(sql)):
        if kind in ("string", "number", "placeholder"):
            parts.append("?")
        elif kind in ("space", "comment"):
            parts.append(" ")
        else:
            parts.append(text)
    return re.sub(r"\(\s*\?(?:\s*,\s*\?)+\s*\)", "(?, ...)", " ".join("".join(parts).split()))


def is_hidden(name: str | None, hidden: Iterable[str]) -> bool:
    """Whether a column or parameter of this name holds what must not be shown.

    A column is hidden if its name is one of ``hidden`` or has it as a word: ``password_hash``, ``reset_token``.
    """
    if not name:
        return False
    plain = f"_{_NUMBERED.sub('', name.strip(chr(34))).lower()}_"
    return any(f"_{each.lower()}_" in plain for each in hidden)


def hidden_values(sql: object, parameters: object, hidden: Iterable[str]) -> list[Any]:
    """Return the parameter values of a statement that belong to hidden columns."""
    if not any(each.lower() in text_of(sql).lower() for each in hidden):
        return []
    sets = parameters if _is_many(parameters) else [parameters]
    return [value for given in sets for value in _Renderer(text_of(sql), given, hidden).secrets()]  # type: ignore[attr-defined]


def render(sql: object, parameters: object = None, hidden: Iterable[str] = HIDDEN_COLUMNS) -> str:
    """Return one statement on one line with its parameters in place, shortened."""
    parts = _one_space(_Renderer(text_of(sql), parameters, hidden).parts())
    line = "".join(_fold_columns(_fold_rows(_fold_lists(parts)))).strip().rstrip("; ")
    line = _ALIAS.sub(r"\1.\2", line)
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
        return _quoted(_without_json_secrets(value, hidden))
    if isinstance(value, (bytes, bytearray, memoryview)):
        return _bytes(bytes(value))
    if isinstance(value, (datetime.date, datetime.time, datetime.timedelta, uuid.UUID)):
        return f"'{value}'"
    if isinstance(value, (list, tuple)):
        return _array(value, hidden)
    if isinstance(value, dict):
        return literal(json.dumps(value, default=str, ensure_ascii=False), hidden)
    for name in ("adapted", "obj"):  # the drivers' wrappers around bytes, JSON and the like: show what is in them
        inner = getattr(value, name, None)
        if inner is not None and type(inner) is not type(value):
            return literal(inner, hidden)
    return _quoted(str(value))


def _without_json_secrets(text: str, hidden: Iterable[str]) -> str:
    if not text.startswith(("{", "[")):
        return text

    def scrub(found: re.Match[str]) -> str:
        return f'{found[1]}"(hidden)"' if is_hidden(found[2], hidden) else found[0]

    return re.sub(r'("([^"]*)"\s*:\s*)("(?:[^"\\]|\\.)*"|[\w.+-]+)', scrub, text)


def _quoted(text: str) -> str:
    shown = text if len(text) <= _LONGEST_TEXT else f"{text[: _LONGEST_TEXT - 20]}… ({len(text)} characters)"
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


def _tokens(sql: str) -> Iterator[tuple[str, str, str | None]]:
    for found in _TOKEN.finditer(sql):
        kind = "string" if found.lastgroup == "tag" else "placeholder" if found.lastgroup == "name" else found.lastgroup
        yield kind or "sign", found[0], found["name"]


class _Renderer:
    """Walks over one statement and knows at each value which column it belongs to."""

    def __init__(self, sql: str, parameters: object, hidden: Iterable[str]) -> None:
        self._sql = sql
        self._parameters = parameters
        self._hidden = tuple(hidden)
        self._insert = _insert_columns(sql)
        self._next = 0

    def parts(self) -> list[str]:
        """Return the statement's pieces, values in place of placeholders."""
        return [self._shown(kind, text, name, column, hidden) for kind, text, name, column, hidden in self._walk()]

    def secrets(self) -> Iterator[Any]:
        """Return the values that stand in hidden places."""
        for kind, _, name, _, hidden in self._walk():
            if kind == "placeholder":
                given, value = self._value(name)
                if given and hidden:
                    yield value

    def _walk(self) -> Iterator[tuple[str, str, str | None, str | None, bool]]:
        column: str | None = None  # the column named just before, still waiting for its value
        depth, row, position = 0, False, 0
        before, in_list = "", 0  # in_list: at which depth the list of an IN or ANY stands, 0 outside of one
        for kind, text, name in _tokens(self._sql):
            if kind in ("placeholder", "string", "number"):
                of_row = self._column_at(position) if row and depth == 1 else None
                hidden = any(is_hidden(each, self._hidden) for each in (name, column, of_row))
                yield kind, text, name, of_row or column, hidden
                continue
            yield kind, text, name, None, False
            lowered = text.lower()
            if kind == "space":
                continue
            if kind == "word":
                if lowered == "values" and self._insert:
                    row, depth, position, column = True, 0, 0, None
                elif lowered in ("returning", "on", "select") and depth == 0:
                    row = False
                if lowered not in _COMPARISONS:
                    column = text
            elif kind == "sign":
                if text == "(":
                    depth += 1
                    in_list = depth if before in ("in", "any") else in_list
                    position = 0 if depth == 1 else position
                elif text == ")":
                    in_list = 0 if in_list == depth else in_list
                    depth -= 1
                    column = None
                elif text == "," and not in_list:
                    position += depth <= 1
                    column = None
                elif text == ",":
                    pass
                elif text not in _COMPARISONS and text not in (".", "::"):
                    column = None
            before = lowered

    def _shown(self, kind: str, text: str, name: str | None, column: str | None, hidden: bool) -> str:
        if kind == "placeholder":
            given, value = self._value(name)
            if not given:
                return text
            return HIDDEN if hidden and value is not None else literal(value, self._hidden)
        if kind == "string":
            plain = text.replace("%%", "%") if self._parameters else text
            return HIDDEN if hidden else plain if len(plain) <= _LONGEST_TEXT else _quoted(plain[1:-1])
        if kind in ("space", "comment"):
            return " "
        return "%" if kind == "percent" and self._parameters else text

    def _column_at(self, position: int) -> str | None:
        return self._insert[position] if position < len(self._insert) else None

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


def _insert_columns(sql: str) -> list[str]:
    found = re.match(r'\s*insert\s+into\s+[\w.$"]+\s*\(([^)]*)\)', sql, re.IGNORECASE)
    return [column.strip().strip('"') for column in found[1].split(",")] if found else []


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
    return [*parts[: rows[0][1] + 1], f", … {len(rows) - 1} more rows", *parts[rows[-1][1] + 1 :]]


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
