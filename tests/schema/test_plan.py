from __future__ import annotations

import importlib
import sys
import unittest
import warnings
from pathlib import Path
from typing import Any

from flask import Flask
from flask_sqlalchemy import SQLAlchemy
from sqlalchemy import Column, Connection, Integer, MetaData, Table, text
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from dbtestcase.errors import SchemaError
from dbtestcase.schema import plan
from tests.schema.support import FolderTestCase, ServerTestCase, planned


def table(name: str) -> MetaData:
    metadata = MetaData()
    Table(name, metadata, Column("id", Integer, primary_key=True))
    return metadata


def add_rows(connection: Connection) -> None:
    connection.execute(text("INSERT INTO shop VALUES (1), (2)"))


class AcceptedTests(ServerTestCase):
    def test_none_is_an_empty_database(self) -> None:
        wanted = self.create(None)

        self.assertTrue(wanted.is_empty)
        self.assertEqual(wanted.databases, ("test",))
        self.assertIsNotNone(wanted.fingerprint)
        self.assertEqual(self.tables(), [])

    def test_a_sequence_is_created_in_its_order(self) -> None:
        script = self.write("customers.sql", "INSERT INTO shop VALUES (3);")

        wanted = self.create([table("shop"), [add_rows, script], table("customer")])

        self.assertEqual(self.rows("SELECT id FROM shop ORDER BY id"), [(1,), (2,), (3,)])
        self.assertEqual(self.tables(), ["customer", "shop"])
        self.assertFalse(wanted.is_empty)

    def test_a_mapping_makes_a_database_for_each_name(self) -> None:
        wanted = self.create({"main shop": table("shop"), "audit": [table("log")], "later": None})

        self.assertEqual(wanted.databases, ("main shop", "audit", "later"))
        self.assertEqual(
            [self.tables("main shop"), self.tables("audit"), self.tables("later"), self.tables()],
            [["shop"], ["log"], [], []],
        )

    def test_further_databases_get_the_extensions_too(self) -> None:
        def use_it(connection: Connection) -> None:
            connection.execute(text("CREATE TABLE shop (name citext)"))

        self.create({"test": None, "audit": use_it}, extensions=("citext",))

        self.assertEqual(self.tables("audit"), ["shop"])

    def test_a_callable_may_commit_itself_or_close_its_connection(self) -> None:
        def commits(connection: Connection) -> object:
            connection.execute(text("CREATE TABLE a ()"))
            connection.commit()
            connection.execute(text("CREATE TABLE b ()"))
            return "ignored"

        def closes(connection: Connection) -> None:
            with connection:
                connection.execute(text("CREATE TABLE c ()"))
                connection.commit()

        self.create([commits, closes])

        self.assertEqual(self.tables(), ["a", "b", "c"])

    def test_flask_sqlalchemy_binds_become_databases(self) -> None:
        db, app = SQLAlchemy(), Flask(__name__)
        app.config["SQLALCHEMY_DATABASE_URI"] = "postgresql://nobody@db.example/never"
        app.config["SQLALCHEMY_BINDS"] = {"audit": "postgresql://db.example/a", "unused": "postgresql://db.example/u"}

        class Shop(db.Model):  # type: ignore[name-defined, misc]
            id = db.Column(db.Integer, primary_key=True)

        class Log(db.Model):  # type: ignore[name-defined, misc]
            __bind_key__ = "audit"
            id = db.Column(db.Integer, primary_key=True)

        db.init_app(app)

        wanted = self.create(db)

        self.assertEqual(wanted.databases, ("test", "audit"))
        self.assertEqual([self.tables(), self.tables("audit")], [["shop"], ["log"]])
        self.assertEqual(planned([db, add_rows]).databases, ("test", "audit"))
        self.assertEqual(planned({"main": db}).databases, ("main",))
        self.assertEqual(planned(db.create_all).fingerprint, wanted.fingerprint)

    def test_models_that_all_belong_to_one_bind_leave_the_main_database_empty_without_a_warning(self) -> None:
        db = SQLAlchemy()

        class Log(db.Model):  # type: ignore[name-defined, misc]
            __bind_key__ = "audit"
            id = db.Column(db.Integer, primary_key=True)

        with warnings.catch_warnings():
            warnings.simplefilter("error")
            wanted = self.create(db)

        self.assertEqual([self.tables(), self.tables("audit")], [[], ["log"]])
        self.assertIsNotNone(wanted.fingerprint)


