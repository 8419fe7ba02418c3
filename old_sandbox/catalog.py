"""What the rules about seeing each other's rows need to know of the schema; asked for once, and only if they matter."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from typing import Any, Protocol

_UNIQUE_SQL = """
SELECT c.relname, array_to_string(array(
  SELECT CASE WHEN k.attnum = 0 THEN '*' ELSE a.attname::text END
  FROM unnest(i.indkey::int2[]) k(attnum) LEFT JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = k.attnum
), chr(31))
FROM pg_index i JOIN pg_class c ON c.oid = i.indrelid JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE (i.indisunique OR i.indisexclusion) AND n.nspname NOT IN ('pg_catalog', 'pg_toast', 'information_schema')
ORDER BY i.indexrelid  -- the order in which the server checks them
"""
_FOREIGN_SQL = """
SELECT child.relname, parent.relname, c.confdeltype::text || c.confupdtype::text,
  array_to_string(array(SELECT attname::text FROM unnest(c.conkey) WITH ORDINALITY k(n, o)
    JOIN pg_attribute a ON a.attrelid = c.conrelid AND a.attnum = k.n ORDER BY o), chr(31)),
  array_to_string(array(SELECT attname::text FROM unnest(c.confkey) WITH ORDINALITY k(n, o)
    JOIN pg_attribute a ON a.attrelid = c.confrelid AND a.attnum = k.n ORDER BY o), chr(31)),
  quote_ident(cn.nspname) || '.' || quote_ident(child.relname),
  quote_ident(pn.nspname) || '.' || quote_ident(parent.relname), c.conname::text, c.condeferred
FROM pg_constraint c
JOIN pg_class child ON child.oid = c.conrelid JOIN pg_namespace cn ON cn.oid = child.relnamespace
JOIN pg_class parent ON parent.oid = c.confrelid JOIN pg_namespace pn ON pn.oid = parent.relnamespace
WHERE c.contype = 'f'
"""
# Views and what they read, partitions and what they are part of: two names for the same rows.
_RELATED_SQL = """
SELECT v.relname, t.relname FROM pg_depend d JOIN pg_rewrite r ON r.oid = d.objid
JOIN pg_class v ON v.oid = r.ev_class JOIN pg_class t ON t.oid = d.refobjid
JOIN pg_namespace n ON n.oid = v.relnamespace
WHERE d.classid = 'pg_rewrite'::regclass AND d.refclassid = 'pg_class'::regclass AND v.oid <> t.oid
  AND n.nspname NOT IN ('pg_catalog', 'information_schema')
UNION SELECT p.relname, c.relname FROM pg_inherits i
JOIN pg_class p ON p.oid = i.inhparent JOIN pg_class c ON c.oid = i.inhrelid
"""
_COLUMNS_SQL = """
SELECT c.relname, string_agg(a.attname, chr(31) ORDER BY a.attnum)
FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE a.attnum > 0 AND NOT a.attisdropped AND c.relkind IN ('r', 'p')
  AND n.nspname NOT IN ('pg_catalog', 'pg_toast', 'information_schema')
GROUP BY c.oid, c.relname
"""
_EFFECTS_SQL = """
SELECT c.relname FROM pg_trigger t JOIN pg_class c ON c.oid = t.tgrelid WHERE NOT t.tgisinternal
UNION SELECT c.relname FROM pg_rewrite r JOIN pg_class c ON c.oid = r.ev_class WHERE r.ev_type <> '1'
"""


@dataclass(frozen=True, slots=True)
class ForeignKey:
    child: str
    parent: str
    columns: tuple[str, ...]
    referenced: tuple[str, ...]
    child_sql: str
    parent_sql: str
    cascades: bool
    name: str
    is_deferred: bool


class _Asks(Protocol):
    def query(self, sql: str) -> list[tuple[Any, ...]]: ...


@dataclass(eq=False)
class Catalog:
    """Unique columns, foreign keys and other names of tables, by the last part of a table's name."""

    unique: dict[str, list[frozenset[str]]] = field(default_factory=dict)
    foreign_keys: list[ForeignKey] = field(default_factory=list)
    related: dict[str, set[str]] = field(default_factory=dict)
    # Tables of which a change may change others, by a trigger, a rule or a foreign key that cascades.
    with_effects: frozenset[str] = frozenset()
    columns: dict[str, list[str]] = field(default_factory=dict)

    @classmethod
    def read(cls, physical: _Asks) -> Catalog:
        unique: dict[str, list[frozenset[str]]] = defaultdict(list)
        for table, columns in physical.query(_UNIQUE_SQL):
            unique[table].append(frozenset(columns.split("\x1f")))
        keys = [
            ForeignKey(
                child,
                parent,
                tuple(columns.split("\x1f")),
                tuple(to.split("\x1f")),
                child_sql,
                parent_sql,
                bool(set(kind) & set("cnd")),
                name,
                bool(deferred),
            )
            for child, parent, kind, columns, to, child_sql, parent_sql, name, deferred in physical.query(_FOREIGN_SQL)
        ]
        related: dict[str, set[str]] = defaultdict(set)
        for one, other in physical.query(_RELATED_SQL):
            related[one].add(other)
            related[other].add(one)
        with_effects = {table for (table,) in physical.query(_EFFECTS_SQL)}
        with_effects.update(key.parent for key in keys if key.cascades)
        columns = {table: names.split("\x1f") for table, names in physical.query(_COLUMNS_SQL)}
        return cls(dict(unique), keys, dict(related), frozenset(with_effects), columns)

    def unique_columns(self, table: str) -> frozenset[str]:
        return frozenset().union(*self.unique.get(table, ()))

    def same_rows(self, tables: frozenset[str]) -> frozenset[str]:
        """Return the tables with every view and partition through which their rows can be met."""
        found, todo = set(tables), list(tables)
        while todo:
            for other in self.related.get(todo.pop(), ()):
                if other not in found:
                    found.add(other)
                    todo.append(other)
        return frozenset(found)
