"""What a test on a copy does to a server that others use too: undone where that is possible, else refused."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress

import psycopg2

from dbtestcase.errors import IsolationBroken
from dbtestcase.servers.databases import Databases
from dbtestcase.sql import quoted_identifier, quoted_literal, statements

__all__ = ["ServerEffects"]

_CHANGES = frozenset({"create", "alter", "drop", "comment", "grant", "revoke", "reassign"})
_SHARED = frozenset({"role", "user", "group", "tablespace", "system"})
_PREPARED = "SELECT gid, database FROM pg_prepared_xacts WHERE database = ANY(%s)"
_EXISTS = "SELECT 1 FROM pg_database WHERE datname = %s"


class ServerEffects:
    """What the present test has done to the server.

    Args:
        databases: Those of the class.
        copies: Returns the names of all databases of the class on the server.
        place: The server, for messages.
    """

    def __init__(self, databases: Databases, copies: Callable[[], Sequence[str]], place: str) -> None:
        self._databases = databases
        self._place = place
        self._made: list[str] = []
        self._copies: Callable[[], Sequence[str]] = copies

    def before_statement(self, sql: str) -> None:
        """Note which database a statement makes; refuse what would be felt by others and cannot be undone.

        Raises:
            IsolationBroken: It changes roles, tablespaces or settings of the whole server.
        """
        for statement in statements(sql):
            verb, *words = statement.words or ("",)
            if verb not in _CHANGES or not words:
                continue
            if words[0] == "database" and verb == "create" and len(words) > 1:
                name = words[1].strip('"').replace('""', '"')
                if not self._databases.query(_EXISTS, [name]):
                    self._made.append(name)
            elif words[0] in _SHARED and words[:2] != ["user", "mapping"]:
                raise IsolationBroken(
                    f"{statement.text[:200]!r} changes the server at {self._place}, which others use too; it was not "
                    f"sent. Roles, tablespaces and settings of a whole server can be changed by tests on a server of "
                    "their own: postgres = ThrowawayPostgres(), without DBTESTCASE_SERVER."
                )

    def is_unchanged(self) -> bool:
        """Return whether nothing of the test is left outside of its databases."""
        return not self._made and not self._prepared(self._copies())

    def restore(self, copies: Sequence[str]) -> bool:
        """Remove what is left; return whether the server is as it was."""
        for gid, database in self._prepared(copies):
            with suppress(psycopg2.Error):
                self._databases.execute(f"ROLLBACK PREPARED {quoted_literal(gid)}", database=database)
        while self._made:
            with suppress(psycopg2.Error):
                name = self._made.pop()
                self._databases.execute(f"DROP DATABASE IF EXISTS {quoted_identifier(name)} WITH (FORCE)")
        return True

    def _prepared(self, names: Sequence[str]) -> list[tuple[str, str]]:
        return [(gid, database) for gid, database in self._databases.query(_PREPARED, [list(names)])]
