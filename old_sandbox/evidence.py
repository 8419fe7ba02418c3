"""What can be found out about the rows that somebody has changed and not committed.

The server keeps each version of a row with the id of the transaction that wrote it, and each savepoint has an id of its
own, so new versions can be told apart inside the test's transaction. Old versions are found on a second connection,
which sees them as they were before the test, marked with the id of whoever replaced them; versions that were themselves
written in this test are noted before a statement replaces them, as soon as a test uses two connections.
"""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

from .catalog import Catalog
from .functions import HARMLESS_FUNCTIONS
from .lexer import Text
from .quoting import quoted, string
from .shape import Shape, shape_of
from .transactions import Change, VirtualTransaction

if TYPE_CHECKING:
    from .run import Run
    from .wire import Wire

_IDS_SQL = (
    "SELECT transactionid::text::bigint FROM pg_locks "
    "WHERE locktype = 'transactionid' AND pid = pg_backend_pid() ORDER BY 1"
)

# Stands for parameters that are not known.
MANY = object()
_INSERT = re.compile(
    r"(?P<into>\s*INSERT\s+INTO\s[^()]*\([^()]*\)\s*VALUES)\s*(?P<values>\(.*\))\s*", re.DOTALL | re.IGNORECASE
)


class Many(tuple[Any, ...]):
    """The parameters of a statement that is executed once for each of them."""


