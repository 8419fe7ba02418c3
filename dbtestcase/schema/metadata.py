"""A MetaData as schema: created by SQLAlchemy, identified by the DDL it compiles to."""

from __future__ import annotations

import inspect
import re
import warnings
from collections.abc import Collection, Hashable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from operator import is_
from typing import Any

import sqlalchemy
from sqlalchemy import Column, Connection, Enum, MetaData, Table, create_mock_engine, event, util
from sqlalchemy.exc import DBAPIError
from sqlalchemy.schema import DDL, CreateSchema, ExecutableDDLElement
from sqlalchemy.types import ARRAY, SchemaType

from dbtestcase.schema.connect import engine_for
from dbtestcase.schema.digest import digest
from dbtestcase.schema.failure import failure, location_of
from dbtestcase.schema.parts import Part
from dbtestcase.schema.target import Target

_ALWAYS_THERE = {"information_schema", "public"}
_CACHE = "_dbtestcase_fingerprint"
_EXISTING_SCHEMA = re.compile(r'schema "(.+)" already exists')


class MetaDataPart(Part):
    """Creates all that a MetaData describes.

    Args:
        source: What the user gave, for messages: "Base" or "MetaData".
        registry: Where the models of its tables are registered, to name their lines in messages.
    """

    def __init__(self, metadata: MetaData, source: str, registry: Any = None) -> None:
        self.metadata = metadata
        self._source = source
        self._registry = registry
        self._last: _Known | None = None

    @property
    def background(self) -> bool:  # type: ignore[override]
        # An empty one may be filled by an import until it is its class's turn.
        known = self._last or self._known()
        return not known.runs_python and not self.is_empty()

    # An empty one has no fingerprint, so that it is created each time: that costs nothing, and the warning is not lost
    # in a template that was kept.
    def is_empty(self) -> bool:
        """Would nothing be created?"""
        return not (self.metadata.tables or self.metadata._sequences or _listeners(self.metadata))

    def fingerprint(self) -> str | None:
        return self._known().fingerprint

    def token(self) -> Hashable:
        return self._known()

    def _known(self) -> _Known:
        known = getattr(self.metadata, _CACHE, None)
        if not isinstance(known, _Known) or not known.shape.is_of(self.metadata):
            runs_python = _runs_python(self.metadata)
            fingerprint = None if runs_python or self.is_empty() else _fingerprint(self.metadata)
            # Taken last: compiling fills attributes.
            known = _Known(Shape(self.metadata), runs_python, fingerprint)
            setattr(self.metadata, _CACHE, known)
        self._last = known
        return known

    def create(self, target: Target) -> None:
        if self.is_empty():
            warnings.warn(
                f"{target.owner}: {self._source} has no tables, so the database stays empty. Import the modules that "
                "define the models before the class runs; if it is meant to be empty, write schema = None.",
                UserWarning,
                stacklevel=2,
            )
        engine = engine_for(target.url)
        running: list[Any] = []
        event.listen(engine, "before_execute", lambda connection, element, *rest: running.append(element))
        try:
            existing: set[str] = set()
            while True:
                try:
                    with engine.begin() as connection:
                        self._create_all(connection, existing)
                    break
                except DBAPIError as exc:
                    # The user's own listener makes this schema, without IF NOT EXISTS: leave it to that.
                    name = _schema_made_twice(exc)
                    if name is None or name in existing:
                        raise
                    existing.add(name)
        except Exception as exc:
            element = running[-1] if running and isinstance(exc, DBAPIError) else None
            what = _name_of(element) if element is not None else f"the tables of {self._source}"
            location = location_of(exc) or _location_of_model(element, self._registry)
            raise failure(target, f"create {what}", exc, location=location) from exc
        finally:
            engine.dispose()

    def _create_all(self, connection: Connection, existing: set[str]) -> None:
        for name in schemas_of(self.metadata):
            if name not in existing:
                connection.execute(CreateSchema(name, if_not_exists=True))
        self.metadata.create_all(connection)


