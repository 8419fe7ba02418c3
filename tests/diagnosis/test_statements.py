"""The SQL of a test, as its failure shows it."""

from __future__ import annotations

import contextlib
import io
import os
import subprocess
import sys
import threading
import unittest
from pathlib import Path
from unittest import mock

from sqlalchemy import select, text
from sqlalchemy.orm import Session

from dbtestcase.diagnosis.results import ExplainedResult
from dbtestcase.diagnosis.statements import StatementLog
from dbtestcase.errors import DBTestCaseError
from tests.diagnosis.support import Customer, LoggedTests, Order, noted


class NoteTests(LoggedTests):
    hidden = ("iban",)

    def note(self) -> str:
        error = AssertionError("2 != 1")
        self.log.explain(error)
        return noted(error)

    def test_note_numbers_statements_with_values_rows_time_and_line(self):
        self.session.add(Customer(name="Ada", age=36))
        self.session.commit()
        self.session.scalars(select(Customer.name)).all()

        note = self.note()

        self.assertRegex(note, r"SQL sent: 2 statements, \d+\.\d ms")
        self.assertIn("1. INSERT INTO customer (name, age, password) VALUES ('Ada', 36, NULL)", note)
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
        self.log.begin_test("next")
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

        self.assertIn("(VALUES ('n0', NULL, NULL, 0), … 199 more rows)", self.note())

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

    def test_passwords_and_marked_columns_are_hidden_wherever_they_stand(self):
        secret = "s3cr3t-value"
        self.session.add(Customer(name="Ada", password=secret))
        self.session.flush()
        self.session.execute(text("UPDATE customer SET password = :p1, name = :p2"), {"p1": secret, "p2": "shown"})
        self.session.execute(text("SELECT 1 WHERE :iban <> 'x'"), {"iban": secret})
        self.session.execute(text(f"SELECT 1 FROM customer WHERE password = '{secret}'"))
        self.session.commit()
        raw = self.engine.raw_connection()
        raw.cursor().execute("INSERT INTO customer (name, password) VALUES (%s, %s)", ("Bob", secret))
        raw.close()

        note = self.note()

        self.assertNotIn(secret, note)
        self.assertIn("VALUES ('Ada', NULL, '(hidden)')", note)
        self.assertIn("name = 'shown'", note)
        self.assertIn("VALUES ('Bob', '(hidden)')", note)

    def test_passwords_are_taken_out_of_the_databases_own_words(self):
        secret = "s3cr3t-value"
        with self.assertRaises(Exception) as caught:
            self.session.execute(
                text("INSERT INTO customer (name, password) VALUES (:n, :p)"), {"n": None, "p": secret}
            )

        self.log.explain(caught.exception)

        shown = f"{caught.exception} {caught.exception.orig}"
        self.assertIn("null value in column", shown)
        self.assertNotIn(secret, shown)

    def test_psycopg_casts_are_not_shown(self):
        self.log.statement_started("connection 1", self.origin(), "SELECT %(a)s::VARCHAR", {"a": "x"})

        self.assertIn("SELECT 'x'\n", self.note())

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
        with self.capture_queries() as captured, self.engine.connect() as connection:
            connection.execute(text("SELECT 'origin'"))
        self.log.begin_test("")
        return captured[0].origin


class PsycopgNoteTests(LoggedTests):
    driver = "postgresql+psycopg"

    def test_values_are_in_place_with_the_other_driver_too(self):
        self.session.add(Customer(name="Ada", password="lovelace"))
        self.session.flush()
        error = AssertionError()

        self.log.explain(error)

        self.assertIn("VALUES ('Ada', NULL, '(hidden)') RETURNING", noted(error))


class ModeTests(LoggedTests):
    def test_off_keeps_nothing_but_still_counts_for_assertions(self):
        self.log = self.sandbox.observer = StatementLog(mode="off")

        self.assertNumQueries(1, self.session.execute, text("SELECT 1"))
        error = AssertionError()
        self.log.explain(error)

        self.assertEqual(noted(error), "")

    def test_all_prints_the_statements_of_passing_tests(self):
        self.log = self.sandbox.observer = StatementLog(mode="all")
        self.log.begin_test("test_reads")
        self.session.execute(text("SELECT 1"))

        with contextlib.redirect_stderr(io.StringIO()) as printed:
            self.log.end_test()

        self.assertRegex(printed.getvalue(), r"test_reads: SQL sent: 1 statement, [\d.]+ ms\n\s+1\. SELECT 1\n")

    def test_misspelled_variable_is_refused_with_the_words_it_can_be(self):
        self.enterContext(mock.patch.dict(os.environ, {"DBTESTCASE_SQL": "yes"}))

        with self.assertRaisesRegex(DBTestCaseError, "DBTESTCASE_SQL is 'yes'; it can be 'all', 'failed'"):
            StatementLog()


class ExplainedResultTests(unittest.TestCase):
    def run_with(self, explain, **hooks):
        case = type("Shop", (unittest.TestCase,), hooks)("test")
        result = unittest.TestResult()
        case.run(ExplainedResult(result, lambda test, error: explain(error)))
        return result

    def test_failures_errors_subtests_and_cleanups_are_explained(self):
        seen = []

        def test(case):
            case.addCleanup(lambda: 1 / 0)
            with case.subTest(1):
                case.fail("in subtest")
            case.fail("after it")

        result = self.run_with(lambda error: (seen.append(type(error)), error.add_note("explained")), test=test)

        self.assertEqual(seen, [AssertionError, AssertionError, ZeroDivisionError])
        self.assertEqual(sum("explained" in shown for _, shown in result.failures + result.errors), 3)

    def test_expected_failures_skips_and_successes_are_left_alone(self):
        seen = []
        self.run_with(seen.append, test=unittest.expectedFailure(lambda case: case.fail("known")))
        self.run_with(seen.append, test=lambda case: case.skipTest("today"))
        self.run_with(seen.append, test=lambda case: None)

        self.assertEqual(seen, [])

    def test_fault_of_the_explanation_leaves_the_failure_as_it_is(self):
        def explain(error):
            raise RuntimeError("broken")

        result = self.run_with(explain, test=lambda case: case.fail("2 != 1"))

        self.assertIn("AssertionError: 2 != 1", result.failures[0][1])
        self.assertIn("could not explain", result.failures[0][1])

    def test_pytest_prints_the_note_too(self):
        try:
            import pytest  # noqa: F401
        except ImportError:
            self.skipTest("pytest is not installed")
        folder = Path(self.enterContext(__import__("tempfile").TemporaryDirectory()))
        (folder / "test_shop.py").write_text(
            "import unittest\n"
            "from dbtestcase.diagnosis.results import ExplainedResult\n"
            "class Shop(unittest.TestCase):\n"
            "    def run(self, result=None):\n"
            "        return super().run(ExplainedResult(result, lambda test, error: error.add_note('SQL sent: 3')))\n"
            "    def test_it(self):\n"
            "        self.assertEqual(1, 2)\n"
        )

        run = subprocess.run(
            [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", str(folder)],
            capture_output=True,
            text=True,
            env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
            timeout=60,
        )

        self.assertIn("SQL sent: 3", run.stdout)
        self.assertIn("1 failed", run.stdout)


if __name__ == "__main__":
    unittest.main()
