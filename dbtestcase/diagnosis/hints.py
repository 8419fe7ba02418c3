"""What to do about an error of the database or of the ORM: a sentence to add to a failing test.

Most are made by tests that ran on SQLite before, which lets through what PostgreSQL refuses.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterable

from dbtestcase.diagnosis import messages
from dbtestcase.diagnosis.database_errors import Facts, Hidden, facts_of
from dbtestcase.diagnosis.tracebacks import chain

__all__ = ["hint_for"]

Names = Callable[[], Iterable[str]]
Rule = Callable[[Facts], str | None]


def hint_for(error: BaseException, *, tables: Names = tuple, is_hidden: Hidden = lambda error: False) -> str | None:
    """Return what to do about an error, "" if that is not known, ``None`` if neither database nor ORM raised it.

    Args:
        tables: Gives the names of the tables in the database; called only if a table was not found.
        is_hidden: Whether the values in an error's message must not be shown.
    """
    for each in chain(error):
        # Recognized by name, so that modules of SQLAlchemy need not be imported for it.
        if type(each).__module__.startswith("sqlalchemy.") and type(each).__name__ in _BY_CLASS:
            return _BY_CLASS[type(each).__name__](str(each))
        facts = facts_of(each, is_hidden)
        if facts is not None:
            if facts.sqlstate == "42P01":
                return _undefined_table(facts, tables)
            rule = _BY_STATE.get(facts.sqlstate)
            return (rule(facts) if callable(rule) else rule) or ""
    return None


# -- errors of the database


def _undefined_table(facts: Facts, tables: Names) -> str:
    name = _quoted(facts.message).rpartition(".")[2]
    there = sorted(tables())
    if not there:
        return messages.NO_TABLES.format(name=name)
    if name in there:
        return messages.NOT_IN_SEARCH_PATH.format(name=name)
    same = [each for each in there if each.lower() == name.lower()]
    if same:
        return messages.FOLDED_NAME.format(name=same[0])
    near = difflib.get_close_matches(name, there, 3)
    if near:
        guess = messages.SIMILAR_TABLES.format(names=" or ".join(near))
    else:
        more = f" and {len(there) - 8} more" if len(there) > 8 else ""
        guess = messages.ALL_TABLES.format(names=", ".join(there[:8]) + more)
    return messages.NO_SUCH_TABLE.format(guess=guess, name=name)


def _foreign_key(facts: Facts) -> str:
    if "still referenced" in facts.detail:
        return messages.STILL_REFERENCED
    return messages.PARENT_MISSING.format(detail=facts.detail or messages.PARENT_MISSING_DETAIL)


def _not_null(facts: Facts) -> str:
    column = f"{facts.table}.{facts.column}" if facts.table else repr(facts.column)
    return (messages.NULL_KEY if facts.column.endswith("_id") else messages.NULL_VALUE).format(column=column)


def _unique(facts: Facts) -> str:
    detail = f" ({facts.detail.rstrip('.')})" if facts.detail else ""
    is_key = facts.constraint.endswith("_pkey")
    return (messages.KEY_TAKEN if is_key else messages.VALUE_TAKEN).format(detail=detail)


def _wrong_type(facts: Facts) -> str:
    return (
        messages.NUMBER_FOR_BOOLEAN if "boolean" in facts.message else messages.WRONG_TYPE.format(message=facts.message)
    )


def _undefined_function(facts: Facts) -> str | None:
    if "operator does not exist" in facts.message:
        if "boolean = integer" in facts.message or "integer = boolean" in facts.message:
            return messages.NUMBER_FOR_BOOLEAN
        return messages.DIFFERENT_TYPES.format(message=facts.message)
    found = re.search(r"function (?:\w+\.)?(\w+)\(", facts.message)
    return _extension_with(found[1]) if found else None


def _extension_with(name: str) -> str | None:
    extension = messages.EXTENSION_WITH.get(name.lower())
    return messages.EXTENSION.format(name=name, extensions=repr(extension)) if extension else None


def _with_message(hint: str) -> Rule:
    return lambda facts: hint.format(message=facts.message)


_BY_STATE: dict[str, Rule | str] = {
    "23503": _foreign_key,
    "23502": _not_null,
    "23505": _unique,
    "22P02": _with_message(messages.WRONG_TEXT),
    "22007": _with_message(messages.WRONG_TEXT),
    "42804": _wrong_type,
    "42883": _undefined_function,
    "42803": messages.GROUPING,
    "22001": _with_message(messages.TOO_LONG),
    "22003": _with_message(messages.OUT_OF_RANGE),
    "25P02": messages.FAILED_TRANSACTION,
    "25001": _with_message(messages.NOT_IN_TRANSACTION),
    "42P07": messages.TABLE_THERE,
    "42704": lambda facts: _extension_with(_quoted(facts.message)),
    "3F000": lambda facts: messages.NO_SUCH_SCHEMA.format(name=_quoted(facts.message)),
}


# -- errors of the ORM


def _detached(message: str) -> str:
    lazy = re.search(r"<(\w+)[^>]*>.*lazy load operation of attribute '(\w+)'", message)
    return messages.LAZY_LOAD.format(attribute=f"{lazy[1]}.{lazy[2]}") if lazy else messages.DETACHED


def _pending_rollback(message: str) -> str:
    first = re.search(r"Original exception was: (.+)", message)
    first_error = messages.FIRST_ERROR.format(error=first[1].strip()) if first else ""
    return messages.PENDING_ROLLBACK.format(first_error=first_error)


_BY_CLASS: dict[str, Callable[[str], str]] = {
    "DetachedInstanceError": _detached,
    "PendingRollbackError": _pending_rollback,
    "StaleDataError": lambda message: messages.STALE,
    "ObjectDeletedError": lambda message: messages.STALE,
}


def _quoted(message: str) -> str:
    found = re.search(r'"([^"]+)"', message)
    return found[1] if found else ""