class Evidence:
    """Answers for one statement of one transaction."""

    def __init__(self, core: Wire, run: Run, mine: VirtualTransaction) -> None:
        self._core = core
        self._run = run
        self._mine = mine
        self._ids: list[tuple[VirtualTransaction | None, int, int | None]] | None = None
        self._has_ids = False
        self._old: dict[tuple[VirtualTransaction, str], str | None] = {}

    @property
    def catalog(self) -> Catalog:
        return self._core.known_catalog()

    def literal(self, text: Text, sql: str, parameters: Any) -> str | None:
        """Return a statement with its parameters in it, None if evaluating a part of it again could matter."""
        if parameters is MANY or (text.functions and not text.functions <= HARMLESS_FUNCTIONS - {"nextval"}):
            return None
        return self._literal(sql, parameters)

    def _literal(self, sql: str, parameters: Any) -> str | None:
        physical = self._core.connected()
        if not isinstance(parameters, Many):
            return physical.literal(sql, parameters)
        texts = [physical.literal(sql, each) for each in parameters]
        parts = [_INSERT.fullmatch(text) if text is not None else None for text in texts]
        if not parts or not all(parts):
            return None
        values = ", ".join(part["values"] for part in parts if part is not None)
        return f"{parts[0]['into']} {values}" if parts[0] is not None else None

    def shape(self, literal: str) -> Shape | None:
        """Return the simple form of a literal statement."""
        return shape_of(literal, self.catalog.columns)

    def shape_of_change(self, change: Change) -> Shape | None:
        known = self._run.shapes
        if change not in known:
            literal = None
            if change.parameters is not MANY and not change.is_effect:
                literal = self._literal(change.sql, change.parameters)
            known[change] = None if literal is None else self.shape(literal)
        return known[change]

    def written_by(self, transaction: VirtualTransaction, alias: str, column: str = "xmin") -> str | None:
        """Return the condition for the row versions of a transaction; None if they cannot be told apart."""
        if not self._has_ids:
            self._ids, self._has_ids = self._id_ranges(), True
        if self._ids is None:
            return None
        id_ = f"{alias}.{column}::text::bigint"
        parts = [
            f"({id_} >= {low}" + (f" AND {id_} < {high})" if high is not None else ")")
            for owner, low, high in self._ids
            if owner is transaction
        ]
        return f"({' OR '.join(parts)})" if parts else "false"

    def old_rows(self, other: VirtualTransaction, table: str, changes: list[Change]) -> str | None:
        """Return the rows that a transaction replaced or removed, as they were, as JSON; None if that is not known."""
        key = (other, table)
        if key not in self._old:
            self._old[key] = self._find_old_rows(other, table, changes)
        return self._old[key]

    def _find_old_rows(self, other: VirtualTransaction, table: str, changes: list[Change]) -> str | None:
        shapes = [self.shape_of_change(change) for change in changes if not change.locked_only]
        if all(shape is not None and shape.kind == "insert" for shape in shapes):
            return "[]"
        noted = [change.old_rows for change in changes if not change.locked_only]
        if all(
            rows is not None or (s is not None and s.kind == "insert") for rows, s in zip(noted, shapes, strict=True)
        ):
            if self.written_by(other, "x") is None:
                return None
            rows = [row for part in noted if part is not None for row in json.loads(part)]
            # A row that the transaction had written itself is no old row of others.
            return json.dumps([row for row in rows if not self._is_id_of(other, int(row["dbtestcase_xmin"]))])
        if table in self._run.altered:
            return None
        replaced = self.written_by(other, "x", "xmax")
        if replaced is None:
            return None
        # Several ids on one row are kept under a number of another kind.
        several = replaced.replace("x.xmax", "m.xid")
        aside = self._core.query_aside(
            "SELECT coalesce(jsonb_agg(to_jsonb(x) || "
            "jsonb_build_object('dbtestcase_ctid', x.ctid::text)), '[]')::text "
            f"FROM {quoted(table)} x WHERE {replaced} OR CASE "
            "WHEN x.xmax::text::bigint BETWEEN 1 AND mxid_age('1'::xid) "
            f"THEN EXISTS (SELECT 1 FROM pg_get_multixact_members(x.xmax) m WHERE {several} "
            "AND m.mode IN ('upd', 'nokeyupd')) ELSE false END"
        )
        if aside is None:
            return None
        # A row that is only locked has not been replaced: it is still there.
        kept = self.probe(
            "SELECT coalesce(jsonb_agg(o), '[]')::text, count(*) FROM jsonb_array_elements("
            f"{string(aside[0][0])}::jsonb) o WHERE NOT EXISTS (SELECT 1 FROM {quoted(table)} x "
            "WHERE x.ctid = (o->>'dbtestcase_ctid')::tid)"
        )
        if kept is None:
            return None
        if table in self._run.transactions.committed_tables():
            # Rows that were written in this test cannot be seen from aside: are there any among the replaced?
            replacing = [
                change.rowcount
                for change, shape in zip(changes, (self.shape_of_change(change) for change in changes), strict=True)
                if not change.locked_only and (shape is None or shape.kind != "insert")
            ]
            if -1 in replacing or sum(replacing) != kept[0][1]:
                return None
        return str(kept[0][0])

    def _is_id_of(self, transaction: VirtualTransaction, number: int) -> bool:
        return any(
            owner is transaction and low <= number and (high is None or number < high)
            for owner, low, high in self._ids or ()
        )

    def _id_ranges(self) -> list[tuple[VirtualTransaction | None, int, int | None]] | None:
        ids = self.ids()
        owners = None if ids is None else self._run.transactions.owners_of_ids(len(ids))
        if ids is None or owners is None:
            return None
        return [
            (owner, low, ids[i + 1] if i + 1 < len(ids) else None)
            for i, (owner, low) in enumerate(zip(owners, ids, strict=True))
        ]

    def ids(self) -> list[int] | None:
        """Return the ids of the savepoints in which something was written, oldest first."""
        rows = self.probe(_IDS_SQL)
        # The first is that of the transaction itself.
        return None if rows is None else [int(row[0]) for row in rows][1:]

    def first_id(self) -> int:
        """Return the id of the test's transaction; all others of the test are higher."""
        rows = self.probe(_IDS_SQL)
        return int(rows[0][0]) if rows else 0

    def finds_aside(self, sql: str) -> bool:
        """Whether a connection that sees nothing of the test finds a row, or cannot be asked."""
        rows = self._core.query_aside(sql)
        return rows is None or bool(rows)

    def probe(self, sql: str) -> list[tuple[Any, ...]] | None:
        """Ask the server something of ours; None if it did not understand the question."""
        physical = self._core.connected()
        physical.send("SAVEPOINT dbtestcase_probe")
        try:
            rows = physical.query(sql)
        except self._core.driver.Error:
            physical.send("ROLLBACK TO dbtestcase_probe; RELEASE dbtestcase_probe")
            return None
        physical.send("RELEASE dbtestcase_probe")
        return rows

    def finds(self, sql: str) -> bool:
        """Whether a probe finds a row, or cannot be made."""
        rows = self.probe(sql)
        return rows is None or bool(rows)


def note_old_rows(evidence: Evidence, literal: str | None) -> str | None:
    """Return as JSON what a simple UPDATE or DELETE is about to replace."""
    shape = None if literal is None else evidence.shape(literal)
    if shape is None or shape.kind not in ("update", "delete"):
        return None
    where = f" WHERE {shape.where}" if shape.where else ""
    alias = shape.alias
    rows = evidence.probe(
        f"SELECT coalesce(jsonb_agg(to_jsonb({alias}) || "
        f"jsonb_build_object('dbtestcase_xmin', {alias}.xmin::text)), '[]')::text FROM {shape.table}{where}"
    )
    return None if rows is None else str(rows[0][0])
