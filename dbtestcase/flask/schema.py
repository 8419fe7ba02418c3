"""What the schema of a Flask class is: its own, or the tables of its extension, each in the database of its bind."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from dbtestcase.flask.extensions import imported_by
from dbtestcase.schema import MAIN_DATABASE, SchemaLike

__all__ = ["extension_for", "is_schema_of_extension", "schema_of"]


def extension_for(test_class: Any) -> Any | None:
    """Return the extension that a class names as ``db``, or else that its modules import."""
    if test_class.db is not None or test_class.schema is not None:
        return test_class.db
    return imported_by(test_class)


def is_schema_of_extension(test_class: Any) -> bool:
    """Whether the class leaves it to its extension what the schema is."""
    return test_class.schema is None or test_class.schema is test_class.db


def schema_of(test_class: Any, extension: Any | None, database_of: Callable[[str], str | None]) -> SchemaLike | None:
    """Return what exists once the class has been set up; ``database_of`` is ``None`` for binds of the main database."""
    metadatas = getattr(extension, "metadatas", None)
    # Flask-SQLAlchemy-Lite knows no models; who names it as schema is told so.
    if metadatas is None or not is_schema_of_extension(test_class):
        schema: SchemaLike | None = test_class.schema
        return schema
    bound = {key: metadata for key, metadata in metadatas.items() if key is not None and metadata.tables}
    if all(database_of(key) == key for key in bound):
        return extension
    databases: dict[str, list[Any]] = {MAIN_DATABASE: [extension]}
    for key, metadata in bound.items():
        databases.setdefault(database_of(key) or MAIN_DATABASE, []).append(metadata)
    return databases
