"""Small programs of the code under test that come to the same in the one transaction as on real connections."""

from __future__ import annotations

import gc
import os
import signal
import threading
import unittest
from contextlib import suppress
from time import sleep
from typing import Any

import sqlalchemy as sa
from psycopg2.extensions import QuotedString
from sqlalchemy import event, text
from sqlalchemy.exc import DBAPIError, DisconnectionError, ProgrammingError

from dbtestcase import DatabaseTestCase, ThrowawayPostgres
from tests.sandbox.support import Items, run_noting_reasons
from tests.support import Base, Customer, collect_garbage, of_throwaway_servers, problems, recorded_warnings, run_case

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

    def test_a_listener_that_sends_statements_itself_commits_nothing_into_the_class_s_database(self) -> None:
        for driver in DRIVERS:
            engine = app_engine(driver)

            @event.listens_for(engine, "do_execute")
            def send(cursor: Any, statement: str, parameters: Any, context: Any) -> bool:
                cursor.execute(statement, parameters)
                return True

            class Shop(DatabaseTestCase):
                schema = Base
                app_engines = [engine]

                def test_1_it_is_isolated(self) -> None:
                    with self.app_engines[0].connect() as one, self.engine.connect() as other:
                        one.execute(Customer.__table__.insert(), {"name": "Ada"})
                        self.assertEqual(other.scalar(text("SELECT count(*) FROM customer")), 0)
                        one.commit()
                        self.assertEqual(other.scalar(text("SELECT count(*) FROM customer")), 1)

                def test_2_nothing_is_left(self) -> None:
                    self.assertRowCount(Customer, 0)

            with self.subTest(driver):
                self.assertEqual(problems(run_case(Shop)), [])

    def test_the_isolation_level_in_autocommit_is_what_the_server_says(self) -> None:
        levels = []

        class Shop(DatabaseTestCase):
            def test_it(self) -> None:
                with self.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
                    levels.append(connection.get_isolation_level())

        class OnCopies(Shop):
            isolation = "clone"

        self.assertEqual(problems(run_case(Shop, OnCopies)), [])
        self.assertEqual(levels[0], levels[1])

    @of_throwaway_servers
    def test_a_connection_that_is_opened_after_a_setting_of_its_role_was_changed_begins_with_it(self) -> None:
        class Shop(DatabaseTestCase):
            isolation = "clone"

            def test_1_uses_two_connections(self) -> None:
                with self.engine.connect() as one, self.engine.connect() as other:
                    one.execute(text("SELECT 1"))
                    other.execute(text("SELECT 1"))

            def test_2_changes_the_setting(self) -> None:
                with self.engine.begin() as connection:
                    connection.execute(text("ALTER USER CURRENT_USER SET work_mem = '11MB'"))
                self.engine.dispose()
                with self.engine.connect() as connection:
                    self.assertEqual(connection.scalar(text("SHOW work_mem")), "11MB")

            def test_3_it_is_as_before(self) -> None:
                with self.engine.connect() as connection:
                    self.assertNotEqual(connection.scalar(text("SHOW work_mem")), "11MB")

        self.assertEqual(problems(run_case(Shop)), [])

    def test_transactions_are_of_the_kind_that_the_schema_gives_to_its_database(self) -> None:
        def snapshots(connection: sa.Connection) -> None:
            name = connection.scalar(text("SELECT quote_ident(current_database())"))
            connection.execute(text(f"ALTER DATABASE {name} SET default_transaction_isolation = 'repeatable read'"))
            Base.metadata.create_all(connection)

        class Shop(DatabaseTestCase):
            schema = snapshots

            def test_1_a_snapshot_stays(self) -> None:
                with self.engine.connect() as one, self.engine.begin() as other:
                    self.assertEqual(one.scalar(text("SELECT count(*) FROM customer")), 0)
                    other.execute(Customer.__table__.insert(), {"name": "Ada"})
                    other.commit()
                    self.assertEqual(one.scalar(text("SELECT count(*) FROM customer")), 0)

            test_2_in_each_test = test_1_a_snapshot_stays

        self.assertEqual(problems(run_case(Shop)), [])


