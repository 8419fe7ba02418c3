"""Rows that an assertion looks for: the query, and in what the rows that are there differ."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from sqlalchemy import (
    JSON,
    ColumnElement,
    Connection,
    FromClause,
    Row,
    Select,
    Table,
    and_,
    case,
    cast,
    func,
    inspect,
    literal,
    select,
)
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.exc import ArgumentError, NoInspectionAvailable, StatementError
from sqlalchemy.orm import InstanceState, Mapper
from sqlalchemy.sql.elements import ClauseElement

from dbtestcase.diagnosis.redaction import Redaction, without_values
from dbtestcase.diagnosis.sqltext import render
from dbtestcase.diagnosis.tracebacks import sqlstate

_SHOWN = 3
_SHOWN_UNWANTED = 5
_COMPARED = 200


class Entity:
    """A mapped class or a table, as an assertion was given it; anything else is a ``TypeError``."""

    def __init__(self, given: Any) -> None:
        self._given = given
        self.mapper: Mapper[Any] | None = None
        if isinstance(given, FromClause):
            self.name = given.description if isinstance(given, Table) else str(given)
            self.primary_key = list(given.primary_key)
            return
        try:
            found = inspect(given)
        except NoInspectionAvailable:
            found = None
        if not isinstance(found, Mapper):
            hint = f"; give its class, {type(given).__name__}" if isinstance(found, InstanceState) else ""
            raise TypeError(f"a mapped class or a Table is needed, but {given!r} is neither{hint}.")
        self.mapper = found
        self.name = found.class_.__name__
        self.primary_key = [getattr(given, found.get_property_by_column(key).key) for key in found.primary_key]

    @property
    def clause(self) -> FromClause:
        """The table, for choosing the engine."""
        found: FromClause = self._given if self.mapper is None else self.mapper.local_table
        return found

    def criterion(self, name: str, value: Any) -> ColumnElement[bool]:
        """Return the condition that a column or relationship has a value."""
        attribute = self._attribute(name)
        try:
            if value is not None and isinstance(getattr(attribute, "type", None), JSON):
                # PostgreSQL cannot compare json; jsonb it can, and there the order of keys does not matter.
                return cast(attribute, JSONB) == literal(value, JSONB)
            return attribute == value  # type: ignore[no-any-return]
        except ArgumentError as error:
            kind = type(value).__name__
            raise TypeError(f"{self.name}.{name} cannot be compared with a value of type {kind}: {error}") from error

    def columns(self, names: Iterable[str]) -> dict[str, Any]:
        """Return what to select to show a row: the primary key, then the columns named; relationships are left out."""
        chosen = {_key(column): column for column in self.primary_key}
        for name in names:
            attribute = self._attribute(name)
            if not hasattr(getattr(attribute, "property", None), "mapper"):
                chosen[name] = attribute
        return chosen or self.all_columns()

    def all_columns(self) -> dict[str, Any]:
        """Return all columns of the entity by name."""
        if self.mapper is None:
            return {column.key: column for column in self._given.columns}
        return {prop.key: getattr(self._given, prop.key) for prop in self.mapper.column_attrs}

    def selecting(self, *what: Any) -> Select[Any]:
        """Return a query on the entity."""
        return select(*what).select_from(self._given)

    def has_column(self, name: str) -> bool:
        """Whether a value can be asked for by this name."""
        return name in self._names()

    def _names(self) -> list[str]:
        return list(self._given.columns.keys() if self.mapper is None else self.mapper.all_orm_descriptors.keys())

    def _attribute(self, name: str) -> Any:
        known = self._names()
        if name in known:
            return self._given.columns[name] if self.mapper is None else getattr(self._given, name)
        near = difflib.get_close_matches(name, known, 1)
        hint = f"; did you mean {near[0]!r}?" if near else "."
        raise TypeError(f"{self.name} has no column {name!r}{hint} It has: {', '.join(known)}.")


class RowSearch:
    """Rows of an entity with given values; an unknown column is a ``TypeError``."""

    def __init__(self, entity: Any, values: Mapping[str, Any], redaction: Redaction) -> None:
        self.entity = Entity(entity)
        self._values = dict(values)
        self._redaction = redaction
        self._criteria = {name: self.entity.criterion(name, value) for name, value in values.items()}

    def count(self, connection: Connection) -> int:
        """Return how many rows match."""
        return _count(connection, self.entity.selecting(func.count()).where(*self._criteria.values()), self)

    def missing(self, connection: Connection) -> str:
        """Return what to say when no row matches: the rows that come nearest and in what they differ."""
        total = _count(connection, self.entity.selecting(func.count()), self)
        if not total:
            return f"no row of {self.entity.name}{self._wanted()}: the table is empty."
        nearest = self._nearest(connection)
        rows = f"{total} row{' is' if total == 1 else 's are'} there"
        rows += "" if total == 1 else f", the nearest {'one' if len(nearest) == 1 else len(nearest)}"
        return "\n".join([f"no row of {self.entity.name}{self._wanted()}. {rows}:", *nearest])

    def unwanted(self, connection: Connection) -> str:
        """Return what to say when rows match that should not be there."""
        number = self.count(connection)
        head = f"{number} row{'' if number == 1 else 's'} of {self.entity.name}{self._wanted(number)}, none expected:"
        shown = listed(connection, self.entity, tuple(self._criteria.values()), self._redaction)
        return "\n".join([head, *shown])

    def _wanted(self, number: int = 1) -> str:
        if not self._values:
            return ""
        verb = " has " if number == 1 else " have "
        return verb + ", ".join(f"{name}={self._shown(name, value)}" for name, value in self._values.items())

    def _nearest(self, connection: Connection) -> list[str]:
        columns = self.entity.columns(self._values)
        hits = {name: case((criterion, 1), else_=0) for name, criterion in self._criteria.items()}
        matching = sum(hits.values(), literal(0))
        query = self.entity.selecting(
            *(column.label(f"c{i}") for i, column in enumerate(columns.values())),
            *(hit.label(f"h{i}") for i, hit in enumerate(hits.values())),
        ).order_by(matching.desc(), *self.entity.primary_key)
        rows = list(_run(connection, query.limit(_COMPARED), self))
        rows.sort(key=lambda row: -self._similarity(row, list(columns)))
        return [self._difference(row, list(columns)) for row in rows[:_SHOWN]]

    def _similarity(self, row: Row[Any], columns: list[str]) -> float:
        likeness = float(sum(row[len(columns) :]))
        for name, value in self._values.items():
            if name in columns and isinstance(value, str):
                there = row[columns.index(name)]
                if isinstance(there, str) and there != value:
                    likeness += 0.9 * difflib.SequenceMatcher(None, there[:200], value[:200]).ratio()
        return likeness

    def _difference(self, row: Row[Any], columns: list[str]) -> str:
        hit = dict(zip(self._values, row[len(columns) :], strict=True))
        keys = [name for name in columns if name not in self._values]
        parts = [f"{name} {self._differing(name, row, columns)}" for name in self._values if not hit[name]]
        identity = ", ".join(f"{name}={self._shown(name, row[columns.index(name)])}" for name in keys)
        return f"  {identity or 'a row'}: {', '.join(parts)}"

    def _differing(self, name: str, row: Row[Any], columns: list[str]) -> str:
        if name not in columns:
            return "is another"
        return f"is {self._shown(name, row[columns.index(name)])}, not {self._shown(name, self._values[name])}"

    def hides(self, name: str, value: Any) -> bool:
        """Whether a value must not be shown."""
        return self._redaction.hides(name) or self._redaction.hides_value(value)

    def _shown(self, name: str, value: Any) -> str:
        return self._redaction.cell(name, value, _short(value))


def check_count(expected: object) -> int:
    """Return a number of rows or queries as given to an assertion, unless it is no whole number or negative."""
    if isinstance(expected, bool) or not isinstance(expected, int):
        raise TypeError(f"the expected number is to be a whole number, not {expected!r}.")
    if expected < 0:
        raise ValueError(f"the expected number cannot be negative: {expected}.")
    return expected


def check_criteria(criteria: Sequence[object]) -> None:
    """Raise ``TypeError`` for criteria that are no SQL expressions: a bool, a string or the like."""
    for number, criterion in enumerate(criteria, 1):
        if not isinstance(criterion, ClauseElement) and not hasattr(criterion, "__clause_element__"):
            raise TypeError(
                f"criterion {number} is of type {type(criterion).__name__}, not an SQL expression such as "
                "Customer.name == 'Ada'; "
                "'is', 'in', 'and' and 'not' do not make one, use .is_(), .in_(), & and ~."
            )


def wrong_row_count(
    connection: Connection, entity: Entity, expected: int, criteria: Sequence[Any], redaction: Redaction
) -> str | None:
    """Return what to say if the number of rows differs, ``None`` if it is as expected."""
    number = connection.execute(entity.selecting(func.count()).where(*criteria)).scalar_one()
    if number == expected:
        return None
    where = f" where {_criteria_text(connection, criteria, redaction)}" if criteria else ""
    head = f"{number} row{'' if number == 1 else 's'} of {entity.name}{where}, {expected} expected"
    if not number:
        return f"{head}."
    return "\n".join([f"{head}:", *listed(connection, entity, criteria, redaction)])


def listed(connection: Connection, entity: Entity, criteria: Sequence[Any], redaction: Redaction) -> list[str]:
    """Return the first rows that match, a line each."""
    columns = entity.all_columns()
    query = entity.selecting(*(column.label(f"c{i}") for i, column in enumerate(columns.values()))).where(*criteria)
    rows = connection.execute(query.order_by(*entity.primary_key).limit(_SHOWN_UNWANTED + 1)).all()
    lines = []
    for row in rows[:_SHOWN_UNWANTED]:
        cells = zip(columns, row, strict=True)
        shown = (f"{name}={redaction.cell(name, value, _short(value))}" for name, value in cells)
        lines.append(f"  {', '.join(shown)}")
    return [*lines, "  …"] if len(rows) > _SHOWN_UNWANTED else lines


def _criteria_text(connection: Connection, criteria: Sequence[Any], redaction: Redaction) -> str:
    compiled = and_(*criteria).compile(dialect=connection.dialect, compile_kwargs={"render_postcompile": True})
    return render(str(compiled), dict(compiled.params), redaction)


def _count(connection: Connection, query: Select[Any], search: RowSearch) -> int:
    return int(_run(connection, query, search)[0][0])


def _run(connection: Connection, query: Select[Any], search: RowSearch) -> Sequence[Row[Any]]:
    try:
        return connection.execute(query).all()
    except StatementError as error:
        cause = getattr(error, "orig", None) or error
        if sqlstate(cause) in ("42P01", "42703"):
            raise  # the table or column is not there: the database says it best
        values = ", ".join(f"{name}={search._shown(name, value)}" for name, value in search._values.items())
        is_hidden = any(search.hides(name, value) for name, value in search._values.items())
        reason = without_values(cause) if is_hidden else str(cause).strip().splitlines()[0]
        raise ValueError(f"rows of {search.entity.name} cannot be compared with {values}: {reason}") from error


def _key(column: Any) -> str:
    return str(column.key)


def _short(value: Any) -> str:
    shown = repr(value)
    return shown if len(shown) <= 80 else f"{shown[:60]}… ({len(shown)} characters)"
