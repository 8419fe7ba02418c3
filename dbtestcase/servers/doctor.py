"""``python -m dbtestcase doctor``: looks for what makes tests slow here, or keeps them from running."""

from __future__ import annotations

import json
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Generator, Iterator
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, TextIO

from dbtestcase.diagnosis.report import RUN
from dbtestcase.errors import DBTestCaseError
from dbtestcase.native import monotonic, wall_clock
from dbtestcase.servers import (
    ExistingPostgres,
    cached_templates,
    find_programs,
    kept_instances,
    leftovers,
    start_instance,
)
from dbtestcase.servers.cache import Cache, cache_folder
from dbtestcase.servers.existing import start_existing
from dbtestcase.servers.existing.housekeeping import kept
from dbtestcase.servers.existing.options import VARIABLE
from dbtestcase.servers.existing.server import ROOMY, ExistingServer, drop_everything, server_for
from dbtestcase.servers.existing.templates import published
from dbtestcase.servers.locations import MEMORY, instance_locations
from dbtestcase.servers.trust import make_folder

__all__ = ["examine"]

_LIBRARIES = ("dbtestcase", "SQLAlchemy", "psycopg2-binary", "psycopg", "Flask-SQLAlchemy", "alembic")
_MEGABYTE = 1024 * 1024
_USUAL_SIZE, _HEADROOM = 30 * _MEGABYTE, 20 * _MEGABYTE
_LISTED = 8
_DAY = 86400
_SLOW_BOOT, _SLOW_COPY = 0.5, 0.3  # seconds
_OWNER = "python -m dbtestcase doctor"
_SIZE = "SELECT coalesce(sum(pg_database_size(datname)), 0) FROM pg_database WHERE datname = ANY(%s)"


def examine(out: TextIO, server: ExistingPostgres | None = None) -> int:
    """Examine this machine, or ``server``; write what was found, and return 1 if tests cannot run, else 0."""
    advice: list[str] = []
    try:
        for line in _findings(advice, server):
            print(line, file=out, flush=True)
    except DBTestCaseError as error:
        print(f"\nTests cannot run: {error}", file=out)
        return 1
    print("\n" + ("\n".join(f"- {line}" for line in advice) if advice else "All is well."), file=out)
    return 0


def _findings(advice: list[str], server: ExistingPostgres | None) -> Iterator[str]:
    yield f"python      {sys.version.split()[0]}, {', '.join(_versions())}"
    variables = [
        f"{name}={value}"
        for name, value in sorted(os.environ.items())
        # There may be a password in the one; the other is set by this process itself.
        if name.startswith("DBTESTCASE_") and name not in (VARIABLE, RUN)
    ]
    if variables:
        yield f"environment {', '.join(variables)}"
    if server is not None:
        yield from _of_server(server, advice)
        return
    programs = find_programs()
    yield f"programs    PostgreSQL {programs.version} in {programs.bin_dir} ({programs.found_in})"
    yield from _place(advice)
    yield from _cache(advice)
    booted = yield from _starts(lambda: start_instance(owner=_OWNER))
    if booted > _SLOW_BOOT:
        advice.append("Starting a server is slow here. A busy machine, or a slow disk under the temporary folder?")


def _versions() -> Iterator[str]:
    for name in _LIBRARIES:
        try:
            yield f"{name} {version(name)}"
        except PackageNotFoundError:
            continue


def _place(advice: list[str]) -> Iterator[str]:
    chosen = os.environ.get("DBTESTCASE_DIR")
    if chosen and not os.path.isdir(chosen):
        raise DBTestCaseError(f"DBTESTCASE_DIR is {chosen!r}, which is not a folder.\nMake it, or leave it unset.")
    usual = max((template.size for template in cached_templates()), default=_USUAL_SIZE)
    locations = instance_locations(usual, None)
    if not locations:
        raise DBTestCaseError("there is no folder to put an instance into; set DBTESTCASE_DIR to one.")
    free = shutil.disk_usage(locations[0]).free
    yield f"instances   in {locations[0]}, {free // _MEGABYTE} MB free"
    if free < usual + _HEADROOM:
        advice.append(
            f"{locations[0]} has hardly room for one instance; an instance takes {usual // _MEGABYTE} MB and more."
        )
    if locations[0] != MEMORY and not chosen and os.path.isdir(MEMORY):
        advice.append(
            f"Instances live on disk, because {MEMORY} is too small; more room there makes them faster "
            "(docker run --shm-size=1g)."
        )
    dead = leftovers()
    if dead:
        yield f"left over   {len(dead)} folders of dead runs; the next run deletes them"


