"""The hard cases of schema and class data, run as a user runs them: a test module, in one process and in two."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import textwrap
import unittest
from pathlib import Path

from tests.support import once

ROOT = Path(__file__).parents[1]

# Hard cases 13, 14 and 16, for every driver and isolation, twice in a row.
MODULE = """
import unittest
from sqlalchemy import Column, Integer, MetaData, Table, create_engine, insert, select, text
from dbtestcase import DatabaseTestCase
from tests.schema.models import hard_case
from tests.support import Base, Customer, Order

SCHEMA, AUDIT = hard_case(), MetaData()
ENTRY = Table("entry", AUDIT, Column("id", Integer, primary_key=True))


class Difficult(DatabaseTestCase):
    schema = {"main": [SCHEMA, Base], "audit": AUDIT}
    driver = "psycopg2"

    @classmethod
    def setUpClass(cls):
        cls.shop, cls.audit = (create_engine(f"postgresql+{cls.driver}://nobody@matters.invalid/x") for _ in range(2))
        super().setUpClass()
        cls.redirect_engine(cls.shop)
        cls.redirect_engine(cls.audit, "audit")

    @classmethod
    def setUpTestData(cls, session):
        cls.ada = Customer(name="Ada")
        cls.lamp = Order(item="lamp", customer=cls.ada)
        session.add(cls.lamp)

    def test_1(self):
        self.assertIs(self.lamp.customer, self.ada)
        self.assertEqual((self.ada.name, self.ada.orders), ("Ada", [self.lamp]))
        self.ada.name = "Grace"
        self.session.commit()
        with self.shop.begin() as connection:
            self.assertEqual(connection.scalar(text("SELECT name FROM customer")), "Grace")
            connection.execute(insert(SCHEMA.tables["a"]))
            connection.execute(insert(SCHEMA.tables["group"]), {"mood": "happy"})
            connection.execute(insert(SCHEMA.tables["Back Office.invoice"]), {"moods": ["sad"]})
            rows = connection.scalars(select(SCHEMA.tables["a"].c.id)).all()
            self.assertEqual(len(rows), 1)
        with self.audit.begin() as connection:
            connection.execute(insert(ENTRY).values(id=1))
            self.assertEqual(connection.scalars(select(ENTRY.c.id)).all(), [1])

    test_2 = test_1


class DifficultWithPsycopg3(Difficult):
    driver = "psycopg"


class DifficultCloned(Difficult):
    isolation = "clone"


class DifficultClonedWithPsycopg3(DifficultWithPsycopg3):
    isolation = "clone"
"""


class SchemaAndDataTests(unittest.TestCase):
    @classmethod
    def setUpClass(cls) -> None:
        super().setUpClass()
        cls.cache = cls.enterClassContext(tempfile.TemporaryDirectory(prefix="dbtestcase-tests-"))

    def setUp(self) -> None:
        super().setUp()
        folder = tempfile.TemporaryDirectory(prefix="dbtestcase-tests-")
        self.addCleanup(folder.cleanup)
        self.folder = Path(folder.name)

    def run_module(self, name: str) -> subprocess.Popen[str]:
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "DBTESTCASE_CACHE": self.cache}
        return subprocess.Popen(
            [sys.executable, "-W", "error::ResourceWarning", "-m", "unittest", name],
            cwd=self.folder,
            env=environment,
            stderr=subprocess.PIPE,
            text=True,
        )

    @once
    def test_all_that_is_difficult_at_once_passes_in_two_processes_and_again_from_what_they_prepared(self) -> None:
        (self.folder / "test_difficult.py").write_text(MODULE)

        both = [self.run_module("test_difficult") for _ in range(2)]
        ends = [each.communicate()[1] for each in both]
        ends.append(self.run_module("test_difficult").communicate()[1])

        for end in ends:
            self.assertRegex(end, r"Ran 8 tests in .*\n\nOK\n", end)

    @once
    def test_a_migration_edited_between_two_runs_is_seen_by_the_second(self) -> None:
        versions = self.folder / "migrations/versions"
        versions.mkdir(parents=True)
        (self.folder / "migrations/env.py").write_text(
            "from alembic import context\n"
            "context.configure(connection=context.config.attributes['connection'])\n"
            "with context.begin_transaction():\n    context.run_migrations()\n"
        )
        (self.folder / "test_migrated.py").write_text(
            textwrap.dedent("""
                import os
                from sqlalchemy import text
                from dbtestcase import AlembicMigrations, DatabaseTestCase

                class Migrated(DatabaseTestCase):
                    schema = AlembicMigrations("migrations")

                    def test_1(self):
                        self.session.execute(text("SELECT 1 FROM " + os.environ["TABLE"]))
            """)
        )
        ends = []
        for table in ("shop", "store", "store"):
            (versions / "1.py").write_text(
                "from alembic import op\nrevision, down_revision = '1', None\n\n\n"
                f"def upgrade():\n    op.execute('CREATE TABLE {table} (id int)')\n"
            )
            os.environ["TABLE"] = table
            self.addCleanup(os.environ.pop, "TABLE", None)
            ends.append(self.run_module("test_migrated").communicate()[1])

        for end in ends:
            self.assertRegex(end, r"Ran 1 test in .*\n\nOK\n", end)


if __name__ == "__main__":
    unittest.main()