class LeftOpenTests(unittest.TestCase):
    def test_what_a_failed_test_has_left_open_is_thrown_away_without_an_error_in_the_log(self) -> None:
        for driver in DRIVERS:

            class Shop(DatabaseTestCase):
                app_engines = [app_engine(driver)]

                def test_it(self) -> None:
                    connection = self.app_engines[0].connect()
                    connection.execute(text("SELECT 1"))
                    self.fail("while it is open")

            collect_garbage()  # connections of earlier tests
            with self.subTest(driver), self.assertNoLogs("sqlalchemy", level="ERROR"):
                self.assertEqual(len(run_case(Shop).failures), 1)
                collect_garbage()


class TimeoutTests(unittest.TestCase):
    def test_what_idles_between_two_transactions_is_not_ended(self) -> None:
        for driver in DRIVERS:

            class Shop(DatabaseTestCase):
                schema = Base
                # Longer than a busy machine stands still between two statements.
                postgres = ThrowawayPostgres(settings={"idle_in_transaction_session_timeout": "1s"})
                app_engines = [app_engine(driver)]

                def test_it(self) -> None:
                    with self.app_engines[0].connect() as connection:
                        connection.execute(Customer.__table__.insert(), {"name": "Ada"})
                        connection.commit()
                        sleep(1.3)
                        with suppress(Exception):
                            connection.execute(Customer.__table__.insert(), {"name": "Grace"})
                            connection.commit()
                    self.assertRowCount(Customer, 2)

            with self.subTest(driver):
                self.assertEqual(problems(run_case(Shop)), [])


class Interrupted(BaseException):
    """What the handler of a signal raises."""


class InterruptedTests(unittest.TestCase):
    """A statement that the code under test sees fail, and the server has carried out."""

    def test_rows_before_one_that_the_driver_refuses_are_rolled_back(self) -> None:
        for driver in DRIVERS:
            engine = app_engine(driver)

            class Shop(DatabaseTestCase):
                schema = Base
                app_engines = [engine]

                def test_it(self) -> None:
                    connection = engine.raw_connection()
                    with self.assertRaises(engine.dialect.loaded_dbapi.ProgrammingError):
                        connection.cursor().executemany(
                            "INSERT INTO customer (name) VALUES (%s)", [("Ada",), (object(),)]
                        )
                    connection.rollback()
                    connection.close()
                    self.assertRowCount(Customer, 0)

            with self.subTest(driver):
                self.assertEqual(problems(run_case(Shop)), [])

    @of_throwaway_servers
    def test_what_a_signal_has_interrupted_is_rolled_back_and_in_autocommit_stays(self) -> None:
        def raise_it(*_: object) -> None:
            raise interruption

        self.addCleanup(signal.signal, signal.SIGUSR1, signal.signal(signal.SIGUSR1, raise_it))
        for options, expected in (({}, 0), ({"isolation_level": "AUTOCOMMIT"}, 1)):
            for interruption in (Interrupted(), RuntimeError("interrupted")):
                engine = app_engine("psycopg2", **options)

                class Shop(DatabaseTestCase):
                    schema = Base
                    app_engines = [engine]

                    def setUp(self) -> None:
                        self.pipe = self.instance.data_dir / "pipe"
                        os.mkfifo(self.pipe)
                        os.chown(self.pipe, self.instance.data_dir.stat().st_uid, -1)
                        self.addCleanup(self.pipe.unlink)

                    def interrupt(self) -> None:
                        with self.pipe.open("w") as pipe:  # which waits until the server reads it
                            os.kill(os.getpid(), signal.SIGUSR1)
                            pipe.write("Ada\n")

                    def test_it(self) -> None:
                        with engine.connect() as connection:
                            connection.scalar(text("SELECT 1"))
                            # psycopg2 waits for the answer, and then Python calls the handler.
                            signals = threading.Thread(target=self.interrupt, daemon=True)
                            signals.start()
                            with self.assertRaises(type(interruption)):
                                connection.execute(text("COPY customer (name) FROM PROGRAM 'cat pipe'"))
                            signals.join()
                            connection.rollback()
                        self.assertRowCount(Customer, expected)

                with self.subTest(options=options, interruption=interruption):
                    self.assertEqual(problems(run_case(Shop)), [])


