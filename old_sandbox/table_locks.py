"""The locks that statements take on whole tables, and which of them keep each other waiting.

From the PostgreSQL manual, "Explicit Locking". Most never conflict: only DDL, TRUNCATE and LOCK TABLE are met here.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .lexer import Statement

_ACCESS_SHARE, _ROW_SHARE, _ROW_EXCLUSIVE = "ACCESS SHARE", "ROW SHARE", "ROW EXCLUSIVE"
_SHARE_UPDATE_EXCLUSIVE, _SHARE = "SHARE UPDATE EXCLUSIVE", "SHARE"
_SHARE_ROW_EXCLUSIVE, _EXCLUSIVE, _ACCESS_EXCLUSIVE = "SHARE ROW EXCLUSIVE", "EXCLUSIVE", "ACCESS EXCLUSIVE"
# Not a mode of PostgreSQL: a table that did not exist before, so that nobody else has heard of it.
CREATED = "CREATED"

_FROM_SHARE = frozenset({_SHARE, _SHARE_ROW_EXCLUSIVE, _EXCLUSIVE, _ACCESS_EXCLUSIVE, CREATED})
_ALL = frozenset({_ACCESS_SHARE, _ROW_SHARE, _ROW_EXCLUSIVE, _SHARE_UPDATE_EXCLUSIVE}) | _FROM_SHARE
_CONFLICTS: dict[str, frozenset[str]] = {
    _ACCESS_SHARE: frozenset({_ACCESS_EXCLUSIVE, CREATED}),
    _ROW_SHARE: frozenset({_EXCLUSIVE, _ACCESS_EXCLUSIVE, CREATED}),
    _ROW_EXCLUSIVE: _FROM_SHARE,
    _SHARE_UPDATE_EXCLUSIVE: _FROM_SHARE | {_SHARE_UPDATE_EXCLUSIVE},
    _SHARE: (_FROM_SHARE | {_ROW_EXCLUSIVE, _SHARE_UPDATE_EXCLUSIVE}) - {_SHARE},
    _SHARE_ROW_EXCLUSIVE: _FROM_SHARE | {_ROW_EXCLUSIVE, _SHARE_UPDATE_EXCLUSIVE},
    _EXCLUSIVE: _ALL - {_ACCESS_SHARE},
    _ACCESS_EXCLUSIVE: _ALL,
    # The name is looked up: it may be there for everybody already, which gives an error and no wait.
    CREATED: frozenset({_ACCESS_EXCLUSIVE, CREATED}),
}
WEAK = frozenset({_ACCESS_SHARE, _ROW_SHARE, _ROW_EXCLUSIVE})
# What checking a foreign key takes on the tables at both ends.
CHECKED = _ROW_SHARE

_EXCLUSIVE_VERBS = frozenset({"ALTER", "DROP", "TRUNCATE", "CLUSTER", "REINDEX", "REFRESH"})
_MAINTENANCE = frozenset({"ANALYZE", "VACUUM", "COMMENT"})


def excludes(wanted: str, held: str) -> bool:
    """Whether a connection that wants a lock waits for another that holds one."""
    return held in _CONFLICTS[wanted]


def locks_of(statement: Statement) -> Iterator[tuple[str, str]]:
    """Yield the tables that a statement locks, with the mode."""
    for table in statement.tables:
        yield table, _mode(statement, is_written=table in statement.written)


def _mode(statement: Statement, *, is_written: bool) -> str:
    verb, said = statement.verb, " ".join(statement.words).upper()
    if verb == "LOCK":
        _, _, mode = said.partition(" IN ")
        mode = mode.removesuffix(" NOWAIT").removesuffix(" MODE")
        return mode if mode in _CONFLICTS else _ACCESS_EXCLUSIVE
    if verb == "CREATE":
        kind = said.split()[1:4]
        if "INDEX" in kind and not is_written:
            return _SHARE_UPDATE_EXCLUSIVE if "CONCURRENTLY" in said else _SHARE
        if is_written:
            return CREATED
        return _ACCESS_SHARE if "VIEW" in kind or " AS SELECT " in said else _SHARE_ROW_EXCLUSIVE
    if verb == "ALTER" and " ADD " in said and " FOREIGN KEY" in said:
        return _SHARE_ROW_EXCLUSIVE
    if verb in _EXCLUSIVE_VERBS:
        return _ACCESS_EXCLUSIVE if "CONCURRENTLY" not in said else _EXCLUSIVE
    if verb in _MAINTENANCE:
        return _SHARE_UPDATE_EXCLUSIVE
    if is_written:
        return CREATED if verb == "SELECT" else _ROW_EXCLUSIVE
    return _ROW_SHARE if statement.locks_rows else _ACCESS_SHARE
