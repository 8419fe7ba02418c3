from __future__ import annotations

import inspect as inspect_module
import itertools
import os
import signal
import time
import unittest
from contextlib import closing
from pathlib import Path
from typing import ClassVar
from unittest import mock

import psycopg2
from sqlalchemy import (
    Column,
    Connection,
    Integer,
    MetaData,
    Table,
    create_engine,
    func,
    inspect,
    make_url,
    select,
    text,
)
from sqlalchemy.orm import Session, scoped_session, sessionmaker

from dbtestcase import URL, DatabaseTestCase, ThrowawayPostgres, errors, isolate
from dbtestcase.servers import running_instance
from tests.support import Base, Customer, Order, happens, of_throwaway_servers, once, problems, run_case

FORBIDDEN = "postgresql+psycopg2://nobody@matters.invalid:5432/production"


class ShopTestCase(DatabaseTestCase):
    schema = Base


def assert_goes_away(test: unittest.TestCase, folder: Path) -> None:
    """Wait for a folder to be deleted, which happens in the background."""
    test.assertTrue(happens(lambda: not folder.exists(), 5), f"{folder} is still there")


class LifeCycleTests(unittest.TestCase):
    def test_hooks_run_in_the_order_that_unittest_users_expect(self):
        calls: list[str] = []

        class Shop(ShopTestCase):
            @classmethod
            def setUpTestData(cls, session):
                calls.append("setUpTestData")

            @classmethod
            def setUpClass(cls):
                super().setUpClass()
                calls.append("setUpClass")

            def setUp(self):
                calls.append("setUp")
                self.addCleanup(calls.append, "cleanup")

            def tearDown(self):
                calls.append("tearDown")

            @classmethod
            def tearDownClass(cls):
                calls.append("tearDownClass")

            def test_it(self):
                calls.append("test")

        result = run_case(Shop)

        self.assertEqual(problems(result), [])
        self.assertEqual(
            calls,
            ["setUpTestData", "setUpClass", "setUp", "test", "tearDown", "cleanup", "tearDownClass"],
        )

    def test_schema_is_there_after_set_up_class(self):
        class Shop(ShopTestCase):
            def test_tables(self):
                self.assertEqual(set(inspect(self.engine).get_table_names()), {"customer", "order"})

        self.assertEqual(problems(run_case(Shop)), [])

    def test_no_schema_is_an_empty_database(self):
        class Empty(DatabaseTestCase):
            def test_no_tables(self):
                self.assertEqual(inspect(self.engine).get_table_names(), [])

        self.assertEqual(problems(run_case(Empty)), [])

    @of_throwaway_servers
    def test_server_and_directory_are_gone_after_the_class(self):
        seen = {}

        class Shop(ShopTestCase):
            def test_it(self):
                seen["pid"] = self.instance.server_pid
                seen["directory"] = Path(self.instance.base_dir)
                assert seen["directory"].is_dir()
                os.kill(seen["pid"], 0)

        result = run_case(Shop)

        self.assertEqual(problems(result), [])
        assert_goes_away(self, seen["directory"])
        with self.assertRaises(ProcessLookupError):
            os.kill(seen["pid"], 0)

    @of_throwaway_servers
    def test_server_stops_when_set_up_class_raises(self):
        seen = {}

        class Shop(ShopTestCase):
            @classmethod
            def setUpClass(cls):
                super().setUpClass()
                seen["pid"] = cls.instance.server_pid
                seen["directory"] = Path(cls.instance.base_dir)
                raise RuntimeError("on purpose")

            def test_it(self):
                pass

        class Later(ShopTestCase):
            def test_it(self):
                self.assertEqual(self.session.scalar(select(func.count()).select_from(Customer)), 0)

        result = run_case(Shop, Later)

        self.assertEqual(len(result.errors), 1)
        self.assertIn("on purpose", result.errors[0][1])
        self.assertEqual(result.testsRun, 1)
        assert_goes_away(self, seen["directory"])

    @of_throwaway_servers
    def test_server_stops_when_class_data_cannot_be_made(self):
        seen = {}

        class Shop(ShopTestCase):
            @classmethod
            def setUpTestData(cls, session):
                seen["directory"] = Path(cls.instance.base_dir)
                session.add(Order(item="nobody's"))

            def test_it(self):
                pass

        result = run_case(Shop)

        self.assertEqual(len(result.errors), 1)
        self.assertIn("customer_id", result.errors[0][1])
        assert_goes_away(self, seen["directory"])

    def test_set_up_class_without_super_is_told_so(self):
        class Shop(ShopTestCase):
            @classmethod
            def setUpClass(cls):
                pass

            def test_it(self):
                raise AssertionError("must not run")

        result = run_case(Shop)

        self.assertEqual(len(result.errors), 1)
        self.assertEqual(result.failures, [])
        self.assertIn("super().setUpClass()", result.errors[0][1])
        self.assertIn("Shop", result.errors[0][1])

    def test_engine_before_set_up_class_is_a_sentence(self):
        class Shop(ShopTestCase):
            pass

        with self.assertRaisesRegex(errors.DBTestCaseError, r"Shop.engine is there once"):
            Shop.engine.connect()
        with self.assertRaisesRegex(errors.DBTestCaseError, r"Shop.url is there once"):
            Shop("run").url  # noqa: B018

    def test_whoever_only_looks_at_a_class_meets_no_exception(self):
        class Shop(ShopTestCase):
            def test_it(self):
                pass

        for name in dir(Shop):
            getattr(Shop, name)
        self.assertFalse(hasattr(Shop("test_it"), "engine"))
        self.assertIn("test_it", dict(inspect_module.getmembers(Shop)))
        self.assertIn("test_it", dict(inspect_module.getmembers(Shop("test_it"))))
        self.assertTrue(callable(mock.create_autospec(Shop).test_it))

    def test_set_up_and_tear_down_without_super_are_isolated_all_the_same(self):
        class Shop(ShopTestCase):
            def setUp(self):
                self.session.add(Customer(name="Ada"))
                self.session.commit()

            def tearDown(self):
                pass

            def test_1(self):
                self.assertEqual(self.session.scalar(select(func.count()).select_from(Customer)), 1)

            test_2 = test_1

        self.assertEqual(problems(run_case(Shop)), [])

    def test_a_skipped_test_leaves_nothing_open(self):
        class Shop(ShopTestCase):
            @unittest.skip("not today")
            def test_1(self):
                pass

            def test_2(self):
                self.skipTest("neither")

            def test_3(self):
                self.session.add(Customer(name="Ada"))
                self.session.commit()

        result = run_case(Shop)

        self.assertEqual(problems(result), [])
        self.assertEqual(len(result.skipped), 2)

    def test_sub_tests_share_the_test_s_data(self):
        class Shop(ShopTestCase):
            def test_1(self):
                for number in range(3):
                    with self.subTest(number=number):
                        self.session.add(Customer(name=f"customer {number}"))
                        self.session.commit()
                self.assertEqual(self.session.scalar(select(func.count()).select_from(Customer)), 3)

        self.assertEqual(problems(run_case(Shop)), [])

    def test_an_expected_failure_is_one(self):
        class Shop(ShopTestCase):
            @unittest.expectedFailure
            def test_1(self):
                self.session.add(Order(item="nobody's"))
                self.session.commit()

            def test_2(self):
                self.assertEqual(self.session.scalar(select(func.count()).select_from(Order)), 0)

        result = run_case(Shop)

        self.assertEqual(problems(result), [])
        self.assertEqual(len(result.expectedFailures), 1)

    def test_debug_isolates_too(self):
        class Shop(ShopTestCase):
            def test_1(self):
                self.session.add(Customer(name="Ada"))
                self.session.commit()
                self.assertEqual(self.session.scalar(select(func.count()).select_from(Customer)), 1)

            test_2 = test_1

        unittest.TestSuite([Shop("test_1"), Shop("test_2")]).debug()

    def test_a_class_that_is_run_twice_starts_afresh(self):
        class Shop(ShopTestCase):
            def test_1(self):
                self.session.add(Customer(name="Ada"))
                self.session.commit()

        self.assertEqual(problems(run_case(Shop)), [])
        self.assertEqual(problems(run_case(Shop)), [])

    def test_an_attribute_that_cannot_be_what_it_says_is_named_before_anything_starts(self):
        wrong = (
            ("postgres", ThrowawayPostgres),
            ("postgres", None),
            ("app_engines", create_engine("postgresql+psycopg2://production.invalid/shop")),
            ("hidden_columns", "iban"),
            ("lock_wait", "5"),
            ("lock_wait", -1),
            ("lock_wait", True),
            ("allow_other_databases", "no"),
            ("restart_identities", 1),
        )
        for attribute, value in wrong:
            with self.subTest(attribute, value=value):
                one = type("Shop", (DatabaseTestCase,), {attribute: value, "test_1": lambda self: None})

                ((_, text),) = run_case(one).errors

                self.assertIn(f"Shop.{attribute} is {value!r}; it has to be ", text)
                self.assertNotIn("Traceback", text)

    def test_isolation_that_a_test_sets_on_itself_is_too_late_and_told(self):
        for uses_database in (True, False):

            class Shop(DatabaseTestCase):
                reads = uses_database

                def setUp(self):
                    self.isolation = "clone"

                def test_1(self):
                    if self.reads:
                        self.assertEqual(self.session.scalar(text("SELECT 1")), 1)

            with self.subTest(uses_database=uses_database):
                result = run_case(Shop)
                self.assertEqual((result.testsRun, len(result.errors)), (1, 1))
                self.assertIn("Shop.test_1: self.isolation = 'clone' comes too late", result.errors[0][1])
                self.assertIn('@isolate("clone")'.replace('"', "'"), result.errors[0][1])

    def test_bad_schema_names_class_and_attribute(self):
        class Shop(DatabaseTestCase):
            schema = 42

            def test_1(self):
                pass

        result = run_case(Shop)

        self.assertEqual(len(result.errors), 1)
        self.assertIn("Shop.schema", result.errors[0][1])
        self.assertIn("42", result.errors[0][1])


