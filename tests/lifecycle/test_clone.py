from __future__ import annotations

import multiprocessing
import select as io
import threading
import time
import unittest
from contextlib import ExitStack, closing
from unittest import mock

import psycopg2
from sqlalchemy import Column, Integer, MetaData, Table, create_engine, func, select, text
from sqlalchemy.orm import Session

from dbtestcase import DatabaseTestCase, ThrowawayPostgres, errors, isolate
from dbtestcase.diagnosis import locks
from dbtestcase.servers import databases
from tests.support import Base, Customer, problems, run_case

PID = text("SELECT pg_backend_pid()")
STARTED = "SELECT extract(epoch FROM backend_start)::float FROM pg_stat_activity WHERE pid = %s"


class CloneTestCase(DatabaseTestCase):
    schema = Base
    isolation = "clone"

    @classmethod
    def setUpTestData(cls, session):
        cls.ada = Customer(name="Ada")
        session.add(cls.ada)

    def names(self):
        with Session(self.engine) as session:
            return session.scalars(select(Customer.name).order_by(Customer.name)).all()


class CloneTests(unittest.TestCase):
    def test_each_test_has_schema_and_class_data_and_none_of_the_others_rows(self):
        class Shop(CloneTestCase):
            def test_1(self):
                self.assertEqual(self.names(), ["Ada"])
                self.ada.name = "Augusta"
                self.session.add(Customer(name="Grace"))
                self.session.commit()
                self.assertEqual(self.names(), ["Augusta", "Grace"])

            test_2 = test_3 = test_1

        result = run_case(Shop)

        self.assertEqual(problems(result), [])
        self.assertEqual(result.testsRun, 3)

    def test_what_a_forked_process_wrote_is_not_met_by_the_next_test(self):
        def write(engine):
            with engine.begin() as connection:
                connection.execute(Customer.__table__.insert(), {"name": "Grace"})

        class Shop(CloneTestCase):
            def test_1(self):
                child = multiprocessing.get_context("fork").Process(target=write, args=(self.engine,))
                child.start()
                child.join()
                self.assertEqual(child.exitcode, 0)
                self.assertEqual(self.names(), ["Ada", "Grace"])

            def test_2(self):
                self.assertEqual(self.names(), ["Ada"])

        self.assertEqual(problems(run_case(Shop)), [])

    def test_where_no_thread_can_be_started_copies_are_made_all_the_same(self):
        class Shop(CloneTestCase):
            def test_1(self):
                self.assertEqual(self.names(), ["Ada"])
                self.session.add(Customer(name="Grace"))
                self.session.commit()

            test_2 = test_3 = test_4 = test_1

        with (
            mock.patch.object(threading.Thread, "start", side_effect=RuntimeError("can't start new thread")),
            mock.patch.object(locks, "_watcher", locks._Watcher()),
        ):
            result = run_case(Shop)

        self.assertEqual((problems(result), result.testsRun), ([], 4))

    def test_commits_are_real_and_seen_by_other_connections_only_then(self):
        class Shop(CloneTestCase):
            def test_1(self):
                with self.engine.connect() as one, self.engine.connect() as other:
                    one.execute(Customer.__table__.insert(), {"name": "Grace"})
                    self.assertEqual(other.scalar(select(func.count()).select_from(Customer)), 1)
                    one.commit()
                    self.assertEqual(other.scalar(select(func.count()).select_from(Customer)), 2)
                self.assertNotEqual(*self.pids())

            def pids(self):
                with self.engine.connect() as one, self.engine.connect() as other:
                    return one.scalar(text("SELECT pg_backend_pid()")), other.scalar(text("SELECT pg_backend_pid()"))

        self.assertEqual(problems(run_case(Shop)), [])

    def test_what_needs_real_connections_works(self):
        class Shop(CloneTestCase):
            def test_listen_and_notify(self):
                listening = self.engine.raw_connection()
                listening.driver_connection.autocommit = True
                listening.cursor().execute("LISTEN news")
                with self.engine.begin() as connection:
                    connection.execute(text("NOTIFY news, 'hello'"))
                self.assertTrue(io.select([listening.driver_connection], [], [], 60)[0])
                listening.driver_connection.poll()
                self.assertEqual([notify.payload for notify in listening.driver_connection.notifies], ["hello"])
                listening.driver_connection.autocommit = False
                listening.close()

            def test_index_concurrently(self):
                with self.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
                    connection.execute(text("CREATE INDEX CONCURRENTLY by_name ON customer (name)"))

            def test_serializable(self):
                engine = self.engine.execution_options(isolation_level="SERIALIZABLE")
                with engine.connect() as one, engine.connect() as other:
                    for connection in (one, other):
                        connection.scalar(select(func.count()).select_from(Customer))
                    one.execute(Customer.__table__.insert(), {"name": "one"})
                    other.execute(Customer.__table__.insert(), {"name": "other"})
                    one.commit()
                    with self.assertRaisesRegex(Exception, "could not serialize"):
                        other.commit()

            def test_advisory_locks(self):
                with self.engine.connect() as one, self.engine.connect() as other:
                    self.assertTrue(one.scalar(text("SELECT pg_try_advisory_lock(1)")))
                    self.assertFalse(other.scalar(text("SELECT pg_try_advisory_lock(1)")))

            def test_commit_as_text(self):
                with self.engine.connect() as connection:
                    connection.execute(Customer.__table__.insert(), {"name": "Grace"})
                    connection.execute(text("COMMIT"))
                self.assertEqual(self.names(), ["Ada", "Grace"])

            def test_threads_each_have_a_connection(self):
                def add(number):
                    with Session(self.engine) as session:
                        session.add(Customer(name=f"customer {number}"))
                        session.commit()

                threads = [threading.Thread(target=add, args=(number,)) for number in range(4)]
                for thread in threads:
                    thread.start()
                for thread in threads:
                    thread.join()
                self.assertEqual(len(self.names()), 5)

        result = run_case(Shop)

        self.assertEqual(problems(result), [])
        self.assertEqual(result.testsRun, 6)

    def test_a_single_test_of_a_class_can_have_a_clone(self):
        class Shop(DatabaseTestCase):
            schema = Base

            def test_1_savepoint(self):
                self.session.add(Customer(name="Ada"))
                self.session.commit()

            @isolate("clone")
            def test_2_clone(self):
                self.assertEqual(self.session.scalar(select(func.count()).select_from(Customer)), 0)
                with self.engine.connect() as one, self.engine.connect() as other:
                    self.assertNotEqual(
                        one.scalar(text("SELECT pg_backend_pid()")), other.scalar(text("SELECT pg_backend_pid()"))
                    )
                self.session.add(Customer(name="Ada"))
                self.session.commit()

            def test_3_savepoint(self):
                self.assertEqual(self.session.scalar(select(func.count()).select_from(Customer)), 0)
                self.session.add(Customer(name="Ada"))
                self.session.commit()

            def test_4_savepoint(self):
                self.assertEqual(self.session.scalar(select(func.count()).select_from(Customer)), 0)

        self.assertEqual(problems(run_case(Shop)), [])

    def test_engines_of_the_code_under_test_use_the_clone(self):
        app_engine = create_engine("postgresql+psycopg2://nobody@matters.invalid/production")

        class Shop(CloneTestCase):
            app_engines = [app_engine]

            def test_1(self):
                with app_engine.begin() as connection:
                    connection.execute(Customer.__table__.insert(), {"name": "Grace"})
                self.assertEqual(self.names(), ["Ada", "Grace"])
                with create_engine(self.url).connect() as connection:
                    self.assertEqual(connection.scalar(select(func.count()).select_from(Customer)), 2)

            test_2 = test_1

        self.assertEqual(problems(run_case(Shop)), [])

    def test_copies_that_were_only_read_are_used_again_and_no_others(self):
        read, written = [], []

        class Shop(CloneTestCase):
            def database(self):
                with self.engine.connect() as connection:
                    return connection.scalar(text("SELECT current_database()"))

            def test_1_reads(self):
                self.assertEqual(self.names(), ["Ada"])
                read.append(self.database())

            def test_2_writes(self):
                written.append(self.database())
                self.session.add(Customer(name="Grace"))
                self.session.commit()

            def test_2_counts_a_sequence_on(self):
                written.append(self.database())
                self.session.scalar(text("SELECT nextval('customer_id_seq')"))

            test_3 = test_4 = test_5 = test_6 = test_7 = test_1_reads

        # A server process may take longer to end than is worth waiting for, and then its copy is not used again.
        with mock.patch.object(databases, "_LOOKS", 10_000):
            self.assertEqual(problems(run_case(Shop)), [])
        self.assertLess(len(set(read)), len(read))
        self.assertEqual(set(read) & set(written), set())
        self.assertEqual(len(set(written)), 2)

    def test_the_url_names_the_copy_and_what_others_write_there_reaches_no_other_test(self):
        class Shop(CloneTestCase):
            def test_1(self):
                self.assertEqual(self.names(), ["Ada"])
                for url, name in ((self.url, "Eve"), (self.engine.url, "Grace")):
                    libpq = url.set(drivername="postgresql").difference_update_query(["plugin"])
                    own = psycopg2.connect(libpq.render_as_string(hide_password=False))
                    with closing(own), own, own.cursor() as cursor:
                        cursor.execute("INSERT INTO customer (name) VALUES (%s)", [name])
                self.assertEqual(self.names(), ["Ada", "Eve", "Grace"])

            test_2 = test_3 = test_4 = test_5 = test_6 = test_1

        self.assertEqual(problems(run_case(Shop)), [])

    def test_several_databases_are_all_cloned(self):
        audit = MetaData()
        entries = Table("entry", audit, Column("id", Integer, primary_key=True))

        class Shop(DatabaseTestCase):
            schema = {"test": Base, "audit": audit}
            isolation = "clone"

            def test_1(self):
                with self.engine_for("audit").begin() as connection:
                    connection.execute(entries.insert(), {"id": 1})
                self.session.add(Customer(name="Ada"))
                self.session.commit()

            test_2 = test_1

        self.assertEqual(problems(run_case(Shop)), [])

    def test_a_connection_left_open_is_closed_with_a_warning_that_names_the_line(self):
        class Shop(CloneTestCase):
            def test_1(self):
                type(self).left = self.engine.connect()
                self.left.execute(text(self.statement))

            def test_2(self):
                self.assertEqual(self.names(), ["Ada"])

        for statement in ("SELECT 1", "INSERT INTO customer (name) VALUES ('Grace')"):
            Shop.statement = statement
            with self.subTest(statement):
                with self.assertWarnsRegex(ResourceWarning, r"test_clone\.py:\d+"):
                    unittest.TestSuite([Shop("test_1"), Shop("test_2")]).run(result := unittest.TestResult())

                self.assertEqual(problems(result), [])

    def test_an_unknown_isolation_is_an_error_that_names_the_attribute(self):
        class Shop(DatabaseTestCase):
            isolation = "snapshot"

            def test_1(self):
                pass

        result = run_case(Shop)

        self.assertIn("Shop.isolation is 'snapshot'", result.errors[0][1])


