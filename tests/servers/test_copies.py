from __future__ import annotations

import os
import tempfile
import unittest
from contextlib import closing
from pathlib import Path

from dbtestcase.servers import ThrowawayPostgres, start_instance
from dbtestcase.servers.copies import CloneSupply, looks_at_other_sessions
from dbtestcase.servers.databases import awaiting_their_end
from dbtestcase.servers.shared_state import SharedState

OTHER_SESSIONS = """
SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()
"""


def close_and_wait(connections):
    with awaiting_their_end(connections):
        for connection in connections:
            connection.close()


class InstanceTestCase(unittest.TestCase):
    """One server for all tests of a class, each with a copy of its own of the database ``test``."""

    settings: dict[str, object] = {}

    @classmethod
    def setUpClass(cls):
        cls.instance = start_instance(ThrowawayPostgres(settings=cls.settings))
        cls.addClassCleanup(cls.instance.stop)

    def run_in(self, database, *statements):
        for statement in statements:
            self.instance.execute(statement, database=database)

    def names(self, catalog, column):
        return {name for (name,) in self.instance.query(f"SELECT {column} FROM {catalog}")}


class SharedStateTests(InstanceTestCase):
    def setUp(self):
        self.copy = self.instance.new_copy_name("test")
        self.instance.clone_database("test", self.copy)
        self.addCleanup(self.instance.drop_database, self.copy)
        self.state = SharedState(self.instance)

    def test_a_server_that_nobody_changed_is_as_it_was(self):
        self.run_in(self.copy, "CREATE TABLE t (id int)", "INSERT INTO t VALUES (1)")

        self.assertTrue(self.state.is_unchanged())
        self.assertIn(self.copy, self.names("pg_database", "datname"))

    def test_roles_and_what_they_own_or_may_do_are_gone(self):
        self.run_in(
            self.copy,
            "CREATE ROLE visitor LOGIN",
            'CREATE ROLE "Owner"',
            'GRANT visitor TO "Owner"',
            "ALTER ROLE visitor SET search_path = 'x'",
            "GRANT CONNECT ON DATABASE test TO visitor",
            'CREATE TABLE t (id int); ALTER TABLE t OWNER TO "Owner"',
        )

        self.assertTrue(self.state.restore([self.copy]))
        self.assertFalse(self.names("pg_roles", "rolname") & {"visitor", "Owner"})

    def test_databases_are_gone_although_somebody_is_connected(self):
        self.run_in(self.copy, 'CREATE DATABASE "tenant 1"', "ALTER DATABASE \"tenant 1\" SET work_mem = '1MB'")
        with closing(self.instance.connect("tenant 1")):
            self.assertTrue(self.state.restore([self.copy]))

        self.assertNotIn("tenant 1", self.names("pg_database", "datname"))

    def test_prepared_transactions_are_rolled_back(self):
        with closing(self.instance.connect(self.copy)) as connection, connection.cursor() as cursor:
            cursor.execute("CREATE TABLE t (id int)")
            cursor.execute("PREPARE TRANSACTION 'it''s mine'")

            self.assertTrue(self.state.restore([self.copy]))

        self.assertEqual(self.names("pg_prepared_xacts", "gid"), set())

    def test_settings_of_roles_and_databases_are_gone(self):
        self.run_in(
            self.copy,
            "ALTER ROLE CURRENT_USER SET app.who = 'me'",
            "ALTER ROLE postgres IN DATABASE test SET app.who = 'me'",
            "ALTER DATABASE test SET app.who = 'me'",
            "ALTER ROLE ALL SET app.who = 'all'",
        )

        self.assertTrue(self.state.restore([self.copy]))
        self.assertEqual(self.names("pg_db_role_setting", "setconfig::text"), set())

    def test_a_tablespace_is_gone(self):
        folder = Path(tempfile.mkdtemp(dir=self.instance.base_dir))
        os.chown(folder, self.instance.data_dir.stat().st_uid, -1)
        self.run_in(self.copy, f"CREATE TABLESPACE fast LOCATION '{folder}'", "CREATE TABLE t (id int) TABLESPACE fast")

        self.assertTrue(self.state.restore([self.copy]))
        self.assertNotIn("fast", self.names("pg_tablespace", "spcname"))

    def test_copies_that_come_and_go_are_no_change(self):
        other = self.instance.new_copy_name("test")
        self.addCleanup(self.instance.drop_database, other)
        self.instance.clone_database("test", other)
        self.run_in(other, f"ALTER DATABASE {other} SET work_mem = '1MB'; COMMENT ON DATABASE {other} IS 'a copy'")

        self.assertTrue(self.state.is_unchanged())
        self.assertIn(other, self.names("pg_database", "datname"))