class IsolationTests(unittest.TestCase):
    def test_committed_rows_are_gone_in_the_next_test(self):
        class Shop(ShopTestCase):
            def test_1_commits_a_row(self):
                self.session.add(Customer(name="Ada"))
                self.session.commit()

            def test_2_sees_an_empty_table(self):
                self.assertEqual(self.session.scalars(select(Customer)).all(), [])

            @classmethod
            def tearDownClass(cls):
                with create_engine(cls.instance.url()).connect() as connection:
                    assert connection.scalar(select(func.count()).select_from(Customer)) == 0
                super().tearDownClass()

        result = run_case(Shop)

        self.assertEqual(problems(result), [])
        self.assertEqual(result.testsRun, 2)

    def test_a_test_that_asks_for_the_address_of_its_database_has_a_copy_of_it(self):
        class Shop(ShopTestCase):
            def commit_for_real(self, connection):
                with closing(connection), connection, connection.cursor() as cursor:
                    cursor.execute("INSERT INTO customer (name) VALUES ('for real')")
                self.assertRowCount(Customer, 1)

            def test_1_dsn(self):
                self.commit_for_real(psycopg2.connect(**self.instance.dsn()))

            def test_2_url(self):
                url = make_url(self.instance.url())
                libpq = url.set(drivername="postgresql").render_as_string(hide_password=False)
                self.commit_for_real(psycopg2.connect(libpq))

            def test_3_connect(self):
                self.commit_for_real(self.instance.connect())

            def test_4_execute(self):
                self.instance.execute("INSERT INTO customer (name) VALUES ('for real')", database="test")
                self.assertRowCount(Customer, 1)

            def test_5_external_url(self):
                self.assertTrue(self.external_url.startswith("postgresql://"))
                self.commit_for_real(psycopg2.connect(self.external_url))

            def test_6_another_database_of_the_server(self):
                self.assertTrue(self.instance.url(database="postgres").partition("?")[0].endswith("/postgres"))

            def test_7_is_clean(self):
                self.assertRowCount(Customer, 0)

        class ShopOnCopies(Shop):
            isolation = "clone"

        self.assertEqual(problems(run_case(Shop, ShopOnCopies)), [])

    @of_throwaway_servers
    def test_a_commit_past_our_engines_is_an_error_of_its_test_and_the_next_is_clean(self):
        for driver in ("psycopg2", "psycopg"):
            with self.subTest(driver=driver):
                app_engine = create_engine(f"postgresql+{driver}://nobody@matters.invalid/production")

                class Shop(ShopTestCase):
                    app_engines = [app_engine]

                    @classmethod
                    def setUpClass(cls):
                        super().setUpClass()
                        cls.address = cls.instance.dsn()

                    def test_1_is_fine(self):
                        self.session.add(Customer(name="Ada"))
                        self.session.commit()

                    def test_2_goes_past_us(self):
                        self.assertRowCount(Customer, 0)
                        with closing(psycopg2.connect(**self.address)) as own, own, own.cursor() as cursor:
                            cursor.execute("INSERT INTO customer (name) VALUES ('for real')")

                    def test_3_is_clean(self):
                        self.assertRowCount(Customer, 0)

                result = run_case(Shop)

                self.assertEqual(len(problems(result)), 1, problems(result))
                problem = problems(result)[0]
                self.assertIn("test_2_goes_past_us", str(result.errors[0][0]))
                for words in ("IsolationBroken", "Shop", "external_url", '@isolate("clone")'):
                    self.assertIn(words, problem)

    @of_throwaway_servers
    def test_a_commit_by_a_test_that_uses_no_database_of_ours_is_told_by_it(self):
        class Shop(ShopTestCase):
            @classmethod
            def setUpClass(cls):
                super().setUpClass()
                cls.address = cls.instance.dsn()

            def test_1(self):
                self.assertRowCount(Customer, 0)

            def test_2_never_asks_us(self):
                with closing(psycopg2.connect(**self.address)) as own, own, own.cursor() as cursor:
                    cursor.execute("INSERT INTO customer (name) VALUES ('for real')")

            def test_3_is_clean(self):
                self.assertRowCount(Customer, 0)

        result = run_case(Shop)

        self.assertEqual([test.id().rpartition(".")[2] for test, _ in result.errors], ["test_2_never_asks_us"])
        self.assertEqual(result.failures, [])

    def test_sequences_set_back_and_notifications_are_no_commits_of_others(self):
        class Shop(ShopTestCase):
            restart_identities = True

            def numbered(self):
                self.session.add(Customer(name="Ada"))
                self.session.commit()
                self.assertEqual(self.session.scalars(select(Customer.id)).all(), [1])

            def notified(self):
                self.session.execute(text("NOTIFY shop, 'open'"))
                self.session.commit()

            test_1 = test_2 = test_5 = numbered
            test_3 = test_4 = notified

        self.assertEqual(problems(run_case(Shop)), [])

    def test_a_rollback_keeps_what_was_committed_before(self):
        class Shop(ShopTestCase):
            def test_it(self):
                self.session.add(Customer(name="Ada"))
                self.session.commit()
                self.session.add(Customer(name="Grace"))
                self.session.rollback()
                self.assertEqual(self.session.scalars(select(Customer.name)).all(), ["Ada"])

        self.assertEqual(problems(run_case(Shop)), [])

    def test_every_way_into_the_database_is_undone(self):
        app_engine = create_engine(FORBIDDEN)
        module_session = scoped_session(sessionmaker(app_engine))

        count = itertools.count()

        def write(engine):
            with engine.begin() as connection:
                connection.execute(Customer.__table__.insert(), {"name": f"begin {next(count)}"})
            with engine.connect() as connection:
                connection.execute(Customer.__table__.insert(), {"name": f"connect {next(count)}"})
                connection.commit()
            with Session(engine) as session:
                session.add(Customer(name=f"session {next(count)}"))
                session.commit()
            raw = engine.raw_connection()
            try:
                raw.cursor().execute(f"INSERT INTO customer (name) VALUES ('raw {next(count)}')")
                raw.commit()
            finally:
                raw.close()
            with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
                connection.execute(Customer.__table__.insert(), {"name": f"autocommit {next(count)}"})

        class Shop(ShopTestCase):
            app_engines = [app_engine]

            def test_1(self):
                self.assertEqual(self.session.scalar(select(func.count()).select_from(Customer)), 0)
                write(app_engine)
                write(self.engine)
                write(create_engine(self.url))
                module_session.add(Customer(name="scoped"))
                module_session.commit()
                self.assertEqual(self.session.scalar(select(func.count()).select_from(Customer)), 16)

            test_2 = test_1

        pool, dialect = app_engine.pool, app_engine.dialect

        self.assertEqual(problems(run_case(Shop)), [])
        self.assertIs(app_engine.pool, pool)
        self.assertIs(app_engine.dialect, dialect)
        self.assertEqual(app_engine.url.host, "matters.invalid")

    def test_a_connection_closed_without_commit_leaves_nothing(self):
        class Shop(ShopTestCase):
            def test_it(self):
                with self.engine.connect() as connection:
                    connection.execute(Customer.__table__.insert(), {"name": "Ada"})
                self.assertEqual(self.session.scalar(select(func.count()).select_from(Customer)), 0)

        self.assertEqual(problems(run_case(Shop)), [])

    def test_an_unhandled_integrity_error_fails_its_own_test_only(self):
        class Shop(ShopTestCase):
            def test_1(self):
                self.session.add(Order(item="nobody's"))
                self.session.commit()

            def test_2(self):
                self.session.add(Customer(name="Ada"))
                self.session.commit()
                self.assertEqual(self.session.scalar(select(func.count()).select_from(Customer)), 1)

        result = run_case(Shop)

        self.assertEqual({test.id().rpartition(".")[2] for test, _ in result.errors}, {"test_1"}, problems(result))

    def test_a_caught_integrity_error_keeps_earlier_commits(self):
        class Shop(ShopTestCase):
            def test_1(self):
                self.session.add(Customer(name="Ada"))
                self.session.commit()
                self.session.add(Customer(name="Ada"))
                with self.assertRaisesRegex(Exception, "duplicate key"):
                    self.session.commit()
                self.session.rollback()
                self.assertEqual(self.session.scalars(select(Customer.name)).all(), ["Ada"])

        self.assertEqual(problems(run_case(Shop)), [])

    def test_drop_all_and_create_all_inside_a_test_do_not_hang_and_are_undone(self):
        class Shop(ShopTestCase):
            def test_1(self):
                other = Session(self.engine)
                other.scalars(select(Customer)).all()
                Base.metadata.drop_all(self.engine)
                self.assertEqual(inspect(self.engine).get_table_names(), [])

            def test_2(self):
                self.assertEqual(len(inspect(self.engine).get_table_names()), 2)
                Base.metadata.create_all(self.engine)
                self.session.execute(text('TRUNCATE customer, "order"'))
                self.session.execute(text("ALTER TABLE customer ADD COLUMN age integer"))
                self.session.commit()

            def test_3(self):
                columns = [column["name"] for column in inspect(self.engine).get_columns("customer")]
                self.assertEqual(columns, ["id", "name"])

        self.assertEqual(problems(run_case(Shop)), [])

    def test_a_server_that_dies_is_replaced_for_the_next_test(self):
        def kill(test: DatabaseTestCase) -> None:
            os.kill(test.instance.server_pid, signal.SIGKILL)
            test.session.execute(text("SELECT pg_sleep(30)"))  # ends as soon as the server's end is noticed

        for kind in ("savepoint", "clone"):
            with self.subTest(kind):

                class Shop(ShopTestCase):
                    isolation = kind

                    def test_1(self):
                        self.session.add(Customer(name="Ada"))
                        self.session.commit()
                        kill(self)

                    def test_2(self):
                        self.assertRowCount(Customer, 0)

                result = run_case(Shop)

                self.assertEqual({test.id()[-6:] for test, _ in result.errors}, {"test_1"}, problems(result))

    @of_throwaway_servers
    def test_a_test_that_ends_its_server_last_of_all_keeps_its_result(self):
        class Shop(ShopTestCase):
            isolation = "clone"

            @classmethod
            def setUpTestData(cls, session: Session) -> None:
                session.add(Customer(name="Ada"))

            def test_1(self):
                self.session.add(Customer(name="Grace"))
                self.session.flush()
                os.kill(self.instance.server_pid, signal.SIGKILL)
                # Whether its children have noticed yet when the session is closed is left to chance.

            def test_2(self):
                self.assertRowCount(Customer, 1)

            @isolate("savepoint")
            def test_3(self):
                self.assertRowCount(Customer, 1)

        self.assertEqual(problems(run_case(Shop)), [])

    def test_commit_as_sql_text_works_as_on_real_connections(self):
        class Shop(ShopTestCase):
            def test_1(self):
                self.session.add(Customer(name="Ada"))
                self.session.flush()
                self.session.execute(text("COMMIT"))
                self.session.rollback()
                self.assertRowCount(Customer, 1)

            def test_2(self):
                self.assertRowCount(Customer, 0)

        self.assertEqual(problems(run_case(Shop)), [])

    def test_commit_as_sql_text_is_an_error_of_a_test_that_may_not_run_again(self):
        class Shop(ShopTestCase):
            isolation = "savepoint"

            def test_1(self):
                self.session.add(Customer(name="Ada"))
                self.session.flush()
                self.session.execute(text("COMMIT"))

            def test_2(self):
                self.assertRowCount(Customer, 0)

        result = run_case(Shop)

        self.assertEqual([test.id().rpartition(".")[2] for test, _ in result.errors], ["test_1"], problems(result))
        for words in ("IsolationBroken", "COMMIT", "tests/test_case.py", '@isolate("clone")'):
            self.assertIn(words, result.errors[0][1])

    @of_throwaway_servers
    def test_a_server_that_restarts_fails_its_own_test_only(self):
        class Shop(ShopTestCase):
            def test_1(self):
                self.session.add(Customer(name="Ada"))
                self.session.commit()
                with create_engine(self.instance.url()).connect() as connection:
                    pid = connection.scalar(text("SELECT pg_backend_pid()"))
                # PostgreSQL starts all over when one of its processes is killed.
                os.kill(pid, signal.SIGKILL)
                deadline = time.monotonic() + 10
                while time.monotonic() < deadline:
                    self.session.execute(select(Customer)).all()

            def test_2(self):
                self.assertEqual(self.session.scalars(select(Customer)).all(), [])

        result = run_case(Shop)

        self.assertEqual({test.id().rpartition(".")[2] for test, _ in result.errors}, {"test_1"}, problems(result))
        self.assertRegex(result.errors[0][1], "server closed the connection|terminating connection")
        self.assertRegex(result.errors[0][1], r"The server of .*Shop has ended: .* terminated by signal 9.* fresh one")

    @of_throwaway_servers
    def test_tests_do_not_go_on_without_class_data_that_cannot_be_made_again(self):
        for kind in ("auto", "savepoint", "clone", "class"):
            with self.subTest(kind):

                class Shop(ShopTestCase):
                    isolation = kind
                    made = 0

                    @classmethod
                    def setUpTestData(cls, session: Session) -> None:
                        cls.made += 1
                        if cls.made == 2:
                            raise ValueError("not again")
                        session.add(Customer(name=f"the {cls.made}."))

                    def test_1(self):
                        os.kill(self.instance.server_pid, signal.SIGKILL)
                        self.session.execute(text("SELECT pg_sleep(30)"))  # ends as soon as that is noticed

                    def test_2(self):
                        self.assertRowExists(Customer, name=f"the {self.made}.")

                    test_3 = test_2

                result = run_case(Shop)

                self.assertEqual({test.id()[-6:] for test, _ in result.errors}, {"test_1"}, problems(result))
                self.assertEqual(result.failures, [])
                self.assertGreater(Shop.made, 2)

    def test_pings_of_the_pool_are_not_counted_as_queries(self):
        for kind in ("savepoint", "clone"):
            app_engine = create_engine(FORBIDDEN, pool_pre_ping=True)

            class Shop(ShopTestCase):
                isolation = kind
                app_engines = [app_engine]

                def test_1(self):
                    for _ in range(2):
                        with self.assertNumQueries(1), self.app_engines[0].connect() as connection:
                            connection.scalar(select(func.count()).select_from(Customer))

            with self.subTest(isolation=kind):
                self.assertEqual(problems(run_case(Shop)), [])

    def test_redirect_engine_takes_engines_made_later(self):
        later = create_engine(FORBIDDEN)

        class Shop(ShopTestCase):
            @classmethod
            def setUpClass(cls):
                super().setUpClass()
                cls.redirect_engine(later)

            def test_1(self):
                with later.begin() as connection:
                    connection.execute(Customer.__table__.insert(), {"name": "Ada"})
                self.assertEqual(self.session.scalar(select(func.count()).select_from(Customer)), 1)

            test_2 = test_1

        self.assertEqual(problems(run_case(Shop)), [])


