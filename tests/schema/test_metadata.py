from __future__ import annotations

import inspect
import os
import subprocess
import sys
import textwrap
import unittest
import warnings
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy import (
    DDL,
    Column,
    Enum,
    Identity,
    Index,
    Integer,
    MetaData,
    Sequence,
    String,
    Table,
    UniqueConstraint,
    event,
)
from sqlalchemy.dialects import postgresql
from sqlalchemy.dialects.postgresql import CITEXT, ENUM
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from dbtestcase.schema.metadata import Shape
from tests.schema.models import hard_case
from tests.schema.support import ServerTestCase, planned
from tests.support import once

ROOT = Path(__file__).parents[2]


class CreationTests(ServerTestCase):
    def test_the_difficult_things_are_created(self) -> None:
        self.create(hard_case())

        self.assertEqual(self.tables(), ["Back Office.invoice", "audit.counted", "a", "b", "group"])
        self.assertEqual(self.rows("SELECT viewname FROM pg_views WHERE schemaname = 'public'"), [("happy",)])
        self.assertEqual(self.rows("SELECT relname FROM pg_class WHERE relname = 'ticket'"), [("ticket",)])
        self.assertEqual(self.rows("INSERT INTO audit.counted DEFAULT VALUES RETURNING id"), [(42,)])
        self.assertEqual(self.rows("SELECT obj_description('\"group\"'::regclass)"), [("a reserved word",)])

    def test_the_same_metadata_is_created_in_two_databases(self) -> None:
        metadata = hard_case()

        wanted = self.create({"first": metadata, "second": metadata})

        self.assertEqual(wanted.databases, ("first", "second"))
        self.assertEqual(self.tables("first"), self.tables("second"))

    def test_two_bases_that_share_an_enum_type_follow_each_other(self) -> None:
        first, second = MetaData(), MetaData()
        Table("a", first, Column("mood", Enum("x", name="mood")))
        Table("b", second, Column("mood", Enum("x", name="mood")))

        self.create([first, second])

        self.assertEqual(self.tables(), ["a", "b"])

    def test_a_declarative_base_stands_for_its_tables(self) -> None:
        class Base(DeclarativeBase):
            pass

        class Shop(Base):
            __tablename__ = "shop"
            id: Mapped[int] = mapped_column(primary_key=True)

        self.create(Base)
        self.assertEqual(self.tables(), ["shop"])

        wanted = planned(Base.metadata.create_all)
        self.assertEqual(wanted.fingerprint, planned(Base).fingerprint)

    def test_a_view_of_sqlalchemy_2_1_is_created_as_a_view(self) -> None:
        if not hasattr(sa, "CreateView"):
            self.skipTest("CreateView came with SQLAlchemy 2.1")
        metadata = MetaData()
        shop = Table("shop", metadata, Column("id", Integer, primary_key=True))
        sa.CreateView(sa.select(shop.c.id).where(shop.c.id > 5), "big_shop", metadata=metadata)

        wanted = self.create(metadata)

        self.assertEqual(self.tables(), ["shop"])
        self.assertEqual(self.rows("SELECT viewname FROM pg_views WHERE schemaname = 'public'"), [("big_shop",)])
        self.assertIsNotNone(wanted.fingerprint)

    def test_a_listener_that_creates_the_schema_itself_does_not_clash(self) -> None:
        metadata = MetaData(schema="sales")
        Table("shop", metadata, Column("id", Integer), Column("mood", Enum("x", name="mood", schema="sales")))
        event.listen(metadata, "before_create", DDL("CREATE SCHEMA sales"), insert=True)

        self.create(metadata)

        self.assertEqual(self.tables(), ["sales.shop"])

    def test_variables_for_libpq_in_the_environment_change_nothing(self) -> None:
        hostile = {"PGSERVICE": "nowhere", "PGOPTIONS": "-c nonsense=1", "PGHOST": "db.example", "PGTZ": "Asia/Tokyo"}
        metadata = MetaData()
        Table("shop", metadata, Column("id", Integer))
        before = dict(os.environ)
        self.addCleanup(os.environ.update, before)
        self.addCleanup(os.environ.clear)
        os.environ.update(hostile)

        planned(metadata).create(self.url, self.admin)

        self.assertLessEqual(hostile.items(), os.environ.items())
        os.environ.clear()
        os.environ.update(before)
        self.assertEqual(self.tables(), ["shop"])

    def test_no_connection_is_left_open(self) -> None:
        self.create(hard_case())

        self.assertNobodyConnected()


