"""One server for a class of tests, and a fresh database "test" for each of them."""

from __future__ import annotations

import os
import shutil
import tempfile
import textwrap
import unittest
from contextlib import closing
from pathlib import Path
from typing import Any

import psycopg2
from sqlalchemy import URL, create_engine, make_url, text
from sqlalchemy.pool import NullPool

from dbtestcase.errors import SchemaError
from dbtestcase.schema import SchemaPlan, plan
from dbtestcase.servers import ThrowawayPostgres, running_instance
from dbtestcase.sql import quoted_identifier
from tests.support import happens

OWNER = "ShopTests.schema"


def planned(schema: Any, **options: Any) -> SchemaPlan:
    """Plan a schema as the class ShopTests would."""
    return plan(schema, owner=OWNER, **options)


class FolderTestCase(unittest.TestCase):
    """Gives each test an empty folder."""

    def setUp(self) -> None:
        super().setUp()
        self.addCleanup(os.umask, os.umask(0o022))  # root's servers run as somebody else, who may have to read there
        self.folder = Path(tempfile.mkdtemp(prefix="dbtestcase-tests-"))
        self.addCleanup(shutil.rmtree, self.folder, ignore_errors=True)

    def write(self, name: str, content: str) -> Path:
        """Write a file in the test's folder."""
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(textwrap.dedent(content).lstrip("\n"), encoding="utf-8", newline="")
        return path

    def planning_error(self, schema: Any, **options: Any) -> str:
        """Return what plan() says when it refuses ``schema``."""
        with self.assertRaises(SchemaError) as caught:
            planned(schema, **options)
        return str(caught.exception)


class ServerTestCase(FolderTestCase):
    """Creates schemas on a real server."""

    instance: Any

    @classmethod
    def setUpClass(cls) -> None:
        super().setUpClass()
        cls.instance = cls.enterClassContext(running_instance(ThrowawayPostgres()))

    def setUp(self) -> None:
        super().setUp()
        self.made = ["test"]
        self.admin("DROP DATABASE IF EXISTS test WITH (FORCE)")
        self.admin("CREATE DATABASE test TEMPLATE template0")
        self.addCleanup(self._drop_others)

    def url(self, database: str = "test") -> URL:
        return make_url(self.instance.url()).set(database=database)

    def admin(self, sql: str) -> None:
        """Run a statement on the maintenance database."""
        url = self.url("postgres")
        connection = psycopg2.connect(
            host=url.query["host"], port=url.query.get("port"), user=url.username, dbname="postgres"
        )
        try:
            connection.autocommit = True
            connection.cursor().execute(sql)
        finally:
            connection.close()

    def create(self, schema: Any, **options: Any) -> SchemaPlan:
        """Plan and create ``schema``."""
        wanted = planned(schema, **options)
        self.made += [name for name in wanted.databases if name not in self.made]
        wanted.create(self.url, lambda name: self.admin(f"CREATE DATABASE {quoted_identifier(name)}"))
        return wanted

    def failure(self, schema: Any, **options: Any) -> str:
        """Return what create() says when it fails."""
        with self.assertRaises(SchemaError) as caught:
            self.create(schema, **options)
        self.assertIsNotNone(caught.exception.__cause__ or caught.exception.__context__ or caught.exception)
        return str(caught.exception)

    def rows(self, sql: str, database: str = "test") -> list[tuple[Any, ...]]:
        """Return the rows of a query on a connection of its own."""
        engine = create_engine(self.url(database), poolclass=NullPool)
        try:
            with engine.connect() as connection:
                return [tuple(row) for row in connection.execute(text(sql))]
        finally:
            engine.dispose()

    def tables(self, database: str = "test") -> list[str]:
        """Return the names of the tables, with their schema unless it is "public", in order."""
        return [
            name if schema == "public" else f"{schema}.{name}"
            for schema, name in self.rows(
                "SELECT schemaname, tablename FROM pg_tables "
                "WHERE schemaname NOT IN ('pg_catalog', 'information_schema') ORDER BY 1, 2",
                database,
            )
        ]

    def assertNobodyConnected(self) -> None:
        """Fail unless all connections to "test" are closed; the server takes a while to notice that they are."""
        others = "SELECT count(*) FROM pg_stat_activity WHERE datname = 'test' AND pid <> pg_backend_pid()"
        with closing(self.instance.connect("test")) as connection, connection.cursor() as cursor:
            connection.autocommit = True  # in a transaction it would see the same each time

            def are_gone() -> bool:
                cursor.execute(others)
                return bool(cursor.fetchone() == (0,))

            self.assertTrue(happens(are_gone, 5), "somebody is connected")

    def _drop_others(self) -> None:
        for name in self.made[1:]:
            self.admin(f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)')
