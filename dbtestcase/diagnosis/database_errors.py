"""Errors of the database: what hints need to know of one, and one without the values that must not be shown."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import psycopg2
from sqlalchemy.exc import DBAPIError, PendingRollbackError, StatementError

from dbtestcase.diagnosis.redaction import HIDDEN, Redaction, without_values
from dbtestcase.diagnosis.sqltext import fingerprint, hides
from dbtestcase.diagnosis.statement import Statement
from dbtestcase.diagnosis.tracebacks import chain, from_driver, sqlstate

__all__ = ["DATABASE_ERRORS", "Facts", "Hidden", "facts_of", "first_line", "redact"]

DATABASE_ERRORS = (DBAPIError, psycopg2.Error)
Hidden = Callable[[BaseException], bool]
_QUOTES_ERROR = "Original exception was:"


@dataclass(frozen=True, slots=True)
class Facts:
    """A database error, whatever raised it; ``message`` and ``detail`` without values if those are hidden."""

    sqlstate: str
    message: str
    detail: str
    table: str
    column: str
    constraint: str


def facts_of(error: BaseException, is_hidden: Hidden) -> Facts | None:
    """Return what is known of an error, ``None`` if no database has raised it."""
    original = getattr(error, "orig", None) or error
    state = sqlstate(original)
    if state is None:
        return None
    diag: Any = getattr(original, "diag", None)

    def field(name: str) -> str:
        return str(getattr(diag, name, None) or "")

    hidden = is_hidden(original)
    return Facts(
        sqlstate=state,
        message=without_values(original) if hidden else field("message_primary") or str(original),
        detail="" if hidden else field("message_detail"),
        table=field("table_name"),
        column=field("column_name"),
        constraint=field("constraint_name"),
    )


def first_line(error: BaseException) -> str:
    """Return the kind of an error and the first line of its message, without values if a database raised it."""
    original = getattr(error, "orig", None) or error
    words = without_values(original) if isinstance(error, StatementError) or from_driver(original) else str(error)
    return f"{type(error).__name__}: {words}".splitlines()[0][:160]


def redact(error: BaseException, statements: Sequence[Statement], redaction: Redaction) -> Hidden:
    """Take the values out of an error and its causes where they must not be shown; return which those were."""
    before = [(each, _text(each)) for each in chain(error)]
    sent = {id(each.error): each for each in statements if each.error is not None}
    hidden: dict[int, BaseException] = {}
    for each in chain(error):
        original = each.orig if isinstance(each, StatementError) else each
        if original is None or not (from_driver(original) or isinstance(each, StatementError)):
            if isinstance(each, PendingRollbackError) and redaction.hides(str(each)):
                each.args = (f"{str(each).partition(_QUOTES_ERROR)[0]}{_QUOTES_ERROR} {HIDDEN}",)
            continue
        statement = sent.get(id(original))
        if (
            id(original) in hidden
            or (isinstance(each, StatementError) and hides(each.statement or "", each.params, redaction))
            or (statement is not None and statement.hides_values)
            or redaction.hides_message(original)
        ):
            _redact(each, original)
            hidden[id(original)] = original
            # asyncpg's own is the cause of the one that SQLAlchemy makes of it.
            hidden.update({id(cause): cause for cause in chain(original) if from_driver(cause)})
    _redact_quotations(before)
    return lambda each: id(each) in hidden


def _redact(error: BaseException, original: BaseException) -> None:
    if isinstance(error, StatementError):
        kind = type(original)
        error.args = (f"({kind.__module__}.{kind.__name__}) {without_values(original)}",)
        error.statement = fingerprint(error.statement or "") or None
        error.hide_parameters = True
    # Last, because without_values() reads it where a driver gives no fields.
    original.args = (f"{without_values(original)}\n(values hidden)",)
    for field in ("detail", "hint", "context"):
        if getattr(original, field, None):
            setattr(original, field, None)  # asyncpg puts them behind its message


def _redact_quotations(before: Sequence[tuple[BaseException, str]]) -> None:
    """Redact the messages that quote the text of another error, as ``raise ShopError(str(error))`` does."""
    changed = {id(error): (text, _text(error)) for error, text in before if _text(error) != text}
    for error, _ in before:
        if id(error) not in changed:
            for old, new in changed.values():
                error.args = tuple(each.replace(old, new) if isinstance(each, str) else each for each in error.args)


def _text(error: BaseException) -> str:
    try:
        return str(error)
    except Exception:
        return ""  # of the user's own, whose __str__ has a fault
