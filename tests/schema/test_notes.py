"""What the schema's own code does is kept with the template, and each class that starts from it has it."""

from __future__ import annotations

import unittest

from sqlalchemy import Connection

from dbtestcase import DatabaseTestCase
from tests.support import run_case


def create_outbox(connection: Connection) -> None:
    connection.exec_driver_sql("CREATE TABLE outbox (tx bigint DEFAULT txid_current())")


class NotesTests(unittest.TestCase):
    def test_an_instance_has_the_facts_of_each_database(self) -> None:
        class Outboxes(DatabaseTestCase):
            schema = {"shop": create_outbox, "empty": None}

            def test_facts(self) -> None:
                found = self.instance.notes["effects"]

                self.assertEqual(
                    found["shop"]["implicit"], [{"what": "default of outbox.tx", "text": "txid_current()"}]
                )
                self.assertEqual(found["empty"]["implicit"], [])
                self.assertIn("nextval", found["empty"]["volatile"])

        for _ in range(2):  # the template is made, and used
            result = run_case(Outboxes)

            self.assertEqual(result.errors + result.failures, [])
            self.assertEqual(result.testsRun, 1)

    def test_without_a_schema_there_are_those_of_the_server(self) -> None:
        class Empty(DatabaseTestCase):
            def test_facts(self) -> None:
                self.assertIn("nextval", self.instance.notes["effects"]["test"]["volatile"])

        result = run_case(Empty)

        self.assertEqual(result.errors + result.failures, [])
        self.assertEqual(result.testsRun, 1)

    def test_a_function_that_calls_one_that_needs_real_connections_needs_them_too(self) -> None:
        class Calls(DatabaseTestCase):
            @staticmethod
            def schema(connection: Connection) -> None:
                connection.exec_driver_sql(
                    "CREATE FUNCTION inner_number() RETURNS bigint LANGUAGE sql AS 'SELECT txid_current()';"
                    "CREATE FUNCTION number() RETURNS bigint LANGUAGE sql AS 'SELECT inner_number()'"
                )

            def test_number(self) -> None:
                numbers = []
                for _ in range(2):
                    with self.engine.begin() as connection:
                        numbers.append(connection.exec_driver_sql("SELECT number()").scalar())

                self.assertEqual(*numbers)  # true in one transaction only

        result = run_case(Calls)

        self.assertEqual((len(result.failures), len(result.errors)), (1, 0), result.errors)
