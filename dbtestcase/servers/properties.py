"""What PostgreSQL keeps about a database outside of it, which ``CREATE DATABASE ... TEMPLATE`` does not copy."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from typing import NamedTuple

from dbtestcase.servers.databases import Databases
from dbtestcase.sql import quoted_identifier, quoted_literal

__all__ = ["DatabaseProperties"]

_DATABASE = """
SELECT pg_get_userbyid(datdba), datconnlimit, shobj_description(oid, 'pg_database'), datdba = current_user::regrole,
    datacl IS NULL
FROM pg_database WHERE datname = %s
"""
_PRIVILEGES = """
SELECT CASE WHEN grantee = 0 THEN NULL ELSE pg_get_userbyid(grantee) END, is_grantable, privilege_type
FROM pg_database, aclexplode(datacl) WHERE datname = %s
"""
_SETTINGS = """
SELECT CASE WHEN setrole = 0 THEN NULL ELSE pg_get_userbyid(setrole) END, unnest(setconfig)
FROM pg_db_role_setting JOIN pg_database d ON d.oid = setdatabase WHERE datname = %s
"""
# Settings that are lists of quoted names: written as one text they would become a list of a single name.
_LISTS = frozenset({"search_path", "temp_tablespaces", "local_preload_libraries", "session_preload_libraries"})


class Setting(NamedTuple):
    """A setting that sessions of one role, or of all, begin with in a database."""

    role: str | None
    name: str
    value: str


class DatabaseProperties:
    """Owner, privileges, settings, connection limit and comment of a database, to be given to its copies.

    Args:
        server: Where it is.
        source: Its name.
        only_access: Leave out connection limit and comment, which are marks of ours on a server that others use too.
    """

    def __init__(self, server: Databases, source: str, *, only_access: bool = False) -> None:
        name = server.database_name(source)
        owner, limit, comment, is_ours, has_default_privileges = server.query(_DATABASE, [name])[0]
        self._owner: str | None = None if is_ours else owner
        self._limit: int = -1 if only_access else limit
        self._comment: str | None = None if only_access else comment
        self._privileges: dict[tuple[str | None, bool], list[str]] | None = None
        if not has_default_privileges:
            self._privileges = defaultdict(list)
            for grantee, is_grantable, privilege in server.query(_PRIVILEGES, [name]):
                self._privileges[grantee, is_grantable].append(privilege)
        self._owner_of_privileges: str = owner
        self._settings = [
            Setting(role, *assignment.split("=", 1)) for role, assignment in server.query(_SETTINGS, [name])
        ]

    def statements(self, copy: str) -> Iterator[str]:
        """Yield what gives a copy the same properties; nothing for a database that has only defaults."""
        name = quoted_identifier(copy)
        if self._owner is not None:
            yield f"ALTER DATABASE {name} OWNER TO {quoted_identifier(self._owner)}"
        if self._privileges is not None:
            yield f"REVOKE ALL ON DATABASE {name} FROM PUBLIC, {quoted_identifier(self._owner_of_privileges)}"
            for (grantee, is_grantable), privileges in self._privileges.items():
                to = "PUBLIC" if grantee is None else quoted_identifier(grantee)
                more = " WITH GRANT OPTION" if is_grantable else ""
                yield f"GRANT {', '.join(privileges)} ON DATABASE {name} TO {to}{more}"
        for setting in self._settings:
            yield _setting(name, setting)
        if self._limit != -1:
            yield f"ALTER DATABASE {name} CONNECTION LIMIT {self._limit}"
        if self._comment is not None:
            yield f"COMMENT ON DATABASE {name} IS {quoted_literal(self._comment)}"


def _setting(database: str, setting: Setting) -> str:
    whose = f"DATABASE {database}"
    if setting.role is not None:
        whose = f"ROLE {quoted_identifier(setting.role)} IN {whose}"
    name = ".".join(map(quoted_identifier, setting.name.split(".")))
    if setting.name.lower() not in _LISTS:
        return f"ALTER {whose} SET {name} TO {quoted_literal(setting.value)}"
    change = quoted_literal(f"ALTER {whose} SET {name} FROM CURRENT")
    present = f"PERFORM set_config({quoted_literal(setting.name)}, {quoted_literal(setting.value)}, true)"
    return f"DO {quoted_literal(f'BEGIN {present}; EXECUTE {change}; END')}"