def _cache(advice: list[str]) -> Iterator[str]:
    folder = cache_folder()
    if folder is None:
        yield "cache       off (DBTESTCASE_CACHE)"
        advice.append("Without a cache every run initializes a database cluster, which takes about a second.")
        return
    problem = _write_problem(folder)
    if problem:
        advice.append(
            f"The cache folder {str(folder)!r} cannot be used ({problem}), so each run makes its templates anew, "
            "which takes seconds. Set DBTESTCASE_CACHE to a folder that can be, or to 'off'."
        )
    templates = cached_templates()
    size = sum(template.size for template in templates)
    yield f"cache       {folder}: {len(templates)} templates, {size // _MEGABYTE} MB"
    for template in templates[:_LISTED]:
        used = _ago(template.last_used)
        yield f"              {template.size // _MEGABYTE:4} MB, used {used}: {template.description}"
    if len(templates) > _LISTED:
        yield f"              and {len(templates) - _LISTED} more"
    damaged = {template.path: wrong for template in templates if (wrong := Cache(folder).examine(template.path.stem))}
    for path, wrong in damaged.items():
        yield f"damaged     {path}: {wrong}"
    if damaged:
        advice.append(
            "Damaged templates are made anew when they are needed; 'python -m dbtestcase clean' deletes them."
        )
    kept = kept_instances()
    for instance in kept:
        yield f"kept        {instance.name}: {instance.owner}, {instance.size // _MEGABYTE} MB"
    if kept:
        advice.append("python -m dbtestcase clean deletes what was kept.")


def _write_problem(folder: Path) -> str | None:
    """Return why nothing can be written into a folder, ``None`` if it can."""
    try:
        make_folder(folder)
        with tempfile.TemporaryFile(dir=folder):
            return None
    except OSError as exc:
        return exc.strerror or str(exc)


def _ago(when: float) -> str:
    days = int((wall_clock() - when) // _DAY)
    return "today" if days < 1 else "a day ago" if days == 1 else f"{days} days ago"


def _starts(start: Callable[[], Any]) -> Generator[str, None, float]:
    """Yield what the databases of a class cost, the first time and the next; return the seconds of the latter."""
    for what in ("first class", "next class"):
        begin = monotonic()
        instance = start()
        made = monotonic()
        instance.connect().close()
        connected = monotonic()
        instance.stop()
        yield f"{what:11} {(made - begin) * 1000:.0f} ms, connection {(connected - made) * 1000:.0f} ms"
    return made - begin


# -- a server that is there already


def _of_server(options: ExistingPostgres, advice: list[str]) -> Iterator[str]:
    server = server_for(options)
    try:
        yield f"server      PostgreSQL {server.version} at {options.place} ({options.origin})"
        yield f"rights      role {server.user!r} may create databases{_more_rights(server)}"
        yield f"connections {server.usable} at the same time"
        if not server.is_roomy:
            advice.append(
                f"The server allows {server.usable} connections. With fewer than {ROOMY}, each process takes two and "
                "what its tests open, and prepares less ahead; more (max_connections) make classes begin faster."
            )
        yield from _databases_on(server, advice)
        made = yield from _starts(lambda: start_existing(options, owner=_OWNER))
        if made > _SLOW_COPY:
            advice.append(
                "Making a database is slow there. On a server that only serves tests, fsync = off and a data folder in "
                "memory make it many times faster."
            )
    finally:
        drop_everything()


def _more_rights(server: ExistingServer) -> str:
    if server.is_superuser:
        return "; it is a superuser, whom no grant and no policy binds"
    return " and roles" if server.may_create_roles else " and nothing more"


def _databases_on(server: ExistingServer, advice: list[str]) -> Iterator[str]:
    templates = published(server)
    size = server.query(_SIZE, [[name for name, _ in templates]])[0][0] if templates else 0
    yield f"templates   {len(templates)} databases, {int(size) // _MEGABYTE} MB"
    for name, description in templates[:_LISTED]:
        about = {}
        with suppress(ValueError):
            about = json.loads(description or "{}")
        if "for" in about:
            yield f"              {name}: {about['for']}, used {_ago(about.get('used', 0) * _DAY)}"
    lasting = kept(server)
    for name, label in lasting:
        yield f"kept        {name}: {label}"
    others = server.lying_about()
    dead = [name for name, is_dead in others if is_dead]
    known = {name for name, _ in templates} | {name for name, _ in lasting} | set(dead)
    yield f"in use      {len([name for name, _ in others if name not in known])} databases of processes that run"
    if dead:
        yield f"left over   {len(dead)} databases of dead processes; the next run drops them"
    if lasting:
        advice.append("python -m dbtestcase clean drops what was kept.")