class ClassDataTests(unittest.TestCase):
    def test_objects_are_fresh_in_each_test(self):
        class Shop(ShopTestCase):
            @classmethod
            def setUpTestData(cls, session):
                cls.ada = Customer(name="Ada")
                cls.both = [Order(item="tea", customer=cls.ada), Order(item="milk", customer=cls.ada)]
                session.add_all(cls.both)

            def test_1(self):
                self.assertEqual(self.ada.name, "Ada")
                self.assertIn(self.ada, self.session)
                self.assertIs(self.both[0].customer, self.ada)
                self.ada.name = "Grace"
                self.session.delete(self.both[1])
                self.session.commit()
                self.assertEqual(self.session.scalars(select(Customer.name)).all(), ["Grace"])
                self.assertEqual(self.ada.name, "Grace")

            test_2 = test_1

        self.assertEqual(problems(run_case(Shop)), [])

    def test_class_data_is_inherited_and_combined_through_super(self):
        class Shop(ShopTestCase):
            @classmethod
            def setUpTestData(cls, session):
                cls.ada = Customer(name="Ada")
                session.add(cls.ada)

            def test_1(self):
                self.assertEqual(self.ada.name, "Ada")

        class BiggerShop(Shop):
            @classmethod
            def setUpTestData(cls, session):
                super().setUpTestData(session)
                cls.grace = Customer(name="Grace")
                session.add(cls.grace)

            def test_2(self):
                self.assertEqual({self.ada.name, self.grace.name}, {"Ada", "Grace"})

        result = run_case(Shop, BiggerShop)

        self.assertEqual(problems(result), [])
        self.assertEqual(result.testsRun, 3)

    def test_objects_can_be_read_on_the_class_after_set_up_class(self):
        class Shop(ShopTestCase):
            @classmethod
            def setUpTestData(cls, session):
                cls.ada = Customer(name="Ada")
                session.add(cls.ada)

            @classmethod
            def setUpClass(cls):
                super().setUpClass()
                cls.number, cls.text = cls.ada.id, cls.ada.name

            def test_1(self):
                self.assertEqual((self.number, self.text), (self.ada.id, "Ada"))

        self.assertEqual(problems(run_case(Shop)), [])

    def test_a_test_that_only_reads_an_object_sends_nothing(self):
        class Shop(ShopTestCase):
            @classmethod
            def setUpTestData(cls, session):
                cls.ada = Customer(name="Ada")
                session.add(cls.ada)

            def test_1(self):
                with self.assertNumQueries(0):
                    self.assertEqual(self.ada.name, "Ada")

            test_2 = test_1

        self.assertEqual(problems(run_case(Shop)), [])

    def test_a_change_that_was_not_flushed_is_not_overwritten_by_the_class_s_object(self):
        class Shop(ShopTestCase):
            @classmethod
            def setUpTestData(cls, session):
                cls.ada = Customer(name="Ada")
                session.add(cls.ada)

            def test_1(self):
                same = self.session.scalars(select(Customer)).one()
                same.name = "Grace"
                self.assertIs(self.ada, same)
                self.assertEqual(self.ada.name, "Grace")

        self.assertEqual(problems(run_case(Shop)), [])

    def test_objects_in_dicts_and_tuples_are_copied_too(self):
        class Shop(ShopTestCase):
            @classmethod
            def setUpTestData(cls, session):
                ada = Customer(name="Ada")
                cls.by_name = {"Ada": ada}
                cls.pair = (ada, [ada])
                session.add(ada)

            def test_1(self):
                self.assertIs(self.by_name["Ada"], self.pair[1][0])
                self.assertPersistent(self.pair[0])
                self.pair[0].name = "Grace"
                self.by_name.clear()
                self.session.commit()

            def test_2(self):
                self.assertEqual(self.by_name["Ada"].name, "Ada")

        self.assertEqual(problems(run_case(Shop)), [])

    def test_a_row_changed_before_the_object_is_touched_is_seen_as_it_is_now(self):
        class Shop(ShopTestCase):
            @classmethod
            def setUpTestData(cls, session):
                cls.ada = Customer(name="Ada")
                session.add(cls.ada)

            def test_1(self):
                with self.engine.begin() as connection:
                    connection.execute(text("UPDATE customer SET name = 'Grace'"))
                self.assertEqual(self.ada.name, "Grace")

        self.assertEqual(problems(run_case(Shop)), [])

    def test_rows_made_in_set_up_class_are_seen_by_every_test(self):
        class Shop(ShopTestCase):
            @classmethod
            def setUpClass(cls):
                super().setUpClass()
                with Session(cls.engine) as session:
                    session.add(Customer(name="Ada"))
                    session.commit()

            def test_1(self):
                self.assertEqual(self.session.scalar(select(func.count()).select_from(Customer)), 1)
                self.session.execute(text("DELETE FROM customer"))
                self.session.commit()

            test_2 = test_1

        self.assertEqual(problems(run_case(Shop)), [])

    def test_a_test_object_that_is_run_again_gets_fresh_copies(self):
        class Shop(ShopTestCase):
            @classmethod
            def setUpTestData(cls, session):
                cls.ada = Customer(name="Ada")
                session.add(cls.ada)

            def test_1(self):
                self.assertEqual(self.ada.name, "Ada")
                self.ada.name = "Grace"
                self.session.commit()

        test = Shop("test_1")
        result = unittest.TestResult()

        unittest.TestSuite([test, test]).run(result)

        self.assertEqual(problems(result), [])
        self.assertEqual(result.testsRun, 2)


