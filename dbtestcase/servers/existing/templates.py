"""Template databases on an existing server: made once for each content, found by all who need it, limited in number.

A template is made under an advisory lock and published by making it a template for PostgreSQL (``IS_TEMPLATE``), last
and in one statement. One that is not published and whose lock is free was never finished: it is made anew.
"""

from __future__ import annotations

import json
import time
from collections import OrderedDict
from collections.abc import Callable, Hashable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import psycopg2
from psycopg2.errorcodes import INSUFFICIENT_PRIVILEGE

from dbtestcase.diagnosis import report
from dbtestcase.diagnosis.tracebacks import chain, sqlstate
from dbtestcase.errors import DBTestCaseError, PostgresNotReady
from dbtestcase.schema import notes_of
from dbtestcase.servers.contents import Contents
from dbtestcase.servers.databases import Databases
from dbtestcase.servers.existing import marks
from dbtestcase.servers.existing.server import ExistingServer
from dbtestcase.servers.properties import DatabaseProperties
from dbtestcase.sql import quoted_identifier, quoted_literal

__all__ = ["Template", "Templates", "drop_template", "published"]

# Part of every name: raise it when what a template holds, or how it is made, changes.
_LAYOUT = 2
_MOST, _OLDEST_DAYS = 40, 30
_MOST_ANONYMOUS = 8
_DAY = 86400

_PUBLISHED = """
SELECT datname, shobj_description(oid, 'pg_database') FROM pg_database
WHERE datistemplate AND datconnlimit = %s AND pg_get_userbyid(datdba) = current_user ORDER BY oid
"""
_VERSIONS = "SELECT name, default_version FROM pg_available_extensions WHERE name = ANY(%s) ORDER BY name"
_FOUND = """
SELECT datistemplate, datconnlimit IN %s AND pg_get_userbyid(datdba) = current_user,
    shobj_description(oid, 'pg_database')
FROM pg_database WHERE datname = %s
"""


@dataclass(frozen=True)
class Template:
    """What a class's databases are copied from.

    Attributes:
        databases: The names of its databases by their logical names.
        notes: What was noted when it was made.
        properties: What PostgreSQL does not copy with a database, by logical name.
    """

    databases: dict[str, str]
    notes: dict[str, Any] = field(default_factory=dict)
    properties: dict[str, DatabaseProperties] = field(default_factory=dict)


