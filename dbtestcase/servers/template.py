"""Template clusters: made once with ``initdb``, once more for each content, packed, and shared by all who need them."""

from __future__ import annotations

import json
import os
from contextlib import closing

import psycopg2

from dbtestcase.diagnosis import report
from dbtestcase.errors import PostgresNotReady
from dbtestcase.schema import extensions, notes_of
from dbtestcase.servers.cache import Pack
from dbtestcase.servers.initdb import initialize, stopped_in_order
from dbtestcase.servers.instance import Instance
from dbtestcase.servers.messages import print_if_slow
from dbtestcase.servers.recipe import Recipe
from dbtestcase.servers.server import Boot, PackLost, Server
from dbtestcase.servers.store import Store
from dbtestcase.sql import quoted_identifier

__all__ = ["begin_boot", "boot"]

_store = Store()


def begin_boot(recipe: Recipe) -> Boot | None:
    """Begin to boot a server from the recipe's template; ``None`` if that has to be made first."""
    pack = _store.find(recipe.key)
    return Boot(recipe.launch, recipe.options, pack=pack) if pack is not None else None


def boot(recipe: Recipe) -> Server:
    """Boot a server from the recipe's template, which is made first if need be."""
    if not recipe.is_shared:
        return _prepared_server(recipe)
    for _ in range(3):
        pack = _store.find(recipe.key) or _made(recipe)
        try:
            return Boot(recipe.launch, recipe.options, pack=pack).wait()
        except PackLost:
            _store.distrust(recipe.key)
        except PostgresNotReady:
            if not _store.distrust(recipe.key):
                raise
    raise PostgresNotReady(
        "cannot start a test database: its template is gone as soon as it is made.\n"
        "Does something delete files in the cache folder? Set DBTESTCASE_CACHE to another one, or to 'off'."
    )


def _made(recipe: Recipe) -> Pack:
    """Make the recipe's template."""
    if recipe.key == recipe.base_key:
        description = f"an empty database made by {recipe.launch.found.bin_dir}"
        with print_if_slow("preparing PostgreSQL for tests, once on this machine ..."):
            return _store.make(recipe.key, description, lambda: initialize(recipe))
    owner = recipe.owner or "a test class"
    until = "until its schema changes" if isinstance(recipe.key, str) else "in this run"
    with report.span("template", owner), print_if_slow(f"preparing the database of {owner}, once {until} ..."):
        return _store.make(recipe.key, f"prepared for {owner}", lambda: stopped_in_order(_prepared_server(recipe)))


def _prepared_server(recipe: Recipe) -> Server:
    """Return a running server in which the contents were made."""
    server = boot(recipe.base())
    instance = Instance(server, owner=recipe.owner)
    try:
        for database in ("template1", "test"):
            _create_extensions(instance, database)
        if recipe.contents.prepare is not None:
            server.notes = json.dumps(recipe.contents.prepare(instance) or {})
        else:
            server.notes = json.dumps(notes_of(instance.connect, ["test"]))
    except BaseException:
        instance.stop()
        raise
    instance.release()
    return server


def _create_extensions(instance: Instance, database: str) -> None:
    for name in instance.options.extensions:
        try:
            instance.execute(f"CREATE EXTENSION IF NOT EXISTS {quoted_identifier(name)} CASCADE", database=database)
        except psycopg2.Error as exc:
            with closing(instance.connect(database)) as connection:
                advice = extensions.advice(connection, name)
            raise PostgresNotReady(
                f"ThrowawayPostgres(extensions=...): PostgreSQL cannot create {name!r}. It says:\n"
                f"  {str(exc).strip()}\n{advice}".rstrip()
            ) from exc


def _after_fork_in_child() -> None:
    global _store
    _store = Store()


os.register_at_fork(after_in_child=_after_fork_in_child)