class FinalizerTests(unittest.TestCase):
    def test_a_connection_that_is_thrown_away_in_a_thread_that_a_statement_waits_for(self) -> None:
        engine = app_engine("psycopg2")
        gc.disable()
        self.addCleanup(gc.enable)
        outcomes: list[str] = []

        class Value:
            """One that the driver can write only after another thread has collected the garbage."""

            def __conform__(self, protocol: Any) -> Any:
                collector = threading.Thread(target=gc.collect, daemon=True)
                collector.start()
                collector.join(timeout=60)  # a deadlock lasts for ever, a collection beside other work a while
                outcomes.append("still collecting" if collector.is_alive() else "collected")
                return QuotedString("value")

        class Shop(DatabaseTestCase):
            schema = Base
            app_engines = [engine]

            def test_it(self) -> None:
                connection = engine.connect()
                connection.execute(text("SELECT 1"))
                garbage = [connection]
                garbage.append(garbage)  # type: ignore[arg-type]
                del connection, garbage
                with engine.connect() as other:
                    self.assertEqual(other.scalar(text("SELECT :value"), {"value": Value()}), "value")

        self.assertEqual(problems(run_case(Shop)), [])
        self.assertEqual(outcomes, ["collected"])


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
    def test_a_lock_that_is_not_waited_for_is_refused_only_beside_a_reader(self) -> None:
        class Shop(Items):
            def test_alone(self) -> None:
                with self.engine.begin() as connection:
                    connection.execute(text("LOCK TABLE item IN ACCESS EXCLUSIVE MODE NOWAIT"))

            def test_beside_a_reader(self) -> None:
                with self.engine.connect() as reader, self.engine.connect() as other:
                    reader.scalar(text("SELECT count(*) FROM item"))
                    with self.assertRaisesRegex(DBAPIError, "could not obtain lock"):
                        other.execute(text("LOCK TABLE item IN ACCESS EXCLUSIVE MODE NOWAIT"))

        result, reasons = run_noting_reasons(Shop)

        self.assertEqual(problems(result), [])
        self.assertEqual(list(reasons), ["test_beside_a_reader"])
        self.assertIn("does not wait for a transaction that has read", reasons["test_beside_a_reader"])

    def test_create_all_beside_a_reader_waits_for_nobody_and_warns_of_nothing(self) -> None:
        more = sa.MetaData()
        sa.Table("more", more, sa.Column("id", sa.Integer, primary_key=True, index=True, comment="a number"))

        class Shop(DatabaseTestCase):
            schema = Base

            def test_it(self) -> None:
                self.session.scalars(sa.select(Customer)).all()
                more.create_all(self.engine)

        with recorded_warnings() as caught:
            self.assertEqual(problems(run_case(Shop)), [])
        self.assertEqual([str(each.message) for each in caught], [])


