"""Every engine's dialect has asked the server what it wants to know, whichever engine connected first."""

from __future__ import annotations

import unittest

from sqlalchemy import create_engine, inspect, text

import dbtestcase
from dbtestcase import DatabaseTestCase
from tests.support import Base, problems, run_case


class FirstConnectTests(unittest.TestCase):
    def test_engines_that_share_a_connection_know_the_server(self):
        for driver in ("psycopg2", "psycopg"):
            engine = create_engine(f"postgresql+{driver}://production.invalid/shop")

            class Shop(DatabaseTestCase):
                schema = Base
                app_engines = [engine]
                isolation = "savepoint"

                def test_1_after_another_engine(self, engine=engine):
                    with engine.begin() as connection:
                        connection.execute(text("CREATE TABLE kept (id int)"))
                        self.assertEqual(inspect(connection).get_columns("kept")[0]["name"], "id")
                    self.assertEqual(len(inspect(self.engine).get_columns("customer")), 2)

                def test_0_before_any_statement(self):
                    self.assertEqual(len(inspect(self.engine).get_columns("customer")), 2)

                def test_2_in_the_middle_of_a_transaction(self, driver=driver):
                    with self.engine.begin() as connection:
                        connection.execute(text("INSERT INTO customer (name) VALUES ('Ada')"))
                    late = create_engine(dbtestcase.URL.replace("psycopg2", driver))
                    self.assertEqual(len(inspect(late).get_columns("customer")), 2)
                    with self.engine.connect() as connection:
                        self.assertEqual(connection.scalar(text("SELECT count(*) FROM customer")), 1)

            with self.subTest(driver=driver):
                self.assertEqual(problems(run_case(Shop)), [])


if __name__ == "__main__":
    unittest.main()
