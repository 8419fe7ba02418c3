"""Tells how a database differs from a MetaData."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator
from typing import Any

from sqlalchemy import Connection, MetaData, inspect, text
from sqlalchemy.exc import SAWarning

from dbtestcase.errors import SchemaError
from dbtestcase.schema.metadata import schemas_of
from dbtestcase.schema.plan import HasMetaData, metadata_of

_NEXTVAL = re.compile(r"nextval\('(.+?)'::regclass\)")
_EXTENSIONS_TABLES = text(
    "SELECT n.nspname, c.relname FROM pg_depend d JOIN pg_class c ON d.objid = c.oid "
    "JOIN pg_namespace n ON n.oid = c.relnamespace WHERE d.classid = 'pg_class'::regclass AND d.deptype = 'e'"
)


def schema_differences(
    connection: Connection,
    metadata: MetaData | HasMetaData | type[Any],
    *,
    server_defaults: bool = False,
    ignore: tuple[str, ...] = (),
) -> list[str]:
    """Return what differs between the database and ``metadata``, a line each; an empty list if they agree.

    Alembic compares them: tables, columns, types, nullability, indexes, unique and foreign keys, comments, and which
    views exist. Check constraints, sequences and the labels of enums are not compared. Only the PostgreSQL schemas
    that ``metadata`` names and the default one are looked at; tables of extensions and ``alembic_version`` are left
    out.

    Args:
        metadata: A MetaData, a declarative base, or a Flask-SQLAlchemy ``db``.
        server_defaults: Compare them too; off by default, as in ``alembic check``.
        ignore: Names of further tables to leave out.

    Raises:
        SchemaError: Alembic is not installed, or ``metadata`` is none.
    """
    wanted = metadata_of(metadata)
    if wanted is None:
        raise SchemaError(
            f"cannot compare the database with {metadata!r}: it is neither a MetaData nor a declarative base nor a "
            "Flask-SQLAlchemy db."
        )
    try:
        from alembic.autogenerate import compare_metadata
        from alembic.migration import MigrationContext
    except ImportError as exc:
        raise SchemaError(
            "cannot compare the schema: Alembic is not installed. Install it: pip install 'dbtestcase[alembic]'."
        ) from exc

    schemas = schemas_of(wanted)
    default = connection.dialect.default_schema_name
    skipped = {(schema, name) for schema, name in connection.execute(_EXTENSIONS_TABLES)}

    def includes(name: str | None, kind: str, parents: Any) -> bool:
        if kind == "schema":
            return name is None or name in schemas
        if kind != "table":
            return True
        schema = parents.get("schema_name")
        key = f"{schema}.{name}" if schema else str(name)
        if key in wanted.tables:
            return True
        return name != "alembic_version" and name not in ignore and (schema or default, name) not in skipped

    def includes_object(item: Any, name: str | None, kind: str, reflected: bool, other: Any) -> bool:
        return kind != "table" or not _is_view(item)

    context = MigrationContext.configure(
        connection,
        opts={
            "compare_type": True,
            "compare_server_default": server_defaults,
            "include_schemas": bool(schemas),
            "include_name": includes,
            "include_object": includes_object,
            "target_metadata": wanted,
        },
    )
    _skip_missing_sequences(context, connection)
    lines = list(_missing_views(connection, wanted))
    with warnings.catch_warnings():
        # About tables that refer to each other, which matters to the order of a migration only.
        warnings.filterwarnings("ignore", "Cannot correctly sort tables", SAWarning)
        differences = compare_metadata(context, wanted)
    for difference in differences:
        # Changes of one column come as a list, everything else as a tuple.
        for one in difference if isinstance(difference, list) else [difference]:
            lines.append(_line(one))
    return lines


def _skip_missing_sequences(context: Any, connection: Connection) -> None:
    # SQLAlchemy takes the sequence of a default for one of the table's own schema; if it is not, Alembic fails to find
    # it and the comparison with it. Goes when Alembic asks for sequences that may be missing.
    ask = context.impl.autogen_column_reflect

    def reflect(inspector: Any, table: Any, column: Any) -> None:
        sequence = _NEXTVAL.match(str(column.get("default") or "")) if table.schema else None
        if sequence is None or connection.scalar(text("SELECT to_regclass(:name)"), {"name": sequence[1]}) is not None:
            ask(inspector, table, column)

    context.impl.autogen_column_reflect = reflect


def _is_view(table: Any) -> bool:
    # "is_view" in info is what Alembic's documentation recommends where SQLAlchemy has no CreateView.
    return bool(getattr(table, "is_view", False) or getattr(table, "info", {}).get("is_view"))


def _missing_views(connection: Connection, metadata: MetaData) -> Iterator[str]:
    inspector = inspect(connection)
    for table in metadata.tables.values():
        if _is_view(table):
            names = inspector.get_view_names(schema=table.schema)
            names += inspector.get_materialized_view_names(schema=table.schema)
            if table.name not in names:
                yield f"view {table.fullname!r} is missing in the database"


def _line(difference: tuple[Any, ...]) -> str:
    kind, *about = difference
    match kind:
        case "add_table":
            return f"table {about[0].fullname!r} is missing in the database"
        case "remove_table":
            return f"table {about[0].fullname!r} is in the database, but not in the metadata"
        case "add_column":
            return f"column {_column(*about)} is missing in the database"
        case "remove_column":
            return f"column {_column(*about)} is in the database, but not in the metadata"
        case "modify_type" | "modify_nullable" | "modify_default" | "modify_comment":
            schema, table, column, _, found, wanted = about
            name = f"{schema}.{table}" if schema else table
            return f"column '{name}.{column}': {_modified(kind, found, wanted)}"
        case "add_table_comment" | "remove_table_comment":
            return f"table {about[0].fullname!r}: the comment differs"
        case _:
            verb, _, what = str(kind).partition("_")
            where = "is missing in the database" if verb == "add" else "is in the database, but not in the metadata"
            return f"{_WORDS.get(what, what)} {_constraint(about[0])} {where}"


_WORDS = {"index": "index", "constraint": "unique constraint", "fk": "foreign key"}


def _column(schema: str | None, table: str, column: Any) -> str:
    return repr(f"{schema}.{table}.{column.name}" if schema else f"{table}.{column.name}")


def _modified(kind: str, found: Any, wanted: Any) -> str:
    match kind:
        case "modify_type":
            return f"the type is {found!r} in the database, {wanted!r} in the metadata"
        case "modify_nullable":
            return f"{_nullable(found)} in the database, {_nullable(wanted)} in the metadata"
        case "modify_default":
            return f"the default is {_default(found)} in the database, {_default(wanted)} in the metadata"
        case _:
            return f"the comment is {found!r} in the database, {wanted!r} in the metadata"


def _nullable(value: bool) -> str:
    return "nullable" if value else "not nullable"


def _default(value: Any) -> str:
    return "none" if value in (None, False) else str(getattr(value, "arg", value))


def _constraint(item: Any) -> str:
    columns = ", ".join(getattr(column, "name", str(column)) for column in item.columns)
    table = item.table.fullname if item.table is not None else "?"
    return f"{item.name!r} on {table!r} ({columns})" if item.name else f"on {table!r} ({columns})"