class SeveralDatabasesTests(unittest.TestCase):
    def test_each_database_of_a_mapping_is_undone(self):
        audit = MetaData()
        entries = Table("entry", audit, Column("id", Integer, primary_key=True))
        audit_engine = create_engine(FORBIDDEN)

        class Shop(DatabaseTestCase):
            schema = {"test": Base, "audit": audit}

            @classmethod
            def setUpClass(cls):
                super().setUpClass()
                cls.redirect_engine(audit_engine, "audit")

            def test_1(self):
                with audit_engine.begin() as connection:
                    self.assertEqual(connection.scalar(select(func.count()).select_from(entries)), 0)
                    connection.execute(entries.insert(), {"id": 1})
                with self.engine_for("audit").connect() as connection:
                    self.assertEqual(connection.scalar(select(func.count()).select_from(entries)), 1)

            test_2 = test_1

        self.assertEqual(problems(run_case(Shop)), [])

    def test_a_database_that_the_schema_does_not_name_is_told_so(self):
        class Shop(ShopTestCase):
            def test_1(self):
                with self.assertRaisesRegex(errors.DBTestCaseError, "Shop has no database 'audit'"):
                    self.engine_for("audit")

        self.assertEqual(problems(run_case(Shop)), [])


class SchemaKindTests(unittest.TestCase):
    def test_a_callable_gets_a_connection(self):
        def create(connection: Connection) -> None:
            connection.execute(text("CREATE TABLE made (id integer)"))

        class Shop(DatabaseTestCase):
            schema = create

            def test_1(self):
                self.assertEqual(inspect(self.engine).get_table_names(), ["made"])

        self.assertEqual(problems(run_case(Shop)), [])


