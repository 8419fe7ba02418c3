"""A connection that is alone in its test: the one transaction carries what real ones would, and nothing runs again."""

from __future__ import annotations

import unittest
from typing import Any
from unittest import skipIf

import sqlalchemy as sa

from tests.sandbox.support import DRIVERS, Items, application_engine, count, run_noting_reasons
from tests.support import problems


class SandboxTests(unittest.TestCase):
    def check_runs_once(self, case: Any) -> None:
        result, reasons = run_noting_reasons(case)
        self.assertEqual(problems(result), [])
        self.assertEqual(reasons, {})


class StateTests(SandboxTests):
    def test_a_cursor_ends_with_its_transaction(self) -> None:
        for driver in DRIVERS:
            with self.subTest(driver):
                engine = application_engine(driver)

                class Shop(Items):
                    app_engines = [engine]

                    def test_fetch(self) -> None:
                        with engine.connect() as connection:
                            connection.execute(
                                sa.text("DECLARE numbers CURSOR FOR SELECT * FROM generate_series(1, 3)")
                            )
                            self.assertEqual(connection.scalar(sa.text("FETCH numbers")), 1)
                            connection.commit()
                            with self.assertRaisesRegex(sa.exc.DBAPIError, 'cursor "numbers" does not exist'):
                                connection.execute(sa.text("FETCH numbers"))
                        self.assertEqual(count(engine), 0)

                self.check_runs_once(Shop)

    def test_a_second_connection_may_speak_once_the_cursor_is_gone_and_not_before(self) -> None:
        engine = application_engine()

        class Shop(Items):
            app_engines = [engine]

            def test_after(self) -> None:
                with engine.connect() as connection, engine.connect() as other:
                    connection.execute(sa.text("DECLARE numbers CURSOR FOR SELECT 1"))
                    connection.commit()
                    other.execute(sa.text("SELECT 1"))

            def test_before(self) -> None:
                with engine.connect() as connection, engine.connect() as other:
                    connection.execute(sa.text("DECLARE numbers CURSOR FOR SELECT 1"))
                    other.execute(sa.text("SELECT 1"))

        result, reasons = run_noting_reasons(Shop)

        self.assertEqual(problems(result), [])
        self.assertEqual(list(reasons), ["test_before"])
        self.assertIn("came while another connection has a cursor: DECLARE numbers", reasons["test_before"])

    def test_autocommit_takes_schema_changes_and_settings(self) -> None:
        engine = application_engine(isolation_level="AUTOCOMMIT")

        class Shop(Items):
            app_engines = [engine]

            def test_it(self) -> None:
                with engine.connect() as connection:
                    connection.execute(sa.text("CREATE TABLE shelf (id int PRIMARY KEY)"))
                    connection.execute(sa.text("SET work_mem = '5MB'"))
                    with self.assertRaises(sa.exc.ProgrammingError):
                        connection.execute(sa.text("CREATE TABLE shelf (id int)"))
                    connection.execute(sa.text("INSERT INTO shelf VALUES (1)"))
                    self.assertEqual(connection.scalar(sa.text("SELECT id FROM shelf")), 1)
                    self.assertEqual(connection.scalar(sa.text("SHOW work_mem")), "5MB")

        self.check_runs_once(Shop)

    def test_a_statement_that_fails_leaves_no_state(self) -> None:
        engine = application_engine()

        class Shop(Items):
            app_engines = [engine]

            def test_it(self) -> None:
                with engine.connect() as connection:
                    with self.assertRaisesRegex(sa.exc.DBAPIError, "does not exist"):
                        connection.execute(sa.text("EXECUTE nothing"))
                    connection.rollback()
                    self.assertEqual(count(engine), 0)

        self.check_runs_once(Shop)

    def test_a_setting_of_nobody_s_that_was_local_is_unknown_to_the_next_test_and_to_other_connections(self) -> None:
        engine = application_engine()

        def tenant(connection: sa.Connection) -> Any:
            return connection.scalar(sa.text("SELECT current_setting('app.tenant', true)"))

        class Shop(Items):
            app_engines = [engine]

            def test_1_commits(self) -> None:
                with engine.begin() as connection:
                    connection.execute(sa.text("SET LOCAL app.tenant = '7'"))

            def test_2_is_the_next_one(self) -> None:
                with engine.connect() as connection:
                    self.assertIsNone(tenant(connection))

            def test_3_fails_behind_it(self) -> None:
                with engine.connect() as connection, self.assertRaises(sa.exc.DataError):
                    connection.exec_driver_sql("SET LOCAL app.tenant = '7'; SELECT 1 / 0")

            test_4_is_the_next_one = test_2_is_the_next_one

            def test_5_has_two_connections(self) -> None:
                with engine.connect() as one, engine.connect() as other:
                    one.execute(sa.text("SET LOCAL app.tenant = '7'"))
                    one.rollback()
                    self.assertEqual([tenant(one), tenant(other)], ["", None])

        result, reasons = run_noting_reasons(Shop)

        self.assertEqual(problems(result), [])
        self.assertEqual(list(reasons), ["test_5_has_two_connections"])

    def test_a_query_that_fails_after_a_commit_is_met_prepared_the_second_time(self) -> None:
        engine = application_engine()

        class Shop(Items):
            app_engines = [engine]

            def test_1(self) -> None:
                with engine.connect() as connection:
                    connection.execute(sa.text("INSERT INTO item VALUES (1)"))
                    connection.commit()
                    with self.assertRaises(sa.exc.DataError):
                        connection.execute(sa.text("SELECT 1 / 0"))
                    connection.rollback()
                    self.assertEqual(count(engine), 1)

            test_2 = test_1

        result, reasons = run_noting_reasons(Shop)

        self.assertEqual(problems(result), [])
        self.assertEqual(list(reasons), ["test_1"])


