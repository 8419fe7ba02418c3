"""SQL as a person reads it in a failure: with its parameters, long parts folded, hidden values left out.

Nothing here runs while tests pass, so it is written for clarity and not for speed.
"""

from __future__ import annotations

import datetime
import decimal
import json
import re
import uuid
from collections.abc import Iterator, Mapping
from typing import Any

from dbtestcase.diagnosis.redaction import Redaction
from dbtestcase.sql import Token, tokens

__all__ = ["Shortened", "fingerprint", "hides", "is_transaction_control", "literal", "render", "text_of"]

_VALUES = ("parameter", "string", "number", "unclosed")
_SPACE = ("space", "comment")

_LONGEST_TEXT = 80
_LONGEST_STATEMENT = 600
_LONGEST_QUESTION = 120
_TAIL = 200
_SHOWN_IN_ARRAY = 3
# How many items of a list are shown behind a word, and what the rest is called.
_LISTS = {"in": (3, ""), "select": (8, " columns"), "values": (1, " rows")}
_AFTER_LIST = frozenset({"from", "where", "returning", "on", "order", "limit", "union", "group"})

_CONTROL = re.compile(
    r"\s*(begin|start\s+transaction|commit|end|rollback|abort|savepoint|release|set\s+transaction|prepare\s+transaction)\b",
    re.IGNORECASE,
)
_ALIAS = re.compile(r"\b(\w+)\.(\w+) AS \1_\2\b")  # SQLAlchemy 2.0 labels each column of a legacy query
# SQLAlchemy casts each parameter for psycopg and asyncpg.
_CAST = re.compile(
    r"(%\([^)]*\)s|%s|\$\d+)::[A-Z]+(?:\(\d+(?:,[ ]?\d+)?\))?(?:[ ]WITH(?:OUT)?[ ]TIME[ ]ZONE)?(?:\[\])*"
)
# Their values may be bare words. Elsewhere than at the beginning a setting is told by the dot in its name.
_SETTING = re.compile(
    r"(?:^|;)(?:\s|--[^\n]*\n|/\*.*?\*/)*(?:set|alter)\b[^';]*?(?:=|\bto\b)|\bset\s+[\w\"]+\.[\w.\"]+\s*(?:=|\bto\b)",
    re.IGNORECASE | re.DOTALL,
)
# Behind these a name in double quotes may be a value that its author quoted wrongly.
_BEFORE_VALUE = frozenset({"values", "in", "like", "ilike", "between"})


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
    text = _CAST.sub(r"\1", text_of(sql))
    setting = _SETTING.search(text)
    text = f"{text[: setting.end()]} ''" if setting else text
    parts: list[str] = []
    behind_value = False
    found = list(tokens(text))
    for i, token in enumerate(found):
        if token.kind in _SPACE:
            parts.append(" ")
            continue
        after = next((each.text for each in found[i + 1 :] if each.kind not in _SPACE), "")
        is_value = token.kind in _VALUES or (token.kind == "quoted" and behind_value and after not in (".", "("))
        parts.append("?" if is_value else token.text)
        if token.kind == "operator" or token.kind == "name":
            behind_value = token.kind == "operator" or token.text.lower() in _BEFORE_VALUE
    return re.sub(r"\(\s*\?(?:\s*,\s*\?)+\s*\)", "(?, ...)", " ".join("".join(parts).split()))


def hides(sql: object, parameters: object, redaction: Redaction) -> bool:
    """Whether the values of a statement must not be shown."""
    return redaction.hides_statement(text_of(sql), _all_values(parameters))


def render(sql: object, parameters: object, redaction: Redaction) -> str:
    """Return one statement on one line, shortened, with its parameters in place or without any of its values."""
    text = text_of(sql)
    if hides(sql, parameters, redaction):
        return f"{_shortened(fingerprint(text))}  (values hidden)"
    parts = _one_space(list(_parts(_CAST.sub(r"\1", text), parameters)))
    line = _folded(parts).strip().rstrip("; ")
    line = _ALIAS.sub(r"\1.\2", line)
    if line.startswith("SELECT pg_catalog.") and len(line) > _LONGEST_QUESTION:
        return f"{line[:_LONGEST_QUESTION]} …"  # SQLAlchemy's own, about tables and the like
    return _shortened(line)


def literal(value: Any) -> str:
    """Return a value as SQL would spell it, long ones shortened."""
    if value is None:
        return "NULL"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, (int, float, decimal.Decimal)):
        return str(value)
    if isinstance(value, str):
        return _quoted(value)
    if isinstance(value, (bytes, bytearray, memoryview)):
        return _bytes(bytes(value))
    if isinstance(value, (datetime.date, datetime.time, datetime.timedelta, uuid.UUID)):
        return f"'{value}'"
    if isinstance(value, (list, tuple)):
        shown = [literal(item) for item in value[:_SHOWN_IN_ARRAY]]
        more = len(value) - _SHOWN_IN_ARRAY
        return f"ARRAY[{', '.join([*shown, f'… {more} more'] if more > 0 else shown)}]"
    if isinstance(value, dict):
        return _quoted(json.dumps(value, default=str, ensure_ascii=False))
    inner = _wrapped(value)
    return _quoted(str(value)) if inner is None else literal(inner)


