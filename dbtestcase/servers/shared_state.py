"""What belongs to a whole server and not to one database: read before a test on a copy, put back after it.

A copy of a database is private, but roles, other databases, tablespaces, prepared transactions and settings of roles
are shared by all databases of a server. What a test adds to them is removed; where it changed or removed what was there
before, the caller is told, and the next test needs a fresh server.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import psycopg2

from dbtestcase.servers.databases import Databases
from dbtestcase.servers.naming import PREFIX
from dbtestcase.sql import quoted_identifier, quoted_literal

__all__ = ["Entry", "SharedState"]

# Copies come and go while tests run; what is recorded for them goes with them.
_NOT_OURS = f"datname NOT LIKE '{PREFIX.replace('_', chr(92) + '_')}%'"
_ENTRIES = f"""
SELECT 'role', rolname::text, '', a::text FROM pg_authid a
UNION ALL SELECT 'membership', m.roleid::regrole::text, m.member::regrole::text, m::text FROM pg_auth_members m
UNION ALL SELECT 'database', datname, '', concat_ws(',', datdba, datistemplate, datallowconn, datconnlimit,
    dattablespace, coalesce(datacl, acldefault('d', datdba))::text) FROM pg_database WHERE {_NOT_OURS}
UNION ALL SELECT 'setting', coalesce(datname, ''), coalesce(rolname, ''), setconfig::text FROM pg_db_role_setting s
    LEFT JOIN pg_database d ON d.oid = setdatabase LEFT JOIN pg_authid r ON r.oid = setrole
    WHERE setdatabase = 0 OR {_NOT_OURS}
UNION ALL SELECT 'tablespace', spcname, '', concat_ws(',', spcowner, spcoptions::text,
    coalesce(spcacl, acldefault('t', spcowner))::text) FROM pg_tablespace
UNION ALL SELECT 'prepared', gid, database, '' FROM pg_prepared_xacts
UNION ALL SELECT 'slot', slot_name, '', '' FROM pg_replication_slots WHERE NOT temporary
UNION ALL SELECT 'subscription', subname, '', '' FROM pg_subscription
UNION ALL SELECT 'comment', classoid::regclass::text, objoid::text, description FROM pg_shdescription
    LEFT JOIN pg_database ON oid = objoid AND classoid = 'pg_database'::regclass WHERE oid IS NULL OR {_NOT_OURS}
UNION ALL SELECT 'ALTER SYSTEM', '', '', pg_read_file('postgresql.auto.conf')
"""
_PARAMETER_PRIVILEGES = "UNION ALL SELECT 'privilege', parname, '', paracl::text FROM pg_parameter_acl"


class Entry(NamedTuple):
    """One row of a catalog that all databases share."""

    kind: str
    name: str
    second_name: str
    content: str | None


class SharedState:
    """The shared catalogs of a server of ours, as they were when this was made."""

    def __init__(self, server: Databases) -> None:
        self._server = server
        self._before = self._read()

    def before_statement(self, sql: str) -> None:
        """Do nothing: all is found out afterwards."""

    def is_unchanged(self) -> bool:
        """Return whether all is as it was."""
        return self._read() == self._before

    def restore(self, copies: Sequence[str]) -> bool:
        """Remove what a test has added; return whether all is again as it was.

        Args:
            copies: The databases that the test worked in, which nobody needs any more once it has added something.
        """
        now = self._read()
        try:
            for kind in ("prepared", "slot", "database"):
                now = self._remove(kind, now)
            if any(entry.kind in ("role", "tablespace") for entry in now - self._before):
                # Objects in them depend on the roles and lie in the tablespaces.
                for name in copies:
                    self._server.drop_database(name)
            for kind in ("tablespace", "role", "setting"):
                now = self._remove(kind, now)
        except psycopg2.Error:
            return False
        return now == self._before

    def _read(self) -> set[Entry]:
        more = _PARAMETER_PRIVILEGES if self._server.major_version >= 15 else ""
        return {Entry(*row) for row in self._server.query(_ENTRIES + more)}

    def _remove(self, kind: str, now: set[Entry]) -> set[Entry]:
        """Remove what is there now and was not before, of one kind; return what is there then."""
        was_there = {entry[:3] for entry in self._before}
        added = [entry for entry in now if entry.kind == kind and entry[:3] not in was_there]
        for entry in added:
            for statement in _removing(entry):
                self._server.execute(statement, database=entry.second_name if kind == "prepared" else None)
        return self._read() if added else now


def _removing(entry: Entry) -> Iterator[str]:
    name = quoted_identifier(entry.name)
    if entry.kind == "prepared":
        yield f"ROLLBACK PREPARED {quoted_literal(entry.name)}"
    elif entry.kind == "slot":
        yield f"SELECT pg_drop_replication_slot({quoted_literal(entry.name)})"
    elif entry.kind == "database":
        yield f"DROP DATABASE {name} WITH (FORCE)"
    elif entry.kind == "tablespace":
        yield f"DROP TABLESPACE {name}"
    elif entry.kind == "role":
        yield f"DROP OWNED BY {name}"  # privileges on databases and tablespaces
        yield f"DROP ROLE {name}"
    elif entry.kind == "setting":
        role = quoted_identifier(entry.second_name) if entry.second_name else "ALL"
        yield f"ALTER ROLE {role}{f' IN DATABASE {name}' if entry.name else ''} RESET ALL"