class Shape:
    """What a MetaData consisted of: tells cheaply whether it still does, or must be compiled again.

    Objects are compared by identity and held, so that no identity is given out twice.
    """

    def __init__(self, metadata: MetaData) -> None:
        self._parts, self._values = _contents(metadata)
        self._attributes = [part.__dict__.copy() for part in self._parts]

    def is_of(self, metadata: MetaData) -> bool:
        """Whether ``metadata`` consists of the same objects as when this was taken, and they of the same values."""
        parts, values = _contents(metadata)
        if not (_are_same(parts, self._parts) and _are_same(values, self._values)):
            return False
        for number, part in enumerate(parts):
            before, now = self._attributes[number], part.__dict__
            if _are_equal(now, before):
                continue
            if not _are_same(_declared(part, now), _declared(part, before)):
                return False
            self._attributes[number] = now.copy()  # it was used; the next look is quick again
        return True


def _contents(metadata: MetaData) -> tuple[list[Any], list[object]]:
    """Return the objects that a MetaData consists of, and what these hold in containers of their own."""
    parts: list[Any] = []
    values: list[object] = [metadata.schema, *metadata.naming_convention.values()]
    for table in metadata.tables.values():
        parts += (table, *table.indexes, *table.constraints)
        for column in table.columns:
            kind = column.type
            parts += (column, kind)
            if column.server_default is not None:
                parts.append(column.server_default)
            if isinstance(kind, Enum):
                values += kind.enums
        for index in table.indexes:
            values += index.expressions
    parts += metadata._sequences.values()
    for part in parts:
        if "dialect_options" in part.__dict__:
            for options in part.dialect_options.values():
                values += options._non_defaults.values()
    values += [listener for _, _, listener in _all_listeners(metadata)]
    return parts, values


def _are_equal(some: dict[str, object], others: dict[str, object]) -> bool:
    # Much quicker than to look at each value, and the same: Python compares identities first.
    try:
        return some == others
    except TypeError:  # expressions of SQL have no truth value
        return False


def _are_same(some: Collection[object], others: Collection[object]) -> bool:
    return len(some) == len(others) and all(map(is_, some, others))


# What decides about the DDL; the rest of their many attributes is for statements.
_TABLE = ("name", "schema", "comment")
_COLUMN = (
    "name", "nullable", "primary_key", "comment", "type", "autoincrement", "server_default", "default", "computed",
    "identity",
)  # fmt: skip


def _declared(part: object, attributes: dict[str, object]) -> list[object]:
    """Return the attributes that were declared, without what SQLAlchemy keeps there when the object is used."""
    if isinstance(part, (Table, Column)):
        return [attributes.get(name) for name in (_TABLE if isinstance(part, Table) else _COLUMN)]
    kind: type = type(part)
    memoized = _memoized(kind)
    return [value for name, value in attributes.items() if name not in memoized]


@cache
def _memoized(kind: type) -> frozenset[str]:
    descriptors = (util.memoized_property, util.HasMemoized.memoized_attribute)
    return frozenset(
        name for base in kind.__mro__ for name, value in vars(base).items() if isinstance(value, descriptors)
    )


@dataclass(frozen=True, eq=False)
class _Known:
    """What was found out about a MetaData of this shape; kept on the MetaData itself, to live as long as it does."""

    shape: Shape
    runs_python: bool
    fingerprint: str | None


def _fingerprint(metadata: MetaData) -> str | None:
    try:
        return digest("metadata", [sqlalchemy.__version__, *_compiled(metadata)])
    except Exception:
        return None  # what cannot be compiled cannot be created either: create() says why


def schemas_of(metadata: MetaData) -> list[str]:
    """Return the PostgreSQL schemas that ``metadata`` names, in order."""
    named = {metadata.schema}
    named.update(table.schema for table in metadata.tables.values())
    named.update(sequence.schema for sequence in metadata._sequences.values())
    named.update(getattr(kind, "schema", None) for kind in _schema_types(metadata))
    return sorted(str(name) for name in named if name and not name.startswith("pg_") and name not in _ALWAYS_THERE)


def _schema_types(metadata: MetaData) -> Iterator[SchemaType]:
    for table in metadata.tables.values():
        for column in table.columns:
            kind: Any = column.type
            if isinstance(kind, ARRAY):
                kind = kind.item_type
            if isinstance(kind, SchemaType):
                yield kind


def _targets(metadata: MetaData) -> Iterator[tuple[str, Any]]:
    """Yield all that fires an event when it is created, each with a name that is the same in every process."""
    yield "metadata", metadata
    for key in sorted(metadata.tables):
        table = metadata.tables[key]
        yield key, table
        for index in table.indexes:
            yield f"{key} index {index.name}", index
        for constraint in table.constraints:
            yield f"{key} constraint {constraint.name}", constraint
    for name, sequence in metadata._sequences.items():
        yield f"sequence {name}", sequence
    for kind in _schema_types(metadata):
        yield f"type {getattr(kind, 'name', None)}", kind


