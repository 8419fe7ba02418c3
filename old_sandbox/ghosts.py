"""Work that another connection's rollback took away: nobody can see it, but production would wait for it."""

from __future__ import annotations

from .catalog import ForeignKey
from .evidence import Evidence
from .foreign import ForeignKeys
from .keys import rows_of, same_keys
from .lexer import Text
from .quoting import quoted, string
from .shape import Shape
from .transactions import Change, VirtualTransaction


class Ghosts:
    """Compares one statement with the lost work of open transactions."""

    def __init__(self, evidence: Evidence, mine: VirtualTransaction, foreign: ForeignKeys) -> None:
        self._evidence = evidence
        self._mine = mine
        self._foreign = foreign

    def meets(self, shape: Shape, theirs: Shape) -> bool:
        """Whether an insert uses a key of rows that the other had changed; what it wrote has been lost."""
        indexes = self._evidence.catalog.unique.get(shape.name, [])
        if shape.kind == "upsert":
            indexes = self._indexes_used(shape, indexes, theirs)
        if shape.rows is None or any("*" in index for index in indexes):
            return True
        if theirs.kind in ("insert", "upsert"):
            return (
                theirs.rows is None
                or _have_a_key_in_common(shape, theirs, indexes)
                or (theirs.kind == "upsert" and self._meets_found_row(shape, theirs, indexes))
            )
        literals = dict(theirs.assigned)
        for index in indexes:
            if not theirs.columns & index:
                continue
            if len(index) > 1 or not index <= literals.keys():
                return True
            (column,) = index
            if any(row.get(column) == literals[column] for row in shape.rows):
                return True
        same = same_keys(shape, indexes)
        # What the insert itself has just written is none of the other's rows.
        own = None if shape.kind == "upsert" else self._evidence.written_by(self._mine, theirs.alias)
        rows = rows_of(theirs, but=own)
        return bool(same) and self._evidence.finds(f"SELECT 1 FROM {rows} x WHERE {' OR '.join(same)}")

    def _indexes_used(self, shape: Shape, indexes: list[frozenset[str]], theirs: Shape) -> list[frozenset[str]]:
        """Return the keys that an insert with ON CONFLICT looks at: one alone, if it finds its row there."""
        if theirs.kind == "select":
            return [shape.arbiter] if shape.arbiter else []  # a lock matters for the row that would be updated
        there = same_keys(shape, [shape.arbiter]) if shape.arbiter else []
        if there and self._evidence.finds(f"SELECT 1 FROM {shape.bare_table} x WHERE {' OR '.join(there)}"):
            return [shape.arbiter]
        return indexes

    def _meets_found_row(self, shape: Shape, theirs: Shape, indexes: list[frozenset[str]]) -> bool:
        """Whether an insert uses a key of the row that the other's ON CONFLICT found and updated."""
        found = same_keys(theirs, [theirs.arbiter]) if theirs.arbiter else []
        mine = same_keys(shape, indexes)
        return bool(found and mine) and self._evidence.finds(
            f"SELECT 1 FROM {shape.bare_table} x WHERE ({' OR '.join(found)}) AND ({' OR '.join(mine)}) LIMIT 1"
        )

    def takes_key(self, shape: Shape, theirs: Shape) -> bool:
        """Whether an update sets a key to what a row has, or may have had, that the other had changed."""
        literals = dict(shape.assigned)
        for index in self._evidence.catalog.unique.get(shape.name, []):
            if not index & shape.columns:
                continue
            if len(index) > 1 or not index <= literals.keys():
                return True
            (column,) = index
            if theirs.kind in ("insert", "upsert"):
                if theirs.rows is None or any(row.get(column) == literals[column] for row in theirs.rows):
                    return True
                if theirs.kind == "insert" or not theirs.arbiter:
                    continue
                found = same_keys(theirs, [theirs.arbiter])
                same = f"x.{quoted(column)}::text = {string(literals[column])}"
                where = f"({' OR '.join(found)}) AND {same}"
                if found and self._evidence.finds(f"SELECT 1 FROM {theirs.bare_table} x WHERE {where}"):
                    return True
                continue
            known = dict(theirs.assigned)
            if theirs.columns & index and known.get(column, literals[column]) == literals[column]:
                return True
            if self._evidence.finds(
                f"SELECT 1 FROM {rows_of(theirs)} x WHERE x.{quoted(column)}::text = {string(literals[column])}"
            ):
                return True
        return False

    def meets_child(self, text: Text, shape: Shape, theirs: Shape) -> bool:
        """Whether a statement on parents would have waited for lost rows that refer to them."""
        unique = self._evidence.catalog.unique_columns(shape.name)
        is_strong = shape.kind == "delete" or (shape.kind == "update" and shape.columns & unique)
        if not is_strong and not text.locks_for_update:
            return False
        for key in self._evidence.catalog.foreign_keys:
            if (key.parent, key.child) != (shape.name, theirs.name):
                continue
            if theirs.rows is None or len(key.columns) != 1:
                return True
            values = {row.get(key.columns[0]) for row in theirs.rows} - {None}
            listed = ", ".join(string(value) for value in values if value is not None)
            where = f"({shape.where}) AND " if shape.where else ""
            if values and self._evidence.finds(
                f"SELECT 1 FROM {shape.table} "
                f"WHERE {where}{shape.alias}.{quoted(key.referenced[0])}::text IN ({listed})"
            ):
                return True
        return False

    def refers(self, mine: list[Change], ghosts: list[Change], *, deferred: bool) -> Change | None:
        """Return the lost change for which the check of a foreign key would have waited."""
        for key in self._evidence.catalog.foreign_keys:
            if key.is_deferred is not deferred or not any(
                key.child in c.tables and self._foreign.sets(key, c) for c in mine
            ):
                continue
            for ghost in ghosts:
                if key.parent in ghost.tables and self._meets_parent(key, ghost):
                    return ghost
        return None

    def _meets_parent(self, key: ForeignKey, ghost: Change) -> bool:
        theirs = self._evidence.shape_of_change(ghost)
        written = self._foreign.children("c")
        if theirs is None or written is None:
            return True
        if ghost.locked_only and "FOR UPDATE" not in " ".join(ghost.sql.upper().split()):
            return False
        unique = self._evidence.catalog.unique_columns(key.parent)
        if theirs.kind in ("insert", "upsert") or (theirs.kind == "update" and not theirs.columns & unique):
            return False
        joined = " AND ".join(
            f"c.{quoted(column)} = p.{quoted(to)}" for column, to in zip(key.columns, key.referenced, strict=True)
        )
        return self._evidence.finds(
            f"SELECT 1 FROM {key.child_sql} c JOIN {rows_of(theirs)} p ON {joined} WHERE {written} LIMIT 1"
        )


def _have_a_key_in_common(one: Shape, other: Shape, indexes: list[frozenset[str]]) -> bool:
    return any(
        index <= row.keys() and index <= theirs.keys() and all(row[c] == theirs[c] is not None for c in index)
        for index in indexes
        for row in one.rows or ()
        for theirs in other.rows or ()
    )
