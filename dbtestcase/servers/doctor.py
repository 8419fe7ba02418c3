"""``python -m dbtestcase doctor``: looks for what makes tests slow here, or keeps them from running."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TextIO

from dbtestcase.diagnosis.report import RUN
from dbtestcase.errors import DBTestCaseError
from dbtestcase.native import monotonic, wall_clock
from dbtestcase.servers import (
    ExistingPostgres,
    ThrowawayPostgres,
    cached_templates,
    find_programs,
    kept_instances,
    leftovers,
    running_instance,
)
from dbtestcase.servers.cache import Cache, cache_folder
from dbtestcase.servers.existing.housekeeping import server_findings
from dbtestcase.servers.existing.options import VARIABLE
from dbtestcase.servers.locations import MEMORY, instance_locations
from dbtestcase.servers.trust import make_folder

__all__ = ["examine"]

_LIBRARIES = ("dbtestcase", "SQLAlchemy", "psycopg2-binary", "psycopg", "Flask-SQLAlchemy", "alembic")
_MEGABYTE = 1024 * 1024
_USUAL_SIZE, _HEADROOM = 30 * _MEGABYTE, 20 * _MEGABYTE
_LISTED = 8
_SLOW_BOOT = 0.5  # seconds


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
        yield from server_findings(server, advice)
        return
    programs = find_programs()
    yield f"programs    PostgreSQL {programs.version} in {programs.bin_dir} ({programs.found_in})"
    yield from _place(advice)
    yield from _cache(advice)
    yield from _boots(advice)


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
            f"The cache folder {str(folder)!r} cannot be written to ({problem}), so each run makes its templates anew, "
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
    days = int((wall_clock() - when) // 86400)
    return "today" if days < 1 else "a day ago" if days == 1 else f"{days} days ago"


def _boots(advice: list[str]) -> Iterator[str]:
    for what in ("first start", "next start"):
        begin = monotonic()
        with running_instance(ThrowawayPostgres(), owner="python -m dbtestcase doctor") as instance:
            booted = monotonic()
            instance.connect().close()
            connected = monotonic()
        yield f"{what:11} {(booted - begin) * 1000:.0f} ms, first connection {(connected - booted) * 1000:.0f} ms"
    if booted - begin > _SLOW_BOOT:
        advice.append("Starting a server is slow here. A busy machine, or a slow disk under the temporary folder?")
