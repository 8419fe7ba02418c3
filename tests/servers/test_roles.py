from __future__ import annotations

import unittest
from contextlib import closing, contextmanager

import psycopg2

from dbtestcase import ExistingPostgres
from dbtestcase.errors import DBTestCaseError, PostgresNotReady
from dbtestcase.servers import (
    EMPTY,
    Contents,
    ThrowawayPostgres,
    check_app_role,
    running_instance,
    start_instance,
    with_app_role,
)
from dbtestcase.servers.existing import server, start_existing
from tests.servers.plain_server import shared_server

PLAIN = ["CREATE TABLE invoice (id serial, tenant int)", "INSERT INTO invoice (tenant) VALUES (1), (2)"]
SECURED = [
    *PLAIN,
    "ALTER TABLE invoice ENABLE ROW LEVEL SECURITY",
    "CREATE POLICY own ON invoice TO shop_app USING (tenant = current_setting('app.tenant')::int)",
    "GRANT SELECT ON invoice TO shop_app",
]


def contents(*statements, role="shop_app"):
    def prepare(databases):
        for statement in statements:
            databases.execute(statement, database="test")

    made = Contents(fingerprint=f"test_roles {statements}", prepare=prepare) if statements else EMPTY
    return with_app_role(made, role, owner="ShopTests")


class RoleTests:
    """What the application's role is, on every kind of server."""

    role = "shop_app"

    @contextmanager
    def running(self, *statements):
        raise NotImplementedError

    @contextmanager
    def as_role(self, instance, database="test"):
        with closing(psycopg2.connect(**instance.dsn(database=database, role=self.role))) as connection:
            yield connection

    def rows(self, connection, sql):
        with connection.cursor() as cursor:
            cursor.execute(sql)
            return cursor.fetchall()

    def test_policies_and_grants_bind_it(self):
        with self.running(*SECURED) as instance, self.as_role(instance) as connection:
            self.assertEqual(self.rows(connection, "SELECT current_user"), [("shop_app",)])
            self.assertEqual(self.rows(connection, "SELECT set_config('app.tenant', '1', true)"), [("1",)])
            self.assertEqual(self.rows(connection, "SELECT count(*) FROM invoice"), [(1,)])
            with self.assertRaises(psycopg2.errors.InsufficientPrivilege):
                self.rows(connection, "DELETE FROM invoice RETURNING 1")

    def test_where_the_schema_grants_it_nothing_it_may_change_rows_and_use_sequences(self):
        with self.running(*PLAIN, "CREATE SCHEMA more", "CREATE TABLE more.item (id serial)") as instance:
            instance.execute("CREATE TABLE later (id serial)", database="test")
            with self.as_role(instance) as connection:
                for table in ("invoice", "more.item", "later"):
                    self.assertNotEqual(self.rows(connection, f"INSERT INTO {table} DEFAULT VALUES RETURNING id"), [])
                    self.rows(connection, f"UPDATE {table} SET id = id RETURNING id")
                connection.commit()
                with self.assertRaises(psycopg2.errors.InsufficientPrivilege):
                    self.rows(connection, "DROP TABLE invoice")

    def test_it_is_there_in_copies_and_in_an_empty_database(self):
        with self.running() as instance:
            ready = instance.take_ready_connection()
            if ready is not None:
                ready.close()
            copy = instance.new_copy_name("test")
            instance.clone_database("test", copy)
            with self.as_role(instance, copy) as connection:
                self.assertEqual(self.rows(connection, "SELECT current_user"), [("shop_app",)])
            instance.drop_database(copy)

    def test_the_url_names_it(self):
        from sqlalchemy import create_engine, text

        with self.running() as instance:
            engine = create_engine(instance.url(database="test", role=self.role))
            with engine.connect() as connection:
                self.assertEqual(connection.scalar(text("SELECT current_user")), "shop_app")
            engine.dispose()


class ThrowawayTests(RoleTests, unittest.TestCase):
    @contextmanager
    def running(self, *statements):
        with running_instance(ThrowawayPostgres(), contents(*statements)) as instance:
            yield instance

    def test_a_schema_that_makes_it_itself_is_told(self):
        with self.assertRaises(psycopg2.Error) as caught:
            start_instance(ThrowawayPostgres(), contents("CREATE ROLE shop_app"))

        self.assertIn("ShopTests.app_role", caught.exception.__notes__[0])

    def test_a_schema_that_makes_it_a_superuser_is_refused(self):
        for right in ("SUPERUSER", "BYPASSRLS"):
            with self.subTest(right), self.assertRaisesRegex(DBTestCaseError, "would not bind it"):
                start_instance(ThrowawayPostgres(), contents(f"ALTER ROLE shop_app {right}"))

    def test_contents_with_and_without_it_are_not_the_same(self):
        keys = {contents(*statements, role=role).key for statements in ((), PLAIN) for role in (None, "a", "b")}

        self.assertEqual(len(keys), 6)

    def test_what_can_be_no_role_of_an_application_is_refused_with_the_attribute_s_name(self):
        for role in ("", 5, "postgres", "pg_monitor", "public", "x" * 64, b"shop"):
            with self.subTest(role), self.assertRaisesRegex(DBTestCaseError, r"ShopTests\.app_role"):
                check_app_role(role, "ShopTests")
        check_app_role(None, "ShopTests")
        check_app_role("Shop's app", "ShopTests")


class ExistingTests(RoleTests, unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.plain = shared_server()
        cls.plain.execute("CREATE ROLE shop_app")
        cls.plain.execute("GRANT shop_app TO tester")

    def setUp(self):
        self.addCleanup(server.drop_everything)

    @contextmanager
    def running(self, *statements):
        with running_instance(ExistingPostgres(self.plain.url()), contents(*statements)) as instance:
            yield instance

    def error(self, role):
        with self.assertRaises(PostgresNotReady) as caught:
            start_existing(ExistingPostgres(self.plain.url()), contents(role=role))
        return str(caught.exception)

    def test_what_an_administrator_has_put_into_every_database_is_left_as_it_is(self):
        self.plain.execute("CREATE TABLE theirs (id serial)", database="template1")
        self.addCleanup(self.plain.execute, "DROP TABLE theirs", database="template1")

        with self.running("CREATE TABLE ours (id serial)") as instance, self.as_role(instance) as connection:
            self.assertEqual(self.rows(connection, "INSERT INTO ours DEFAULT VALUES RETURNING id"), [(1,)])
            with self.assertRaises(psycopg2.errors.InsufficientPrivilege):
                self.rows(connection, "TABLE theirs")

    def test_a_role_that_cannot_be_had_is_told_with_what_an_administrator_has_to_do(self):
        self.plain.execute("CREATE ROLE stranger")

        self.assertIn('CREATE ROLE "missing"; GRANT "missing" TO "tester"', self.error("missing"))
        self.assertIn('GRANT "stranger" TO "tester"', self.error("stranger"))
        self.assertIn("ShopTests.app_role", self.error("missing"))

    def test_who_may_create_roles_gets_one(self):
        self.plain.execute("CREATE ROLE maker LOGIN CREATEDB CREATEROLE PASSWORD 'm'")
        options = ExistingPostgres(self.plain.url("maker", password="m"))
        made = contents(*PLAIN, role="Made Here")
        with (
            running_instance(options, made) as instance,
            closing(psycopg2.connect(**instance.dsn(role="Made Here"))) as connection,
        ):
            found = self.rows(connection, "SELECT current_user, count(*) FROM invoice")
            self.assertEqual(found, [("Made Here", 2)])


if __name__ == "__main__":
    unittest.main()
