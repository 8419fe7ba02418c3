"""Hard case 27: what is idle in transaction at the end of a test or class ends within a bound and is named."""

from __future__ import annotations

import multiprocessing
import queue
import threading
import time
import unittest
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress

import psycopg2
from sqlalchemy import create_engine, insert, select, text
from sqlalchemy.orm import Session

from dbtestcase import DatabaseTestCase
from tests.support import Base, Customer, of_throwaway_servers, patience, problems, run_with_warnings


class ShopTestCase(DatabaseTestCase):
    schema = Base
    lock_wait = 0.5
    ended_at: float


def ended(test: DatabaseTestCase) -> None:
    """Note in a test that its own part is over; how long it took until the next one began is held to a bound."""
    type(test).ended_at = time.monotonic()


def took_to_end(test: DatabaseTestCase) -> None:
    test.assertLess(time.monotonic() - test.ended_at, patience(BOUND + 5))


BOUND = 0.5  # seconds: lock_wait of these classes, and how long a thread that goes on is waited for


class LeftOpenTests(unittest.TestCase):
    def assert_named(self, said: list[str], *words: str, is_real: bool = True) -> None:
        text = "\n".join(said)
        # In the one transaction a connection is no process of the server.
        for word in (*words, "test_leftovers.py:", *(("process ", "last statement") if is_real else ())):
            self.assertIn(word, text)

    def test_a_connection_of_the_class_s_own_engine(self):
        for isolation in ("savepoint", "clone"):
            with self.subTest(isolation=isolation):

                class Shop(ShopTestCase):
                    def test_1(self):
                        type(self).left = self.engine.connect()
                        self.left.execute(text("SELECT 'left by the test' FROM customer"))
                        ended(self)

                    def test_2(self):
                        took_to_end(self)
                        Base.metadata.drop_all(self.engine)

                Shop.isolation = isolation

                result, said = run_with_warnings(Shop)

                self.assertEqual(problems(result), [])
                is_real = isolation == "clone"
                self.assert_named(said, "left open in the test", "in test_1", is_real=is_real)
                self.assertEqual("left by the test" in "".join(said), is_real)

    def test_a_connection_of_a_clone_with_uncommitted_changes(self):
        class Shop(ShopTestCase):
            isolation = "clone"

            def test_1(self):
                type(self).left = self.engine.connect()
                self.left.execute(insert(Customer).values(name="left by the test"))

            def test_2(self):
                self.assertRowCount(Customer, 0)

        result, said = run_with_warnings(Shop)

        self.assertEqual(problems(result), [])
        self.assert_named(said, "INSERT INTO customer", "its transaction began at", "in test_1")

    def test_a_connection_of_an_engine_of_the_code_under_test(self):
        for isolation in ("savepoint", "clone"):
            with self.subTest(isolation=isolation):
                engine = create_engine("postgresql+psycopg2://nobody@matters.invalid/production")

                class Shop(ShopTestCase):
                    app_engines = [engine]

                    @classmethod
                    def setUpClass(cls):
                        super().setUpClass()
                        cls.left = cls.app_engines[0].connect()
                        cls.left.execute(text("SELECT 'left by setUpClass' FROM customer"))
                        ended(cls("test_1"))

                    def test_1(self):
                        took_to_end(self)
                        Base.metadata.drop_all(self.engine)

                Shop.isolation = isolation

                result, said = run_with_warnings(Shop)

                self.assertEqual(problems(result), [])
                self.assert_named(said, "left by setUpClass", "in setUpClass", "left open before the first test")

    def test_a_session_in_another_thread(self):
        for isolation in ("savepoint", "clone"):
            with self.subTest(isolation=isolation):

                class Shop(ShopTestCase):
                    go: threading.Event

                    def test_1(self):
                        done, go = threading.Event(), threading.Event()

                        def work():
                            session = Session(self.engine)
                            session.execute(text("SELECT 'left by a thread' FROM customer"))
                            type(self).connection = session.connection()
                            done.set()
                            go.wait(60)

                        type(self).go = go
                        threading.Thread(target=work, name="worker").start()
                        done.wait()
                        ended(self)

                    def test_2(self):
                        took_to_end(self)
                        Base.metadata.drop_all(self.engine)

                Shop.isolation = isolation

                result, said = run_with_warnings(Shop)
                Shop.go.set()

                self.assertEqual(problems(result), [])
                self.assertEqual(said, [])  # the session is closed, whoever holds it

    def test_drop_all_in_tear_down_ends_where_a_stranger_s_connection_holds_the_table(self):
        took = []

        class Shop(ShopTestCase):
            def setUp(self):
                self.stranger = psycopg2.connect(**self.instance.dsn())
                self.stranger.cursor().execute("SELECT 'a stranger' FROM customer")
                self.addCleanup(self.stranger.close)

            def tearDown(self):
                begin = time.monotonic()
                try:
                    Base.metadata.drop_all(self.engine)
                finally:
                    took.append(time.monotonic() - begin)

            def test_1(self):
                pass

        result, _ = run_with_warnings(Shop)

        self.assertEqual(len(result.errors), 1)
        for words in ("LockWait", "DROP TABLE", "idle in transaction", "a stranger", "process "):
            self.assertIn(words, result.errors[0][1])
        self.assertLess(took[0], patience(BOUND + 5))

    def test_drop_all_on_real_connections_names_the_session_that_was_left_open(self):
        took = []

        class Shop(ShopTestCase):
            isolation = "clone"

            def test_1(self):
                def forgets_its_session():
                    session = Session(self.engine)
                    session.scalars(select(Customer)).all()
                    return session

                self.left = forgets_its_session()
                begin = time.monotonic()
                try:
                    Base.metadata.drop_all(self.engine)
                finally:
                    took.append(time.monotonic() - begin)

            def test_2(self):
                Base.metadata.drop_all(self.engine)

        result, _ = run_with_warnings(Shop)

        [(_, said)] = result.errors
        self.assertEqual(result.testsRun, 2)
        for words in ("LockWait", "in forgets_its_session", "idle in transaction, begun", "session.close()"):
            self.assertIn(words, said)
        self.assertLess(took[0], patience(BOUND + 5))

    def test_a_statement_that_a_thread_is_still_executing_is_ended(self):
        class Shop(ShopTestCase):
            def test_1(self):
                def work():
                    with suppress(Exception), self.engine.connect() as connection:
                        connection.execute(text("SELECT pg_sleep(60)"))

                thread = threading.Thread(target=work, daemon=True)
                thread.start()
                with closing(psycopg2.connect(**self.instance.dsn())) as outside, outside.cursor() as cursor:
                    outside.autocommit = True
                    sleeping = 0
                    while not sleeping:
                        cursor.execute("SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'PgSleep'")
                        [sleeping] = cursor.fetchone()
                type(self).thread = thread
                ended(self)

            def test_2(self):
                self.thread.join(patience(5))
                self.assertFalse(self.thread.is_alive())
                took_to_end(self)

        result, said = run_with_warnings(Shop)

        self.assertEqual(problems(result), [])
        self.assertRegex(
            "\n".join(said), r"connection \d, opened at tests/test_leftovers\.py:\d+ in work, was left open"
        )

    def test_an_error_of_a_connection_that_set_up_class_left_open_says_why(self):
        class Shop(ShopTestCase):
            @classmethod
            def setUpClass(cls):
                super().setUpClass()
                cls.left = cls.engine.connect()
                cls.left.execute(text("SELECT 'left by setUpClass'"))

            @classmethod
            def tearDownClass(cls):
                cls.left.execute(text("SELECT 1"))

            def test_1(self):
                self.assertRowCount(Customer, 0)

        used, said = run_with_warnings(Shop)

        [error] = problems(used)
        [warning] = said
        self.assertIn(f"This connection is closed because of what was left open before:\n{warning}", error)


