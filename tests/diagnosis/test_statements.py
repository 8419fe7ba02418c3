"""The SQL of a test, as its failure shows it."""

from __future__ import annotations

import contextlib
import io
import os
import threading
import unittest
from unittest import mock

from sqlalchemy import create_engine, select, text
from sqlalchemy.orm import Session

from dbtestcase import DatabaseTestCase
from dbtestcase.diagnosis.statements import StatementLog
from dbtestcase.errors import DBTestCaseError
from dbtestcase.frames import user_origin
from tests.diagnosis.support import Customer, LoggedTests, Order
from tests.support import run_case


class NoteTests(LoggedTests):
    def note(self) -> str:
        return self.log.note() or ""

    def test_note_numbers_statements_with_values_rows_time_and_line(self):
        self.session.add(Customer(name="Ada", age=36))
        self.session.commit()
        self.session.scalars(select(Customer.name)).all()

        note = self.note()

        self.assertRegex(note, r"SQL sent: 2 statements, \d+\.\d ms")
        self.assertIn("1. INSERT INTO customer (name, age) VALUES ('Ada', 36)", note)
        self.assertRegex(note, r"1 row, \d+\.\d ms, tests/diagnosis/test_statements\.py:\d+ in test_note_numbers")
        self.assertIn("2. SELECT customer.name FROM customer", note)

    def test_a_percent_sign_in_a_name_is_shown_as_the_server_reads_it(self):
        self.session.execute(text('SELECT :n AS "per%cent"'), {"n": 1})

        self.assertIn('AS "per%cent"', self.note())

    def test_test_without_statements_gets_no_note(self):
        self.assertEqual(self.note(), "")

    def test_failed_statement_says_why(self):
        with self.assertRaises(Exception):  # noqa: B017
            self.session.execute(text("SELECT * FROM nowhere"))

        self.assertIn('failed: UndefinedTable: relation "nowhere" does not exist', self.note())

    def test_second_failure_of_a_test_gets_what_was_sent_since_the_first(self):
        self.session.execute(text("SELECT 1"))
        self.note()
        self.session.execute(text("SELECT 2"))

        second, third = self.note(), self.note()

        self.assertIn("SQL sent since the failure before this one: 1 statement", second)
        self.assertIn("SELECT 2", second)
        self.assertNotIn("SELECT 1", second)
        self.assertEqual(third, "")

    def test_statements_of_the_test_before_are_not_shown(self):
        self.session.execute(text("SELECT 1"))
        self.log.end_test()
        self.log.begin_test(lambda: "next")
        self.session.execute(text("SELECT 2"))

        self.assertNotIn("SELECT 1", self.note())

    def test_repeated_statements_of_a_line_are_folded(self):
        for number in range(50):
            self.session.get(Customer, number)

        note = self.note()

        self.assertIn("50 statements", note)
        self.assertIn("… and 49 times more from the same line", note)
        self.assertLess(len(note.splitlines()), 6)

    def test_middle_of_very_many_statements_is_left_out_and_counted(self):
        for number in range(500):
            self.session.execute(text(f"SELECT {number} AS c{number % 7}"))

        note = self.note()

        self.assertIn("500 statements", note)
        self.assertRegex(note, r"(?m)^\s+1\. SELECT 0 AS c0$")
        self.assertRegex(note, r"(?m)^\s+500\. SELECT 499 AS c2$")
        self.assertIn("more …", note)
        self.assertLess(len(note.splitlines()), 120)

    def test_long_lists_texts_and_bytes_are_shortened(self):
        self.session.scalars(select(Customer).where(Customer.id.in_(range(300)))).all()
        self.session.execute(text("SELECT :t, :b"), {"t": "x" * 50_000, "b": b"\0" * 90_000})

        note = self.note()

        self.assertIn("IN (0, 1, 2, … 297 more)", note)
        self.assertIn("(50000 characters)", note)
        self.assertIn("(90000 bytes)", note)
        self.assertLess(len(note), 2_000)

    def test_long_lists_of_columns_are_shortened(self):
        columns = ", ".join(f"{number} AS c{number}" for number in range(30))
        self.session.execute(text(f"SELECT {columns} FROM customer"))

        self.assertIn("7 AS c7, … 22 more columns FROM customer", self.note())

    def test_many_rows_of_one_insert_are_folded(self):
        self.session.add_all([Customer(name=f"n{number}") for number in range(200)])
        self.session.flush()

        self.assertIn("(VALUES ('n0', NULL, 0), … 199 more rows)", self.note())

    def test_values_changed_by_the_caller_later_are_shown_as_they_were_sent(self):
        values = {"name": "before"}
        raw = self.engine.raw_connection()
        raw.cursor().execute("SELECT %(name)s", values)
        values["name"] = "after"
        raw.close()

        self.assertIn("'before'", self.note())

    def test_two_connections_and_a_thread_are_told_apart(self):
        def ask():
            with Session(self.engine) as session:
                session.scalars(select(Order)).all()

        self.session.execute(text("SELECT 1"))
        thread = threading.Thread(target=ask)
        thread.start()
        thread.join()

        note = self.note()

        self.assertRegex(note, r"(?m)on connection 1$")
        self.assertRegex(note, r"(?m)on connection 2, in thread 'Thread-\d+ \(ask\)'$")

    def test_a_failed_statement_whose_values_are_hidden_does_not_say_them_either(self):
        with self.assertRaises(Exception), Session(self.engine) as session:  # noqa: B017
            session.execute(text("SELECT 'hunter2'::int AS password"))

        note = self.note()

        self.assertIn("failed: InvalidTextRepresentation: invalid input syntax for type integer: (hidden)", note)
        self.assertNotIn("hunter2", note)

    def test_psycopg_casts_are_not_shown(self):
        self.log.statement_started("connection 1", self.origin(), "SELECT %(a)s::VARCHAR", {"a": "x"})

        self.assertIn("SELECT 'x'\n", self.note())

    def test_inserts_of_a_run_that_does_not_count_are_remembered_also_while_queries_are_counted(self):
        before = self.log.earlier_inserts()  # of other tests here
        self.log.begin_test(lambda: "test_1", counts=False)
        self.assertFalse(self.log.is_listening)
        self.log.rows_changed("INSERT INTO a")
        with self.log.capture():
            self.assertTrue(self.log.is_listening)
            self.log.statement_started("connection 1", self.origin(), "INSERT INTO b", None)
            self.log.statement_finished("connection 1", 1, None)
        self.assertEqual((self.log.earlier_inserts(), self.log.statements), (before, []))

        self.log.begin_test(lambda: "test_2")

        added = {"INSERT INTO a": "test_1", "INSERT INTO b": "test_1"}
        self.assertEqual(self.log.earlier_inserts(), {**before, **added})

    def test_statement_that_has_not_come_back_says_so(self):
        self.log.statement_started("connection 1", self.origin(), "SELECT pg_sleep(100)", None)

        self.assertIn("not finished", self.note())

    def test_commit_is_shown_and_not_counted(self):
        origin = self.origin()
        self.session.execute(text("SELECT 1"))
        self.log.transaction_ended("connection 1", origin, "COMMIT")

        note = self.note()

        self.assertIn("1 statement,", note)
        self.assertRegex(note, r"(?m)^\s+COMMIT  \(")

    def origin(self):
        return user_origin()


