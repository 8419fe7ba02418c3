"""What tests and their classes write where no engine sees it: by COPY, or with a cursor of a class of their own."""

from __future__ import annotations

import unittest
from contextlib import closing
from io import StringIO
from typing import Any

from psycopg2.extras import RealDictCursor
from sqlalchemy import Engine, select

from dbtestcase import DatabaseTestCase, isolate
from tests.support import Base, Customer, problems, run_case


def copy(connection: Any) -> None:
    connection.cursor().copy_expert("COPY customer (name) FROM STDIN", StringIO("Ada\n"))


def with_another_cursor(connection: Any) -> None:
    connection.cursor(cursor_factory=RealDictCursor).execute("INSERT INTO customer (name) VALUES ('Ada')")


WAYS = (copy, with_another_cursor)


def write(engine: Engine, way: Any) -> None:
    with closing(engine.raw_connection()) as connection:
        way(connection)
        connection.commit()


class RawConnectionTests(unittest.TestCase):
    def test_what_a_test_on_a_copy_writes_reaches_no_other_test(self) -> None:
        for way in WAYS:

            class Shop(DatabaseTestCase):
                schema = Base
                isolation = "clone"

                def test_1(self) -> None:
                    self.assertEqual(self.session.scalars(select(Customer.name)).all(), [])
                    self.session.rollback()
                    write(self.engine, way)  # noqa: B023
                    self.assertEqual(self.session.scalars(select(Customer.name)).all(), ["Ada"])

                test_2 = test_3 = test_4 = test_5 = test_6 = test_1

            with self.subTest(way.__name__):
                self.assertEqual(problems(run_case(Shop)), [])

    def test_sequences_of_copies_stand_where_the_setup_of_the_class_has_left_them(self) -> None:
        for way in WAYS:

            class Shop(DatabaseTestCase):
                schema = Base

                @classmethod
                def setUpClass(cls) -> None:
                    super().setUpClass()
                    write(cls.engine, way)  # noqa: B023

                def test_1_counts_on(self) -> None:
                    self.session.add(Customer(name="Grace"))
                    self.session.commit()

                @isolate("clone")
                def test_2(self) -> None:
                    self.session.add(Customer(name="Grace"))
                    self.session.commit()
                    self.assertEqual(self.session.scalars(select(Customer.id).order_by(Customer.id)).all(), [1, 2])

            with self.subTest(way.__name__):
                self.assertEqual(problems(run_case(Shop)), [])
