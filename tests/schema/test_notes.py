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