class CallableTests(ServerTestCase):
    def test_an_exception_is_told_with_the_function_and_its_line(self) -> None:
        def make_tables(connection: Connection) -> None:
            connection.execute(text("CREATE TABLE shop (id nonsense)"))

        message = self.failure([table("a"), make_tables])

        self.assertIn("ShopTests.schema: could not run", message)
        self.assertIn("make_tables(connection)", message)
        self.assertIn("test_plan.py", message)
        self.assertIn('type "nonsense" does not exist', message)
        self.assertIn("CREATE TABLE shop (id nonsense)", message)

    def test_the_line_is_named_also_where_the_application_is_installed(self) -> None:
        module = self.write(
            "site-packages/installed_shop.py",
            """
            def create(connection):
                connection.exec_driver_sql("CREATE TABEL shop ()")
            """,
        )
        sys.path.insert(0, str(module.parent))
        self.addCleanup(sys.path.remove, str(module.parent))
        create = importlib.import_module("installed_shop").create

        self.assertIn(f"at {module}:2 in create", self.failure(create))

    def test_an_exception_keeps_its_cause(self) -> None:
        def fails(connection: Connection) -> None:
            raise LookupError("the catalogue is gone")

        with self.assertRaisesRegex(SchemaError, "LookupError: the catalogue is gone") as caught:
            self.create(fails)

        self.assertIsInstance(caught.exception.__cause__, LookupError)

    def test_a_callable_that_only_returns_a_schema_is_refused(self) -> None:
        def create(connection: Any) -> MetaData:
            return MetaData()

        message = self.failure(create)

        self.assertIn("returned MetaData(), which nobody reads", message)

    def test_a_coroutine_function_is_refused(self) -> None:
        async def make_tables(connection: Connection) -> None: ...

        self.assertIn("write it as a plain one", self.failure(make_tables))

    def test_it_is_known_by_its_identity_only(self) -> None:
        wanted = planned(add_rows)

        self.assertIsNone(wanted.fingerprint)
        self.assertFalse(wanted.background)
        self.assertEqual(wanted.token, planned(add_rows).token)
        self.assertNotEqual(wanted.token, planned([add_rows, add_rows]).token)
        self.assertNotEqual(wanted.token, planned(lambda connection: None).token)

    def test_one_that_cannot_be_hashed_shares_what_it_makes_with_nobody(self) -> None:
        class Filler:
            __hash__ = None  # type: ignore[assignment]

            def __call__(self, connection: Connection) -> None: ...

        filler = Filler()

        self.assertNotEqual(planned(filler).token, planned(filler).token)