class ConstraintTests(SandboxTests):
    def test_one_that_is_made_after_a_commit_is_as_deferred_as_it_says(self) -> None:
        engine = application_engine()

        class Shop(Items):
            app_engines = [engine]

            @staticmethod
            def schema(connection: sa.Connection) -> None:  # type: ignore[override]
                connection.exec_driver_sql(
                    "CREATE TABLE item (id int UNIQUE DEFERRABLE, n int);"
                    "CREATE FUNCTION bound() RETURNS void LANGUAGE plpgsql AS $$ BEGIN"
                    " ALTER TABLE item ADD CONSTRAINT late UNIQUE (n) DEFERRABLE INITIALLY DEFERRED; END $$"
                )

            def check_with(self, sql: str) -> None:
                with engine.connect() as connection:
                    connection.execute(sa.text("INSERT INTO item VALUES (1, 1)"))
                    connection.commit()
                    connection.execute(sa.text(sql))
                    connection.execute(sa.text("INSERT INTO item VALUES (2, 1)"))
                    with self.assertRaisesRegex(sa.exc.IntegrityError, "late"):
                        connection.commit()
                self.assertEqual(count(engine), 1)

            def test_by_a_statement(self) -> None:
                self.check_with("ALTER TABLE item ADD CONSTRAINT late UNIQUE (n) DEFERRABLE INITIALLY DEFERRED")

            def test_by_a_function(self) -> None:
                self.check_with("SELECT bound()")

        self.check_runs_once(Shop)

    def test_one_that_is_gone_unseen_makes_the_test_run_again(self) -> None:
        engine = application_engine()

        class Shop(Items):
            app_engines = [engine]

            @staticmethod
            def schema(connection: sa.Connection) -> None:  # type: ignore[override]
                connection.exec_driver_sql(
                    "CREATE TABLE item (id int CONSTRAINT late UNIQUE DEFERRABLE, n int);"
                    "CREATE FUNCTION free() RETURNS void LANGUAGE plpgsql AS $$ BEGIN"
                    " EXECUTE format('ALTER TAB%%s item DROP CON%%s late', 'LE', 'STRAINT'); END $$"
                )

            def test_it(self) -> None:
                with engine.begin() as connection:
                    connection.execute(sa.text("SELECT free()"))
                    connection.execute(sa.text("INSERT INTO item VALUES (1, 1), (1, 2)"))
                self.assertEqual(count(engine), 2)

        result, reasons = run_noting_reasons(Shop)

        self.assertEqual(problems(result), [])
        self.assertIn("constraints that it may not name", reasons["test_it"])

    def test_all_that_were_set_are_as_the_schema_says_after_commit(self) -> None:
        engine = application_engine()

        class Shop(Items):
            app_engines = [engine]

            @staticmethod
            def schema(connection: sa.Connection) -> None:  # type: ignore[override]
                connection.exec_driver_sql("CREATE TABLE item (id int UNIQUE DEFERRABLE)")

            def test_it(self) -> None:
                with engine.connect() as connection:
                    connection.execute(sa.text("SET CONSTRAINTS ALL DEFERRED"))
                    connection.execute(sa.text("INSERT INTO item VALUES (1), (1)"))
                    connection.execute(sa.text("DELETE FROM item"))
                    connection.commit()
                    with self.assertRaises(sa.exc.IntegrityError):
                        connection.execute(sa.text("INSERT INTO item VALUES (1), (1)"))

        self.check_runs_once(Shop)