class PsycopgNoteTests(LoggedTests):
    def test_values_are_in_place_with_the_other_driver_too(self):
        engine = create_engine(self.url.set(drivername="postgresql+psycopg"))
        self.addCleanup(engine.dispose)
        with Session(engine) as session:
            session.add(Customer(name="Ada"))
            session.commit()

        self.assertIn("VALUES ('Ada', NULL) RETURNING", self.log.note())


class ModeTests(unittest.TestCase):
    def run_in_mode(self, mode: str) -> tuple[unittest.TestResult, str]:
        class Shop(DatabaseTestCase):
            def test_reads(self):
                self.assertNumQueries(1, self.session.execute, text("SELECT 1"))

            def test_reads_and_fails(self):
                self.session.execute(text("SELECT 2"))
                self.fail("on purpose")

        self.enterContext(mock.patch.dict(os.environ, {"DBTESTCASE_SQL": mode}))
        with contextlib.redirect_stderr(io.StringIO()) as printed:
            result = run_case(Shop)
        self.assertEqual((len(result.failures), result.errors), (1, []))
        return result, printed.getvalue()

    def test_off_keeps_nothing_but_still_counts_for_assertions(self):
        result, printed = self.run_in_mode("off")

        self.assertNotIn("SQL sent", result.failures[0][1] + printed)

    def test_all_prints_the_statements_of_passing_tests(self):
        result, printed = self.run_in_mode("all")

        self.assertRegex(printed, r"test_reads: SQL sent: 1 statement, [\d.]+ ms\n\s+1\. SELECT 1\n")
        self.assertIn("1. SELECT 2", result.failures[0][1])

    def test_misspelled_variable_is_refused_with_the_words_it_can_be(self):
        self.enterContext(mock.patch.dict(os.environ, {"DBTESTCASE_SQL": "yes"}))

        with self.assertRaisesRegex(DBTestCaseError, "DBTESTCASE_SQL is 'yes'; it can be 'all', 'failed'"):
            StatementLog()


if __name__ == "__main__":
    unittest.main()
