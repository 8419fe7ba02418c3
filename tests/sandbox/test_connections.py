"""Connections and cursors in the one transaction: what they have, what they carry, and what runs on real ones."""

from __future__ import annotations

import io
import threading
import unittest
import warnings
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Session

from dbtestcase import isolate
from dbtestcase.errors import IsolationBroken, IsolationWarning, LockWait
from tests.sandbox.support import DRIVERS, Items, add, application_engine, count, run_noting_reasons
from tests.support import problems


def deferrable(connection: sa.Connection) -> None:
    connection.exec_driver_sql(
        "CREATE TABLE parent (id int PRIMARY KEY);"
        "CREATE TABLE child (parent int REFERENCES parent DEFERRABLE INITIALLY DEFERRED);"
        "CREATE TYPE mood AS ENUM ('good')"
    )


class SandboxTests(unittest.TestCase):
    def run_twice_or_not(self, *cases: Any) -> dict[str, str]:
        """Run test classes, in which nothing may go wrong; return why tests ran twice."""
        result, reasons = run_noting_reasons(*cases)
        self.assertEqual(problems(result), [])
        return reasons


class CursorTests(SandboxTests):
    def test_a_raw_cursor_has_exactly_what_the_drivers_has(self) -> None:
        for driver in DRIVERS:
            with self.subTest(driver):
                engine = application_engine(driver)
                seen: list[Any] = []

                class Shop(Items):
                    app_engines = [engine]

                    def test_names(self) -> None:
                        connection = engine.raw_connection()
                        cursor = connection.cursor()
                        seen.append({name for name in dir(cursor) if not name.startswith("_")})
                        self.assertIs(cursor.connection, connection.dbapi_connection)
                        connection.close()

                    @isolate("clone")
                    def test_names_of_a_real_one(self) -> None:
                        self.test_names()

                self.assertEqual(self.run_twice_or_not(Shop), {})
                # The gate has one attribute of its own.
                self.assertEqual(seen[0] - {"sandboxed"}, seen[1])

    def test_composed_statements_are_read(self) -> None:
        from psycopg2 import sql

        composed = {"psycopg2": sql}
        if "psycopg" in DRIVERS:
            from psycopg import sql as psycopg_sql

            composed["psycopg"] = psycopg_sql  # type: ignore[assignment]
        for driver, module in composed.items():
            with self.subTest(driver):
                engine = application_engine(driver)

                class Shop(Items):
                    app_engines = [engine]

                    def test_insert(self) -> None:
                        connection = engine.raw_connection()
                        query = module.SQL("INSERT INTO {} VALUES (%s, {})")
                        connection.cursor().execute(query.format(module.Identifier("item"), module.Literal(2)), (1,))
                        connection.commit()
                        connection.close()
                        self.assertEqual(count(engine), 1)

                    def test_meets(self) -> None:
                        connection = engine.raw_connection()
                        connection.cursor().execute(module.SQL("DELETE FROM {}").format(module.Identifier("item")))
                        self.assertEqual(count(engine), 0)
                        connection.close()

                self.assertEqual(list(self.run_twice_or_not(Shop)), ["test_meets"])

    def test_helpers_of_the_driver_send_through_the_gate(self) -> None:
        from psycopg2.extras import RealDictCursor, execute_batch, execute_values

        engine = application_engine()

        class Shop(Items):
            app_engines = [engine]

            def test_values(self) -> None:
                connection = engine.raw_connection()
                cursor = connection.cursor(cursor_factory=RealDictCursor)
                execute_values(cursor, "INSERT INTO item VALUES %s", [(1, 1), (2, 2)])
                execute_batch(cursor, "UPDATE item SET n = %s WHERE id = %s", [(5, 1), (6, 2)])
                connection.commit()
                cursor.execute("SELECT id, n FROM item ORDER BY id")
                self.assertEqual(list(map(dict, cursor)), [{"id": 1, "n": 5}, {"id": 2, "n": 6}])
                connection.rollback()
                self.assertEqual(count(engine), 2)
                connection.close()

        self.assertEqual(self.run_twice_or_not(Shop), {})

    def test_copy_with_data_of_its_own(self) -> None:
        engine = application_engine()

        class Shop(Items):
            app_engines = [engine]

            def test_copy(self) -> None:
                connection = engine.raw_connection()
                cursor = connection.cursor()
                cursor.copy_expert("COPY item FROM STDIN", io.StringIO("1\t1\n"))
                cursor.copy_from(io.StringIO("2\t2\n"), "item")
                connection.commit()
                found = io.StringIO()
                cursor.copy_to(found, "item")
                connection.close()
                self.assertEqual((found.getvalue(), count(engine)), ("1\t1\n2\t2\n", 2))

            def test_rolled_back(self) -> None:
                connection = engine.raw_connection()
                connection.cursor().copy_from(io.StringIO("1\t1\n"), "item")
                connection.rollback()
                connection.close()
                self.assertEqual(count(engine), 0)

        self.assertEqual(self.run_twice_or_not(Shop), {})

    def test_a_streamed_result_ends_with_its_transaction(self) -> None:
        for driver in DRIVERS:
            with self.subTest(driver):
                engine = application_engine(driver)

                class Shop(Items):
                    app_engines = [engine]

                    def test_rows(self) -> None:
                        with engine.begin() as connection:
                            connection.exec_driver_sql("INSERT INTO item SELECT i, i FROM generate_series(1, 9) i")
                        query = sa.text("SELECT id FROM item ORDER BY id")
                        with engine.connect() as connection:
                            result = connection.execute(query, execution_options={"yield_per": 2})
                            self.assertEqual(result.fetchmany(2), [(1,), (2,)])
                            add(engine, 10)  # it is a snapshot
                            self.assertEqual(len(result.all()), 7)
                            result = connection.execute(query, execution_options={"yield_per": 2})
                            result.fetchmany(2)
                            connection.commit()
                            with self.assertRaises(sa.exc.DBAPIError):
                                result.all()

                    @isolate("clone")
                    def test_rows_of_a_real_one(self) -> None:
                        self.test_rows()

                reasons = self.run_twice_or_not(Shop)

                self.assertIn("server-side cursor was read after its transaction had ended", reasons["test_rows"])

    def test_only_a_query_is_for_a_server_side_cursor(self) -> None:
        engine = application_engine()

        class Shop(Items):
            app_engines = [engine]

            def test_update(self) -> None:
                streaming = engine.connect().execution_options(stream_results=True)
                with streaming as connection, self.assertRaisesRegex(sa.exc.ProgrammingError, "syntax error"):
                    connection.exec_driver_sql("UPDATE item SET n = 1")

        self.assertIn("server-side cursor", self.run_twice_or_not(Shop)["test_update"])

    def test_what_keeps_a_connection_busy_runs_on_real_connections(self) -> None:
        engine = application_engine()

        class Shop(Items):
            app_engines = [engine]

            def test_named(self) -> None:
                connection = engine.raw_connection()
                cursor = connection.cursor(name="rows")  # type: ignore[call-arg]
                cursor.execute("SELECT 1")
                self.assertEqual(cursor.fetchall(), [(1,)])
                connection.close()

            def test_attribute(self) -> None:
                connection = engine.raw_connection()
                connection.dbapi_connection.set_session(readonly=True)  # type: ignore[union-attr]
                with connection.cursor() as cursor, self.assertRaises(engine.dialect.loaded_dbapi.InternalError):
                    cursor.execute("INSERT INTO item VALUES (1)")
                connection.rollback()
                connection.close()

            def test_driver_connection(self) -> None:
                connection = engine.raw_connection()
                self.assertEqual(connection.driver_connection.info.dbname[:4], "dbte")  # type: ignore[union-attr]
                connection.close()

        reasons = self.run_twice_or_not(Shop)

        self.assertIn("raw server-side cursor", reasons["test_named"])
        self.assertIn("set_session", reasons["test_attribute"])
        self.assertIn("driver's own connection", reasons["test_driver_connection"])


