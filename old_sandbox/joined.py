"""Our savepoint and the statement that needs it in one text, so that the two are one round trip.

The server reads a whole text before it executes any of it. One that it cannot read leaves nothing executed, not our
savepoint either, and what stood on top before would be lost with the failed transaction. So a savepoint goes along only
with what has been read before: the same words, with values of the same plain types.
"""

from __future__ import annotations

from datetime import date, datetime, time, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

from .lexer import Text
from .transactions import OPEN_SQL

_VERBS = ("SELECT", "INSERT", "UPDATE", "DELETE")
# What the drivers write of these is one value wherever it stands; of an empty tuple, say, it is not.
_PLAIN = frozenset({bool, int, float, str, bytes, Decimal, date, datetime, time, timedelta, UUID, type(None)})
_MOST, _MOST_VALUES = 2000, 50


class Proven:
    """The statements that the server has read and executed."""

    def __init__(self) -> None:
        self._known: set[tuple[str, tuple[type, ...]]] = set()

    def note(self, text: Text, sql: str, parameters: Any) -> None:
        """Remember a statement that went well."""
        if _is_simple(text):
            key = _key(sql, parameters)
            if key is not None:
                if len(self._known) >= _MOST:
                    self._known.clear()
                self._known.add(key)

    def fits(self, text: Text, sql: str, parameters: Any, ours: str) -> bool:
        """Whether what is ours may go along with a statement."""
        if not _is_simple(text):
            return False
        if ours == OPEN_SQL:
            return True  # a test begins with it, and has nothing yet that could be lost
        key = _key(sql, parameters)
        return key is not None and key in self._known


def points_into_text(error: Any) -> bool:
    """Whether an error of the server says where in the text that was sent it is."""
    return error.diag.statement_position is not None


def _is_simple(text: Text) -> bool:
    """Whether it is one of the statements that most are, and does not ask for its own words."""
    return (
        text.verb in _VERBS
        and len(text.statements) == 1
        and not text.is_private
        and text.is_ordinary
        and "current_query" not in text.functions
    )


def _key(sql: str, parameters: Any) -> tuple[str, tuple[type, ...]] | None:
    if not parameters:
        return sql, ()
    values = parameters.values() if type(parameters) is dict else parameters
    if type(parameters) not in (dict, tuple, list) or len(values) > _MOST_VALUES:
        return None
    types = tuple(map(type, values))
    return (sql, types) if _PLAIN.issuperset(types) else None
