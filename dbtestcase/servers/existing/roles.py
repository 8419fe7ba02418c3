"""The application's role on an existing server: made where that is allowed, else one that is there already.

Sessions take it on as they begin (``options=-c role=...``), so it needs no password; the role of the URL has to be a
member of it.
"""

from __future__ import annotations

from contextlib import suppress

import psycopg2

from dbtestcase.errors import PostgresNotReady
from dbtestcase.servers.existing.server import ExistingServer
from dbtestcase.sql import quoted_identifier, quoted_literal

__all__ = ["COMMENT", "drop_roles", "make_role", "session_options"]

# Tells the roles that we made from those of others.
COMMENT = "made by dbtestcase"
_OURS = "SELECT rolname FROM pg_roles WHERE shobj_description(oid, 'pg_authid') = %s"
_EXISTS = "SELECT 1 FROM pg_roles WHERE rolname = %s"


def make_role(server: ExistingServer, role: str, owner: str) -> None:
    """Make the role unless it is there, and see to it that sessions of ours can take it on.

    Raises:
        PostgresNotReady: It is not there and cannot be made, or it is not ours to take on.
    """
    name, user = quoted_identifier(role), quoted_identifier(server.user)
    where = f"{owner}.app_role: on the server at {server.options.place},"
    if not server.query(_EXISTS, [role]):
        if not server.may_create_roles:
            raise PostgresNotReady(
                f"{where} the role {role!r} does not exist and {server.user!r} may not create it. Let an administrator "
                f"execute: CREATE ROLE {name}; GRANT {name} TO {user}"
            )
        with suppress(psycopg2.errors.DuplicateObject, psycopg2.errors.UniqueViolation):  # another process was faster
            server.execute(f"CREATE ROLE {name}")
            server.execute(f"COMMENT ON ROLE {name} IS {quoted_literal(COMMENT)}")
    if not _is_member(server, role):
        with suppress(psycopg2.errors.InsufficientPrivilege):
            server.execute(f"GRANT {name} TO {user}")
    if not _is_member(server, role):
        raise PostgresNotReady(
            f"{where} {server.user!r} is no member of the role {role!r} and so cannot work as it. Let an administrator "
            f"execute: GRANT {name} TO {user}"
        )


def _is_member(server: ExistingServer, role: str) -> bool:
    kind = "SET" if server.major_version >= 16 else "MEMBER"
    found = server.query("SELECT pg_has_role(%s, %s)", [role, kind])
    return bool(found[0][0])


def session_options(role: str) -> str:
    """Return the connection option that makes a session begin as this role."""
    escaped = role.replace("\\", "\\\\").replace(" ", "\\ ")
    return f"-c role={escaped}"


def drop_roles(server: ExistingServer) -> list[str]:
    """Drop the roles that we made, as far as nothing depends on them; return their names."""
    gone = []
    for (role,) in server.query(_OURS, [COMMENT]):
        with suppress(psycopg2.Error):
            server.execute(f"DROP ROLE {quoted_identifier(role)}")
            gone.append(role)
    return gone