class AheadTests(unittest.TestCase):
    def test_connections_like_those_of_the_test_before_are_open_before_they_are_asked_for(self):
        for driver in ("psycopg2", "psycopg"):
            with self.subTest(driver=driver):
                begins, connects = self.begins_and_connects(driver)

                # Copies for the second and the third test may have been equipped before the first connected.
                for begin, (mine, application_s) in list(zip(begins, connects, strict=True))[3:]:
                    self.assertLess(mine, begin)
                    self.assertLess(application_s, begin)

    def begins_and_connects(self, driver):
        url = f"postgresql+{driver}://nobody@matters.invalid/production"
        app_engine = create_engine(url, connect_args={"application_name": "shop"})
        begins, connects = [], []

        class Shop(CloneTestCase):
            app_engines = [app_engine]

            @classmethod
            def setUpClass(cls):
                super().setUpClass()
                cls.address = cls.instance.dsn(database="postgres")

            def run(self, result=None):
                # Until the next copy is complete, which the test would else wait for.
                copies = self._dbtestcase.connections._copies
                supply = copies and copies._supplies["test"]
                for copy in list(supply._stock) if supply else ():
                    copy.result()
                begins.append(time.time())
                return super().run(result)

            def test_1(self):
                with app_engine.connect() as connection:
                    self.assertEqual(connection.scalar(text("SHOW application_name")), "shop")
                    application_s = connection.scalar(PID)
                connects.append((self.started(self.session.scalar(PID)), self.started(application_s)))

            def started(self, pid):
                # Not on a connection of the test's: a test that looks at sessions is alone, with nothing open ahead.
                with closing(psycopg2.connect(**self.address)) as connection, connection.cursor() as cursor:
                    cursor.execute(STARTED, [pid])
                    return cursor.fetchone()[0]

            test_2 = test_3 = test_4 = test_5 = test_6 = test_1

        self.assertEqual(problems(run_case(Shop)), [])
        return begins, connects

    def test_a_server_with_few_connections_leaves_them_all_to_the_test(self):
        class Shop(CloneTestCase):
            postgres = ThrowawayPostgres(settings={"max_connections": 20, "superuser_reserved_connections": 0})

            def test_1(self):
                with ExitStack() as stack:
                    for _ in range(8):
                        stack.enter_context(self.engine.connect()).execute(text("SELECT 1"))

            test_2 = test_3 = test_4 = test_1

        self.assertEqual(problems(run_case(Shop)), [])


class DiagnosisTests(unittest.TestCase):
    def test_queries_on_real_connections_are_counted_and_shown(self):
        class Shop(CloneTestCase):
            def test_1(self):
                with self.assertNumQueries(1):
                    self.names()
                raw = self.engine.raw_connection()
                with self.assertNumQueries(1):
                    raw.cursor().execute("SELECT 1")
                raw.close()
                self.fail("on purpose")

        result = run_case(Shop)

        self.assertEqual(len(result.failures), 1, problems(result))
        self.assertIn("SQL sent: 2 statements", result.failures[0][1])

    def test_a_statement_that_waits_for_a_lock_ends_and_says_who_holds_it(self):
        class Shop(CloneTestCase):
            lock_wait = 0.3

            def test_1(self):
                left_open = Session(self.engine)
                left_open.scalars(select(Customer)).all()
                with self.assertRaises(errors.LockWait) as caught:
                    Base.metadata.drop_all(self.engine)
                type(self).words = str(caught.exception)
                left_open.close()

        result = run_case(Shop)

        self.assertEqual(problems(result), [])
        for words in ("DROP TABLE", "idle in transaction", "test_clone.py", "close()"):
            self.assertIn(words, Shop.words)