class FailureTests(ServerTestCase):
    def test_a_refused_table_is_named_with_the_statement_and_the_servers_words(self) -> None:
        metadata = MetaData()
        Table("shop", metadata, Column("id", Integer), sa.CheckConstraint("nonsense > 1"))

        message = self.failure(metadata)

        self.assertIn("ShopTests.schema: could not create table 'shop'", message)
        self.assertIn('column "nonsense" does not exist', message)
        self.assertIn("CREATE TABLE shop", message)

    def test_the_line_of_the_model_is_named(self) -> None:
        class Base(DeclarativeBase):
            pass

        class Shop(Base):
            __tablename__ = "shop"
            id: Mapped[int] = mapped_column(primary_key=True, server_default=sa.text("nonsense()"))

        line = inspect.getsourcelines(Shop)[1]

        self.assertRegex(self.failure(Base), rf"at .*test_metadata\.py:{line} in Shop\n")

    def test_a_refused_index_is_named_with_its_table(self) -> None:
        metadata = MetaData()
        table = Table("shop", metadata, Column("id", Integer))
        Index("bad", table.c.id, postgresql_using="gin")

        self.assertIn("could not create index 'bad' of table 'shop'", self.failure(metadata))

    def test_a_type_of_an_extension_leads_to_the_option(self) -> None:
        metadata = MetaData()
        Table("shop", metadata, Column("name", CITEXT))

        message = self.failure(metadata, extensions=("pgcrypto",))

        self.assertIn("extensions=('pgcrypto', 'citext',)", message)

    def test_a_listener_that_raises_is_shown_with_its_line(self) -> None:
        metadata = MetaData()
        Table("shop", metadata, Column("id", Integer))

        @event.listens_for(metadata, "after_create")
        def explode(target: Any, connection: Any, **kwargs: Any) -> None:
            raise LookupError("no such thing")

        message = self.failure(metadata)

        self.assertIn("LookupError: no such thing", message)
        self.assertIn("test_metadata.py", message)
        self.assertIn("in explode", message)

    def test_what_cannot_be_compiled_is_an_error_of_create(self) -> None:
        metadata = MetaData()
        Table("shop", metadata, Column("name"))

        message = self.failure(metadata)

        self.assertIn("name", message)

    def test_a_base_without_tables_warns_to_import_the_models(self) -> None:
        class Base(DeclarativeBase):
            pass

        wanted = planned(Base)

        self.assertIsNone(wanted.fingerprint)  # kept nowhere, so that the warning comes each time
        with self.assertWarnsRegex(UserWarning, "ShopTests.schema: .*Base has no tables.*Import the modules"):
            wanted.create(self.url, self.admin)

    def test_metadata_that_gains_a_table_meanwhile_is_refused(self) -> None:
        metadata = MetaData()
        Table("shop", metadata, Column("id", Integer))
        wanted = planned(metadata)
        Table("customer", metadata, Column("id", Integer))

        with self.assertRaisesRegex(Exception, "ShopTests.schema changed while"):
            wanted.create(self.url, self.admin)


