"""The extensions of a database: which files on disk they were made from, and what to do about one that is missing."""

from __future__ import annotations

import hashlib
import json
import os
import re
import textwrap
from collections.abc import Collection, Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

import psycopg2

from dbtestcase.errors import DBTestCaseError

__all__ = ["advice", "are_current", "names", "read"]

_KEY = "extensions"
_INSTALLED = "SELECT extname::text FROM pg_extension WHERE extname <> 'plpgsql' ORDER BY 1"
_PROGRAMS = """
SELECT current_setting('server_version'),
    (SELECT setting FROM pg_config WHERE name = 'BINDIR'),
    (SELECT setting FROM pg_config WHERE name = 'SHAREDIR'),
    coalesce(current_setting('extension_control_path', true), '$system')
"""
_AVAILABLE = "SELECT name::text FROM pg_available_extensions ORDER BY 1"

# They need libraries that a wheel does not bring; the server's own package on Debian has them.
_LEFT_OUT_OF_WHEELS = frozenset({"pgcrypto", "sslinfo", "uuid-ossp", "xml2"})
# Where the package of an extension is not called after it: on Debian, without "postgresql-15-".
_DEBIAN_NAMES = {"vector": "pgvector", "postgis": "postgis-3", "pg_cron": "cron", "pg_partman": "partman"}
_LANGUAGES = {"plpython3u": "plpython3", "plperl": "plperl", "plperlu": "plperl", "pltcl": "pltcl"}
_ALTERNATIVES = {
    "pgcrypto": "If it is for gen_random_uuid(): that is part of PostgreSQL since 13, without an extension.",
    "uuid-ossp": "In place of uuid_generate_v4(), gen_random_uuid() is part of PostgreSQL since 13.",
}


def names(given: object, whose: str) -> tuple[str, ...]:
    """Return the names that an argument ``extensions`` holds.

    Args:
        whose: What it is an argument of, for messages.

    Raises:
        DBTestCaseError: It holds something else.
    """
    found = (given,) if isinstance(given, str) else tuple(given) if isinstance(given, Iterable) else (None,)
    if not all(isinstance(name, str) and name for name in found):
        raise DBTestCaseError(
            f'{whose}(extensions=...): {given!r} is not a list of names of extensions; give one such as ["pgcrypto"].'
        )
    return found


def read(connection: Any) -> dict[str, Any]:
    """Return which extensions a database has, and the state of the files that they come from, as JSON can hold it.

    Args:
        connection: A connection of psycopg2's to the database.

    Returns:
        ``{"folders": [...], "files": {name: state}}``. Of the language PL/pgSQL, which every database has, nothing:
        it comes and changes with the server itself.
    """
    with connection.cursor() as cursor:
        cursor.execute(_INSTALLED)
        names = [name for (name,) in cursor.fetchall()]
        cursor.execute("SELECT has_table_privilege('pg_config', 'SELECT')")
        # Who may not look is no superuser, so the server is not ours, and neither are its files.
        if not names or not cursor.fetchone()[0]:
            return {"folders": [], "files": {}}
        cursor.execute(_PROGRAMS)
        _, _, share, control_path = cursor.fetchone()
    folders = [
        os.path.join(entry.strip().replace("$system", share), "extension") for entry in control_path.split(os.pathsep)
    ]
    return {"folders": folders, "files": _states(folders, names)}


def are_current(notes: str) -> bool:
    """Whether the extensions in a template's notes are still made from the same files as when it was made."""
    if f'"{_KEY}"' not in notes:  # looked at for every class: most need no more than this
        return True
    found: dict[str, Any] = json.loads(notes).get(_KEY, {})
    files = found.get("files", {})
    return not files or _states(found["folders"], files) == files


def advice(connection: Any, name: str) -> str:
    """Return what to do about an extension that the server does not have; "" if it has it, or cannot be asked."""
    try:
        with connection.cursor() as cursor:
            cursor.execute(_AVAILABLE)
            available = [found for (found,) in cursor.fetchall()]
            cursor.execute(_PROGRAMS)
            version, bin_dir, _, _ = cursor.fetchone()
    except psycopg2.Error:
        return ""
    if name in available:
        return ""
    lines = [
        f"The PostgreSQL {version.split()[0]} in {bin_dir} does not have it. It has:",
        textwrap.fill(", ".join(available), 110, initial_indent="  ", subsequent_indent="  "),
        _installation(name, bin_dir, version),
        _ALTERNATIVES.get(name, ""),
    ]
    return "\n".join(line for line in lines if line)


def _states(folders: list[str], names: Collection[str]) -> dict[str, str]:
    """Return for each extension what changes when its control file or one of its scripts is replaced."""
    states = {name: hashlib.blake2b(digest_size=12) for name in names}
    for folder in folders:
        try:
            files = sorted(os.listdir(folder))
        except OSError:
            continue  # without the files PostgreSQL could not have made the extension: they are in another folder
        for file in files:
            name = file.removesuffix(".control").partition("--")[0]
            if name not in states:
                continue
            with suppress(FileNotFoundError):  # it is being replaced at this moment
                about = os.stat(os.path.join(folder, file))
                state = f"{folder}/{file} {about.st_size} {about.st_mtime_ns}\n"
                states[name].update(state.encode("utf-8", "surrogateescape"))
    return {name: state.hexdigest() for name, state in states.items()}


def _installation(name: str, bin_dir: str, version: str) -> str:
    """Return how to get an extension for the programs in a folder."""
    major = version.split(".")[0]
    if "site-packages" in Path(bin_dir).parts or "dist-packages" in Path(bin_dir).parts:
        return (
            "These programs come from a Python wheel, to which nothing can be added. Install your system's PostgreSQL "
            f"server with {name!r} (Debian: {_debian_package(name, '<version>')}), and set DBTESTCASE_BIN_DIR to the "
            "folder of its 'initdb'."
        )
    if re.fullmatch(r"/usr/lib/postgresql/[^/]+/bin", bin_dir):
        return f"Install it: apt install {_debian_package(name, major)}"
    if re.fullmatch(r"/usr/pgsql-[^/]+/bin", bin_dir):
        return f"Install it: dnf install postgresql{major}-contrib, or the extension's own package, {name}_{major}"
    if bin_dir.startswith("/usr/libexec/postgresql"):
        return f"Install it: apk add postgresql{major}-contrib, or the extension's own package, postgresql-{name}"
    if bin_dir.startswith(("/opt/homebrew/", "/usr/local/opt/", "/usr/local/Cellar/")):
        return f"Install it: brew install {_DEBIAN_NAMES.get(name, name).partition('-')[0]}"
    return "Install it for these programs (a package with 'contrib' in its name, or one of the extension's own)."


def _debian_package(name: str, major: str) -> str:
    if name in _LANGUAGES:
        return f"postgresql-{_LANGUAGES[name]}-{major}"
    if name in _LEFT_OUT_OF_WHEELS:
        return f"postgresql-{major}"
    return f"postgresql-{major}-{_DEBIAN_NAMES.get(name, name.replace('_', '-'))}"
