"""Unique keys: where connections wait for each other although they read no common row."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

from .evidence import Evidence
from .lexer import Text
from .quoting import quoted, string
from .shape import Shape
from .transactions import Change, VirtualTransaction

_DUPLICATE = re.compile(r"\((?P<columns>.*)\)=\((?P<values>.*)\) already exists", re.DOTALL)
_COLUMN = re.compile(r'\w+|"[^"]+"')


class UniqueKeys:
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
            f"SELECT 1 FROM {name} x, jsonb_populate_recordset(NULL::{name}, {string(old)}) o "
            f"WHERE {mine} AND ({same}) "
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
        same = same_keys(shape, indexes)
        if not same:
            return False
        if shape.arbiter and shape.arbiter in indexes:
            # The row that ON CONFLICT names decides, if there is one; the other keys matter only for a new row.
            there = same_keys(shape, [shape.arbiter])
            if there and evidence.finds(f"SELECT 1 FROM {shape.bare_table} x WHERE {' OR '.join(there)}"):
                same = there
        condition = " OR ".join(same)
        # Only the row that would be updated has to be locked.
        locks = " OR ".join(same_keys(shape, [shape.arbiter])) if shape.arbiter else ""
        for change in changes:
            theirs = evidence.shape_of_change(change)
            if (
                change.locked_only
                and locks
                and (theirs is None or evidence.finds(f"SELECT 1 FROM {rows_of(theirs)} x WHERE {locks}"))
            ):
                return True
        return evidence.finds(
            f"SELECT 1 FROM {shape.bare_table} x WHERE {written} AND ({condition}) LIMIT 1"
        ) or evidence.finds(
            f"SELECT 1 FROM jsonb_populate_recordset(NULL::{shape.bare_table}, {string(old)}) x "
            f"WHERE {condition} LIMIT 1"
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
            for same in same_keys(shape, [index]):
                if evidence.finds(f"SELECT 1 FROM {shape.bare_table} x WHERE {same} AND {written}") or evidence.finds(
                    f"SELECT 1 FROM jsonb_populate_recordset(NULL::{shape.bare_table}, {string(old)}) x WHERE {same}"
                ):
                    return True
                if evidence.finds(f"SELECT 1 FROM {shape.bare_table} x WHERE {same}"):
                    return False
        return None

    def may_have_caused(self, error: BaseException, other: VirtualTransaction, change: Change) -> bool:
        """Whether a violated constraint is due to rows that production would not have shown yet."""
        diag: Any = getattr(error, "diag", None)
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


def same_keys(shape: Shape, indexes: Iterable[frozenset[str]]) -> list[str]:
    """Return the conditions that a row ``x`` has the key of a row that a statement inserts."""
    return [
        "(" + " AND ".join(f"x.{quoted(column)}::text = {string(row[column] or '')}" for column in sorted(index)) + ")"
        for index in indexes
        for row in shape.rows or ()
        if index <= row.keys() and all(row[column] is not None for column in index)
    ]


def rows_of(shape: Shape, *, but: str | None = None) -> str:
    """Return the rows that a statement is about, as something to select from.

    Args:
        but: A condition for rows to leave out.
    """
    conditions = [f"({shape.where})"] if shape.where else []
    conditions += [f"NOT ({but})"] if but is not None else []
    where = f" WHERE {' AND '.join(conditions)}" if conditions else ""
    return f"(SELECT {shape.alias}.* FROM {shape.table}{where})"