@skipIf("psycopg" not in DRIVERS, "psycopg is not installed")
class PsycopgTests(SandboxTests):
    def test_prepared_statements_go_on_after_a_schema_change_that_was_rolled_back(self) -> None:
        engine = application_engine("psycopg")

        class Shop(Items):
            app_engines = [engine]

            def test_it(self) -> None:
                with engine.connect() as connection:
                    connection.execute(sa.text("ALTER TABLE item ADD COLUMN more int"))
                    for _ in range(7):  # the driver prepares what is sent more than five times
                        self.assertEqual(len(connection.execute(sa.text("SELECT * FROM item")).keys()), 3)
                    connection.rollback()
                    self.assertEqual(len(connection.execute(sa.text("SELECT * FROM item")).keys()), 2)

        self.check_runs_once(Shop)

    def test_copy_of_a_cursor(self) -> None:
        engine = application_engine("psycopg")

        class Shop(Items):
            app_engines = [engine]

            def test_rows(self) -> None:
                with engine.connect() as connection, connection.connection.cursor() as cursor:
                    with cursor.copy("COPY item FROM STDIN") as copy:
                        copy.write_row((1, 2))
                    with cursor.copy("COPY (SELECT id, n FROM item) TO STDOUT") as copy:
                        self.assertEqual([bytes(row) for row in copy], [b"1\t2\n"])
                    connection.connection.rollback()
                self.assertEqual(count(engine), 0)

            def test_it_fails(self) -> None:
                from psycopg.errors import InFailedSqlTransaction, UniqueViolation

                with engine.connect() as connection, connection.connection.cursor() as cursor:
                    with self.assertRaises(UniqueViolation), cursor.copy("COPY item FROM STDIN") as copy:
                        copy.write("1\t1\n1\t2\n")
                    with self.assertRaises(InFailedSqlTransaction):
                        cursor.execute("SELECT 1")
                    connection.connection.rollback()
                    with self.assertRaises(ZeroDivisionError), cursor.copy("COPY item FROM STDIN"):
                        raise ZeroDivisionError
                    with self.assertRaises(InFailedSqlTransaction):
                        cursor.execute("SELECT 1")
                self.assertEqual(count(engine), 0)

        self.check_runs_once(Shop)

    def test_what_another_connection_sends_during_a_copy_runs_on_real_connections(self) -> None:
        engine = application_engine("psycopg")

        class Shop(Items):
            app_engines = [engine]

            def test_it(self) -> None:
                with (
                    engine.connect() as connection,
                    connection.connection.cursor() as cursor,
                    cursor.copy("COPY (SELECT 1) TO STDOUT") as copy,
                ):
                    self.assertEqual(count(engine), 0)
                    self.assertEqual([bytes(row) for row in copy], [b"1\n"])

        result, reasons = run_noting_reasons(Shop)

        self.assertEqual(problems(result), [])
        self.assertEqual(list(reasons), ["test_it"])


if __name__ == "__main__":
    unittest.main()