class CursorTests(unittest.TestCase):
    def test_cursor_of_the_class_phase_is_named(self):
        class Shop(ShopTestCase):
            @classmethod
            def setUpClass(cls):
                super().setUpClass()
                connection = cls.engine.raw_connection()
                cls.cursor = connection.cursor()
                cls.cursor.execute("SELECT 1")
                connection.close()

            def test_1(self):
                self.session.execute(text("SELECT 1"))

        result, said = run_with_warnings(Shop)

        self.assertEqual(problems(result), [])
        self.assertRegex("\n".join(said), r"the cursor opened at tests/test_leftovers\.py:\d+ in setUpClass")


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

    def run_two(self, start, finish, *, use_database: bool, isolation: str = "savepoint"):
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

        Shop.isolation = isolation
        self.go.clear()
        self.told.clear()
        return run_with_warnings(Shop)[0]

    def wait_without_a_thread_s_help(self):
        while not self.told:
            pass

    def test_a_thread_of_an_earlier_test_takes_no_part_in_the_present_one(self):
        def start(target):
            threading.Thread(target=target, name="mailer", daemon=True).start()

        for use_database in (True, False):
            for isolation in ("savepoint", "clone"):
                with self.subTest(use_database=use_database, isolation=isolation):
                    result = self.run_two(
                        start, self.wait_without_a_thread_s_help, use_database=use_database, isolation=isolation
                    )

                    self.assertEqual(problems(result), [])
                    self.assertRegex(
                        "".join(self.told), "Shop: thread 'mailer' used the database for a test that is over"
                    )

    def test_work_of_an_earlier_test_in_a_pool_takes_no_part_and_its_worker_goes_on(self):
        with ThreadPoolExecutor(1) as pool:
            started = threading.Event()

            def start(target):
                pool.submit(lambda: (started.set(), target()))
                started.wait()

            result = self.run_two(start, self.wait_without_a_thread_s_help, use_database=True)

            self.assertEqual(problems(result), [])
            self.assertRegex("".join(self.told), "Shop: thread '.*' used the database for a test that is over")

            class Later(ShopTestCase):
                def test_1(self):
                    self.assertEqual(pool.submit(self.names).result(), [])

                def names(self):
                    with self.engine.connect() as connection:
                        return connection.scalars(select(Customer.name)).all()

            result, _ = run_with_warnings(Later)

            self.assertEqual(problems(result), [])

    def test_a_worker_for_the_whole_process_works_in_each_test_that_waits_for_it(self):
        jobs: queue.Queue = queue.Queue()

        def work():
            while (done := jobs.get()) is not None:
                with Shop.engine.begin() as connection:
                    connection.execute(insert(Customer).values(name="by the worker"))
                done.set()

        worker = threading.Thread(target=work, daemon=True)

        class Shop(ShopTestCase):
            isolation = "savepoint"

            def test_1(self):
                worker.start()
                self.submit()

            def test_2(self):
                self.submit()

            def test_3(self):
                self.assertRowCount(Customer, 0)

            def submit(self):
                done = threading.Event()
                jobs.put(done)
                self.assertTrue(done.wait(60))
                self.assertRowCount(Customer, 1)

        result, said = run_with_warnings(Shop)
        jobs.put(None)

        self.assertEqual((problems(result), said), ([], []))

    def test_a_thread_that_does_something_else_is_no_leftover(self):
        class Shop(ShopTestCase):
            def test_1(self):
                self.assertRowCount(Customer, 0)
                threading.Thread(target=outer.go.wait, daemon=True).start()

            def test_2(self):
                self.assertRowCount(Customer, 0)

        outer = self

        result, said = run_with_warnings(Shop)

        self.assertEqual((problems(result), said), ([], []))

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
        result, _ = run_with_warnings(Shop)
        Shop.thread.join()

        self.assertEqual(problems(result), [])
        self.assertRegex("".join(self.told), "Shop: the database was used while no test was running")


class ForkTests(unittest.TestCase):
    @of_throwaway_servers
    def test_what_a_process_that_set_up_class_forked_commits_is_told_and_is_gone_in_the_next_test(self):
        class Shop(ShopTestCase):
            isolation = "savepoint"

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
                with cls.engine.begin() as connection:
                    connection.execute(insert(Customer).values(name="by the child"))
                cls.answers.put("written")

            def test_1(self):
                self.assertRowCount(Customer, 0)

            def test_2(self):
                self.assertRowCount(Customer, 0)
                self.jobs.put("write")
                type(self).answer = self.answers.get()
                self.child.join()

            def test_3(self):
                self.assertRowCount(Customer, 0)

        result, _ = run_with_warnings(Shop)

        [(test, said)] = result.errors + result.failures
        self.assertEqual((test.id().rpartition(".")[2], Shop.answer), ("test_2", "written"))
        self.assertIn("somebody has committed into this class's server for real", said)


if __name__ == "__main__":
    unittest.main()
