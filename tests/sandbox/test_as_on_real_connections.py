"""Small programs of the code under test that come to the same in the one transaction as on real connections."""

from __future__ import annotations

import os
import unittest
import warnings
from typing import Any

import sqlalchemy as sa
from sqlalchemy import event, text
from sqlalchemy.exc import DisconnectionError, ProgrammingError

from dbtestcase import DatabaseTestCase
from tests.support import Base, Customer, problems, run_case

DRIVERS = ("psycopg2", "psycopg")


def app_engine(driver: str, **options: Any) -> sa.Engine:
    return sa.create_engine(f"postgresql+{driver}://production.invalid/shop", **options)


class EngineTests(unittest.TestCase):
    def test_a_checkout_listener_finds_what_a_connect_listener_has_noted(self) -> None:
        for driver in DRIVERS:
            engine = app_engine(driver)
            calls: list[str] = []

            @event.listens_for(engine, "connect")
            def note(connection: Any, record: Any) -> None:
                record.info["pid"] = os.getpid()

            @event.listens_for(engine, "checkout")
            def check(connection: Any, record: Any, proxy: Any) -> None:
                if record.info["pid"] != os.getpid():
                    raise DisconnectionError

            class Shop(DatabaseTestCase):
                schema = Base
                app_engines = [engine]

                def test_it(self) -> None:
                    calls.append("run")
                    with self.app_engines[0].begin() as connection:
                        connection.execute(Customer.__table__.insert(), {"name": "Ada"})

            with self.subTest(driver):
                self.assertEqual(problems(run_case(Shop)), [])
                self.assertEqual(calls, ["run"])

    def test_the_name_of_an_application_is_that_of_the_engine_that_asks(self) -> None:
        for driver in DRIVERS:

            class Shop(DatabaseTestCase):
                schema = Base
                app_engines = [app_engine(driver, connect_args={"application_name": "shop"})]

                def test_it(self) -> None:
                    self.session.add(Customer(name="Ada"))
                    self.session.commit()
                    for asked in ("SHOW application_name", "SELECT current_setting('application_name')"):
                        with self.app_engines[0].connect() as connection:
                            self.assertEqual(connection.scalar(text(asked)), "shop")

            with self.subTest(driver):
                self.assertEqual(problems(run_case(Shop)), [])

    def test_a_setting_that_is_updated_is_that_of_its_connection(self) -> None:
        class Shop(DatabaseTestCase):
            def test_it(self) -> None:
                with self.engine.connect() as one:
                    one.execute(text("UPDATE pg_settings SET setting = '1234' WHERE name = 'work_mem'"))
                    one.commit()
                    with self.engine.connect() as other:
                        self.assertEqual(one.scalar(text("SHOW work_mem")), "1234kB")
                        self.assertNotEqual(other.scalar(text("SHOW work_mem")), "1234kB")

        self.assertEqual(problems(run_case(Shop)), [])


class CursorTests(unittest.TestCase):
    def test_a_server_side_cursor_that_is_read_after_a_commit_fails_as_it_does(self) -> None:
        for driver in DRIVERS:

            class Shop(DatabaseTestCase):
                app_engines = [app_engine(driver)]

                def test_it(self) -> None:
                    with self.app_engines[0].connect() as connection:
                        numbers = text("SELECT generate_series(1, 5000)").execution_options(yield_per=10)
                        rows = connection.execute(numbers)
                        rows.fetchone()
                        connection.commit()
                        with self.assertRaises(ProgrammingError):
                            rows.fetchall()

            with self.subTest(driver):
                self.assertEqual(problems(run_case(Shop)), [])


class ReaderTests(unittest.TestCase):
    def test_create_all_beside_a_reader_waits_for_nobody_and_warns_of_nothing(self) -> None:
        more = sa.MetaData()
        sa.Table("more", more, sa.Column("id", sa.Integer, primary_key=True, index=True, comment="a number"))

        class Shop(DatabaseTestCase):
            schema = Base

            def test_it(self) -> None:
                self.session.scalars(sa.select(Customer)).all()
                more.create_all(self.engine)

        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            self.assertEqual(problems(run_case(Shop)), [])
        self.assertEqual([str(each.message) for each in caught], [])