class IdentityTests(unittest.TestCase):
    def test_generated_keys_start_at_the_same_value_in_every_test(self):
        class Shop(ShopTestCase):
            restart_identities = True

            @classmethod
            def setUpTestData(cls, session):
                session.add_all([Customer(name="Ada"), Customer(name="Grace")])

            def test_1(self):
                edith = Customer(name="Edith")
                self.session.add(edith)
                self.session.add(Order(item="tea", customer=edith))
                self.session.commit()
                self.assertEqual((edith.id, edith.orders[0].id), (3, 1))

            test_2 = test_3 = test_1

        self.assertEqual(problems(run_case(Shop)), [])

    @once
    def test_more_sequences_than_a_select_has_columns_are_set_back(self):
        def create(connection):
            connection.exec_driver_sql(
                "DO $$ BEGIN FOR n IN 1..1700 LOOP EXECUTE 'CREATE SEQUENCE s' || n || ' START 5'; END LOOP; END $$"
            )

        class Shop(DatabaseTestCase):
            schema = staticmethod(create)
            restart_identities = True

            def test_1(self):
                self.assertEqual(self.session.scalar(text("SELECT nextval('s1') + nextval('s1700')")), 10)

            test_2 = test_1

        self.assertEqual(problems(run_case(Shop)), [])

    def test_without_it_sequences_keep_counting(self):
        ids = []

        class Shop(ShopTestCase):
            def test_1(self):
                ada = Customer(name="Ada")
                self.session.add(ada)
                self.session.commit()
                ids.append(ada.id)

            test_2 = test_1

        self.assertEqual(problems(run_case(Shop)), [])
        self.assertEqual(ids, [1, 2])


