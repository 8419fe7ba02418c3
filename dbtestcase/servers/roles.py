"""The application's own role: whom grants and row level security bind in the tests as in production."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import closing
from dataclasses import replace
from typing import Any

import psycopg2

from dbtestcase.diagnosis.tracebacks import chain
from dbtestcase.errors import DBTestCaseError
from dbtestcase.servers.contents import Contents
from dbtestcase.servers.databases import Databases
from dbtestcase.sql import LONGEST_NAME, quoted_identifier

__all__ = ["check_app_role", "with_app_role"]

_RESERVED = frozenset({"postgres", "public", "none", "current_user", "session_user", "current_role"})

_RIGHTS = "SELECT rolsuper OR rolbypassrls FROM pg_roles WHERE rolname = %s"
# What the schema has given to the role, or to one that it is a member of by the schema's doing.
_GRANTS = """
WITH role AS (SELECT oid FROM pg_roles WHERE rolname = %(role)s), acl AS (
    SELECT relacl AS items FROM pg_class UNION ALL SELECT attacl FROM pg_attribute WHERE attacl IS NOT NULL
    UNION ALL SELECT nspacl FROM pg_namespace UNION ALL SELECT proacl FROM pg_proc WHERE proacl IS NOT NULL
    UNION ALL SELECT defaclacl FROM pg_default_acl UNION ALL SELECT typacl FROM pg_type WHERE typacl IS NOT NULL)
SELECT EXISTS (SELECT 1 FROM acl, aclexplode(items), role WHERE grantee = role.oid)
    OR EXISTS (SELECT 1 FROM pg_auth_members, role WHERE member = role.oid)
    OR EXISTS (SELECT 1 FROM pg_class, role WHERE relowner = role.oid)
"""
# What may be granted: up to PostgreSQL 14 the schema "public" belongs to the server's superuser, and the tables of an
# extension belong to whoever created it.
_OURS = """
WITH schema AS (SELECT * FROM pg_namespace WHERE nspname !~ '^pg_' AND nspname <> 'information_schema')
SELECT 'SCHEMA', string_agg(oid::regnamespace::text, ', ') FROM schema
WHERE pg_has_role(nspowner, 'USAGE') OR has_schema_privilege(oid, 'USAGE WITH GRANT OPTION')
UNION ALL
SELECT CASE relkind WHEN 'S' THEN 'SEQUENCE' ELSE 'TABLE' END, string_agg(pg_class.oid::regclass::text, ', ')
FROM pg_class JOIN schema ON relnamespace = schema.oid
WHERE relkind IN ('r', 'p', 'v', 'm', 'f', 'S') AND pg_has_role(relowner, 'USAGE') GROUP BY 1
"""
_OF_ROWS = "SELECT, INSERT, UPDATE, DELETE"
_RIGHTS_ON = {"SCHEMA": "USAGE", "TABLE": _OF_ROWS, "SEQUENCE": "ALL"}


def check_app_role(role: object, owner: str) -> None:
    """Validate the ``app_role`` of a class.

    Args:
        owner: The class's name.

    Raises:
        DBTestCaseError: It is neither ``None`` nor the name of an ordinary role.
    """
    if role is None:
        return
    if not isinstance(role, str) or not role or "\0" in role or len(role.encode()) > LONGEST_NAME:
        raise DBTestCaseError(f"{owner}.app_role is {role!r}; it has to be the name of a role, such as 'shop_app'.")
    if role.lower() in _RESERVED or role.lower().startswith("pg_"):
        raise DBTestCaseError(
            f"{owner}.app_role is {role!r}, a name that PostgreSQL keeps for itself or its superuser; take the name of "
            "the role as which the application connects in production, such as 'shop_app'."
        )


def with_app_role(contents: Contents, role: str | None, *, owner: str) -> Contents:
    """Return contents that have the application's role as well, made before all else so that the schema may name it.

    It logs in, is no superuser and bound by row level security. If the schema grants it nothing, it may read and change
    the rows of all tables, and use all sequences.

    Args:
        role: Its name; ``None`` leaves the contents as they are.
        owner: The class, for messages.
    """
    if role is None:
        return contents

    def prepare(databases: Databases) -> Mapping[str, Any] | None:
        databases.make_role(role, owner)
        try:
            notes = None if contents.prepare is None else contents.prepare(databases)
        except Exception as exc:
            if _says_exists(exc, role):
                exc.add_note(
                    f"{owner}.app_role has the role {role!r} made before the schema, so that its grants and policies "
                    "can name it; leave CREATE ROLE out of the schema, or app_role out of the class."
                )
            raise
        for database in contents.databases:
            _grant_if_nothing_is(databases, database, role)
        if databases.query(_RIGHTS, [role]) != [(False,)]:
            raise DBTestCaseError(
                f"{owner}.app_role: the role {role!r} is a superuser or has BYPASSRLS, so grants or policies would not "
                "bind it. Take another role, or take these rights from it."
            )
        return notes

    fingerprint = "empty" if contents.prepare is None else contents.fingerprint
    return replace(
        contents,
        fingerprint=None if fingerprint is None else f"{fingerprint} role {role}",
        prepare=prepare,
        token=None if contents.token is None else (contents.token, role),
    )


def _grant_if_nothing_is(databases: Databases, database: str, role: str) -> None:
    name = quoted_identifier(role)
    with closing(databases.connect(database)) as connection, connection, connection.cursor() as cursor:
        cursor.execute(_GRANTS, {"role": role})
        if cursor.fetchone()[0]:
            return
        cursor.execute(_OURS)
        for kind, objects in cursor.fetchall():
            if objects:
                cursor.execute(f"GRANT {_RIGHTS_ON[kind]} ON {kind} {objects} TO {name}")
        # And what is created later, by a test for example.
        cursor.execute(f"ALTER DEFAULT PRIVILEGES GRANT {_OF_ROWS} ON TABLES TO {name}")
        cursor.execute(f"ALTER DEFAULT PRIVILEGES GRANT ALL ON SEQUENCES TO {name}")


def _says_exists(exc: BaseException, role: str) -> bool:
    return any(
        isinstance(each, psycopg2.errors.DuplicateObject) and f'role "{role}"' in str(each) for each in chain(exc)
    )
