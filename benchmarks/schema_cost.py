"""Group ``schema``: what a hundred tables or three hundred migrations cost, made and once prepared."""

from __future__ import annotations

import os
import tempfile
import time
from pathlib import Path

from benchmarks.cases import Answering, ours
from benchmarks.clock import Clock
from benchmarks.plan import Contender, Group, Row, Table, Target
from benchmarks.servers import OneServer
from benchmarks.workload import schema

Series = dict[str, list[float]]

TABLES, MIGRATIONS = 100, 300

_ENV = """
from alembic import context
from sqlalchemy import create_engine, pool

engine = create_engine(context.config.get_main_option("sqlalchemy.url"), poolclass=pool.NullPool)
with engine.connect() as connection:
    context.configure(connection=connection)
    with context.begin_transaction():
        context.run_migrations()
"""
_MIGRATION = '''"""Migration {number}. {salt}"""

import sqlalchemy as sa
from alembic import op

revision = "{number:04}"
down_revision = {before!r}


def upgrade():
    {upgrade}


def downgrade():
    raise NotImplementedError
'''


def write_migrations(folder: Path, salt: str = "") -> None:
    """Write a script folder: each third migration makes a table, the next two add a column and an index to it."""
    versions = folder / "versions"
    versions.mkdir(parents=True)
    (folder / "env.py").write_text(_ENV)
    for number in range(MIGRATIONS):
        table = f"table_{number // 3}"
        upgrade = (
            f'op.create_table("{table}", sa.Column("id", sa.Integer, primary_key=True), sa.Column("name", sa.Text))',
            f'op.add_column("{table}", sa.Column("amount", sa.Integer))',
            f'op.create_index("ix_{table}", "{table}", ["amount"])',
        )[number % 3]
        before = f"{number - 1:04}" if number else None
        text = _MIGRATION.format(number=number, salt=salt, before=before, upgrade=upgrade)
        (versions / f"{number:04}.py").write_text(text)


def _private_migrations(salt: str) -> Path:
    folder = Path(tempfile.mkdtemp()) / "migrations"
    write_migrations(folder, salt)
    return folder


def first_of_tables(tables: int, new: bool) -> Series:
    """Run one class; return the time to its first answer. ``new``: nobody has ever seen its schema."""
    return _first(schema(tables, os.urandom(4).hex() if new else ""))


def first_of_migrations(folder: str | None) -> Series:
    """Run one class whose schema are migrations: those in the folder, or some that nobody has ever seen."""
    from dbtestcase import AlembicMigrations

    location = Path(folder) if folder else _private_migrations(os.urandom(4).hex())
    (location.parent / "alembic.ini").write_text(f"[alembic]\nscript_location = {location}\n")
    return _first(AlembicMigrations(location.parent / "alembic.ini"))


def _first(schema_like: object) -> Series:
    clock = Clock()
    test_class = ours(Answering, metadata=schema_like, clock=clock)
    started = time.perf_counter()
    clock.run([test_class])
    return {"first": [clock.answers[0] - started]}


def create_all(tables: int) -> Series:
    """Create the tables in a database of a server that runs already."""
    databases = OneServer(schema(0))
    engine = databases.start()
    started = time.perf_counter()
    schema(tables).create_all(engine)
    elapsed = time.perf_counter() - started
    databases.stop(engine)
    databases.close()
    return {"first": [elapsed]}


def alembic_upgrade() -> Series:
    """Run the migrations in a database of a server that runs already."""
    from alembic import command
    from alembic.config import Config

    location = _private_migrations("")
    databases = OneServer(schema(0))
    engine = databases.start()
    config = Config()
    config.set_main_option("script_location", str(location))
    config.set_main_option("sqlalchemy.url", engine.url.render_as_string(False).replace("%", "%%"))
    started = time.perf_counter()
    command.upgrade(config, "head")
    elapsed = time.perf_counter() - started
    databases.stop(engine)
    databases.close()
    return {"first": [elapsed]}


def group(folder: Path) -> Group:
    """Return the group; the prepared migrations are written below ``folder``."""
    migrations = folder / "kept" / "migrations"
    write_migrations(migrations)
    empty = "dbtestcase, no tables"
    prepared = f"dbtestcase, {MIGRATIONS} migrations, prepared"
    tables, migrated = "schema_cost:first_of_tables", "schema_cost:first_of_migrations"
    contenders = (
        Contender(empty, tables, {"tables": 0, "new": False}),
        Contender(f"dbtestcase, {TABLES} tables, prepared", tables, {"tables": TABLES, "new": False}),
        Contender(f"dbtestcase, {TABLES} tables, cold", tables, {"tables": TABLES, "new": True}),
        Contender(f"create_all of {TABLES} tables, server runs", "schema_cost:create_all", {"tables": TABLES}),
        Contender(prepared, migrated, {"folder": str(migrations)}),
        Contender(f"dbtestcase, {MIGRATIONS} migrations, cold", migrated, {"folder": None}),
        Contender(f"Alembic's upgrade by {MIGRATIONS} migrations, server runs", "schema_cost:alembic_upgrade"),
    )
    table = Table(
        "What the schema costs the first class of a process: from its start to its database's first answer",
        tuple(Row(contender.name, "first") for contender in contenders),
        reference=empty,
        targets=(Target(prepared, over=empty, extra=True, at_most=0.300),),
    )
    return Group("schema", "100 tables and 300 Alembic migrations, cold and prepared", contenders, (table,))