class FingerprintTests(unittest.TestCase):
    def shop(self, *extra: Any, **options: Any) -> MetaData:
        metadata = MetaData()
        Table("shop", metadata, Column("id", Integer, primary_key=True), Column("name", String(5)), *extra, **options)
        return metadata

    def fingerprint(self, schema: Any) -> str:
        found = planned(schema).fingerprint
        assert found is not None
        return found

    def test_equal_declarations_give_equal_fingerprints(self) -> None:
        self.assertEqual(self.fingerprint(hard_case()), self.fingerprint(hard_case()))

    def test_the_order_of_declaration_is_no_content(self) -> None:
        one, other = MetaData(), MetaData()
        for metadata, names in ((one, "ab"), (other, "ba")):
            for name in names:
                Table(name, metadata, Column("id", Integer))

        self.assertEqual(self.fingerprint(one), self.fingerprint(other))

    @once
    def test_another_process_comes_to_the_same_fingerprint(self) -> None:
        script = textwrap.dedent("""
            from dbtestcase.schema import plan
            from tests.schema.models import hard_case
            print(plan(hard_case(), owner="Other.schema").fingerprint)
        """)
        outcomes = {
            subprocess.run(
                [sys.executable, "-c", script],
                cwd=ROOT,
                env={**os.environ, "PYTHONHASHSEED": str(seed), "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
                capture_output=True,
                text=True,
                check=True,
            ).stdout.strip()
            for seed in (1, 2)
        }

        self.assertEqual(outcomes, {self.fingerprint(hard_case())})

    def test_every_difference_in_the_ddl_changes_it(self) -> None:
        def with_listener(sql: str, when: str = "after_create") -> MetaData:
            metadata = self.shop()
            event.listen(metadata, when, DDL(sql))
            return metadata

        variants = {
            "base": self.shop(),
            "column": self.shop(Column("x", Integer)),
            "not null": self.shop(Column("x", Integer, nullable=False)),
            "default": self.shop(Column("x", Integer, server_default="1")),
            "other default": self.shop(Column("x", Integer, server_default="2")),
            "unique": self.shop(UniqueConstraint("name")),
            "index": self.shop(Index("i", "name")),
            "index option": self.shop(Index("i", "name", postgresql_using="hash")),
            "comment": self.shop(comment="c"),
            "schema": self.shop(schema="s"),
            "enum": self.shop(Column("x", Enum("a", "b", name="e"))),
            "enum order": self.shop(Column("x", Enum("b", "a", name="e"))),
            "enum in a schema": self.shop(Column("x", ENUM("a", "b", name="e", schema="s"))),
            "identity": self.shop(Column("x", Integer, Identity(start=3))),
            "listener": with_listener("SELECT 1"),
            "other listener": with_listener("SELECT 2"),
            "earlier listener": with_listener("SELECT 1", "before_create"),
        }

        fingerprints = {name: self.fingerprint(metadata) for name, metadata in variants.items()}

        self.assertEqual(len(set(fingerprints.values())), len(variants), fingerprints)

    def test_a_change_in_the_same_process_is_seen(self) -> None:
        metadata = self.shop()
        table = metadata.tables["shop"]
        seen = [self.fingerprint(metadata)]

        def change(step: Any) -> None:
            step()
            seen.append(self.fingerprint(metadata))

        change(lambda: Table("customer", metadata, Column("id", Integer)))
        change(lambda: table.append_column(Column("town", String)))
        change(lambda: setattr(table.c.town, "nullable", False))
        change(lambda: setattr(table.c.town, "type", String(9)))
        change(lambda: setattr(table.c.town.type, "length", 10))
        change(lambda: setattr(table, "comment", "c"))
        change(lambda: setattr(table.c.town, "server_default", sa.DefaultClause("a")))
        change(lambda: setattr(table.c.town.server_default, "arg", "b"))
        change(lambda: Index("i", table.c.town))
        change(lambda: table.append_constraint(UniqueConstraint("town")))
        change(lambda: Sequence("s", metadata=metadata))
        change(lambda: event.listen(table, "after_create", DDL("SELECT 1")))
        change(lambda: metadata.remove(metadata.tables["customer"]))

        self.assertEqual(len(set(seen)), len(seen))

    def test_statements_that_use_a_table_do_not_change_what_it_consists_of(self) -> None:
        metadata = self.shop(Index("by_town", Column("town", String)), Column("opened", sa.DateTime), comment="c")
        Table(
            "order", metadata, Column("shop_id", sa.ForeignKey("shop.id")), Column("state", Enum("new", name="state"))
        )
        planned(metadata)
        shop, order = metadata.tables["shop"], metadata.tables["order"]
        before = Shape(metadata)

        statement = sa.select(shop, order).join(order).where(shop.c.opened + sa.text("1") > shop.c.opened)
        statement.where(order.c.state == "new", shop.c.name == "x").compile(dialect=postgresql.dialect())
        statement._generate_cache_key()

        self.assertTrue(before.is_of(metadata))

    def test_functions_among_the_listeners_leave_only_a_token(self) -> None:
        def on_metadata(metadata: MetaData) -> None:
            event.listen(metadata, "after_create", lambda *args, **kwargs: None)

        def on_table(metadata: MetaData) -> None:
            event.listen(metadata.tables["shop"], "before_create", lambda *args, **kwargs: None, once=True)

        def with_a_condition(metadata: MetaData) -> None:
            ddl = DDL("SELECT 1").execute_if(callable_=lambda **kwargs: True)
            event.listen(metadata, "after_create", ddl)

        def on_an_index(metadata: MetaData) -> None:
            Index("i", metadata.tables["shop"].c.name).ddl_if(callable_=lambda *args, **kwargs: True)

        for attach in (on_metadata, on_table, with_a_condition, on_an_index):
            with self.subTest(attach.__name__):
                metadata = self.shop()
                attach(metadata)

                wanted = planned(metadata)

                self.assertIsNone(wanted.fingerprint)
                self.assertFalse(wanted.background)
                self.assertEqual(wanted.token, planned(metadata).token)
                self.assertEqual(hash(wanted.token), hash(planned(metadata).token))
                Table("customer", metadata, Column("id", Integer))
                self.assertNotEqual(wanted.token, planned(metadata).token)

    def test_statements_for_a_dialect_are_content(self) -> None:
        def with_ddl(dialect: str) -> MetaData:
            metadata = self.shop()
            event.listen(metadata, "after_create", DDL("SELECT 1").execute_if(dialect=dialect))
            return metadata

        self.assertIsNotNone(planned(with_ddl("postgresql")).fingerprint)
        self.assertNotEqual(self.fingerprint(with_ddl("postgresql")), self.fingerprint(self.shop()))

    def test_planning_calls_nothing_of_the_user(self) -> None:
        metadata = self.shop()
        called: list[object] = []
        event.listen(metadata, "before_create", lambda *args, **kwargs: called.append(args))

        with warnings.catch_warnings():
            warnings.simplefilter("error")
            planned(metadata)

        self.assertEqual(called, [])