class Templates:
    """The templates that one process knows of on a server.

    Args:
        filling: Returns what stands for the databases of these names while they are filled.
    """

    def __init__(self, server: ExistingServer, filling: Callable[[dict[str, str]], Databases]) -> None:
        self._server = server
        self._filling = filling
        self._known: dict[int, Template] = {}
        self._anonymous: OrderedDict[Hashable, Template] = OrderedDict()
        self._has_limited = False
        self._extensions: list[tuple[str, str]] | None = None

    def find(self, contents: Contents) -> Template | None:
        """Return the template for these contents, ``None`` if it has to be made first."""
        if contents.fingerprint is None:
            return self._anonymous.get(contents.key)
        content = self._content(contents)
        if content not in self._known:
            description = self._published(marks.template_name(content, 0))
            if description is None:
                return None
            self._known[content] = self._read(content, json.loads(description))
        return self._known[content]

    def make(self, contents: Contents, owner: str) -> Template:
        """Return the template for these contents, made now if nobody has made it.

        Args:
            owner: For whom, for people who look at the server.

        Raises:
            PostgresNotReady: The server does not have what the contents need.
            Exception: Whatever ``contents.prepare`` raises.
        """
        if contents.fingerprint is None and contents.prepare is not None:
            return self._make_anonymous(contents)
        content = self._content(contents)
        with (
            report.span("template", owner or "a test class"),
            self._server.connections.connection() as connection,
            connection.cursor() as cursor,
        ):
            cursor.execute("SELECT pg_advisory_lock(%s)", [content])
            try:
                if self.find(contents) is None:
                    self._make(content, contents, owner)
            finally:
                cursor.execute("SELECT pg_advisory_unlock(%s)", [content])
        found = self.find(contents)
        assert found is not None
        if not self._has_limited:
            self._has_limited = True
            self._server.in_background(self._limit)
        return found

    def forget(self, template: Template) -> None:
        """Look for a template anew: it is not there any more."""
        self._known = {content: known for content, known in self._known.items() if known is not template}
        for key in [key for key, known in self._anonymous.items() if known is template]:
            del self._anonymous[key]

    def _content(self, contents: Contents) -> int:
        what = "empty" if contents.prepare is None else contents.fingerprint
        server = self._server
        if self._extensions is None:
            # Also which versions of them the server would install.
            wanted = list(server.options.extensions)
            self._extensions = server.query(_VERSIONS, [wanted]) if wanted else []
        # With the URL's database, because locks of different databases do not meet; and with the role, to which all
        # objects in it belong.
        return marks.digest(
            _LAYOUT,
            what,
            server.options.extensions,
            self._extensions,
            server.version,
            server.user,
            server.options.dsn()["dbname"],
        )

    def _published(self, name: str) -> str | None:
        found = self._server.query(_FOUND, [(marks.MARK, marks.DROPPED_HALFWAY), name])
        if not found:
            return None
        is_published, is_ours, description = found[0]
        if not is_ours:
            raise DBTestCaseError(
                f"{self._server.options.origin}: the server at {self._server.options.place} has a database {name!r} "
                "that dbtestcase did not make, and wants to make one of this name. Rename or drop it."
            )
        return description if is_published else None

    def _read(self, content: int, about: dict[str, Any]) -> Template:
        names = {logical: marks.template_name(content, number) for number, logical in enumerate(about["databases"])}
        if about["used"] != _today():
            self._describe(names[about["databases"][0]], {**about, "used": _today()})
        return self._with_properties(names, about["notes"])

    def _with_properties(self, names: dict[str, str], notes: dict[str, Any]) -> Template:
        databases = self._filling(names)
        properties = {name: DatabaseProperties(databases, name, only_access=True) for name in names}
        return Template(dict(names), notes, properties)

    def _make(self, content: int, contents: Contents, owner: str) -> None:
        names = {logical: marks.template_name(content, number) for number, logical in enumerate(contents.databases)}
        for name in names.values():
            self._published(name)  # raises if it is somebody else's
        try:
            for name in names.values():
                drop_template(self._server, name)
                self._server.create(name)
            notes = self._fill(contents, names)
        except BaseException:
            for name in names.values():
                drop_template(self._server, name)
            raise
        first, *others = names.values()
        about = {"for": owner, "databases": list(names), "notes": notes, "used": _today()}
        self._describe(first, about)
        for name in (*others, first):
            self._server.execute(f"ALTER DATABASE {quoted_identifier(name)} IS_TEMPLATE true ALLOW_CONNECTIONS false")

    def _make_anonymous(self, contents: Contents) -> Template:
        names = {logical: self._server.new_name(f"template_{logical}") for logical in contents.databases}
        try:
            for name in names.values():
                self._server.create(name)
            made = self._with_properties(names, self._fill(contents, names))
        except BaseException:
            self._server.drop_all(names.values(), wait=False)
            raise
        if contents.token is not None:
            self._anonymous[contents.key] = made
            while len(self._anonymous) > _MOST_ANONYMOUS:
                _, oldest = self._anonymous.popitem(last=False)
                self._server.drop_all(oldest.databases.values(), wait=False)
        return made

    def _fill(self, contents: Contents, names: dict[str, str]) -> dict[str, Any]:
        databases = self._filling(names)
        for name in names:
            self._create_extensions(databases, name)
        if contents.prepare is None:
            return notes_of(databases.connect, names)
        try:
            return dict(contents.prepare(databases) or {})
        except Exception as exc:
            if any(sqlstate(each) == INSUFFICIENT_PRIVILEGE for each in chain(exc)):
                exc.add_note(
                    f"The schema is created as {self._server.user!r} on the server at {self._server.options.place}; "
                    "what only a superuser may create cannot be had there, unless an administrator adds it to the "
                    "server's database template1."
                )
            raise

    def _create_extensions(self, databases: Databases, database: str) -> None:
        for name in self._server.options.extensions:
            try:
                databases.execute(
                    f"CREATE EXTENSION IF NOT EXISTS {quoted_identifier(name)} CASCADE", database=database
                )
            except psycopg2.Error as exc:
                raise PostgresNotReady(
                    f"ExistingPostgres(extensions=...): {name!r} cannot be created on the server at "
                    f"{self._server.options.place}. It says:\n  {str(exc).strip()}\n"
                    "Extensions are installed on the server's machine; those that are not trusted an administrator "
                    "creates in its database template1, from which every new database is made."
                ) from exc

    def _describe(self, name: str, about: dict[str, Any]) -> None:
        with suppress(psycopg2.errors.InternalError_):  # two processes at once: "tuple concurrently updated"
            self._server.execute(
                f"COMMENT ON DATABASE {quoted_identifier(name)} IS {quoted_literal(json.dumps(about))}"
            )

    def _limit(self) -> None:
        """Drop templates that nobody has used for long, and the oldest if there are too many."""
        by_use: dict[int, int] = {}
        for name, description in published(self._server):
            meaning = marks.understood(name)
            assert meaning is not None
            with suppress(ValueError, KeyError):
                by_use[meaning.id] = max(by_use.get(meaning.id, 0), json.loads(description or "{}").get("used", 0))
        newest = sorted(by_use, key=lambda content: -by_use[content])
        for place, content in enumerate(newest):
            if place >= _MOST or by_use[content] < _today() - _OLDEST_DAYS:
                for name, _ in published(self._server):
                    if (marks.understood(name) or (None, None))[1] == content:
                        drop_template(self._server, name)


def published(server: ExistingServer) -> list[tuple[str, str | None]]:
    """Return the names of all templates of ours that this role has made, with what is noted of them."""
    return [row for row in server.query(_PUBLISHED, [marks.MARK]) if marks.understood(row[0]) is not None]


def drop_template(server: ExistingServer, name: str) -> None:
    """Drop one, unless somebody copies it at this moment."""
    with suppress(psycopg2.Error):  # it does not exist, or PostgreSQL takes it for no database any more
        server.execute(f"ALTER DATABASE {quoted_identifier(name)} IS_TEMPLATE false")
    with suppress(psycopg2.Error):
        server.execute(f"DROP DATABASE IF EXISTS {quoted_identifier(name)} WITH (FORCE)")


def _today() -> int:
    return int(time.time() // _DAY)
