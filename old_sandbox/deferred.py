"""What a COMMIT would check: constraints that are deferred."""

from __future__ import annotations

from typing import Any, Protocol

_DEFERRABLE_SQL = """
SELECT quote_ident(n.nspname) || '.' || quote_ident(c.conname), c.conname::text, c.condeferred
FROM pg_catalog.pg_constraint c JOIN pg_catalog.pg_namespace n ON n.oid = c.connamespace
WHERE c.condeferrable AND c.conparentid = 0
"""


class _Asks(Protocol):
    def query(self, sql: str) -> list[tuple[Any, ...]]: ...


class DeferredConstraints:
    """Remembers which ones the schema has, so that a test of a schema without any pays nothing."""

    def __init__(self) -> None:
        self._known: list[tuple[str, str, bool]] | None = None

    def forget(self) -> None:
        """The schema may have changed."""
        self._known = None

    def are_any(self, physical: _Asks) -> bool:
        if self._known is None:
            rows = physical.query(_DEFERRABLE_SQL)
            self._known = [(quoted, name, bool(deferred)) for quoted, name, deferred in rows]
        return bool(self._known)

    def check_sql(self) -> str:
        """Return what makes the server check now what it would check at COMMIT, and go on deferring afterwards."""
        deferred = sorted({quoted for quoted, _, is_deferred in self._known or () if is_deferred})
        back = f"; SET CONSTRAINTS {', '.join(deferred)} DEFERRED" if deferred else ""
        return f"SET CONSTRAINTS ALL IMMEDIATE{back}"

    def look_sql(self, not_due: frozenset[str]) -> str:
        """Return the same for all but some, to be undone afterwards; "" if nothing is due.

        Args:
            not_due: Constraints that only other connections can have violated, and they have not committed yet.
        """
        due = sorted({quoted for quoted, name, _ in self._known or () if name not in not_due})
        return f"SET CONSTRAINTS {', '.join(due)} IMMEDIATE" if due else ""
