"""What a statement writes that its text does not say: by triggers, cascades, rules and functions.

The server counts the rows that a transaction has inserted, updated and deleted in each table, so the counts before and
after such a statement tell. They are asked for only if a test uses several connections.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from .catalog import Catalog
from .lexer import Text, read
from .transactions import Change, Transactions

if TYPE_CHECKING:
    from .evidence import Evidence
    from .wire import Physical

# A lock to write stays to the end of the transaction. Counts are no help here: they may hold those of earlier ones.
_WRITTEN_SQL = (
    "SELECT c.relname::text, c.oid::regclass::text FROM pg_locks l JOIN pg_class c ON c.oid = l.relation "
    "WHERE l.pid = pg_backend_pid() AND l.mode = 'RowExclusiveLock' AND c.relkind IN ('r', 'p')"
)
_COUNTS_SQL = (
    "SELECT relname::text, n_tup_ins + n_tup_upd + n_tup_del FROM pg_stat_xact_user_tables "
    "WHERE n_tup_ins + n_tup_upd + n_tup_del > 0"
)


def may_write_more(catalog: Catalog, text: Text) -> bool:
    """Whether a statement may write to tables that it does not name."""
    if any(statement.verb in ("DO", "CALL", "EXECUTE") for statement in text.statements):
        return True
    if text.may_do_anything:
        return True
    return not text.is_ddl and bool(catalog.same_rows(text.written) & catalog.with_effects)


def counts(physical: Physical) -> dict[str, int]:
    """Return how many rows have been written until now, by table."""
    return {table: int(number) for table, number in physical.query(_COUNTS_SQL)}


def _written(evidence: Evidence, known: list[Change]) -> dict[str, int]:
    """Return the tables with more rows that were written or replaced in this test than the known changes did."""
    found = {}
    first = evidence.first_id()
    for table, name in evidence.probe(_WRITTEN_SQL) or ():
        told = sum(max(change.rowcount, 0) for change in known if table in change.tables and not change.locked_only)
        is_written = evidence.finds(f"SELECT 1 FROM {name} WHERE xmin::text::bigint >= {first} OFFSET {told} LIMIT 1")
        if is_written or evidence.finds_aside(
            f"SELECT 1 FROM {name} WHERE xmax::text::bigint >= {first} OFFSET {told} LIMIT 1"
        ):
            found[str(table)] = 1
    return found


def effect(before: dict[str, int], after: dict[str, int], sql: str, named: frozenset[str]) -> Change | None:
    """Return what was written between two counts besides the named tables."""
    tables = frozenset(table for table, number in after.items() if number != before.get(table, 0)) - named
    return Change(sql, None, tables, is_certain=True, is_effect=True) if tables else None


def settle(evidence: Evidence, transactions: Transactions) -> None:
    """Find out what was written before there was a second connection, and nobody had to know."""
    found: dict[str, int] | None = None
    known = [change for segment in transactions.stack for change in segment.changes]
    for segment in transactions.stack:
        for change in list(segment.changes):
            if not change.locked_only and may_write_more(evidence.catalog, read(change.sql)):
                found = _written(evidence, known) if found is None else found
                more = effect({}, found, change.sql, change.tables)
                if more is not None:
                    segment.changes.append(more)
