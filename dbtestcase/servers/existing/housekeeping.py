"""What ``python -m dbtestcase doctor`` and ``clean`` want to know of, and do to, an existing server."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import suppress

from dbtestcase.servers.existing import marks
from dbtestcase.servers.existing.options import ExistingPostgres
from dbtestcase.servers.existing.roles import drop_roles
from dbtestcase.servers.existing.server import ROOMY, ExistingServer, drop_everything, server_for
from dbtestcase.servers.existing.standby import start_existing
from dbtestcase.servers.existing.templates import drop_template, published

__all__ = ["clean_server", "server_findings"]

_MEGABYTE = 1024 * 1024
_SIZE = "SELECT coalesce(sum(pg_database_size(datname)), 0) FROM pg_database WHERE datname = ANY(%s)"
_KEPT = """
SELECT datname, shobj_description(oid, 'pg_database') FROM pg_database
WHERE datconnlimit = %s AND pg_get_userbyid(datdba) = current_user ORDER BY oid
"""
_SLOW = 0.3  # seconds
_LISTED = 8


def server_findings(options: ExistingPostgres, advice: list[str]) -> Iterator[str]:
    """Yield what was found on the server; add to ``advice`` what could be better.

    Raises:
        PostgresNotReady: It cannot be used.
    """
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
        yield from _databases(server, advice)
        yield from _costs(options, advice)
    finally:
        drop_everything()


def _more_rights(server: ExistingServer) -> str:
    if server.is_superuser:
        return "; it is a superuser, whom no grant and no policy binds"
    return " and roles" if server.may_create_roles else " and nothing more"


def _databases(server: ExistingServer, advice: list[str]) -> Iterator[str]:
    templates = published(server)
    size = server.query(_SIZE, [[name for name, _ in templates]])[0][0] if templates else 0
    yield f"templates   {len(templates)} databases, {int(size) // _MEGABYTE} MB"
    for name, description in templates[:_LISTED]:
        about = {}
        with suppress(ValueError):
            about = json.loads(description or "{}")
        if "for" in about:
            yield f"              {name}: {about['for']}, used {_ago(about.get('used', 0))}"
    for name, label in _kept(server):
        yield f"kept        {name}: {label}"
    others = server.lying_about()
    dead = [name for name, is_dead in others if is_dead]
    known = {name for name, _ in templates} | {name for name, _ in _kept(server)} | set(dead)
    yield f"in use      {len([name for name, _ in others if name not in known])} databases of processes that run"
    if dead:
        yield f"left over   {len(dead)} databases of dead processes; the next run drops them"
    if _kept(server):
        advice.append("python -m dbtestcase clean drops what was kept.")


def _costs(options: ExistingPostgres, advice: list[str]) -> Iterator[str]:
    for what in ("first class", "next class"):
        begin = time.perf_counter()
        instance = start_existing(options, owner="python -m dbtestcase doctor")
        made = time.perf_counter()
        instance.connect().close()
        connected = time.perf_counter()
        instance.stop()
        yield f"{what:11} {(made - begin) * 1000:.0f} ms, connection {(connected - made) * 1000:.0f} ms"
    if made - begin > _SLOW:
        advice.append(
            "Making a database is slow there. On a server that only serves tests, fsync = off and a data folder in "
            "memory make it many times faster."
        )


def clean_server(options: ExistingPostgres) -> tuple[int, int]:
    """Drop all of ours but what processes that run have; return how many templates and other databases that were.

    Raises:
        PostgresNotReady: It cannot be used.
    """
    server = server_for(options)
    try:
        templates = [name for name, _ in published(server)]
        for name in templates:
            drop_template(server, name)
        others = [name for name, _ in _kept(server)] + [name for name, is_dead in server.lying_about() if is_dead]
        for name in others:
            server.drop(name)
        drop_roles(server)
        return len(templates), len(others)
    finally:
        drop_everything()


def _kept(server: ExistingServer) -> list[tuple[str, str | None]]:
    return [row for row in server.query(_KEPT, [marks.KEPT]) if marks.understood(row[0]) is not None]


def _ago(day: int) -> str:
    days = int(time.time() // 86400) - day
    return "today" if days < 1 else "a day ago" if days == 1 else f"{days} days ago"