class ConnectionTests(SandboxTests):
    def test_a_closed_connection_says_what_the_driver_says(self) -> None:
        for driver in DRIVERS:
            with self.subTest(driver):
                engine = application_engine(driver)
                seen: list[str] = []

                class Shop(Items):
                    app_engines = [engine]

                    def test_closed(self) -> None:
                        connection: Any = engine.raw_connection()
                        cursor = connection.cursor()
                        inner = connection.dbapi_connection
                        inner.close()
                        for act in (inner.cursor, inner.commit, inner.rollback, lambda: cursor.execute("SELECT 1")):
                            with self.assertRaises(engine.dialect.loaded_dbapi.Error) as caught:
                                act()
                            seen.append(f"{type(caught.exception).__name__}: {caught.exception}")
                        connection.invalidate()
                        self.assertEqual(count(engine), 0)

                    @isolate("clone")
                    def test_closed_real_one(self) -> None:
                        self.test_closed()

                self.assertEqual(self.run_twice_or_not(Shop), {})
                # What a cursor of a closed connection says differs in words only.
                self.assertEqual(seen[:3], seen[4:7])
                self.assertEqual(seen[3].partition(":")[0], seen[7].partition(":")[0])

    def test_a_connection_that_the_pool_lost_is_replaced(self) -> None:
        engine = application_engine(pool_size=1)

        class Shop(Items):
            app_engines = [engine]

            def test_closed_under_the_pool(self) -> None:
                add(engine, 1)
                connection: Any = engine.raw_connection()
                connection.dbapi_connection.close()
                with self.assertLogs("sqlalchemy.pool", "ERROR"):
                    connection.close()
                self.assertEqual(count(engine), 1)

        self.assertEqual(self.run_twice_or_not(Shop), {})

    def test_deferred_constraints_are_checked_at_commit(self) -> None:
        for driver in DRIVERS:
            with self.subTest(driver):
                engine = application_engine(driver)

                class Shop(Items):
                    schema = staticmethod(deferrable)  # type: ignore[assignment]
                    app_engines = [engine]

                    def test_violated(self) -> None:
                        with engine.connect() as connection:
                            connection.execute(sa.text("INSERT INTO child VALUES (1)"))
                            with self.assertRaises(sa.exc.IntegrityError):
                                connection.commit()
                            connection.rollback()
                            self.assertEqual(connection.scalar(sa.text("SELECT count(*) FROM child")), 0)

                    def test_mended_and_deferred_once_more(self) -> None:
                        for number in (1, 2):
                            with engine.begin() as connection:
                                connection.execute(sa.text("INSERT INTO child VALUES (:n)"), {"n": number})
                                connection.execute(sa.text("INSERT INTO parent VALUES (:n)"), {"n": number})

                self.assertEqual(self.run_twice_or_not(Shop), {})

    def test_errors_that_only_one_transaction_causes_run_on_real_connections(self) -> None:
        engine = application_engine()

        class Shop(Items):
            schema = staticmethod(deferrable)  # type: ignore[assignment]
            app_engines = [engine]

            def test_new_value_of_an_enum(self) -> None:
                with engine.begin() as connection:
                    connection.execute(sa.text("ALTER TYPE mood ADD VALUE 'calm'"))
                with engine.connect() as connection:
                    self.assertEqual(connection.scalar(sa.text("SELECT 'calm'::mood")), "calm")

            def test_outside_a_transaction(self) -> None:
                with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
                    connection.execute(sa.text("VACUUM parent"))

        reasons = self.run_twice_or_not(Shop)

        self.assertIn("55P04", reasons["test_new_value_of_an_enum"])
        self.assertIn("VACUUM", reasons["test_outside_a_transaction"])

    def test_a_text_that_ends_the_transaction_unseen_is_noticed_and_its_commit_undone(self) -> None:
        engine = application_engine()

        class Shop(Items):
            app_engines = [engine]

            def test_1(self) -> None:
                with engine.connect() as connection:
                    connection.execute(sa.text("INSERT INTO item VALUES (1)"))
                    # Backslashes that escape are what whoever reads the text does not know of.
                    connection.exec_driver_sql("SET standard_conforming_strings = off")
                    connection.exec_driver_sql(r"SELECT 'a\''; COMMIT; --'")
                    connection.rollback()
                    self.assertEqual(connection.scalar(sa.text("SELECT count(*) FROM item")), 1)

            def test_2(self) -> None:
                self.assertEqual(count(engine), 0)

        reasons = self.run_twice_or_not(Shop)

        self.assertIn("ended the transaction", reasons["test_1"])
        self.assertEqual(list(reasons), ["test_1"])

    def test_a_savepoint_ends_with_its_transaction(self) -> None:
        engine = application_engine()

        class Shop(Items):
            app_engines = [engine]

            def test_rollback_to_it(self) -> None:
                with engine.connect() as connection:
                    connection.execute(sa.text("INSERT INTO item VALUES (1)"))
                    connection.execute(sa.text("SAVEPOINT a"))
                    connection.commit()
                    with self.assertRaisesRegex(sa.exc.InternalError, 'savepoint "a" does not exist'):
                        connection.execute(sa.text("ROLLBACK TO a"))
                self.assertEqual(count(engine), 1)

        self.assertEqual(self.run_twice_or_not(Shop), {})

    def test_what_one_transaction_cannot_tell_apart_runs_on_real_connections(self) -> None:
        engine = application_engine()

        class Shop(Items):
            app_engines = [engine]

            def test_savepoints(self) -> None:
                with engine.connect() as connection, engine.connect() as other, connection.begin_nested():
                    other.execute(sa.text("SELECT 1"))

            def test_setting_until_commit(self) -> None:
                with engine.connect() as connection:
                    connection.execute(sa.text("SET LOCAL work_mem = '1MB'"))
                    connection.commit()
                    self.assertEqual(connection.scalar(sa.text("SHOW work_mem")), "4MB")

            def test_failed(self) -> None:
                with engine.connect() as connection:
                    with self.assertRaises(sa.exc.DataError):
                        connection.execute(sa.text("SELECT 1 / 0"))
                    self.assertEqual(count(engine), 0)
                    with self.assertRaisesRegex(sa.exc.InternalError, "current transaction is aborted"):
                        connection.execute(sa.text("SELECT 1"))

        reasons = self.run_twice_or_not(Shop)

        self.assertIn("another connection has savepoints", reasons["test_savepoints"])
        self.assertIn("COMMIT that ends SET LOCAL", reasons["test_setting_until_commit"])
        self.assertIn("failed transaction", reasons["test_failed"])

    def test_many_statements_in_autocommit_are_many_transactions(self) -> None:
        engine = application_engine(isolation_level="AUTOCOMMIT")

        class Shop(Items):
            app_engines = [engine]

            def test_second_fails(self) -> None:
                with engine.connect() as connection, self.assertRaises(sa.exc.IntegrityError):
                    connection.exec_driver_sql("INSERT INTO item VALUES (%s)", [(1,), (1,)])
                self.assertEqual(count(engine), 1)

        self.assertEqual(list(self.run_twice_or_not(Shop)), ["test_second_fails"])

    def test_two_threads_share_the_transaction(self) -> None:
        engine = application_engine()

        class Shop(Items):
            app_engines = [engine]

            def test_rows(self) -> None:
                threads = [threading.Thread(target=add, args=(engine, number)) for number in range(8)]
                for each in threads:
                    each.start()
                for each in threads:
                    each.join()
                self.assertEqual(count(engine), 8)

            def test_none_left(self) -> None:
                self.assertEqual(count(engine), 0)

        # Whether two of them meet is up to the scheduler; the outcome is not.
        self.assertLessEqual(set(self.run_twice_or_not(Shop)), {"test_rows"})

    def test_a_thread_that_meets_the_end_gets_an_error_of_the_driver(self) -> None:
        engine = application_engine()
        seen: list[str] = []

        class Shop(Items):
            app_engines = [engine]

            def test_meets(self) -> None:
                found: list[Any] = []

                def look() -> None:
                    try:
                        found.append(count(engine))
                    except Exception as error:
                        seen.append(type(error).__name__)

                with engine.connect() as connection:
                    connection.execute(sa.text("INSERT INTO item VALUES (1)"))
                    thread = threading.Thread(target=look)
                    thread.start()
                    thread.join()
                    connection.commit()
                self.assertEqual(found, [0])

        reasons = self.run_twice_or_not(Shop)

        self.assertIn("met uncommitted work of another connection: INSERT INTO item", reasons["test_meets"])
        self.assertEqual(seen, ["OperationalError"])


