"""A test that ends its own transaction is an error which names the statement, and the next test is clean."""

from __future__ import annotations

import os
import signal
import threading
import time
import unittest
from contextlib import suppress

import sqlalchemy as sa
from sqlalchemy.orm import Session

from dbtestcase.errors import IsolationBroken
from tests.sandbox.support import SandboxCase, Shop, raw


class GuardTests(SandboxCase):
    def test_transaction_control_as_text_is_refused_and_named(self):
        for text in ("COMMIT", "/* ; */ ROLLBACK", "END", "begin", "PREPARE TRANSACTION 'x'", "SELECT 1; COMMIT"):
            with self.subTest(text), self.in_test(problems=1) as problems:  # noqa: SIM117
                with self.engine.connect() as connection:
                    connection.execute(sa.insert(Shop).values(name="a"))
                    with suppress(IsolationBroken):  # swallowing it hides nothing
                        connection.exec_driver_sql(text)
            self.assertRegex(str(problems[0]), r"test_guard.py:\d+ in test_transaction_control")
            self.assertIn(repr(text), str(problems[0]))
            self.assertIn('isolation = "clone"', str(problems[0]))

    def test_words_inside_strings_and_comments_are_no_control(self):
        with self.in_test(), self.engine.begin() as connection:
            connection.exec_driver_sql("-- COMMIT\nSELECT 'x; COMMIT', $$; ROLLBACK$$, $a$; END $$ $a$")
            connection.exec_driver_sql("DO $$ BEGIN PERFORM 1; END $$")

    def test_procedure_that_commits_is_named_in_autocommit_mode(self):
        with self.in_test(problems=1) as problems, self.engine.connect() as connection:
            connection = connection.execution_options(isolation_level="AUTOCOMMIT")
            with self.assertRaises(IsolationBroken):
                connection.exec_driver_sql("DO $$ BEGIN COMMIT; END $$")
        self.assertIn("cannot run inside a transaction", str(problems[0]))

    def test_statement_that_needs_no_transaction_around_it_names_the_way_out(self):
        with self.in_test(problems=1) as problems, self.engine.connect() as connection:
            connection = connection.execution_options(isolation_level="AUTOCOMMIT")
            with self.assertRaises(IsolationBroken):
                connection.exec_driver_sql("CREATE INDEX CONCURRENTLY i ON shop (size)")
        self.assertIn('isolation = "clone"', str(problems[0]))

    def test_listen_is_refused(self):
        with self.in_test(problems=1), self.engine.connect() as connection, self.assertRaises(IsolationBroken):
            connection.exec_driver_sql("LISTEN news")

    def test_terminated_backend_fails_the_test_and_the_next_is_clean(self):
        with self.in_test(problems=1) as problems:
            with self.engine.begin() as connection:
                connection.execute(sa.insert(Shop).values(name="a"))
                pid = connection.scalar(sa.text("SELECT pg_backend_pid()"))
            with self.plain.connect() as connection:
                connection.execute(sa.text("SELECT pg_terminate_backend(:pid, 5000)"), {"pid": pid})
            with self.assertRaises(IsolationBroken):
                self.names()
            with self.assertRaises(IsolationBroken):
                self.names()
        self.assertIn("ended the connection", str(problems[0]))
        self.assertFalse(self.sandbox.needs_fresh_database)

        with self.in_test():
            self.assertEqual(self.names(), [])

    def test_transaction_ended_behind_our_back_asks_for_a_fresh_database(self):
        self.sandbox.begin_test("leaky")
        with self.engine.begin() as connection:
            connection.execute(sa.insert(Shop).values(name="leaked"))
        self.sandbox._core.physical.send("COMMIT")
        problems = self.sandbox.end_test()

        self.assertEqual(len(problems), 1)
        self.assertIn("INSERT INTO shop", str(problems[0]))
        self.assertTrue(self.sandbox.needs_fresh_database)
        with self.plain.begin() as connection:
            connection.execute(sa.delete(Shop))

    def test_connection_held_over_the_end_says_so_and_touches_nothing(self):
        with self.in_test():
            held = self.engine.connect()
            raw_held = self.engine.raw_connection()
            cursor = raw_held.cursor()
        with self.in_test():
            with self.assertRaisesRegex(IsolationBroken, "used after its test was over"):
                held.execute(sa.insert(Shop).values(name="late"))
            with self.assertRaisesRegex(IsolationBroken, "after its test was over"):
                cursor.execute("INSERT INTO shop (name) VALUES ('late')")
            self.assertEqual(self.names(), [])
        held.close()
        raw_held.close()

    def test_session_of_the_code_under_test_is_closed(self):
        with self.in_test():
            session = Session(self.engine)
            session.add(Shop(name="a"))
            session.flush()
        self.assertFalse(session.in_transaction())

    def test_threads_share_the_data_and_take_turns(self):
        errors = []

        def work(number: int) -> None:
            try:
                for turn in range(5):
                    with self.engine.begin() as connection:
                        connection.execute(sa.insert(Shop).values(name=f"{number}-{turn}"))
            except Exception as error:
                errors.append(error)

        with self.in_test(), self.caught():
            threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            self.assertEqual(errors, [])
            self.assertEqual(len(self.names()), 20)

    def test_thread_that_outlives_its_test_gets_an_error(self):
        began, go_on, errors = threading.Event(), threading.Event(), []

        def work() -> None:
            connection = self.engine.connect()
            connection.execute(sa.insert(Shop).values(name="a"))
            began.set()
            go_on.wait(10)
            try:
                connection.execute(sa.insert(Shop).values(name="b"))
            except Exception as error:
                errors.append(error)

        thread = threading.Thread(target=work)
        with self.in_test():
            thread.start()
            began.wait(10)
        with self.in_test():
            go_on.set()
            thread.join(10)
            self.assertEqual(self.names(), [])
        self.assertIsInstance(errors[0], IsolationBroken)

    def test_end_of_the_test_does_not_hang_on_a_statement_of_a_thread(self):
        began = threading.Event()

        def work() -> None:
            with self.engine.connect() as connection:
                began.set()
                connection.execute(sa.text("SELECT pg_sleep(60)"))

        thread = threading.Thread(target=lambda: _quietly(work))
        with self.in_test(problems=1) as problems:
            thread.start()
            began.wait(10)
            self._wait_for(
                "SELECT count(*) FROM pg_stat_activity WHERE query LIKE 'SELECT pg_sleep%' AND state = 'active'"
            )
        thread.join(10)
        self.assertFalse(thread.is_alive())
        self.assertIn("another thread", str(problems[0]))
        with self.in_test():
            self.assertEqual(self.names(), [])

    def _wait_for(self, sql: str) -> None:
        deadline = time.monotonic() + 10
        with self.plain.connect() as connection:
            while not connection.exec_driver_sql(sql.replace("%", "%%")).scalar():
                self.assertLess(time.monotonic(), deadline)
                connection.rollback()

    @unittest.skipUnless(hasattr(os, "fork"), "needs fork")
    def test_child_process_may_not_use_the_connection(self):
        with self.in_test():
            self.names()
            reader, writer = os.pipe()
            child = os.fork()
            if child == 0:
                try:
                    self.names()
                    said = "nothing"
                except BaseException as error:
                    said = type(error).__name__
                os.write(writer, said.encode())
                os.kill(os.getpid(), signal.SIGKILL)
            os.waitpid(child, 0)
            self.assertEqual(os.read(reader, 100), b"IsolationBroken")
            os.close(reader)
            os.close(writer)
            self.assertEqual(self.names(), [])

    def test_raw_connection_of_a_closed_sandbox_says_so(self):
        self.sandbox.begin_test("last")
        connection = self.engine.raw_connection()
        self.sandbox.close()
        with self.assertRaises(Exception):  # noqa: B017
            raw(connection, "SELECT 1")


def _quietly(work) -> None:
    with suppress(Exception):
        work()


class PsycopgGuardTests(GuardTests):
    driver = "psycopg"


if __name__ == "__main__":
    unittest.main()
