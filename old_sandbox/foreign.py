"""Foreign keys: what their checks would have waited for, or not have seen."""

from __future__ import annotations

import json
import re
from typing import Any

from .catalog import ForeignKey
from .evidence import Evidence
from .keys import rows_of
from .lexer import Text
from .quoting import quoted, string
from .shape import Shape
from .transactions import Change, VirtualTransaction

_DETAIL = re.compile(r"\((?P<columns>.*)\)=\((?P<values>.*)\) is ", re.DOTALL)


class ForeignKeys:
    """Compares the references of one statement with what others have not committed."""

    def __init__(self, evidence: Evidence, mine: VirtualTransaction) -> None:
        self._evidence = evidence
        self._mine = mine
        # The command whose rows failed a check: what would have been checked after them never is.
        self._failed_at: int | None = None

    def stop_at(self, error: BaseException) -> None:
        """Look only at rows that are checked before the one which violates a deferred foreign key."""
        diag: Any = getattr(error, "diag", None)
        name = getattr(diag, "constraint_name", None)
        key = next((key for key in self._evidence.catalog.foreign_keys if key.name == name), None)
        detail = _DETAIL.search(getattr(diag, "message_detail", None) or "")
        if key is None or detail is None or "is not present" not in diag.message_detail:
            return
        values, mine = detail["values"].split(", "), self._evidence.written_by(self._mine, "x")
        if len(values) != len(key.columns) or mine is None:
            return
        same = " AND ".join(f"x.{quoted(c)}::text = {string(v)}" for c, v in zip(key.columns, values, strict=True))
        found = self._evidence.probe(f"SELECT min(cmin::text::bigint) FROM {key.child_sql} x WHERE {mine} AND {same}")
        self._failed_at = found[0][0] if found else None

    def children(self, alias: str) -> str | None:
        """Return the condition for rows of the transaction whose references are checked; None if it cannot be told."""
        mine = self._evidence.written_by(self._mine, alias)
        if mine is None or self._failed_at is None:
            return mine
        return f"({mine} AND {alias}.cmin::text::bigint < {self._failed_at})"

    def near(self, text: Text, changes: list[Change]) -> list[Change]:
        """Return the changes of rows that refer to rows of the tables that a statement writes to or locks."""
        wanted = text.written if text.writes else text.tables
        keys = [k for k in self._evidence.catalog.foreign_keys if k.parent in wanted and not k.is_deferred]
        children = {key.child for key in keys}
        return [change for change in changes if not change.locked_only and change.tables & children]

    def checked_by(self, text: Text, shape: Shape | None, tables: frozenset[str]) -> frozenset[str]:
        """Return which of the tables a statement looks at to check references."""
        found: set[str] = set()
        for key in self._evidence.catalog.foreign_keys:
            ends = ({key.child} & text.written and {key.parent}) or ({key.parent} & text.written and {key.child})
            if key.is_deferred or not ends & tables or text.is_ddl:
                continue
            if shape is None or self._is_to_check(key, shape):
                found |= ends
        return frozenset(found & tables)

    def _is_to_check(self, key: ForeignKey, shape: Shape) -> bool:
        if shape.kind in ("insert", "upsert"):
            return key.child == shape.name
        columns = set(key.columns if key.child == shape.name else key.referenced)
        if shape.kind == "update" and not shape.columns & columns:
            return False
        if shape.kind == "delete" and key.child == shape.name != key.parent:
            return False
        where = f" WHERE {shape.where}" if shape.where else ""
        return self._evidence.finds(f"SELECT 1 FROM {shape.table}{where} LIMIT 1")

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
            children = [change for change in mine if key.child in change.tables and self.sets(key, change)]
            parents = [change for change in mine if key.parent in change.tables]
            on_parent = [change for change in changes if key.parent in change.tables] if children else []
            for change in on_parent:
                if self._refers_to_uncommitted(key, other, change, on_parent):
                    return change
            for change in changes:
                if key.child in change.tables and not change.locked_only:
                    shapes = [self._evidence.shape_of_change(parent) for parent in parents]
                    if any(self._takes_parents(key, shape, other, change) for shape in shapes):
                        return change
        return None

    def sets(self, key: ForeignKey, change: Change) -> bool:
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

    def _refers_to_uncommitted(
        self, key: ForeignKey, other: VirtualTransaction, change: Change, on_parent: list[Change]
    ) -> bool:
        """Whether a row refers to one that the other locked, or wrote with a key that was not there before."""
        evidence = self._evidence
        mine, written = self.children("c"), evidence.written_by(other, "p")
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
                f"SELECT 1 FROM {key.child_sql} c JOIN {rows_of(theirs)} p ON {joined} WHERE {mine} LIMIT 1"
            )
        # A row whose unique columns stay as they were is locked so lightly that others may refer to it.
        unique = evidence.catalog.unique_columns(key.parent) | set(key.referenced)
        if theirs is not None and (
            theirs.kind == "delete" or (theirs.kind == "update" and not theirs.columns & unique)
        ):
            return False
        old = evidence.old_rows(other, key.parent, on_parent)
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

    def may_have_broken_reference(
        self, error: BaseException, other: VirtualTransaction, change: Change, at_commit: bool
    ) -> bool:
        evidence = self._evidence
        diag: Any = getattr(error, "diag", None)
        name = getattr(diag, "constraint_name", None)
        key = next((key for key in evidence.catalog.foreign_keys if key.name == name), None)
        detail = _DETAIL.search(getattr(diag, "message_detail", None) or "")
        if key is None or detail is None:
            return True
        values = detail["values"].split(", ")
        is_child = "is not present" in diag.message_detail
        theirs = evidence.shape_of_change(change)
        written = evidence.written_by(other, "x")
        if len(values) != len(key.columns) or written is None:
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
            if table not in change.tables or (theirs is not None and theirs.kind == "insert"):
                return False
            if theirs is not None and theirs.kind == "update" and not theirs.columns & set(columns):
                return False
            old = evidence.old_rows(other, table, [change])
            return old is None or evidence.finds(
                f"SELECT 1 FROM jsonb_populate_recordset(NULL::{table_sql}, {string(old)}) x "
                f"WHERE {same(columns)} LIMIT 1"
            )

        def is_new_child() -> bool:
            if theirs is not None and theirs.kind == "update" and not theirs.columns & set(key.columns):
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
        return (
            is_new_child()
            or ((theirs is None or theirs.kind == "delete") and is_old(*child))
            or (at_commit and is_old(*parent))
        )