class SchemaTests(unittest.TestCase):
    """What a schema does by itself, though the statements do not look like it."""

    def test_a_function_or_a_domain_s_constraint_that_is_called_without_a_parenthesis_writes(self) -> None:
        class Shop(Items):
            schema = [
                Items.schema,
                lambda connection: connection.exec_driver_sql(
                    """
                    CREATE TABLE visit (n int);
                    CREATE FUNCTION visits(int) RETURNS int LANGUAGE sql AS 'INSERT INTO visit VALUES ($1) RETURNING n';
                    CREATE FUNCTION visit(item) RETURNS int LANGUAGE sql AS 'SELECT visits($1.n)';
                    CREATE DOMAIN price AS int CHECK (visits(VALUE) > 0);
                    """
                ),
            ]

            def check(self, query: str) -> None:
                with self.engine.connect() as one, self.engine.connect() as other:
                    one.execute(text("INSERT INTO item VALUES (1, 1)"))
                    one.commit()
                    self.assertEqual(one.scalar(text(query)), 1)
                    self.assertEqual(other.scalar(text("SELECT count(*) FROM visit")), 0)
                    one.rollback()
                    self.assertEqual(one.scalar(text("SELECT count(*) FROM visit")), 0)

            def test_attribute(self) -> None:
                self.check("SELECT item.visit FROM item")

            def test_domain(self) -> None:
                self.check("SELECT CAST(1 AS price)")

        self.assertEqual(problems(run_case(Shop)), [])

    def test_each_connection_keeps_numbers_of_a_sequence_with_a_cache(self) -> None:
        class Shop(DatabaseTestCase):
            schema = staticmethod(lambda connection: connection.exec_driver_sql("CREATE SEQUENCE number CACHE 10"))

            def test_alone(self) -> None:
                with self.engine.connect() as one, self.engine.connect() as other:
                    first = one.scalar(text("SELECT nextval('number')"))
                    one.rollback()
                    self.assertEqual(one.scalar(text("SELECT nextval('number')")), first + 1)
                    self.assertEqual(other.scalar(text("SELECT 1")), 1)

            def test_beside_another(self) -> None:
                with self.engine.connect() as one, self.engine.connect() as other:
                    first = one.scalar(text("SELECT nextval('number')"))
                    self.assertEqual(other.scalar(text("SELECT nextval('number')")), first + 10)

        result, reasons = run_noting_reasons(Shop)

        self.assertEqual(problems(result), [])
        self.assertEqual(list(reasons), ["test_beside_another"])
        self.assertIn("after another connection had kept numbers of sequences", reasons["test_beside_another"])

    def test_a_cursor_that_a_function_has_opened_ends_with_its_transaction(self) -> None:
        class Shop(Items):
            schema = [
                Items.schema,
                lambda connection: connection.exec_driver_sql(
                    "CREATE FUNCTION all_items(reader refcursor) RETURNS refcursor LANGUAGE plpgsql AS "
                    "'BEGIN OPEN reader FOR SELECT * FROM item; RETURN reader; END'"
                ),
            ]

            def test_it(self) -> None:
                with self.engine.connect() as connection:
                    connection.execute(text("SELECT all_items('reader')"))
                    self.assertEqual(connection.execute(text("FETCH ALL FROM reader")).all(), [])
                    connection.commit()
                    with self.assertRaisesRegex(DBAPIError, 'cursor "reader" does not exist'):
                        connection.execute(text("FETCH ALL FROM reader"))

        self.assertEqual(problems(run_case(Shop)), [])

    def test_whether_a_row_was_inserted_or_updated_is_told_in_one_transaction(self) -> None:
        upsert = text("INSERT INTO item VALUES (1, 1) ON CONFLICT (id) DO UPDATE SET n = 2 RETURNING xmax = 0")

        class Shop(Items):
            def test_it(self) -> None:
                with self.engine.connect() as connection:
                    self.assertTrue(connection.scalar(upsert))
                    connection.rollback()
                    self.assertTrue(connection.scalar(upsert))
                    self.assertFalse(connection.scalar(upsert))
                    connection.commit()
                    self.assertFalse(connection.scalar(upsert))

        result, reasons = run_noting_reasons(Shop)

        self.assertEqual((problems(result), reasons), ([], {}))

    def test_what_is_refused_for_its_own_sake_is_so_in_one_transaction_too(self) -> None:
        class Shop(Items):
            def test_it(self) -> None:
                with self.engine.connect() as connection:
                    connection.execute(text("CREATE VIEW few AS SELECT * FROM item"))
                    connection.commit()
                    for refused in ("DROP TABLE item", "CREATE TABLE nowhere.item ()"):
                        with self.assertRaises(DBAPIError):
                            connection.execute(text(refused))
                        connection.rollback()

        result, reasons = run_noting_reasons(Shop)

        self.assertEqual((problems(result), reasons), ([], {}))
