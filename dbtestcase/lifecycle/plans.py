"""What a test class's ``schema`` asks for, and how it gets into a server."""

from __future__ import annotations

from typing import Any

from sqlalchemy import URL, make_url

from dbtestcase.schema import SchemaPlan, notes_of, plan
from dbtestcase.servers import EMPTY, Contents, Databases, with_app_role

__all__ = ["contents_of", "plain_url", "plan_of"]


_ROLES = (
    "SELECT rolname FROM pg_roles WHERE oid >= 16384 AND NOT rolsuper"  # the first oid that is not the system's own
)


def plan_of(test_class: Any, schema: Any) -> SchemaPlan:
    """Return what the schema of a test class asks for, or raise ``SchemaError``."""
    owner, extensions = f"{test_class.__qualname__}.schema", test_class.postgres.extensions
    return plan(schema, owner=owner, extensions=extensions, hidden=test_class.hidden_columns)


def contents_of(wanted: SchemaPlan, test_class: Any = None) -> Contents:
    """Translate a schema's plan into what a cluster is asked to hold, with the class's ``app_role`` if it has one."""
    contents = EMPTY if wanted.is_empty else _contents_of(wanted)
    if test_class is None:
        return contents
    return with_app_role(contents, test_class.app_role, owner=test_class.__qualname__)


def _contents_of(wanted: SchemaPlan) -> Contents:

    def prepare(instance: Databases) -> dict[str, Any]:
        wanted.create(lambda database: plain_url(instance, database), instance.create_database)
        roles = [name for (name,) in instance.query(_ROLES)]
        return {**notes_of(instance.connect, wanted.databases), "roles": roles}

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