class OptionsTests(unittest.TestCase):
    def test_settings_of_the_class_reach_its_server(self):
        class Tuned(DatabaseTestCase):
            postgres: ClassVar = ThrowawayPostgres(settings={"max_connections": 17})

            def test_1(self):
                self.assertEqual(self.session.scalar(text("SHOW max_connections")), "17")

        self.assertEqual(problems(run_case(Tuned)), [])


class OtherDatabasesTests(unittest.TestCase):
    def test_an_engine_that_was_declared_nowhere_is_refused_before_it_connects(self):
        forgotten = create_engine("postgresql+psycopg2://somebody:secret@127.0.0.1:1/production")

        class Shop(ShopTestCase):
            def test_1(self):
                forgotten.connect()

        result = run_case(Shop)

        self.assertEqual(len(result.errors), 1)
        for words in ("UndeclaredDatabase", "production", "Shop.app_engines", "allow_other_databases"):
            self.assertIn(words, result.errors[0][1])
        self.assertNotIn("secret", result.errors[0][1])

    def test_a_connection_that_was_open_before_the_class_is_refused_too(self):
        with running_instance(ThrowawayPostgres()) as other:
            for driver in ("psycopg2", "psycopg"):
                engine = create_engine(make_url(other.url()).set(drivername=f"postgresql+{driver}"))
                self.addCleanup(engine.dispose)
                with engine.connect():
                    pass  # now its pool holds an open connection

                class Shop(ShopTestCase):
                    def test_1(self):
                        with self.assertRaises(errors.UndeclaredDatabase) as caught:
                            engine.connect()  # noqa: B023
                        type(self).message = str(caught.exception)

                with self.subTest(driver=driver):
                    self.assertEqual(problems(run_case(Shop)), [])
                    self.assertIn("opened before the class", Shop.message)
                    with engine.connect() as connection:
                        self.assertEqual(connection.scalar(text("SELECT 1")), 1)

    def test_a_class_may_allow_other_databases(self):
        elsewhere = create_engine("postgresql+psycopg2://somebody@127.0.0.1:1/elsewhere")

        class Shop(ShopTestCase):
            allow_other_databases = True

            def test_1(self):
                with self.assertRaisesRegex(Exception, "Connection refused"):
                    elsewhere.connect()

        self.assertEqual(problems(run_case(Shop)), [])

    def test_an_engine_of_another_class_s_time_is_free_again_after_the_class(self):
        class Shop(ShopTestCase):
            def test_1(self):
                pass

        run_case(Shop)

        with self.assertRaisesRegex(Exception, "Connection refused"):
            create_engine("postgresql+psycopg2://somebody@127.0.0.1:1/elsewhere").connect()