class RefusedTests(FolderTestCase):
    def test_the_message_names_the_attribute_the_value_and_what_is_accepted(self) -> None:
        message = self.planning_error(42)

        self.assertIn("ShopTests.schema is 42 (int)", message)
        for word in ("MetaData", "declarative base", "Path", "AlembicMigrations", "Connection", "mapping", "None"):
            self.assertIn(word, message)

    def test_a_str_is_asked_what_it_is(self) -> None:
        (self.folder / "migrations").mkdir()
        self.write("migrations/env.py", "")
        migrations = str(self.folder / "migrations")

        self.assertIn('Path("shop.sql")', self.planning_error("shop.sql"))
        self.assertIn('AlembicMigrations("alembic.ini")', self.planning_error("alembic.ini"))
        self.assertIn(f'AlembicMigrations("{migrations}")', self.planning_error(migrations))
        self.assertIn("exec_driver_sql", self.planning_error("CREATE TABLE shop (id int)"))

    def test_a_place_within_a_sequence_or_mapping_is_named(self) -> None:
        self.assertIn("ShopTests.schema[1] is 7", self.planning_error([table("shop"), 7]))
        self.assertIn("ShopTests.schema[1] is None", self.planning_error([table("shop"), None]))
        self.assertIn("ShopTests.schema['audit'][0] is 7", self.planning_error({"audit": [7]}))

    def test_what_has_no_order_is_refused(self) -> None:
        self.assertIn("give a list or a tuple", self.planning_error({table("shop")}))
        self.assertIn("give a list or a tuple", self.planning_error(iter([table("shop")])))

    def test_a_class_without_metadata_is_not_called(self) -> None:
        class Shop:
            def __init__(self, connection: Connection) -> None:
                raise AssertionError("called")

        self.assertIn("is the class", self.planning_error(Shop))

    def test_a_function_with_other_arguments_is_refused_at_once(self) -> None:
        def method(self: Any, connection: Connection) -> None: ...

        message = self.planning_error(method)

        self.assertIn("method(self: 'Any', connection: 'Connection')", message)
        self.assertIn("@staticmethod", message)

    def test_flask_sqlalchemy_lite_is_asked_for_the_base(self) -> None:
        from flask_sqlalchemy_lite import SQLAlchemy as Lite

        self.assertIn("give the declarative base of your models", self.planning_error(Lite()))

    def test_names_that_cannot_be_databases_are_refused(self) -> None:
        for name in ("", None, 3, "postgres", "template1", "x" * 64, "a\0b"):
            with self.subTest(name):
                self.assertIn(repr(name), self.planning_error({name: None}))
        self.assertIn("names no database", self.planning_error({}))
        self.assertIn("cannot stand within", self.planning_error([{"audit": None}]))

    def test_an_instance_of_a_model_is_no_base(self) -> None:
        class Base(DeclarativeBase):
            pass

        class Shop(Base):
            __tablename__ = "shop"
            id: Mapped[int] = mapped_column(primary_key=True)

        # Either class stands for the metadata that both share.
        self.assertEqual(planned(Shop).fingerprint, planned(Base).fingerprint)


class FingerprintTests(FolderTestCase):
    def test_order_names_of_databases_and_extensions_are_content(self) -> None:
        one, other = table("one"), table("other")
        plans = [
            planned([one, other]),
            planned([other, one]),
            planned(one),
            planned({"main": one}),
            planned({"main": one, "audit": other}),
            planned({"audit": other, "main": one}),
            planned({"main": one, "audit": other}, extensions=("citext",)),
        ]

        self.assertEqual(len({wanted.fingerprint for wanted in plans}), len(plans))

    def test_the_owner_is_no_content(self) -> None:
        metadata = table("shop")

        self.assertEqual(
            plan(metadata, owner="A.schema").fingerprint,
            plan([metadata], owner="B.schema", extensions=("citext",)).fingerprint,
        )

    def test_a_token_without_fingerprint_still_follows_the_rest(self) -> None:
        script = self.write("a.sql", "SELECT 1;")
        before = planned([script, add_rows]).token
        script.write_text("SELECT 2;")

        self.assertNotEqual(planned([script, add_rows]).token, before)
        self.assertIsInstance(hash(before), int)

    def test_planning_needs_no_driver_for_the_database_to_be_there(self) -> None:
        wanted = planned([table("shop"), Path(self.write("a.sql", "SELECT 1;"))])

        self.assertTrue(wanted.background)
        self.assertRegex(wanted.fingerprint or "", r"^[0-9a-f]{64}$")


if __name__ == "__main__":
    unittest.main()
