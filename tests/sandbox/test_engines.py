"""Engines of the code under test: taken over with what they have, and given back as they were."""

from __future__ import annotations

import json
import unittest
from typing import Any

import sqlalchemy as sa
from sqlalchemy import event, pool
from sqlalchemy.dialects.postgresql import JSONB

from dbtestcase import isolate
from tests.sandbox.support import DRIVERS, Items, add, application_engine, count, run_noting_reasons
from tests.support import problems


class EngineTests(unittest.TestCase):
    def run_twice_or_not(self, *cases: Any) -> dict[str, str]:
        """Run test classes, in which nothing may go wrong; return why tests ran twice."""
        result, reasons = run_noting_reasons(*cases)
        self.assertEqual(problems(result), [])
        return reasons

    def test_an_engine_is_given_back_exactly_as_it_was(self) -> None:
        for driver in DRIVERS:
            with self.subTest(driver):
                engine = application_engine(driver, pool_size=3)
                event.listen(engine, "checkout", checked_out := lambda *_: None)
                before = (engine.pool, engine.dialect, dict(vars(engine.dialect)), engine.url)

                class Shop(Items):
                    app_engines = [engine]

                    def test_attempt(self) -> None:
                        add(engine, 1)

                    @isolate("clone")
                    def test_copy(self) -> None:
                        add(engine, 1)

                self.run_twice_or_not(Shop)

                after = (engine.pool, engine.dialect, dict(vars(engine.dialect)), engine.url)
                self.assertEqual(after, before)
                self.assertIs(after[0], before[0])
                event.remove(engine, "checkout", checked_out)  # it is still listened with

    def test_engines_made_by_execution_options_before_and_after_share_the_transaction(self) -> None:
        engine = application_engine()
        before = engine.execution_options(isolation_level="AUTOCOMMIT")

        class Shop(Items):
            app_engines = [engine]

            def test_rows(self) -> None:
                after = engine.execution_options(logging_token="after")
                for number, each in enumerate((engine, before, after)):
                    with each.connect() as connection:
                        connection.execute(sa.text("INSERT INTO item VALUES (:n)"), {"n": number})
                        if each is not before:
                            connection.commit()
                    self.assertEqual(count(after), number + 1)

            def test_rows_once_more(self) -> None:
                self.assertEqual(count(before), 0)

        self.assertEqual(self.run_twice_or_not(Shop), {})

    def test_each_class_of_pool_shares_the_transaction(self) -> None:
        for kind in (pool.QueuePool, pool.NullPool, pool.StaticPool, pool.SingletonThreadPool, pool.AssertionPool):
            with self.subTest(kind.__name__):
                engine = application_engine(poolclass=kind)

                class Shop(Items):
                    app_engines = [engine]

                    def test_1(self) -> None:
                        add(engine, 1)
                        self.assertEqual((count(engine), count(self.engine)), (1, 1))
                        self.assertIsInstance(engine.pool, kind)

                    def test_2(self) -> None:
                        self.assertEqual(count(engine), 0)

                self.assertEqual(self.run_twice_or_not(Shop), {})

    def test_events_of_the_pool_are_those_of_the_user(self) -> None:
        engine = application_engine()
        seen: list[str] = []
        for name in ("checkout", "checkin", "invalidate", "reset"):
            event.listen(engine, name, lambda *_, name=name, **options: seen.append(name))

        class Shop(Items):
            app_engines = [engine]

            def test_events(self) -> None:
                seen.clear()
                with engine.connect() as connection:
                    connection.execute(sa.text("SELECT 1"))
                with engine.connect() as connection:
                    connection.invalidate()
                self.assertEqual(seen, ["checkout", "reset", "checkin", "checkout", "invalidate", "checkin"])

            @isolate("clone")
            def test_events_of_real_connections(self) -> None:
                self.test_events()

        self.assertEqual(self.run_twice_or_not(Shop), {})

    def test_a_listener_that_is_added_in_a_test_prepares_connections(self) -> None:
        engine = application_engine()
        seen: list[str] = []

        class Shop(Items):
            app_engines = [engine]

            def test_1(self) -> None:
                @event.listens_for(engine, "connect", insert=True)
                def connected(connection: Any, record: Any) -> None:
                    seen.append("connected")
                    cursor = connection.cursor()
                    cursor.execute("SET search_path = pg_catalog")
                    cursor.close()
                    connection.commit()

                with engine.connect() as connection:
                    self.assertEqual(connection.scalar(sa.text("SHOW search_path")), "pg_catalog")
                    self.assertEqual(connection.dialect.default_schema_name, "pg_catalog")

            def test_2_it_is_still_there(self) -> None:
                seen.clear()
                with engine.connect() as connection:
                    self.assertEqual(connection.scalar(sa.text("SHOW search_path")), "pg_catalog")

        self.assertEqual(self.run_twice_or_not(Shop), {})

    def test_dispose_and_invalidate_change_nothing_that_is_committed(self) -> None:
        for driver in DRIVERS:
            with self.subTest(driver):
                engine = application_engine(driver)

                class Shop(Items):
                    app_engines = [engine]

                    def test_dispose(self) -> None:
                        add(engine, 1)
                        engine.dispose()
                        self.assertEqual(count(engine), 1)

                    def test_invalidate(self) -> None:
                        add(engine, 1)
                        with engine.connect() as connection:
                            connection.execute(sa.text("INSERT INTO item VALUES (2)"))
                            connection.invalidate()
                        self.assertEqual(count(engine), 1)

                    def test_next(self) -> None:
                        self.assertEqual(count(engine), 0)

                self.assertEqual(self.run_twice_or_not(Shop), {})

    def test_autocommit_is_that_of_the_engine_and_of_the_connection(self) -> None:
        for driver in DRIVERS:
            with self.subTest(driver):
                engine = application_engine(driver, isolation_level="AUTOCOMMIT")
                plain = application_engine(driver)

                class Shop(Items):
                    app_engines = [engine, plain]

                    def test_of_the_engine(self) -> None:
                        with engine.connect() as connection:
                            connection.execute(sa.text("INSERT INTO item VALUES (1)"))
                            connection.rollback()
                            self.assertEqual(count(plain), 1)
                            self.assertEqual(connection.get_isolation_level(), "READ COMMITTED")  # so does a server

                    def test_of_the_connection(self) -> None:
                        with plain.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
                            connection.execute(sa.text("INSERT INTO item VALUES (1)"))
                            connection.rollback()
                        with plain.connect() as connection:
                            self.assertEqual(connection.get_isolation_level(), "READ COMMITTED")
                            connection.execute(sa.text("INSERT INTO item VALUES (2)"))
                        self.assertEqual(count(engine), 1)

                self.assertEqual(self.run_twice_or_not(Shop), {})

    def test_other_isolation_levels_run_on_real_connections(self) -> None:
        engine = application_engine(isolation_level="REPEATABLE READ")
        reading = application_engine(connect_args={"options": "-c default_transaction_read_only=on"})
        plain = application_engine()

        class Shop(Items):
            app_engines = [engine, plain, reading]

            def test_by_option(self) -> None:
                with reading.connect() as connection, self.assertRaises(sa.exc.InternalError):
                    connection.execute(sa.text("INSERT INTO item VALUES (1)"))

            def test_of_the_engine(self) -> None:
                with engine.connect() as connection:
                    connection.execute(sa.text("SELECT 1"))
                    add(plain, 1)
                    self.assertEqual(connection.scalar(sa.text("SELECT count(*) FROM item")), 0)

            def test_read_only(self) -> None:
                reading = plain.connect().execution_options(postgresql_readonly=True)
                with reading as connection, self.assertRaises(sa.exc.InternalError):
                    connection.execute(sa.text("INSERT INTO item VALUES (1)"))

        reasons = self.run_twice_or_not(Shop)

        self.assertIn("the isolation level REPEATABLE READ needs real connections", reasons["test_of_the_engine"])
        self.assertIn("READ ONLY transactions", reasons["test_by_option"])
        self.assertIn("readonly transactions need real connections", reasons["test_read_only"])

    def test_what_connections_are_given_is_there(self) -> None:
        by_option = application_engine(connect_args={"options": "-c work_mem=1234kB", "application_name": "shop"})
        by_listener = application_engine()

        @event.listens_for(by_listener, "connect")
        def connected(connection: Any, record: Any) -> None:
            connection.cursor().execute("SET work_mem = '2345kB'")
            connection.commit()
            record.info["prepared"] = True

        class Shop(Items):
            app_engines = [by_option, by_listener]

            def show(self, engine: sa.Engine) -> Any:
                with engine.connect() as connection:
                    return connection.scalar(sa.text("SHOW work_mem")), connection.info.get("prepared")

            def test_1_option(self) -> None:
                self.assertEqual(self.show(by_option), ("1234kB", None))

            def test_2_listener(self) -> None:
                self.assertEqual(self.show(by_listener), ("2345kB", True))

            def test_3_the_test_itself(self) -> None:
                self.assertEqual(self.show(self.engine), ("4MB", None))

            def test_4_different_ones_need_their_own(self) -> None:
                self.assertEqual(self.show(by_option)[0], "1234kB")
                self.assertEqual(self.show(by_listener)[0], "2345kB")

        reasons = self.run_twice_or_not(Shop)

        self.assertEqual(list(reasons), ["test_4_different_ones_need_their_own"])
        self.assertIn("set up otherwise", reasons["test_4_different_ones_need_their_own"])

    def test_engines_that_are_prepared_alike_share_the_transaction(self) -> None:
        engines = [application_engine(connect_args={"options": "-c work_mem=1MB"}) for _ in range(2)]
        for each in engines:

            @event.listens_for(each, "connect")
            def connected(connection: Any, record: Any) -> None:
                connection.cursor().execute("SET timezone = 'UTC'")
                connection.commit()

        class Shop(Items):
            app_engines = engines

            def test_rows(self) -> None:
                add(engines[0], 1)
                self.assertEqual(count(engines[1]), 1)

        self.assertEqual(self.run_twice_or_not(Shop), {})

    def test_a_listener_that_leaves_a_transaction_open_runs_on_real_connections(self) -> None:
        engine = application_engine()
        event.listen(engine, "connect", lambda connection, _: connection.cursor().execute("SET work_mem = '1MB'"))

        class Shop(Items):
            app_engines = [engine]

            def test_setting(self) -> None:
                with engine.connect() as connection:
                    self.assertEqual(connection.scalar(sa.text("SHOW work_mem")), "1MB")
                with engine.connect() as connection:
                    self.assertEqual(connection.scalar(sa.text("SHOW work_mem")), "4MB")  # it was rolled back

        self.assertIn("leave a transaction open", self.run_twice_or_not(Shop)["test_setting"])

    def test_types_are_registered_for_each_engine(self) -> None:
        import psycopg2.extensions

        registered = application_engine()
        upper = psycopg2.extensions.new_type((25,), "UPPER", lambda value, cursor: value and value.upper())
        event.listen(registered, "connect", lambda connection, _: psycopg2.extensions.register_type(upper, connection))

        class Shop(Items):
            app_engines = [registered]

            def test_type(self) -> None:
                with registered.connect() as connection:
                    self.assertEqual(connection.scalar(sa.text("SELECT 'a'::text")), "A")

        self.assertEqual(self.run_twice_or_not(Shop), {})

    def test_json_is_read_and_written_as_the_engine_says(self) -> None:
        for driver in DRIVERS:
            with self.subTest(driver):
                engine = application_engine(
                    driver,
                    json_serializer=lambda value: json.dumps({"wrapped": value}),
                    json_deserializer=lambda text: ("read", json.loads(text)),
                )

                class Shop(Items):
                    app_engines = [engine]

                    def test_json(self) -> None:
                        with engine.connect() as connection:
                            query = sa.select(sa.cast(sa.bindparam("value", type_=JSONB), JSONB))
                            found = connection.scalar(query, {"value": 1})
                        self.assertEqual(found, ("read", {"wrapped": 1}))

                self.assertEqual(self.run_twice_or_not(Shop), {})

    def test_a_creator_of_the_users_is_not_called(self) -> None:
        def creator() -> Any:
            raise AssertionError("the application's server was connected to")

        engine = sa.create_engine("postgresql+psycopg2://", creator=creator)

        class Shop(Items):
            app_engines = [engine]

            def test_rows(self) -> None:
                add(engine, 1)
                self.assertEqual(count(engine), 1)

        self.assertEqual(self.run_twice_or_not(Shop), {})

    @unittest.skipIf(len(DRIVERS) < 2, "psycopg is not installed")
    def test_two_drivers_run_on_real_connections(self) -> None:
        first, second = map(application_engine, DRIVERS)

        class Shop(Items):
            app_engines = [first, second]

            def test_rows(self) -> None:
                add(first, 1)
                self.assertEqual(count(second), 1)

        self.assertEqual(list(self.run_twice_or_not(Shop)), ["test_rows"])

    def test_several_databases_are_undone_each(self) -> None:
        class Shop(Items):
            schema = {"test": Items.schema, "stock": Items.schema}  # type: ignore[assignment]

            def test_1(self) -> None:
                add(self.engine_for("stock"), 1)
                self.assertEqual((count(self.engine), count(self.engine_for("stock"))), (0, 1))

            def test_2(self) -> None:
                self.assertEqual(count(self.engine_for("stock")), 0)

        self.assertEqual(self.run_twice_or_not(Shop), {})


if __name__ == "__main__":
    unittest.main()
