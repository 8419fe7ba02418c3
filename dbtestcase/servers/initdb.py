"""A fresh cluster: ``initdb``, the database ``test``, and who may connect how."""

from __future__ import annotations

import json
import re
import signal
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import psycopg2

from dbtestcase.errors import PostgresNotReady
from dbtestcase.libpq import hidden_variables
from dbtestcase.schema import notes_of
from dbtestcase.servers.configuration import LOCALE_FILE, LOCALE_SETTINGS
from dbtestcase.servers.directory import InstanceDirectory
from dbtestcase.servers.locations import instance_locations
from dbtestcase.servers.options import ThrowawayPostgres
from dbtestcase.servers.programs import OLDEST_VERSION, Programs
from dbtestcase.servers.recipe import Recipe
from dbtestcase.servers.server import Boot, Server
from dbtestcase.servers.supervisor_client import RequestFailed

__all__ = ["initialize", "stopped_in_order"]

_TIMEOUT = 300.0
_MEMORY = "dynamic_shared_memory_type"
# What initdb needs before its cluster is packed.
_UNPACKED_GUESS = 48 * 1024 * 1024
# Nobody needs a password on the socket, which only the server's user can reach; over TCP everybody does.
_HBA = ["local all all trust", "host all all 127.0.0.1/32 scram-sha-256", "host all all ::1/128 scram-sha-256"]
# The server names its data folder itself: the bytes of its path may be no text to us.
_WRITE_FILE = """DO $do$ BEGIN
EXECUTE format('COPY (SELECT unnest(%%L::text[])) TO %%L', %s::text[], current_setting('data_directory') || '/' || %s);
END $do$"""
_UNKNOWN_USER = (
    "\nIt needs a user that is not root and has an entry in the list of users, and cannot be given one here. Run the "
    "tests as such a user (a container: as one that its image has), or add an entry to /etc/passwd."
)
_NO_ICU = (
    "\nThe programs of embedded wheels are built without ICU. Name a locale of the system in place of locale_provider "
    "and icu_locale, or set DBTESTCASE_BIN_DIR to the programs of your system's PostgreSQL."
)


def initialize(recipe: Recipe) -> Server:
    """Return a server, stopped in order, whose data folder comes fresh from ``initdb``."""
    programs = recipe.launch.programs
    major = programs.major
    if major < OLDEST_VERSION:
        raise PostgresNotReady(
            f"cannot start a test database: {programs.postgres!r} is PostgreSQL {programs.version}; "
            f"{OLDEST_VERSION} or newer is needed. Set DBTESTCASE_BIN_DIR to the programs of a newer one."
        )
    directory = InstanceDirectory.make(recipe.launch, instance_locations(_UNPACKED_GUESS, recipe.launch.user))
    try:
        _run(recipe, directory)
        choices = _locale_choices(directory) if recipe.options.cluster else []
        server = Boot(recipe.launch, ThrowawayPostgres(), directory=directory, version=str(major)).wait()
        _set_up(server, choices)
        server.notes = json.dumps(notes_of(partial(_connect, server), ["test"]))
        return stopped_in_order(server)
    except BaseException:
        directory.end()
        raise


def _run(recipe: Recipe, directory: InstanceDirectory) -> None:
    program, asked = recipe.launch.programs.initdb, recipe.options.described_locale()
    try:
        status, output = _first_that_succeeds(recipe, directory)
    except RequestFailed as exc:
        raise PostgresNotReady(
            f"cannot start a test database: {program!r} could not be started: {exc}"
            + (_UNKNOWN_USER if recipe.launch.alias is not None else "")
        ) from exc
    if status != 0:
        raise PostgresNotReady(
            (f"ThrowawayPostgres({asked}): " if asked else "cannot start a test database: ")
            + f"{program!r} failed with exit status {status}. It said:\n{output.strip()}"
            + (_NO_ICU if "ICU is not supported" in output else "")
            + ("\nThe locales of this system are listed by 'locale -a'." if asked and "locale" in output else "")
        )


def _first_that_succeeds(recipe: Recipe, directory: InstanceDirectory) -> tuple[int, str]:
    programs = recipe.launch.programs
    common = ["--no-data-checksums"] if programs.major >= 18 else []
    common += _without_shared_memory(programs, directory)
    common += ["--no-sync", "--wal-segsize=1", "-A", "trust", "-U", "postgres", "-D", str(directory.data_dir)]
    status, output = 1, ""
    for choice in recipe.options.initdb_arguments(programs.major):
        status, output = directory.run([programs.initdb, *common, *choice], timeout=_TIMEOUT)
        if status == 0 or "locale" not in output:
            break
    return status, output


def _without_shared_memory(programs: Programs, directory: InstanceDirectory) -> list[str]:
    """Return the arguments that keep what processes share in files of the data folder.

    The default kind, in /dev/shm, outlives an initdb that is killed, and a container may have hardly any of it.
    """
    if programs.major >= 16:
        return ["-c", f"{_MEMORY}=mmap"]
    # Older ones take the setting from nowhere but the sample of the configuration file.
    _, shown = directory.run([programs.initdb, "--show", "-D", str(directory.data_dir)], timeout=_TIMEOUT)
    found = re.search(r"^share_path=(.+)$", shown, re.MULTILINE)
    if found is None:
        return []
    folder = directory.folder / "share"
    folder.mkdir()
    folder.chmod(0o755)  # whatever the umask
    for path in Path(found[1]).iterdir():
        (folder / path.name).symlink_to(path)
    sample = folder / "postgresql.conf.sample"
    text = sample.read_text(encoding="utf-8")
    sample.unlink()
    sample.write_text(f"{text}\n{_MEMORY} = mmap\n", encoding="utf-8")
    sample.chmod(0o644)
    return ["-L", str(folder)]


def _locale_choices(directory: InstanceDirectory) -> list[str]:
    """Return the lines of the configuration in which ``initdb`` follows the locale."""
    text = (directory.data_dir / "postgresql.conf").read_text(encoding="utf-8", errors="replace")
    lines = (line.partition("#")[0].strip() for line in text.splitlines())
    return [line for line in lines if line.partition("=")[0].strip() in LOCALE_SETTINGS]


def _set_up(server: Server, choices: list[str]) -> None:
    with closing(_connect(server, "postgres")) as connection:
        connection.autocommit = True
        with connection.cursor() as cursor:
            cursor.execute("CREATE DATABASE test")
            cursor.execute(_WRITE_FILE, [_HBA, "pg_hba.conf"])
            if choices:
                cursor.execute(_WRITE_FILE, [choices, LOCALE_FILE])


def _connect(server: Server, database: str) -> Any:
    with hidden_variables():
        return psycopg2.connect(**{**server.address(), "dbname": database})


def stopped_in_order(server: Server) -> Server:
    """Stop a server so that its data folder can be packed."""
    status = server.stop(signal.SIGINT)
    if status != 0:
        log = server.directory.read_log().strip()
        server.directory.end()
        raise PostgresNotReady(
            f"cannot prepare a test database: the server ended with exit status {status}. Its log ends:\n{log[-2000:]}"
        )
    return server
