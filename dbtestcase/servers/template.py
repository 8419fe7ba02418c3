"""Template clusters: made once with ``initdb``, once more for each content, packed, and shared by all who need them."""

from __future__ import annotations

import json
import os
import signal
from contextlib import closing
from functools import partial
from typing import Any

import psycopg2

from dbtestcase.diagnosis import report
from dbtestcase.errors import PostgresNotReady
from dbtestcase.schema import extensions, notes_of
from dbtestcase.servers.cache import Pack
from dbtestcase.servers.directory import PORT, InstanceDirectory
from dbtestcase.servers.environment import hidden_variables
from dbtestcase.servers.instance import Instance
from dbtestcase.servers.locations import instance_locations
from dbtestcase.servers.messages import print_if_slow
from dbtestcase.servers.options import ThrowawayPostgres
from dbtestcase.servers.programs import OLDEST_VERSION, Programs
from dbtestcase.servers.recipe import Recipe
from dbtestcase.servers.server import Boot, PackLost, Server
from dbtestcase.servers.store import Store
from dbtestcase.servers.supervisor_client import RequestFailed

__all__ = ["begin_boot", "boot", "make_template"]

# What initdb needs before its cluster is packed.
_UNPACKED_GUESS = 48 * 1024 * 1024


_store = Store()


def begin_boot(recipe: Recipe, *, probe_database: str | None = None) -> Boot | None:
    """Begin to boot a server from the recipe's template; ``None`` if that has to be made first."""
    pack = _find(recipe)
    if pack is None:
        return None
    return Boot(recipe.launch, recipe.options, pack=pack, probe_database=probe_database)


def _find(recipe: Recipe) -> Pack | None:
    return _store.find(recipe.key) if recipe.key is not None else _store.find_anonymous(recipe.anonymous_key)


def boot(recipe: Recipe, *, probe_database: str | None = None) -> Server:
    """Boot a server from the recipe's template, which is made first if need be.

    Raises:
        PostgresNotReady: The server does not start.
        Exception: Whatever ``contents.prepare`` raises.
    """
    if not recipe.is_shared:
        return _prepared_server(recipe)
    for _ in range(3):
        begun = begin_boot(recipe, probe_database=probe_database)
        if begun is None:
            make_template(recipe)
            begun = begin_boot(recipe, probe_database=probe_database)
        if begun is None:
            break
        try:
            return begun.wait()
        except PackLost:
            if recipe.key is not None:
                _store.distrust(recipe.key)
        except PostgresNotReady:
            if recipe.key is None or not _store.distrust(recipe.key):
                raise
    raise PostgresNotReady("cannot start a test database: its template vanishes as soon as it is made.")


def make_template(recipe: Recipe) -> Pack:
    """Make the recipe's template, if it is not there."""
    base = _base(recipe)
    if recipe.key == recipe.base_key:
        return base
    owner = recipe.owner or "a test class"
    if recipe.key is None:
        with report.span("template", owner), print_if_slow(f"preparing the database of {owner}, once in this run ..."):
            return _store.make_anonymous(recipe.anonymous_key, lambda: _stopped(_prepared_server(recipe)))
    with (
        report.span("template", owner),
        print_if_slow(f"preparing the database of {owner}, once until its schema changes ..."),
    ):
        description = f"PostgreSQL {base.server_version}, prepared for {owner}"
        return _store.make(recipe.key, description, lambda: _stopped(_prepared_server(recipe)))


def _base(recipe: Recipe) -> Pack:
    found = _store.find(recipe.base_key)
    if found is not None:
        return found
    description = f"PostgreSQL in {recipe.found.bin_dir}, an empty database"
    with print_if_slow("preparing PostgreSQL for tests, once on this machine ..."):
        return _store.make(recipe.base_key, description, lambda: _initialized(recipe))


def _initialized(recipe: Recipe) -> Server:
    """Return a server, stopped in order, whose data folder comes fresh from ``initdb``."""
    programs = recipe.launch.programs
    if _major(programs) < OLDEST_VERSION:
        raise PostgresNotReady(
            f"cannot start a test database: {programs.postgres!r} is PostgreSQL {programs.version}; "
            f"{OLDEST_VERSION} or newer is needed. Set DBTESTCASE_BIN_DIR to the programs of a newer one."
        )
    directory = InstanceDirectory.make(recipe.launch, instance_locations(_UNPACKED_GUESS, recipe.launch.user))
    try:
        _initdb(programs, directory)
        server = Boot(recipe.launch, ThrowawayPostgres(), directory=directory).wait()
        run_sql(server, "postgres", ["CREATE DATABASE test"])
        server.notes = json.dumps(notes_of(partial(_connect, server), ["test"]))
        return _stopped(server)
    except BaseException:
        directory.end()
        raise


def _major(programs: Programs) -> int:
    digits = programs.version.partition(".")[0]
    return int("".join(character for character in digits[:2] if character.isdigit()) or 0)


def _initdb(programs: Programs, directory: InstanceDirectory) -> None:
    more = ["--no-data-checksums"] if _major(programs) >= 18 else []
    if _major(programs) >= 16:
        # In files of the data folder: segments of the default kind outlive an initdb that is killed.
        more += ["-c", "dynamic_shared_memory_type=mmap"]
    common = [*more, "--no-sync", "-E", "UTF8", "--wal-segsize=1", "-A", "trust", "-U", "postgres"]
    output = ""
    # C.UTF-8 sorts like C and knows upper and lower case beyond ASCII; not every system has it.
    for locale in ("C.UTF-8", "C"):
        try:
            status, output = directory.run(
                [programs.initdb, *common, f"--locale={locale}", "-D", str(directory.data_dir)]
            )
        except RequestFailed as exc:
            raise PostgresNotReady(
                f"cannot start a test database: {programs.initdb!r} could not be started: {exc}"
            ) from exc
        if status == 0:
            return
        if "locale" not in output:
            break
    raise PostgresNotReady(
        f"cannot start a test database: {programs.initdb!r} failed with exit status {status}. It said:\n"
        f"{output.strip()}"
    )


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
        quoted = name.replace('"', '""')
        try:
            instance.execute(f'CREATE EXTENSION IF NOT EXISTS "{quoted}" CASCADE', database=database)
        except psycopg2.Error as exc:
            with closing(instance.connect(database)) as connection:
                advice = extensions.advice(connection, name)
            raise PostgresNotReady(
                f"ThrowawayPostgres(extensions=...): PostgreSQL cannot create {name!r}. It says:\n"
                f"  {str(exc).strip()}\n{advice}".rstrip()
            ) from exc


def _stopped(server: Server) -> Server:
    status = server.stop(signal.SIGINT)
    if status != 0:
        log = server.directory.read_log().strip()
        server.directory.end()
        raise PostgresNotReady(
            f"cannot prepare a test database: the server ended with exit status {status}. Its log ends:\n{log[-2000:]}"
        )
    return server


def run_sql(server: Server, database: str, statements: list[str]) -> None:
    """Execute statements, each committed by itself."""
    with closing(_connect(server, database)) as connection:
        connection.autocommit = True
        with connection.cursor() as cursor:
            for statement in statements:
                cursor.execute(statement)


def _connect(server: Server, database: str) -> Any:
    with hidden_variables():
        return psycopg2.connect(host=str(server.directory.socket_dir), port=PORT, user="postgres", dbname=database)


def _after_fork_in_child() -> None:
    global _store
    _store = Store()


os.register_at_fork(after_in_child=_after_fork_in_child)
