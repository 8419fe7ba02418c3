"""Unique keys and foreign keys: where connections wait for each other although they read no common row."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from typing import Any

from .catalog import ForeignKey
from .evidence import Evidence, quoted, string
from .lexer import Text
from .shape import Shape
from .transactions import Change, VirtualTransaction

_DUPLICATE = re.compile(r"\((?P<columns>.*)\)=\((?P<values>.*)\) already exists", re.DOTALL)
_DETAIL = re.compile(r"\((?P<columns>.*)\)=\((?P<values>.*)\) is ", re.DOTALL)
_COLUMN = re.compile(r'\w+|"[^"]+"')


class Keys:
    """Compares the keys of one statement with those that others have used and not committed."""

    def __init__(self, evidence: Evidence, mine: VirtualTransaction) -> None:
        self._evidence = evidence
        self._mine = mine

    def waits(self, text: Text, shape: Shape | None, other: VirtualTransaction, changes: list[Change]) -> Change | None:
        """Return the change that gave a key up which the statement has taken: production would wait for its commit."""
        tables = frozenset().union(*(change.tables for change in changes)) & text.written
        for table in tables:
            unique = self._evidence.catalog.unique_columns(table)
            candidates = [change for change in changes if table in change.tables and self._gives_up(change, unique)]
            if not candidates or not unique or not _takes(shape, unique):
                continue
            if shape is not None and all(self._keys_differ(shape, change, unique) for change in candidates):
                continue
            if self._meets_old_key(table, other, [c for c in changes if table in c.tables]):
                return candidates[0]
        return None

    def _gives_up(self, change: Change, unique: frozenset[str]) -> bool:
        shape = self._evidence.shape_of_change(change)
        if shape is None or shape.kind == "delete":
            return True
        return shape.kind == "update" and bool(shape.columns & unique or "*" in unique)

    def _keys_differ(self, shape: Shape, change: Change, unique: frozenset[str]) -> bool:
        """Whether the only unique column is the one by which the other chose its rows, with another value."""
        theirs = self._evidence.shape_of_change(change)
        if shape.rows is None or theirs is None or len(unique) != 1:
            return False
        (column,) = unique
        values = {value for name, value in theirs.equal if name == column}
        return bool(values) and all(column in row and row[column] not in values for row in shape.rows)

    def _meets_old_key(self, table: str, other: VirtualTransaction, changes: list[Change]) -> bool:
        """Whether a row that the statement wrote has a key that a replaced row had."""
        evidence = self._evidence
        mine = evidence.written_by(self._mine, "x")
        old = evidence.old_rows(other, table, changes) if mine is not None else None
        indexes = evidence.catalog.unique.get(table, [])
        if old is None or any("*" in index for index in indexes):
            return True
        same = " OR ".join(
            "(" + " AND ".join(f"x.{quoted(column)} = o.{quoted(column)}" for column in sorted(index)) + ")"
            for index in indexes
        )
        name = quoted(table)
        return evidence.finds(
            f"SELECT 1 FROM {name} x, jsonb_populate_recordset(NULL::{name}, {string(old)}) o WHERE {mine} AND ({same}) "
            "LIMIT 1"
        )

    def meets_rows(self, shape: Shape, other: VirtualTransaction, changes: list[Change]) -> bool:
        """Whether an insert that asks for conflicts finds one with a row that the other wrote or replaced."""
        evidence = self._evidence
        written = evidence.written_by(other, "x")
        real = [change for change in changes if not change.locked_only]
        old = evidence.old_rows(other, shape.name, real) if written is not None else None
        indexes = evidence.catalog.unique.get(shape.name, [])
        if shape.rows is None or old is None or any("*" in index for index in indexes):
            return True
        same = _same_keys(shape, indexes)
        if not same:
            return False
        if shape.arbiter and shape.arbiter in indexes:
            # The row that ON CONFLICT names decides, if there is one; the other keys matter only for a new row.
            there = _same_keys(shape, [shape.arbiter])
            if there and evidence.finds(f"SELECT 1 FROM {shape.bare_table} x WHERE {' OR '.join(there)}"):
                same = there
        condition = " OR ".join(same)
        # Only the row that would be updated has to be locked.
        locks = " OR ".join(_same_keys(shape, [shape.arbiter])) if shape.arbiter else ""
        for change in changes:
            theirs = evidence.shape_of_change(change)
            if (
                change.locked_only
                and locks
                and (theirs is None or evidence.finds(f"SELECT 1 FROM {_rows(theirs)} x WHERE {locks}"))
            ):
                return True
        return evidence.finds(
            f"SELECT 1 FROM {shape.bare_table} x WHERE {written} AND ({condition}) LIMIT 1"
        ) or evidence.finds(
            f"SELECT 1 FROM jsonb_populate_recordset(NULL::{shape.bare_table}, {string(old)}) x WHERE {condition} LIMIT 1"
        )

    def meets_before_duplicate(self, shape: Shape, other: VirtualTransaction, changes: list[Change]) -> bool | None:
        """Whether the first key that an insert finds taken is one of the other's; None if that cannot be told."""
        evidence = self._evidence
        real = [change for change in changes if not change.locked_only]
        written = evidence.written_by(other, "x")
        old = evidence.old_rows(other, shape.name, real) if written is not None else None
        indexes = evidence.catalog.unique.get(shape.name, [])
        if shape.rows is None or len(shape.rows) != 1 or old is None or any("*" in index for index in indexes):
            return None
        for index in indexes:
            for same in _same_keys(shape, [index]):
                if evidence.finds(f"SELECT 1 FROM {shape.bare_table} x WHERE {same} AND {written}") or evidence.finds(
                    f"SELECT 1 FROM jsonb_populate_recordset(NULL::{shape.bare_table}, {string(old)}) x WHERE {same}"
                ):
                    return True
                if evidence.finds(f"SELECT 1 FROM {shape.bare_table} x WHERE {same}"):
                    return False
        return None

    def meets_ghost(self, shape: Shape, theirs: Shape) -> bool:
        """Whether an insert uses a key of rows that the other had changed; what it wrote has been lost."""
        indexes = self._evidence.catalog.unique.get(shape.name, [])
        if shape.rows is None or any("*" in index for index in indexes):
            return True
        if theirs.kind in ("insert", "upsert"):
            return theirs.rows is None or any(
                index <= row.keys() and index <= other.keys() and all(row[c] == other[c] is not None for c in index)
                for index in indexes
                for row in shape.rows
                for other in theirs.rows
            )
        if theirs.columns & frozenset().union(*indexes):
            return True
        same = _same_keys(shape, indexes)
        return bool(same) and self._evidence.finds(f"SELECT 1 FROM {_rows(theirs)} x WHERE {' OR '.join(same)}")

    def takes_ghost_key(self, shape: Shape, theirs: Shape) -> bool:
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
                found = _same_keys(theirs, [theirs.arbiter])
                same = f"x.{quoted(column)}::text = {string(literals[column])}"
                where = f"({' OR '.join(found)}) AND {same}"
                if found and self._evidence.finds(f"SELECT 1 FROM {theirs.bare_table} x WHERE {where}"):
                    return True
                continue
            if theirs.columns & index:
                return True
            if self._evidence.finds(
                f"SELECT 1 FROM {_rows(theirs)} x WHERE x.{quoted(column)}::text = {string(literals[column])}"
            ):
                return True
        return False

    def waits_for_ghost_child(self, text: Text, shape: Shape, theirs: Shape) -> bool:
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
                f"SELECT 1 FROM {shape.table} WHERE {where}{shape.alias}.{quoted(key.referenced[0])}::text IN ({listed})"
            ):
                return True
        return False

    def refers_to_ghost(self, mine: list[Change], ghosts: list[Change], *, deferred: bool) -> Change | None:
        """Return the lost change for which the check of a foreign key would have waited."""
        for key in self._evidence.catalog.foreign_keys:
            if key.is_deferred is not deferred or not any(key.child in c.tables and self._sets(key, c) for c in mine):
                continue
            for ghost in ghosts:
                if key.parent in ghost.tables and self._meets_ghost_parent(key, ghost):
                    return ghost
        return None

    def _meets_ghost_parent(self, key: ForeignKey, ghost: Change) -> bool:
        theirs = self._evidence.shape_of_change(ghost)
        written = self._evidence.written_by(self._mine, "c")
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
            f"SELECT 1 FROM {key.child_sql} c JOIN {_rows(theirs)} p ON {joined} WHERE {written} LIMIT 1"
        )

    def may_violate(self, key: ForeignKey, changes: list[Change]) -> bool:
        """Whether one of the changes can leave a row that refers to nothing."""
        for change in changes:
            shape = self._evidence.shape_of_change(change)
            if key.child in change.tables and (
                shape is None or shape.kind in ("insert", "upsert") or shape.columns & set(key.columns)
            ):
                return True
            if key.parent in change.tables and (
                shape is None
                or shape.kind == "delete"
                or (shape.kind == "update" and shape.columns & set(key.referenced))
            ):
                return True
        return False

    def looked_at(self, changes: list[Change]) -> frozenset[str]:
        """Return the tables that were looked at to check the foreign keys of changes."""
        keys = [key for key in self._evidence.catalog.foreign_keys if not key.is_deferred]
        tables: set[str] = set()
        for key in keys:
            if self.may_violate(key, changes):
                tables |= {key.child, key.parent}
        return frozenset(tables)

    def near(self, text: Text, changes: list[Change]) -> list[Change]:
        """Return the changes of rows that refer to rows of the tables that a statement writes to or locks."""
        wanted = text.written if text.writes else text.tables
        keys = [k for k in self._evidence.catalog.foreign_keys if k.parent in wanted and not k.is_deferred]
        children = {key.child for key in keys}
        return [change for change in changes if not change.locked_only and change.tables & children]

    def waits_for_children(
        self, text: Text, shape: Shape | None, other: VirtualTransaction, changes: list[Change]
    ) -> bool:
        """Whether it locks a row to which the other has made a row refer: that holds a lock on it, too."""
        if shape is None:
            return text.writes and not text.written.isdisjoint(text.tables) and text.verb in ("DELETE", "MERGE")
        if text.locks_rows and not text.locks_for_update:
            return False
        unique = self._evidence.catalog.unique_columns(shape.name)
        if shape.kind in ("insert", "upsert") or (shape.kind == "update" and not shape.columns & unique):
            return False
        written = self._evidence.written_by(other, "dbtestcase_c")
        where = f"({shape.where}) AND " if shape.where else ""
        if shape.kind == "update":
            where += shape.changes_one_of(unique) + " AND "
        for key in self._evidence.catalog.foreign_keys:
            if key.parent != shape.name or key.is_deferred or not any(key.child in c.tables for c in changes):
                continue
            if written is None:
                return True
            joined = " AND ".join(
                f"dbtestcase_c.{quoted(column)} = {shape.alias}.{quoted(to)}"
                for column, to in zip(key.columns, key.referenced, strict=True)
            )
            if self._evidence.finds(
                f"SELECT 1 FROM {shape.table} WHERE {where}EXISTS (SELECT 1 FROM {key.child_sql} dbtestcase_c "
                f"WHERE {written} AND {joined}) LIMIT 1"
            ):
                return True
        return False

    def refers(
        self, mine: list[Change], other: VirtualTransaction, changes: list[Change], *, deferred: bool
    ) -> Change | None:
        """Return the change that the check of a foreign key would have waited for, or not have seen."""
        for key in self._evidence.catalog.foreign_keys:
            if key.is_deferred is not deferred:
                continue
            children = [change for change in mine if key.child in change.tables and self._sets(key, change)]
            parents = [change for change in mine if key.parent in change.tables]
            for change in changes:
                if children and key.parent in change.tables and self._refers_to_uncommitted(key, other, change):
                    return change
                if key.child in change.tables and not change.locked_only:
                    shapes = [self._evidence.shape_of_change(parent) for parent in parents]
                    if any(self._takes_parents(key, shape, other, change) for shape in shapes):
                        return change
        return None

    def _sets(self, key: ForeignKey, change: Change) -> bool:
        """Whether a change may have made a row refer to another one than before."""
        shape = self._evidence.shape_of_change(change)
        if shape is None or shape.kind in ("insert", "upsert"):
            return True
        if shape.kind == "delete" or not shape.columns & set(key.columns):
            return False
        literals = dict(shape.assigned)
        if change.old_rows is None or not all(column in literals for column in key.columns):
            return True
        rows = json.loads(change.old_rows)
        return any(str(row.get(column)) != literals[column] for row in rows for column in key.columns)

    def _refers_to_uncommitted(self, key: ForeignKey, other: VirtualTransaction, change: Change) -> bool:
        """Whether a row refers to one that the other locked, or wrote with a key that was not there before."""
        evidence = self._evidence
        mine, written = evidence.written_by(self._mine, "c"), evidence.written_by(other, "p")
        if mine is None or written is None:
            return True
        joined = " AND ".join(
            f"c.{quoted(column)} = p.{quoted(to)}" for column, to in zip(key.columns, key.referenced, strict=True)
        )
        theirs = evidence.shape_of_change(change)
        if change.locked_only:
            if "FOR UPDATE" not in " ".join(change.sql.upper().split()):
                return False
            if theirs is None:
                return True
            return evidence.finds(
                f"SELECT 1 FROM {key.child_sql} c JOIN {_rows(theirs)} p ON {joined} WHERE {mine} LIMIT 1"
            )
        # A row whose unique columns stay as they were is locked so lightly that others may refer to it.
        unique = evidence.catalog.unique_columns(key.parent) | set(key.referenced)
        if theirs is not None and (
            theirs.kind == "delete" or (theirs.kind == "update" and not theirs.columns & unique)
        ):
            return False
        old = evidence.old_rows(other, key.parent, [change])
        was_there = ""
        if old is not None and "*" not in unique:
            same = " AND ".join(
                f"o.{quoted(column)} IS NOT DISTINCT FROM p.{quoted(column)}" for column in sorted(unique)
            )
            before = f"jsonb_populate_recordset(NULL::{key.parent_sql}, {string(old)}) o"
            was_there = f" AND NOT EXISTS (SELECT 1 FROM {before} WHERE {same})"
        return evidence.finds(
            f"SELECT 1 FROM {key.child_sql} c JOIN {key.parent_sql} p ON {joined} "
            f"WHERE {mine} AND {written}{was_there} LIMIT 1"
        )

    def _takes_parents(self, key: ForeignKey, shape: Shape | None, other: VirtualTransaction, change: Change) -> bool:
        """Whether deleting parents, or changing their keys, would have waited for the child rows' transaction."""
        if shape is not None and (
            shape.kind in ("insert", "upsert", "select")
            or (shape.kind == "update" and not shape.columns & set(key.referenced))
        ):
            return False
        theirs = self._evidence.shape_of_change(change)
        if theirs is None or key.cascades:
            return True
        if theirs.kind == "insert" or (theirs.kind == "update" and not theirs.columns & set(key.columns)):
            return False
        old = self._evidence.old_rows(other, key.child, [change])
        if old is None:
            return True
        # Parents that are gone now, to which an old row referred.
        present = " AND ".join(
            f"p.{quoted(to)} = o.{quoted(column)}" for column, to in zip(key.columns, key.referenced, strict=True)
        )
        some = " AND ".join(f"o.{quoted(column)} IS NOT NULL" for column in key.columns)
        return self._evidence.finds(
            f"SELECT 1 FROM jsonb_populate_recordset(NULL::{key.child_sql}, {string(old)}) o WHERE {some} "
            f"AND NOT EXISTS (SELECT 1 FROM {key.parent_sql} p WHERE {present}) LIMIT 1"
        )

    def _may_have_broken_reference(self, diag: Any, other: VirtualTransaction, change: Change, at_commit: bool) -> bool:
        evidence = self._evidence
        name = getattr(diag, "constraint_name", None)
        key = next((key for key in evidence.catalog.foreign_keys if key.name == name), None)
        detail = _DETAIL.search(getattr(diag, "message_detail", None) or "")
        if key is None or detail is None:
            return True
        values = detail["values"].split(", ")
        is_child = "is not present" in diag.message_detail
        theirs = evidence.shape_of_change(change)
        written = evidence.written_by(other, "x")
        if len(values) != len(key.columns) or written is None or theirs is None:
            return bool({key.child, key.parent} & change.tables)

        def same(columns: tuple[str, ...]) -> str:
            return " AND ".join(f"x.{quoted(c)}::text = {string(v)}" for c, v in zip(columns, values, strict=True))

        def is_mine(table_sql: str, columns: tuple[str, ...]) -> bool:
            mine = evidence.written_by(self._mine, "x")
            return mine is not None and bool(
                evidence.probe(f"SELECT 1 FROM {table_sql} x WHERE {mine} AND {same(columns)} LIMIT 1")
            )

        def is_new(table: str, table_sql: str, columns: tuple[str, ...]) -> bool:
            return table in change.tables and evidence.finds(
                f"SELECT 1 FROM {table_sql} x WHERE {written} AND {same(columns)} LIMIT 1"
            )

        def is_old(table: str, table_sql: str, columns: tuple[str, ...]) -> bool:
            if table not in change.tables or theirs.kind == "insert":
                return False
            if theirs.kind == "update" and not theirs.columns & set(columns):
                return False
            old = evidence.old_rows(other, table, [change])
            return old is None or evidence.finds(
                f"SELECT 1 FROM jsonb_populate_recordset(NULL::{table_sql}, {string(old)}) x WHERE {same(columns)} LIMIT 1"
            )

        def is_new_child() -> bool:
            if theirs.kind == "update" and not theirs.columns & set(key.columns):
                return False
            if not is_new(key.child, key.child_sql, key.columns):
                return False
            # A reference that everybody sees is enough for the error; only locks come before that.
            return not key.is_deferred or not evidence.probe(
                f"SELECT 1 FROM {key.child_sql} x WHERE NOT {written} AND {same(key.columns)} LIMIT 1"
            )

        child = (key.child, key.child_sql, key.columns)
        parent = (key.parent, key.parent_sql, key.referenced)
        if is_child:
            return is_old(*parent) or (at_commit and is_new(*child) and not is_mine(key.child_sql, key.columns))
        # A reference that was only moved is still there for everybody else, and gives the same error.
        return is_new_child() or (theirs.kind == "delete" and is_old(*child)) or (at_commit and is_old(*parent))

    def may_have_caused(
        self, state: str, error: BaseException, other: VirtualTransaction, change: Change, *, at_commit: bool
    ) -> bool:
        """Whether a violated constraint is due to rows that production would not have shown yet."""
        diag: Any = getattr(error, "diag", None)
        if state == "23503":
            return self._may_have_broken_reference(diag, other, change, at_commit)
        if getattr(diag, "table_name", None) not in change.tables:
            return False
        detail = _DUPLICATE.search(diag.message_detail or "")
        condition = self._evidence.written_by(other, quoted(diag.table_name))
        if detail is None or condition is None:
            return True
        columns, values = detail["columns"].split(", "), detail["values"].split(", ")
        if len(columns) != len(values) or not all(_COLUMN.fullmatch(column) for column in columns):
            return True
        same = " AND ".join(f"{column}::text = {string(value)}" for column, value in zip(columns, values, strict=True))
        table = f"{quoted(diag.schema_name)}.{quoted(diag.table_name)}"
        return self._evidence.finds(f"SELECT 1 FROM {table} WHERE {same} AND {condition} LIMIT 1")


def _takes(shape: Shape | None, unique: frozenset[str]) -> bool:
    """Whether a statement may take a key."""
    if shape is None or shape.kind in ("insert", "upsert"):
        return True
    return shape.kind == "update" and bool(shape.columns & unique or "*" in unique)


def _rows(shape: Shape) -> str:
    """Return the rows that a statement is about, as something to select from."""
    where = f" WHERE {shape.where}" if shape.where else ""
    return f"(SELECT {shape.alias}.* FROM {shape.table}{where})"


def _same_keys(shape: Shape, indexes: Iterable[frozenset[str]]) -> list[str]:
    """Return the conditions that a row ``x`` has the key of a row that a statement inserts."""
    return [
        "(" + " AND ".join(f"x.{quoted(column)}::text = {string(row[column] or '')}" for column in sorted(index)) + ")"
        for index in indexes
        for row in shape.rows or ()
        if index <= row.keys() and all(row[column] is not None for column in index)
    ]