def _wrapped(value: Any) -> Any:
    """Return what is in a driver's wrapper around bytes, JSON and the like."""
    for name in ("adapted", "obj"):
        inner = getattr(value, name, None)
        if inner is not None and type(inner) is not type(value):
            return inner
    return None


def _all_values(parameters: object) -> Iterator[Any]:
    """Yield the parameters of a statement, those of all sets of an ``executemany()``."""
    if isinstance(parameters, Mapping):
        yield from parameters  # a name may be hidden as well
        parameters = list(parameters.values())
    if isinstance(parameters, (list, tuple)):
        for each in parameters:
            if isinstance(each, (Mapping, list, tuple)):
                yield from _all_values(each)
            elif each is not None:
                inner = _wrapped(each)
                yield each if inner is None else inner


def _quoted(text: str) -> str:
    is_short = len(text) <= _LONGEST_TEXT or isinstance(text, Shortened)
    shown = text if is_short else f"{text[: _LONGEST_TEXT - 20]}… ({len(text)} characters)"
    shown = shown.replace("'", "''")
    return "'" + re.sub(r"[\x00-\x1f]", lambda found: repr(found[0])[1:-1], shown) + "'"


def _bytes(value: bytes) -> str:
    if len(value) <= 16:
        return f"'\\x{value.hex()}'"
    return f"'\\x{value[:8].hex()}… ({len(value)} bytes)'"


def _shortened(line: str) -> str:
    if len(line) <= _LONGEST_STATEMENT:
        return line
    left_out = len(line) - _LONGEST_STATEMENT
    return f"{line[: _LONGEST_STATEMENT - _TAIL]} … {left_out} more characters … {line[-_TAIL:]}"


def _parts(text: str, parameters: object) -> Iterator[str]:
    """Yield the pieces of a statement, with one set of parameters in place of their placeholders."""
    given = iter(parameters) if isinstance(parameters, (list, tuple)) else iter(())
    for token in tokens(text):
        if token.kind == "parameter":
            yield _value(token, parameters, given)
        elif token.kind in _SPACE:
            yield " "
        elif token.kind == "unclosed":  # its end was not kept
            yield f"{token.text[: _LONGEST_TEXT - 20]}…"
        else:
            shown = token.text.replace("%%", "%") if parameters else token.text
            is_long = token.kind == "string" and len(shown) > _LONGEST_TEXT
            yield literal(shown.strip("'").replace("''", "'")) if is_long else shown


def _value(token: Token, parameters: object, given: Iterator[Any]) -> str:
    text = token.text
    if text.startswith("%("):
        name = text[2 : text.rindex(")")]
        return literal(parameters[name]) if isinstance(parameters, Mapping) and name in parameters else text
    if text[0] == "$" and isinstance(parameters, (list, tuple)) and int(text[1:]) <= len(parameters):
        return literal(parameters[int(text[1:]) - 1])
    if text[0] != "%":
        return text  # an operator of jsonb, or part of a text that is no SQL
    try:
        return literal(next(given))
    except StopIteration:
        return text


def _one_space(parts: list[str]) -> list[str]:
    return [part for i, part in enumerate(parts) if part != " " or (i > 0 and parts[i - 1] != " ")]


def _folded(parts: list[str]) -> str:
    """Shorten ``IN (1, 2, 3, 4, ...)``, ``SELECT a, b, c, ... FROM`` and ``VALUES (...), (...), (...)``."""
    shown = ""
    at = 0
    while at < len(parts):
        word = parts[at].lower()
        shown += parts[at]
        at += 1
        if word not in _LISTS or (word == "select" and at > 1):
            continue
        if word == "in":
            opening = next((i for i in (at, at + 1) if parts[i : i + 1] == ["("]), None)
            if opening is None:
                continue
            shown, at = f"{shown} (", opening + 1
        items, at = _items(parts, at)
        shown += _first_of(items, word)
    return shown


def _items(parts: list[str], at: int) -> tuple[list[str], int]:
    """Return what commas divide from a place on, and where it ends: at a parenthesis that closes or a clause."""
    items, depth = [""], 0
    while at < len(parts):
        part = parts[at]
        if depth == 0 and (part in (")", ";") or part.lower() in _AFTER_LIST):
            break
        depth += (part == "(") - (part == ")")
        if part == "," and depth == 0:
            items.append("")
        else:
            items[-1] += part
        at += 1
    return items, at


def _first_of(items: list[str], word: str) -> str:
    kept, what = _LISTS[word]
    if len(items) <= kept + 1:
        return ",".join(items)
    number: object = len(items) - kept
    if items[-1].rstrip().endswith("…"):
        number = "many"  # the end of a very long text was not kept
    end = items[-1][len(items[-1].rstrip()) :]
    return f"{','.join(items[:kept])}, … {number} more{what}{end}"
