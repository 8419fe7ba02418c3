"""Code that a class makes in its databases after its schema: in setUpClass, with its data, by another program."""

from __future__ import annotations

from contextlib import closing
from typing import Any
from unittest import TestCase

import psycopg2
from sqlalchemy import Connection, text
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from dbtestcase import DatabaseTestCase, isolate
from tests.sandbox.support import run_noting_reasons
from tests.support import problems

CODE = """
CREATE TABLE visit (id int);
CREATE FUNCTION visit(number int) RETURNS int LANGUAGE sql AS 'INSERT INTO visit VALUES (number) RETURNING id';
CREATE TABLE customer (id int PRIMARY KEY);
CREATE TABLE orders (customer int REFERENCES customer DEFERRABLE INITIALLY DEFERRED);
"""
TRIGGER = """
CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS
    'BEGIN PERFORM set_config(''shop.last'', NEW.id::text, true); RETURN NEW; END';
CREATE TRIGGER note BEFORE INSERT ON visit FOR EACH ROW EXECUTE FUNCTION note();
"""


class ShopTests:
    """Tests of the classes below."""

    engine: Any
    assertEqual: Any
    assertRaises: Any

    def test_a_function(self) -> None:
        with self.engine.connect() as connection:
            connection.scalar(text("SELECT visit(1)"))
            connection.rollback()
            self.assertEqual(connection.scalar(text("SELECT count(*) FROM visit")), 0)

    def test_a_deferred_constraint(self) -> None:
        with self.engine.connect() as connection:
            connection.execute(text("INSERT INTO orders VALUES (1)"))
            with self.assertRaises(IntegrityError):
                connection.commit()


class LearnedCodeTests(TestCase):
    def check(self, *cases: Any) -> None:
        for case in cases:
            with self.subTest(case.__name__):
                result, reasons = run_noting_reasons(case)
                self.assertEqual((problems(result), result.testsRun, reasons), ([], 2, {}))

    def test_what_it_does_is_seen_whoever_has_made_it(self) -> None:
        class InSetUpClass(ShopTests, DatabaseTestCase):
            @classmethod
            def setUpClass(cls) -> None:
                super().setUpClass()
                with cls.engine.begin() as connection:
                    connection.exec_driver_sql(CODE)

        class WithTheData(ShopTests, DatabaseTestCase):
            @classmethod
            def setUpTestData(cls, session: Session) -> None:
                session.execute(text(CODE))

        class ByAnotherProgram(ShopTests, DatabaseTestCase):
            @classmethod
            def setUpClass(cls) -> None:
                super().setUpClass()
                with closing(psycopg2.connect(**cls.instance.dsn())) as own, own, own.cursor() as cursor:
                    cursor.execute(CODE)

        self.check(InSetUpClass, WithTheData, ByAnotherProgram)

    def test_a_class_begins_on_copies_if_it_has_made_what_no_transaction_can_carry(self) -> None:
        def make(connection: Connection) -> None:
            connection.exec_driver_sql(CODE)

        class Shop(DatabaseTestCase):
            schema = make

            @classmethod
            def setUpClass(cls) -> None:
                super().setUpClass()
                with cls.engine.begin() as connection:
                    connection.exec_driver_sql(TRIGGER)

            def test_1(self) -> None:
                with self.engine.connect() as connection:
                    connection.execute(text("INSERT INTO visit VALUES (1)"))
                    connection.commit()
                    self.assertEqual(connection.scalar(text("SELECT current_setting('shop.last', true)")), "")

            test_2 = test_1

        self.check(Shop)

    def test_what_a_test_makes_in_the_class_s_database_is_seen_in_the_next(self) -> None:
        class Shop(ShopTests, DatabaseTestCase):
            isolation = "class"

            def test_0_makes_it(self) -> None:
                with self.engine.begin() as connection:
                    connection.exec_driver_sql(CODE)

            test_a_function = isolate("auto")(ShopTests.test_a_function)
            test_a_deferred_constraint = None  # type: ignore[assignment]

        self.check(Shop)
