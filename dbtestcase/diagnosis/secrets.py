"""Values of hidden columns, taken out of the database's own error messages.

The list of statements hides them by itself; but SQLAlchemy quotes a failed statement and its parameters, and PostgreSQL
the row that it refused and the line in which it stumbled, in errors that the test runner prints beside it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any

from sqlalchemy.exc import StatementError

from dbtestcase.diagnosis.hidden import REPLACEMENT, HiddenNames, is_hidden, mentions_hidden
from dbtestcase.diagnosis.sqltext import hidden_values, redacted
from dbtestcase.diagnosis.tracebacks import chain

_SHORTEST = 4  # shorter values would take harmless parts of a message with them

_EXCERPT = re.compile(r"(LINE \d+:)[^\n]*(?:\n[ \t]*\^)?")
_KEY = re.compile(r"(Key \((.*?)\)=\().*(\) (?:already|conflicts|is (?:not|still)|is duplicated))", re.DOTALL)
_ROW = re.compile(r"((?:Failing|Existing) row contains \()(.*)(\)\.)", re.DOTALL)
_COPIED = re.compile(r'(COPY ([\w."]+), line \d+(?:, column (\w+))?: ")(.*)(")')


def hide_secrets(
    error: BaseException, statements: Iterable[tuple[object, object]], hidden: HiddenNames
) -> Callable[[str], str]:
    """Take values of hidden columns out of an error and of what it was raised from, where the database wrote them.

    Args:
        statements: What was sent, with its parameters.

    Returns:
        What takes them out of other texts that quote the database.
    """
    raised = [found for each in chain(error) for found in (each, getattr(each, "orig", None)) if found is not None]
    database = list({id(each): each for each in raised if _from_database(each)}.values())
    if not database:
        return str
    secrets: list[Any] = []
    for sql, parameters in statements:
        secrets += hidden_values(sql, parameters, hidden)
    for each in database:
        if isinstance(each, StatementError) and each.statement is not None:
            found = hidden_values(each.statement, each.params, hidden)
            secrets += found
            each.params = _without(each.params, found)
            each.statement = redacted(each.statement, hidden)
    texts = sorted({each for each in secrets if isinstance(each, str) and each}, key=len, reverse=True)
    table = next(
        (name for each in database if (name := getattr(getattr(each, "diag", None), "table_name", None))), None
    )
    clean = partial(_cleaned, secrets=texts, hidden=hidden, table=table)
    for each in database:
        each.args = tuple(clean(arg) if isinstance(arg, str) else arg for arg in each.args)
    return clean


def _from_database(error: BaseException) -> bool:
    return isinstance(error, StatementError) or type(error).__module__.partition(".")[0] in ("psycopg", "psycopg2")


def _without(parameters: Any, secrets: list[Any]) -> Any:
    def shown(value: Any) -> Any:
        return REPLACEMENT if any(value is each for each in secrets) else value

    if isinstance(parameters, Mapping):
        return {name: shown(value) for name, value in parameters.items()}
    if isinstance(parameters, tuple):
        return tuple(shown(value) for value in parameters)
    if isinstance(parameters, Sequence) and not isinstance(parameters, (str, bytes)):
        return [_without(each, secrets) if isinstance(each, (Mapping, tuple)) else shown(each) for each in parameters]
    return parameters


def _cleaned(text: str, secrets: list[str], hidden: HiddenNames, table: str | None) -> str:
    """Return what the database said without the secrets: those that are known, and where it quotes unknown ones."""

    def key(found: re.Match[str]) -> str:
        return f"{found[1]}{REPLACEMENT}{found[3]}" if mentions_hidden(found[2], hidden) else found[0]

    def row(found: re.Match[str]) -> str:
        return f"{found[1]}{_row(found[2], table, hidden)}{found[3]}"

    def copied(found: re.Match[str]) -> str:
        if found[3] is not None:
            return f"{found[1]}{REPLACEMENT}{found[5]}" if is_hidden(found[3], hidden) else found[0]
        columns = hidden.columns_of(found[2].rpartition(".")[2].strip('"'))
        is_harmless = columns is not None and not any(is_hidden(each, hidden) for each in columns)
        return found[0] if is_harmless else f"{found[1]}{REPLACEMENT}{found[5]}"

    text = _KEY.sub(key, text)
    text = _ROW.sub(row, text)
    text = _COPIED.sub(copied, text)
    if secrets:
        text = _EXCERPT.sub(rf"\1 {REPLACEMENT}", text)  # may hold the beginning of one
    for secret in secrets:
        text = text.replace(secret if len(secret) >= _SHORTEST else f'"{secret}"', REPLACEMENT)
    return text


def _row(shown: str, table: str | None, hidden: HiddenNames) -> str:
    """Return the values of a row as PostgreSQL lists them, in the order of the columns, without the hidden ones."""
    columns = hidden.columns_of(table) if table else None
    if columns is None:
        return REPLACEMENT
    if not any(is_hidden(each, hidden) for each in columns):
        return shown
    values = shown.split(", ")
    if len(values) != len(columns):
        return REPLACEMENT  # one of them has a comma in it
    return ", ".join(
        REPLACEMENT if is_hidden(column, hidden) and value != "null" else value
        for column, value in zip(columns, values, strict=True)
    )