class LateUrlTests(unittest.TestCase):
    def test_an_engine_made_at_import_time_serves_each_class_in_turn(self):
        engine = create_engine(URL)

        class Shop(ShopTestCase):
            def test_1(self):
                with Session(engine) as session:
                    session.add(Customer(name="Ada"))
                    session.commit()
                self.assertEqual(self.session.scalar(select(func.count()).select_from(Customer)), 1)

            test_2 = test_1

        class OtherShop(Shop):
            pass

        self.assertEqual(problems(run_case(Shop, OtherShop)), [])
        with self.assertRaisesRegex(errors.DBTestCaseError, "no test class was running"):
            engine.connect()

    def test_an_engine_keeps_its_connect_args(self):
        given = {"options": "-c timezone=Asia/Tokyo"}
        early = create_engine(URL, connect_args=given)

        class Shop(ShopTestCase):
            def test_in_one_transaction(self):
                late = create_engine(URL, connect_args=given)
                own = create_engine(self.url, connect_args=given)
                for engine in (early, late, own):
                    with engine.connect() as connection:
                        self.assertEqual(connection.scalar(text("SHOW timezone")), "Asia/Tokyo")

            test_on_a_copy = isolate("clone")(test_in_one_transaction)

        self.assertEqual(problems(run_case(Shop)), [])

    def test_an_engine_of_a_class_that_is_over_says_so_while_another_class_runs(self):
        kept = []

        class Shop(ShopTestCase):
            def test_1(self):
                kept.append(create_engine(self.url))

        class Later(ShopTestCase):
            def test_1(self):
                with self.assertRaisesRegex(errors.DBTestCaseError, "no test class runs the database"):
                    kept[0].connect()

        self.assertEqual(problems(run_case(Shop, Later)), [])
