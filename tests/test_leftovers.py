"""Hard case 27: what is idle in transaction at the end of a test or class ends within a bound and is named."""

from __future__ import annotations

import multiprocessing
import threading
import time
import unittest
import warnings
from concurrent.futures import ThreadPoolExecutor

import psycopg2
from sqlalchemy import create_engine, insert, select, text
from sqlalchemy.orm import Session

from dbtestcase import DatabaseTestCase
from tests.support import Base, Customer, problems


class ShopTestCase(DatabaseTestCase):
    schema = Base
    lock_wait = 0.5


def run_with_warnings(case):
    result = unittest.TestResult()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        begin = time.monotonic()
        unittest.defaultTestLoader.loadTestsFromTestCase(case)(result)
        took = time.monotonic() - begin
    said = [str(each.message) for each in caught if issubclass(each.category, ResourceWarning)]
    return result, said, took


class LeftOpenTests(unittest.TestCase):
    def assert_named(self, said: list[str], *words: str) -> None:
        text = "\n".join(said)
        for word in (*words, "process ", "test_leftovers.py:", "last statement"):
            self.assertIn(word, text)

    def test_a_connection_of_the_class_s_own_engine(self):
        class Shop(ShopTestCase):
            def test_1(self):
                type(self).left = self.engine.connect()
                self.left.execute(text("SELECT 'left by the test'"))

            def test_2(self):
                self.assertEqual(self.session.scalars(select(Customer)).all(), [])

        result, said, took = run_with_warnings(Shop)

        self.assertEqual(problems(result), [])
        self.assert_named(said, "left by the test", "in test_1", "idle in transaction")
        self.assertLess(took, 10)

    def test_a_connection_of_a_clone_with_uncommitted_changes(self):
        class Shop(ShopTestCase):
            isolation = "clone"

            def test_1(self):
                type(self).left = self.engine.connect()
                self.left.execute(insert(Customer).values(name="left by the test"))

            def test_2(self):
                self.assertRowCount(Customer, 0)

        result, said, took = run_with_warnings(Shop)

        self.assertEqual(problems(result), [])
        self.assert_named(said, "INSERT INTO customer", "in test_1", "in a transaction for")
        self.assertLess(took, 10)

    def test_a_connection_of_an_engine_of_the_code_under_test_in_the_class_phase(self):
        engine = create_engine("postgresql+psycopg2://nobody@matters.invalid/production")

        class Shop(ShopTestCase):
            app_engines = [engine]

            @classmethod
            def setUpClass(cls):
                super().setUpClass()
                cls.left = engine.connect()
                cls.left.execute(text("SELECT 'left by setUpClass'"))

            def test_1(self):
                Base.metadata.drop_all(self.engine)

        result, said, _ = run_with_warnings(Shop)

        self.assertEqual(problems(result), [])
        self.assert_named(said, "left by setUpClass", "in setUpClass", "in a transaction")

    def test_a_connection_in_another_thread(self):
        class Shop(ShopTestCase):
            def test_1(self):
                done, go = threading.Event(), threading.Event()

                def work():
                    session = Session(self.engine)
                    session.execute(text("SELECT 'left by a thread'"))
                    type(self).connection = session.connection()
                    done.set()
                    go.wait(20)

                type(self).go = go
                threading.Thread(target=work, name="worker", daemon=True).start()
                done.wait()

            def test_2(self):
                self.assertEqual(self.session.scalars(select(Customer)).all(), [])

        result, said, took = run_with_warnings(Shop)
        Shop.go.set()

        self.assertEqual(problems(result), [])
        self.assertIn("worker", "\n".join(said))
        self.assertIn("test_leftovers.py:", "\n".join(said))
        self.assertLess(took, 10)

    def test_drop_all_in_tear_down_ends_where_a_stranger_s_connection_holds_the_table(self):
        class Shop(ShopTestCase):
            def setUp(self):
                self.stranger = psycopg2.connect(**self.instance.dsn())
                self.stranger.cursor().execute("SELECT 'a stranger' FROM customer")
                self.addCleanup(self.stranger.close)

            def tearDown(self):
                Base.metadata.drop_all(self.engine)

            def test_1(self):
                pass

        result, _, took = run_with_warnings(Shop)

        self.assertEqual(len(result.errors), 1)
        for words in ("LockWait", "DROP TABLE", "idle in transaction", "a stranger", "process "):
            self.assertIn(words, result.errors[0][1])
        self.assertLess(took, 0.5 + 2 + 5)