class SavepointOnlyTests(SandboxTests):
    """``isolation = "savepoint"``: what would run again is an error at the statement."""

    def test_the_error_names_statement_line_and_remedy(self) -> None:
        engine = application_engine()

        class Shop(Items):
            isolation = "savepoint"
            app_engines = [engine]

            def test_meets(self) -> None:
                with engine.connect() as connection, Session(engine) as session:
                    connection.execute(sa.text("INSERT INTO item VALUES (1)"))
                    session.execute(sa.text("SELECT count(*) FROM item"))

        result, reasons = run_noting_reasons(Shop)

        [text] = problems(result)
        self.assertEqual(reasons, {})
        for words in ("IsolationBroken: ", "SELECT count(*) FROM item at ", "test_connections.py:",
                      "INSERT INTO item VALUES (?) at ", '@isolate("clone")'):  # fmt: skip
            self.assertIn(words, text)

    def test_an_error_that_is_swallowed_is_one_all_the_same(self) -> None:
        class Shop(Items):
            isolation = "savepoint"

            def test_swallowed(self) -> None:
                with self.engine.connect() as connection, self.assertRaises(IsolationBroken):
                    connection.execute(sa.text("SELECT txid_current()"))

        [text] = problems(run_noting_reasons(Shop)[0])

        self.assertIn("txid_current()", text)

    def test_what_one_transaction_carries_passes(self) -> None:
        class Shop(Items):
            isolation = "savepoint"

            def test_rows(self) -> None:
                add(self.engine, 1)
                self.assertEqual(count(self.engine), 1)

        self.assertEqual(self.run_twice_or_not(Shop), {})


