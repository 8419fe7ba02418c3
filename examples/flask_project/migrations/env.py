"""How Alembic reaches the database: on a connection it is handed (the tests), else on the application's engine."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import nullcontext
from logging.config import fileConfig

from alembic import context
from alembic.migration import MigrationContext
from alembic.operations.ops import MigrationScript
from flask import current_app

from studies import models  # noqa: F401 - fills the metadata
from studies.database import db

config = context.config


def run_migrations_offline() -> None:
    """Print the SQL instead of running it: ``flask db upgrade --sql``."""
    context.configure(url=db.engine.url, target_metadata=db.metadata, literal_binds=True)
    with context.begin_transaction():
        context.run_migrations()


def run_migrations_online() -> None:
    given = config.attributes.get("connection")
    with nullcontext(given) if given is not None else db.engine.connect() as connection:
        context.configure(
            connection=connection, target_metadata=db.metadata, process_revision_directives=refuse_empty_migration
        )
        with context.begin_transaction():
            context.run_migrations()


def refuse_empty_migration(
    _context: MigrationContext, _revision: Iterable[str | None], directives: list[MigrationScript]
) -> None:
    """Let ``flask db migrate`` write no file if the models have not changed."""
    operations = directives[0].upgrade_ops if directives else None
    if operations is not None and operations.is_empty() and getattr(config.cmd_opts, "autogenerate", False):
        directives.clear()


if current_app and not current_app.testing and config.config_file_name:
    # As a command only: tests keep the logging they have. And "False": Alembic's own template silences every logger
    # that exists already.
    fileConfig(config.config_file_name, disable_existing_loggers=False)

if context.is_offline_mode():
    run_migrations_offline()
else:
    run_migrations_online()
