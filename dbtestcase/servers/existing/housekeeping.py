"""What of ours lies on an existing server, for ``python -m dbtestcase doctor`` and ``clean``."""

from __future__ import annotations

from dbtestcase.servers.existing import marks
from dbtestcase.servers.existing.options import ExistingPostgres
from dbtestcase.servers.existing.roles import drop_roles
from dbtestcase.servers.existing.server import ExistingServer, drop_everything, server_for
from dbtestcase.servers.existing.templates import drop_template, published

__all__ = ["clean_server", "kept"]

_KEPT = """
SELECT datname, shobj_description(oid, 'pg_database') FROM pg_database
WHERE datconnlimit = %s AND pg_get_userbyid(datdba) = current_user ORDER BY oid
"""


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
        others = [name for name, _ in kept(server)] + [name for name, is_dead in server.lying_about() if is_dead]
        for name in others:
            server.drop(name)
        drop_roles(server)
        return len(templates), len(others)
    finally:
        drop_everything()


def kept(server: ExistingServer) -> list[tuple[str, str | None]]:
    """Return the names of the databases of failed tests that this role has kept, with what they are known by."""
    return [row for row in server.query(_KEPT, [marks.KEPT]) if marks.understood(row[0]) is not None]
