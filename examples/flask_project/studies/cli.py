"""Commands for operators: ``flask --app studies COMMAND``."""

from __future__ import annotations

from datetime import timedelta

import click
from flask import Flask
from flask.cli import with_appcontext

from studies import services
from studies.database import db


def init_app(app: Flask) -> None:
    for command in (add_groups, skip_overdue, create_audit_log):
        app.cli.add_command(command)


@click.command("add-groups")
@click.argument("names", nargs=-1, required=True)
@with_appcontext
def add_groups(names: tuple[str, ...]) -> None:
    """Add groups that trials can belong to."""
    click.echo(f"groups added: {services.add_groups(names)}")


@click.command("skip-overdue")
@click.option("--days", type=click.IntRange(min=0), default=7, show_default=True, help="Age of the session.")
@with_appcontext
def skip_overdue(days: int) -> None:
    """Skip the waiting trials of old sessions."""
    click.echo(f"trials skipped: {services.skip_overdue(timedelta(days=days))}")


@click.command("create-audit-log")
@with_appcontext
def create_audit_log() -> None:
    """Create the audit log's table in its database, if it is not there.

    The migrations look after the main database only; this one holds a single table that is only ever added to.
    """
    db.create_all(bind_key="audit")