class ThreadTests(unittest.TestCase):
    def setUp(self):
        self.go, self.told = threading.Event(), []
        self.addCleanup(self.go.set)

    def write_when_told(self, engine):
        self.go.wait()
        try:
            with engine.begin() as connection:
                connection.execute(insert(Customer).values(name="late"))
            self.told.append("written")
        except Exception as error:
            self.told.append(str(error))

    def run_two(self, start, finish, use_database):
        """Run a test that starts a thread, with or without a look at the database, and one during which it writes."""
        outer = self

        class Shop(ShopTestCase):
            def test_1(self):
                if use_database:
                    self.assertRowCount(Customer, 0)
                start(lambda: outer.write_when_told(Shop.engine))

            def test_2(self):
                outer.go.set()
                finish()
                self.assertRowCount(Customer, 0)

        self.go.clear()
        self.told.clear()
        return run_with_warnings(Shop)[0]

    def test_a_thread_of_an_earlier_test_takes_no_part_in_the_present_one(self):
        threads = []

        def start(target):
            threads.append(threading.Thread(target=target, name="mailer", daemon=True))
            threads[-1].start()

        for use_database in (True, False):
            with self.subTest(use_database=use_database):
                result = self.run_two(start, lambda: threads[-1].join(), use_database)

                self.assertEqual(problems(result), [])
                self.assertRegex("".join(self.told), "Shop: thread 'mailer' used the database after the test")

    def test_work_of_an_earlier_test_in_a_pool_takes_no_part_and_its_worker_goes_on(self):
        futures = []
        with ThreadPoolExecutor(1) as pool:
            for use_database in (True, False):
                with self.subTest(use_database=use_database):
                    started = threading.Event()

                    def start(target, started=started):
                        futures.append(pool.submit(lambda: (started.set(), target())))
                        started.wait()

                    result = self.run_two(start, lambda: futures[-1].result(), use_database)

                    self.assertEqual(problems(result), [])
                    self.assertRegex("".join(self.told), "Shop: thread '.*' used the database after the test")

            class Later(ShopTestCase):
                def test_1(self):
                    self.assertEqual(pool.submit(self.names).result(), [])

                def names(self):
                    with self.engine.connect() as connection:
                        return connection.scalars(select(Customer.name)).all()

            result, _, _ = run_with_warnings(Later)

            self.assertEqual(problems(result), [])

    def test_a_thread_that_writes_between_two_tests_is_refused(self):
        turns = {"between": threading.Event(), "done": threading.Event()}
        outer = self

        class Shop(ShopTestCase):
            @classmethod
            def setUpClass(cls):
                super().setUpClass()
                cls.thread = threading.Thread(target=cls.work)
                cls.thread.start()

            @classmethod
            def work(cls):
                turns["between"].wait()
                outer.write_when_told(cls.engine)
                turns["done"].set()

            def test_1(self):
                self.assertRowCount(Customer, 0)

            def test_2(self):
                self.assertRowCount(Customer, 0)

            def run(self, result=None):
                if self._testMethodName == "test_2":
                    turns["between"].set()
                    turns["done"].wait()
                return super().run(result)

        self.go.set()
        result, _, _ = run_with_warnings(Shop)
        Shop.thread.join()

        self.assertEqual(problems(result), [])
        self.assertRegex("".join(self.told), "Shop: thread '.*' used the database between two tests")


class ForkTests(unittest.TestCase):
    def test_a_process_that_set_up_class_forked_is_refused(self):
        class Shop(ShopTestCase):
            @classmethod
            def setUpClass(cls):
                super().setUpClass()
                fork = multiprocessing.get_context("fork")
                cls.jobs, cls.answers = fork.Queue(), fork.Queue()
                cls.child = fork.Process(target=cls.work)
                cls.child.start()

            @classmethod
            def work(cls):
                cls.jobs.get()
                try:
                    with cls.engine.begin() as connection:
                        connection.execute(insert(Customer).values(name="by the child"))
                    cls.answers.put("written")
                except Exception as error:
                    cls.answers.put(str(error))

            def test_1(self):
                self.assertRowCount(Customer, 0)
                self.jobs.put("write")
                type(self).answer = self.answers.get()
                self.child.join()

            def test_2(self):
                self.assertRowCount(Customer, 0)

        result, _, _ = run_with_warnings(Shop)

        self.assertEqual(problems(result), [])
        self.assertRegex(Shop.answer, "Shop: a child process")