class LostStateTests(InstanceTestCase):
    """What a test changed or removed cannot be put back."""

    def setUp(self):
        self.instance.execute("DROP ROLE IF EXISTS clerk")
        self.instance.execute("CREATE ROLE clerk PASSWORD 'one'")
        self.instance.execute("ALTER ROLE clerk SET app.who = 'me'")
        self.state = SharedState(self.instance)

    def test_what_was_changed_is_told(self):
        for statement in (
            "ALTER ROLE clerk PASSWORD 'two'",
            "ALTER ROLE clerk SUPERUSER",
            "ALTER ROLE clerk SET app.who = 'you'",
            "ALTER ROLE clerk RENAME TO writer",
            "GRANT CONNECT ON DATABASE test TO clerk",
            "ALTER SYSTEM SET work_mem = '1MB'",
            "COMMENT ON ROLE clerk IS 'changed'",
            "DROP ROLE clerk",
        ):
            with self.subTest(statement):
                self.setUp()
                self.instance.execute(statement)
                self.assertFalse(self.state.restore([]))
                self.instance.execute("DROP ROLE IF EXISTS writer; REVOKE ALL ON DATABASE test FROM clerk"
                                      if "RENAME" not in statement and "DROP" not in statement
                                      else "DROP ROLE IF EXISTS writer")  # fmt: skip
                self.instance.execute("ALTER SYSTEM RESET ALL")


class PropertiesTests(InstanceTestCase):
    def copy_of_test(self):
        supply = CloneSupply(self.instance, "test", lambda name: None, lambda nothing: None)
        self.addCleanup(supply.close)
        return supply.take(following=0).name

    def test_a_copy_has_the_settings_of_its_original(self):
        self.run_in(
            "postgres",
            "CREATE ROLE clerk LOGIN SUPERUSER",
            "ALTER DATABASE test SET app.mode = 'it''s \\ strict'",
            "ALTER DATABASE test SET search_path = \"$user\", 'Odd, name', public",
            "ALTER ROLE clerk IN DATABASE test SET \"TimeZone\" = 'Europe/Berlin'",
            "ALTER ROLE clerk IN DATABASE test SET search_path = ''",
        )
        expected = {("app.mode", "it's \\ strict"), ("search_path", '"$user", "Odd, name", public')}

        copy = self.copy_of_test()

        for name, value in expected:
            with closing(self.instance.connect(copy)) as connection, connection.cursor() as cursor:
                cursor.execute(f"SHOW {name}")
                self.assertEqual(cursor.fetchone()[0], value)
        with closing(self.instance.connect(copy, user="clerk")) as connection, connection.cursor() as cursor:
            for name, value in (("TimeZone", "Europe/Berlin"), ("search_path", '""')):
                cursor.execute(f"SHOW {name}")
                self.assertEqual(cursor.fetchone()[0], value)

    def test_a_copy_has_the_owner_privileges_limit_and_comment_of_its_original(self):
        self.run_in(
            "postgres",
            'CREATE ROLE "The Owner"',
            "CREATE ROLE reader",
            "CREATE ROLE writer",
            'ALTER DATABASE test OWNER TO "The Owner"',
            "REVOKE ALL ON DATABASE test FROM PUBLIC",
            "GRANT CONNECT ON DATABASE test TO reader",
            "GRANT CONNECT, TEMP ON DATABASE test TO writer WITH GRANT OPTION",
            "ALTER DATABASE test CONNECTION LIMIT 7",
            "COMMENT ON DATABASE test IS 'it''s the one'",
        )
        query = """
            SELECT pg_get_userbyid(datdba), datconnlimit, shobj_description(oid, 'pg_database'),
                (SELECT array_agg(item::text ORDER BY item::text) FROM unnest(datacl) item)
            FROM pg_database WHERE datname = %s
        """

        copy = self.copy_of_test()

        self.assertEqual(self.instance.query(query, [copy]), self.instance.query(query, ["test"]))
        self.assertEqual(self.instance.query(query, [copy])[0][0], "The Owner")


