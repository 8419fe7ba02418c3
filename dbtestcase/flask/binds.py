"""Which database each bind of an application belongs to."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sqlalchemy import URL, Engine

from dbtestcase.errors import SchemaError

__all__ = ["BindDatabases"]

_MAIN = "default"


class BindDatabases:
    """The names of the databases by bind key; a bind of which nothing is known has one of its own, called as its key.

    Args:
        declared: ``bind_databases`` of the test class.
        owner: The name of the test class.

    Raises:
        SchemaError: ``declared`` is no mapping of names to names, or leads in a circle.
    """

    def __init__(self, declared: Any, owner: str) -> None:
        if not isinstance(declared, Mapping) or not all(
            isinstance(each, str) for pair in declared.items() for each in pair
        ):
            raise SchemaError(
                f"{owner}.bind_databases is {declared!r}; it has to be a mapping of bind keys to bind keys or names of "
                f"databases, such as {{'reader': {_MAIN!r}}}."
            )
        self._same: dict[str, str] = dict(declared)
        for key in self._same:
            followed = {key}
            while (key := self._same.get(key, _MAIN)) != _MAIN:
                if key in followed:
                    raise SchemaError(
                        f"{owner}.bind_databases leads from {key!r} back to {key!r}; end at the name of a database, or "
                        f"at {_MAIN!r} for the main one."
                    )
                followed.add(key)

    def database_of(self, bind_key: str | None) -> str | None:
        """Return the name of the database of a bind, ``None`` for the main one."""
        if bind_key not in self._same:
            return bind_key
        while bind_key in self._same:
            bind_key = self._same[bind_key]
        return None if bind_key == _MAIN else bind_key

    def join_equal(self, engines: Mapping[str | None, Engine]) -> bool:
        """Take binds with the same address as one, unless they are declared; return whether there were new ones."""
        first: dict[URL, str] = {}
        has_joined = False
        for bind_key, engine in sorted(engines.items(), key=lambda item: item[0] is not None):
            if _is_in_memory(engine):
                continue
            key = first.setdefault(_location(engine.url), bind_key or _MAIN)
            database = self.database_of(key) or _MAIN
            if bind_key is not None and bind_key not in self._same and bind_key != database:
                self._same[bind_key] = database
                has_joined = True
        return has_joined


def _location(url: URL) -> URL:
    """Return what names the database alone: a reader may be another role than a writer."""
    port = url.port or (5432 if url.get_backend_name() == "postgresql" else None)
    return url.set(username="", password="").set(port=port)


def _is_in_memory(engine: Engine) -> bool:
    return engine.dialect.name == "sqlite" and engine.url.database in (None, "", ":memory:")
