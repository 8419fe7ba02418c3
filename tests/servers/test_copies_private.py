"""What ``isolation = "clone"`` promises of a test's database and of the server around it, seen from a test class."""

from __future__ import annotations

import unittest

from sqlalchemy import text

from dbtestcase import DatabaseTestCase
from tests.support import of_throwaway_servers, problems, run_case

NUMBERED = "CREATE TABLE message (id serial, tx xid8 DEFAULT pg_current_xact_id())"


def restricted(connection):
    connection.exec_driver_sql(
        "ALTER DATABASE test SET app.mode = 'strict'; REVOKE TEMP ON DATABASE test FROM PUBLIC; CREATE ROLE reader"
    )


@of_throwaway_servers
class PrivateCopiesTests(unittest.TestCase):
    def test_settings_and_privileges_of_the_schema_s_database_are_there_in_each_copy(self):
        class Shop(DatabaseTestCase):
            schema = restricted
            isolation = "clone"

            def test_1(self):
                with self.engine.connect() as connection:
                    self.assertEqual(connection.scalar(text("SHOW app.mode")), "strict")
                    may_make_tables = "SELECT has_database_privilege('reader', current_database(), 'TEMP')"
                    self.assertFalse(connection.scalar(text(may_make_tables)))

            test_2 = test_1

        self.assertEqual(problems(run_case(Shop)), [])

    def test_what_a_test_adds_to_the_server_is_gone_in_the_next(self):
        class Shop(DatabaseTestCase):
            isolation = "clone"
            instances = set()

            def test_1(self):
                self.instances.add(self.instance)
                with self.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
                    self.assertIsNone(connection.scalar(text("SELECT current_setting('app.who', true)")))
                    connection.execute(text("CREATE ROLE visitor"))
                    connection.execute(text("CREATE DATABASE tenant OWNER visitor"))
                    connection.execute(text("ALTER ROLE CURRENT_USER SET app.who = 'me'"))
                    connection.execute(text("CREATE TABLE t (id int)"))
                    connection.execute(text("ALTER TABLE t OWNER TO visitor"))
                    connection.execute(text("BEGIN; INSERT INTO t VALUES (1); PREPARE TRANSACTION 'mine'"))

            test_2 = test_3 = test_1

        self.assertEqual(problems(run_case(Shop)), [])
        self.assertEqual(len(Shop.instances), 1)

    def test_what_a_test_changed_on_the_server_is_as_before_in_the_next(self):
        class Shop(DatabaseTestCase):
            schema = restricted
            isolation = "clone"

            def test_1(self):
                with self.engine.begin() as connection:
                    can_login = "SELECT rolcanlogin FROM pg_roles WHERE rolname = 'reader'"
                    self.assertFalse(connection.scalar(text(can_login)))
                    connection.execute(text("ALTER ROLE reader LOGIN"))

            test_2 = test_1

        self.assertEqual(problems(run_case(Shop)), [])

    def test_nothing_of_ours_is_seen_by_a_test_that_asks_who_else_is_on_the_server(self):
        class Shop(DatabaseTestCase):
            isolation = "clone"

            def schema(connection):
                connection.exec_driver_sql(NUMBERED)

            def test_1(self):
                with self.engine.begin() as connection:
                    connection.execute(text("INSERT INTO message DEFAULT VALUES"))
                with self.engine.begin() as connection:
                    done = "SELECT count(*) FROM message WHERE tx < pg_snapshot_xmin(pg_current_snapshot())"
                    self.assertEqual(connection.scalar(text(done)), 1)
                with self.engine.connect() as connection:
                    others = "SELECT query FROM pg_stat_activity WHERE datname > '' AND pid <> pg_backend_pid()"
                    self.assertEqual(connection.execute(text(others)).all(), [])

            test_2 = test_3 = test_4 = test_5 = test_6 = test_7 = test_8 = test_1

        self.assertEqual(problems(run_case(Shop)), [])


if __name__ == "__main__":
    unittest.main()