class AloneTests(InstanceTestCase):
    def supply(self, **options):
        def connect(name):
            return [self.instance.connect(name) for _ in range(2)]

        supply = CloneSupply(self.instance, "test", connect, close_and_wait, **options)
        self.addCleanup(supply.close)
        return supply

    def other_sessions(self, copy):
        connection = self.instance.connect(copy)
        try:
            with connection.cursor() as cursor:
                cursor.execute(OTHER_SESSIONS)
                return cursor.fetchone()[0]
        finally:
            close_and_wait([connection])  # or the next count includes it

    def oldest_running(self, copy):
        with closing(self.instance.connect(copy)) as connection, connection.cursor() as cursor:
            cursor.execute("SELECT pg_current_xact_id()::text, pg_snapshot_xmin(pg_current_snapshot())::text")
            found = cursor.fetchone()
            connection.commit()  # a server process on its way out would still hold its transaction
            return found

    def test_whoever_pauses_it_is_alone_on_the_server(self):
        supply = self.supply()
        for _ in range(6):
            copy = supply.take(following=5)
            supply.discard(copy.name, lambda copy=copy: close_and_wait(copy.connections))
        copy = supply.take(following=5)
        close_and_wait(copy.connections)

        supply.pause()

        self.assertEqual(self.other_sessions(copy.name), 0)
        for _ in range(20):
            mine, oldest = self.oldest_running(copy.name)
            self.assertEqual(mine, oldest)

    def test_after_a_pause_copies_are_made_again(self):
        supply = self.supply()
        names = []
        for _ in range(3):
            copy = supply.take(following=2)
            supply.pause()
            names.append(copy.name)
            with closing(self.instance.connect(copy.name)) as connection, connection.cursor() as cursor:
                cursor.execute("SELECT current_database()")
                self.assertEqual(cursor.fetchone()[0], copy.name)

        self.assertEqual(len(set(names)), 3)

    def test_those_who_are_to_be_alone_are_so_from_the_start(self):
        supply = self.supply(alone=True)
        for _ in range(4):
            copy = supply.take(following=5)
            close_and_wait(copy.connections)
            self.assertEqual(self.other_sessions(copy.name), 0)
            supply.discard(copy.name, lambda: None)

    def test_which_statements_look_at_other_sessions(self):
        for sql in (
            "SELECT pg_current_snapshot()",
            "select * from PG_STAT_ACTIVITY",
            "SELECT txid_current_snapshot()",
            "SELECT xmin FROM t",
            "SELECT age(datfrozenxid) FROM pg_database",
            "SELECT * FROM pg_locks",
            "SELECT pg_last_committed_xact()",
        ):
            with self.subTest(sql):
                self.assertTrue(looks_at_other_sessions(sql))
        for sql in (
            "SELECT pg_catalog.version()",
            "SELECT relname FROM pg_catalog.pg_class",
            "SELECT txid_current(), pg_current_xact_id()",
            "SELECT average(x) FROM page",
            "SELECT max(price) FROM box",
        ):
            with self.subTest(sql):
                self.assertFalse(looks_at_other_sessions(sql))


if __name__ == "__main__":
    unittest.main()
