from __future__ import annotations

import sys
from typing import Any
from unittest import mock

from sqlalchemy import (
    Column,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    UniqueConstraint,
    create_engine,
)
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column
from sqlalchemy.pool import NullPool

from dbtestcase.errors import SchemaError
from dbtestcase.schema import schema_differences
from tests.schema.models import hard_case
from tests.schema.support import ServerTestCase


class DifferenceTests(ServerTestCase):
    def differences(self, metadata: Any, **options: Any) -> list[str]:
        engine = create_engine(self.url(), poolclass=NullPool)
        self.addCleanup(engine.dispose)
        with engine.connect() as connection:
            return schema_differences(connection, metadata, **options)

    def test_what_was_created_from_the_metadata_agrees_with_it(self) -> None:
        self.create(hard_case())

        self.assertEqual(self.differences(hard_case()), [])

    def test_each_difference_is_a_line(self) -> None:
        found = MetaData()
        Table("old", found, Column("id", Integer, primary_key=True))
        Table(
            "shop",
            found,
            Column("id", Integer, primary_key=True),
            Column("name", String(5)),
            Column("town", String, nullable=False),
            Column("gone", Integer),
            Index("gone_index", "gone"),
        )
        self.create(found)
        wanted = MetaData()
        Table("new", wanted, Column("id", Integer, primary_key=True))
        Table(
            "shop",
            wanted,
            Column("id", Integer, primary_key=True),
            Column("name", Integer, comment="a number"),
            Column("town", String),
            Column("new_id", ForeignKey("new.id")),
            UniqueConstraint("town", name="one_town"),
        )

        lines = self.differences(wanted)

        self.assertEqual(
            sorted(lines),
            sorted(
                [
                    "table 'new' is missing in the database",
                    "table 'old' is in the database, but not in the metadata",
                    "column 'shop.new_id' is missing in the database",
                    "column 'shop.gone' is in the database, but not in the metadata",
                    "column 'shop.name': the type is VARCHAR(length=5) in the database, Integer() in the metadata",
                    "column 'shop.name': the comment is None in the database, 'a number' in the metadata",
                    "column 'shop.town': not nullable in the database, nullable in the metadata",
                    "index 'gone_index' on 'shop' (gone) is in the database, but not in the metadata",
                    "unique constraint 'one_town' on 'shop' (town) is missing in the database",
                    "foreign key on 'shop' (new_id) is missing in the database",
                ]
            ),
        )

    def test_defaults_are_compared_on_request(self) -> None:
        found, wanted = MetaData(), MetaData()
        Table("shop", found, Column("id", Integer, server_default="1"))
        Table("shop", wanted, Column("id", Integer))
        self.create(found)

        self.assertEqual(self.differences(wanted), [])
        (line,) = self.differences(wanted, server_defaults=True)
        self.assertIn("column 'shop.id': the default is", line)

    def test_the_version_table_tables_of_extensions_and_ignored_ones_are_left_out(self) -> None:
        self.create(
            self.write(
                "tables.sql",
                "CREATE TABLE alembic_version (version_num text); CREATE TABLE spatial (id int); "
                "CREATE EXTENSION citext; ALTER EXTENSION citext ADD TABLE spatial; CREATE TABLE legacy (id int);",
            )
        )

        self.assertEqual(self.differences(MetaData(), ignore=("legacy",)), [])
        self.assertEqual(len(self.differences(MetaData())), 1)

    def test_other_schemas_count_if_the_metadata_names_them(self) -> None:
        self.create(
            self.write("tables.sql", "CREATE SCHEMA a; CREATE SCHEMA b; CREATE TABLE a.x (); CREATE TABLE b.y ();")
        )
        wanted = MetaData()
        Table("z", wanted, Column("id", Integer), schema="a")

        self.assertEqual(
            sorted(self.differences(wanted)),
            ["table 'a.x' is in the database, but not in the metadata", "table 'a.z' is missing in the database"],
        )

    def test_views_are_looked_for_by_name(self) -> None:
        self.create(self.write("views.sql", "CREATE VIEW there AS SELECT 1 AS id;"))
        wanted = MetaData()
        for name in ("there", "missing"):
            Table(name, wanted, Column("id", Integer), info={"is_view": True})

        self.assertEqual(self.differences(wanted), ["view 'missing' is missing in the database"])

    def test_a_base_stands_for_its_metadata(self) -> None:
        class Base(DeclarativeBase):
            pass

        class Shop(Base):
            __tablename__ = "shop"
            id: Mapped[int] = mapped_column(primary_key=True)

        self.assertEqual(self.differences(Base), ["table 'shop' is missing in the database"])

    def test_anything_else_is_refused(self) -> None:
        with self.assertRaisesRegex(SchemaError, "neither a MetaData"):
            self.differences(42)

    def test_alembic_missing_says_what_to_install(self) -> None:
        with (
            mock.patch.dict(sys.modules, {"alembic.autogenerate": None}),
            self.assertRaisesRegex(SchemaError, r"pip install 'dbtestcase\[alembic\]'"),
        ):
            self.differences(MetaData())