class WarningTests(SandboxTests):
    def test_ddl_beside_an_open_reader_goes_on_and_warns(self) -> None:
        engine = application_engine()
        caught: list[warnings.WarningMessage] = []

        class Shop(Items):
            app_engines = [engine]

            def test_alter(self) -> None:
                with warnings.catch_warnings(record=True) as seen, engine.connect() as reader:
                    warnings.simplefilter("always")
                    reader.execute(sa.text("SELECT count(*) FROM item"))
                    with self.engine.begin() as connection:
                        connection.execute(sa.text("ALTER TABLE item ADD COLUMN token text DEFAULT 's3cr3t'"))
                caught.extend(each for each in seen if each.category is IsolationWarning)

            def test_it_is_as_before(self) -> None:
                with engine.connect() as connection:
                    self.assertEqual(list(connection.execute(sa.text("SELECT * FROM item")).keys()), ["id", "n"])

        self.assertEqual(self.run_twice_or_not(Shop), {})
        [warning] = caught
        self.assertIn("ALTER TABLE item ADD COLUMN token text DEFAULT ? at ", str(warning.message))
        self.assertTrue(warning.filename.endswith("test_connections.py"))

    def test_ddl_beside_a_writer_runs_on_real_connections(self) -> None:
        class Shop(Items):
            lock_wait = 0.2

            def test_drop(self) -> None:
                with self.engine.connect() as writer, self.engine.connect() as other:
                    writer.execute(sa.text("INSERT INTO item VALUES (1)"))
                    with self.assertRaises(LockWait):
                        other.execute(sa.text("DROP TABLE item"))

        self.assertEqual(list(self.run_twice_or_not(Shop)), ["test_drop"])


if __name__ == "__main__":
    unittest.main()
