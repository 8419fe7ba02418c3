"""What is kept with a template, beside its files: what its databases' code does, and which extensions they have."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import closing
from typing import Any

from dbtestcase.schema import effects, extensions

__all__ = ["notes_of"]


def notes_of(connect: Callable[[str], Any], databases: Iterable[str]) -> dict[str, Any]:
    """Return ``{"effects": {database: ...}, "extensions": ...}`` of databases, as JSON can hold it."""
    found: dict[str, Any] = {"effects": {}}
    for database in databases:
        with closing(connect(database)) as connection:
            found["effects"][database] = effects.read(connection)
            of_database = extensions.read(connection)
        if of_database["files"]:
            of_all = found.setdefault("extensions", of_database)
            of_all["files"].update(of_database["files"])
    return found
