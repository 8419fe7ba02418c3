"""Sequences keep counting when a transaction is undone; this sets them back.

``setval`` acts at once and outlives every rollback (PostgreSQL manual, "Sequence Manipulation Functions"), so it is
sent once the test's transaction is over.
"""

from __future__ import annotations

from typing import Any

from dbtestcase.sql import quoted_literal

__all__ = ["restoring_sql"]

_NAMES = "SELECT format('%I.%I', schemaname, sequencename) FROM pg_sequences ORDER BY 1"


def restoring_sql(connection: Any) -> str:
    """Return the statement that sets all sequences to the state they have now; "" if there is none.

    Args:
        connection: A psycopg2 connection to the database.
    """
    with connection.cursor() as cursor:
        cursor.execute(_NAMES)
        names = [name for (name,) in cursor.fetchall()]
        if not names:
            return ""
        states = (f"SELECT {quoted_literal(name)}, last_value, is_called FROM {name}" for name in names)
        cursor.execute(" UNION ALL ".join(states))
        rows = [
            f"({quoted_literal(name)}::regclass, {value}::bigint, {str(called).lower()})"
            for name, value, called in cursor
        ]
    # Rows, because a SELECT has 1664 columns at most; counted, because nobody wants to read them.
    return (
        f"SELECT count(setval(name, value, called)) FROM (VALUES {', '.join(rows)}) AS sequence (name, value, called)"
    )
