"""What a test class's ``schema`` asks for, and how it gets into a server."""

from __future__ import annotations

from typing import Any

from sqlalchemy import URL, make_url

from dbtestcase.schema import SchemaPlan, notes_of, plan
from dbtestcase.servers import EMPTY, Contents, Databases

__all__ = ["contents_of", "plain_url", "plan_of"]


def plan_of(test_class: Any, schema: Any) -> SchemaPlan:
    """Return what the schema of a test class asks for.

    Raises:
        SchemaError: The attribute holds something that is no schema.
    """
    return plan(schema, owner=f"{test_class.__qualname__}.schema", extensions=test_class.postgres.extensions)


def contents_of(wanted: SchemaPlan) -> Contents:
    """Translate a schema's plan into what a cluster is asked to hold."""
    if wanted.is_empty:
        return EMPTY

    def prepare(instance: Databases) -> dict[str, Any]:
        wanted.create(lambda database: plain_url(instance, database), instance.create_database)
        return notes_of(instance.connect, wanted.databases)

    return Contents(
        fingerprint=wanted.fingerprint,
        prepare=prepare,
        token=wanted.token,
        background=wanted.background,
        databases=wanted.databases,
    )


def plain_url(instance: Databases, database: str) -> URL:
    """Return the URL of a database, for SQLAlchemy and not isolated."""
    # Set afterwards, because SQLAlchemy 2.0 reads a name that is quoted in a URL's text as it stands.
    return make_url(instance.url()).set(database=instance.database_name(database))
