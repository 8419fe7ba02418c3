"""Where the sequences of a database stand, and the statement that sets them back there.

Sequences keep counting when a transaction is undone. ``setval`` acts at once and outlives every rollback (PostgreSQL
manual, "Sequence Manipulation Functions").
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from dbtestcase.sql import quoted_literal

__all__ = ["States", "present_states", "restoring_sql", "states"]

States = dict[str, Sequence[Any]]
"""By the sequence's qualified name, as SQL writes it: its ``last_value`` and ``is_called``."""

# Those of temporary tables are gone with the connection that made them.
_OURS = "pg_sequences WHERE schemaname !~ '^pg_temp_' ORDER BY 1"
_NAMES = f"SELECT format('%I.%I', schemaname, sequencename) FROM {_OURS}"
_PRESENT = f"SELECT format('%I.%I', schemaname, sequencename), last_value, start_value FROM {_OURS}"


def states(connection: Any) -> States:
    """Return where the sequences of a database stand now; ``connection`` is one of psycopg2 or psycopg."""
    with connection.cursor() as cursor:
        cursor.execute(_NAMES)
        names = [name for (name,) in cursor.fetchall()]
        if not names:
            return {}
        each = (f"SELECT {quoted_literal(name)}, last_value, is_called FROM {name}" for name in names)
        cursor.execute(" UNION ALL ".join(each))
        return {name: [value, is_called] for name, value, is_called in cursor.fetchall()}


def present_states(connection: Any, before: States) -> States:
    """Return where the sequences of a database stand now, in one query that opens none of them.

    That does not tell where a sequence that was not used yet will begin; it is where it would have before.

    Args:
        before: Where they stood before.
    """
    with connection.cursor() as cursor:
        cursor.execute(_PRESENT)
        found: States = {}
        for name, value, start in cursor.fetchall():
            known = before.get(name)
            if value is not None:
                found[name] = [value, True]
            else:
                found[name] = known if known is not None and not known[1] else [start, False]
        return found


def restoring_sql(states: Mapping[str, Sequence[Any]]) -> str:
    """Return the statement that sets sequences back; "" if there is none."""
    rows = [
        f"({quoted_literal(name)}::regclass, {value}::bigint, {str(called).lower()})"
        for name, (value, called) in states.items()
    ]
    if not rows:
        return ""
    # Rows, because a SELECT has 1664 columns at most; counted, because nobody wants to read them.
    return (
        f"SELECT count(setval(name, value, called)) FROM (VALUES {', '.join(rows)}) AS sequence (name, value, called)"
    )