def _listeners(target: Any) -> list[tuple[str, Any]]:
    """Return what will be called when ``target`` is created, apart from what SQLAlchemy itself put there."""
    dispatch = target.dispatch
    before, after = dispatch.before_create, dispatch.after_create
    if not before and not after:
        return []
    return [
        (name, listener)
        for name, listeners in (("before_create", before), ("after_create", after))
        for listener in listeners
        if not _is_sqlalchemys(listener)
    ]


def _all_listeners(metadata: MetaData) -> Iterator[tuple[str, str, Any]]:
    for target_name, target in _targets(metadata):
        for name, listener in _listeners(target):
            yield target_name, name, listener


def _is_sqlalchemys(listener: Any) -> bool:
    if type(listener).__name__ == "portable_instancemethod":  # SQLAlchemy 2.0
        listener = getattr(listener.target, listener.name)
    while hasattr(listener, "func"):  # functools.partial
        listener = listener.func
    # Its own are methods of the types that need a CREATE TYPE or a CHECK.
    return isinstance(getattr(listener, "__self__", None), SchemaType) and listener.__func__.__module__.startswith(
        "sqlalchemy."
    )


def _runs_python(metadata: MetaData) -> bool:
    """Does creation call the user's functions, so that what it makes cannot be told from what is declared?"""
    for _, target in _targets(metadata):
        if _is_conditional(target):
            return True
        for _, listener in _listeners(target):
            if not isinstance(listener, ExecutableDDLElement) or _is_conditional(listener):
                return True
    return False


def _is_conditional(item: Any) -> bool:
    condition = getattr(item, "_ddl_if", None)
    return condition is not None and condition.callable_ is not None


def _compiled(metadata: MetaData) -> Iterable[str]:
    """Compile what create_all would send, in an order that is the same in every process."""
    made: list[str] = []
    written: list[str] = []

    def collect(element: Any, *args: Any, **kwargs: Any) -> None:
        by_hand = isinstance(element, DDL) or not type(element).__module__.startswith("sqlalchemy.")
        (written if by_hand else made).append(str(element.compile(dialect=engine.dialect)))

    engine = create_mock_engine("postgresql+psycopg2://", collect)
    metadata.create_all(engine, checkfirst=False)
    yield from schemas_of(metadata)
    # Tables come in the order in which modules were imported, indexes in that of a set: neither is content.
    yield from sorted(made)
    # Statements written by hand may build on each other.
    yield from written
    for target_name, name, listener in _all_listeners(metadata):
        yield f"{target_name} {name} {listener.compile(dialect=engine.dialect)}"


def _schema_made_twice(exc: DBAPIError) -> str | None:
    if getattr(exc.orig, "pgcode", None) != "42P06":
        return None
    found = _EXISTING_SCHEMA.search(str(exc.orig))
    return found[1] if found else None


def _name_of(element: Any) -> str:
    thing = getattr(element, "element", None)
    if thing is None:
        target = getattr(element, "target", None)
        return f"what is attached to {_name_of_thing(target)}" if target is not None else "the schema"
    return _name_of_thing(thing)


def _location_of_model(element: Any, registry: Any) -> str:
    """Return "file:line in class" of the model whose table, or a part of it, is being created."""
    thing = getattr(element, "element", None)
    table = thing if isinstance(thing, Table) else getattr(thing, "table", None)
    for mapper in getattr(registry, "mappers", ()):
        if mapper.local_table is table and table is not None:
            with suppress(OSError, TypeError):  # it was typed in, or made by a function
                _, line = inspect.getsourcelines(mapper.class_)
                return f"{inspect.getsourcefile(mapper.class_)}:{line} in {mapper.class_.__name__}"
    return ""


def _name_of_thing(thing: Any) -> str:
    if isinstance(thing, str):
        return f"schema {thing!r}"
    if isinstance(thing, Table):
        return f"table {thing.fullname!r}"
    if isinstance(thing, MetaData):
        return "the MetaData"
    if isinstance(thing, (Enum, SchemaType)):
        return f"type {getattr(thing, 'name', None)!r}"
    kind = type(thing).__name__.lower()
    table = getattr(thing, "table", None)
    on = f" of table {table.fullname!r}" if isinstance(table, Table) else ""
    return f"{kind} {getattr(thing, 'name', None)!r}{on}"
