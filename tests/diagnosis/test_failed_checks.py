"""What a failure says where no error of the database explains it."""

from __future__ import annotations

import unittest

from sqlalchemy import func, select, text
from sqlalchemy.orm import Session

from dbtestcase import DatabaseTestCase
from dbtestcase.diagnosis.failed_checks import hint_for_check
from tests.diagnosis.support import Base, Customer, LoggedTests
from tests.support import run_case


class FailedCheckCase(LoggedTests):
    def hint(self, error: BaseException) -> str:
        return hint_for_check(error, self.log.statements, self.log.earlier_inserts()) or ""

    def hint_for_failure(self, check) -> str:
        try:  # assertRaises() would take the traceback away
            check()
        except AssertionError as failure:
            return self.hint(failure)
        return self.fail("nothing failed")


class NotCommittedTests(FailedCheckCase):
    isolation = "clone"

    def look(self) -> list[str]:
        with Session(self.engine) as other:
            return list(other.scalars(select(Customer.name)))

    def test_a_row_that_was_only_flushed_is_named_with_writer_and_reader(self):
        self.session.add(Customer(name="Ada"))
        self.session.flush()

        hint = self.hint_for_failure(lambda: self.assertEqual(self.look(), ["Ada"]))

        here = r"tests/diagnosis/test_failed_checks\.py:\d+ in"
        self.assertRegex(hint, rf"commit\(\) first: the INSERT at {here} test_a_row_that_was_only_flushed")
        self.assertRegex(hint, rf"when the SELECT at {here} look looked at customer on another connection")

    def test_a_committed_row_and_a_row_of_another_table_are_no_explanation(self):
        self.session.add(Customer(name="Ada"))
        self.session.commit()
        self.session.execute(text("INSERT INTO log_entry (msg) VALUES ('x')"))

        self.assertEqual(self.hint_for_failure(lambda: self.assertEqual(self.look(), [])), "")

    def test_a_result_that_is_missing_is_explained_like_a_failed_check(self):
        self.session.execute(text("INSERT INTO customer (name) VALUES ('Ada')"))
        with self.assertRaises(IndexError) as caught:
            self.look()[0]

        self.assertIn("the INSERT at", self.hint(caught.exception))
        self.assertEqual(self.hint(ZeroDivisionError("division by zero")), "")

    def test_rows_that_a_rollback_took_along_are_named(self):
        with Session(self.engine) as view:
            view.add(Customer(name="Ada"))
            view.flush()

        hint = self.hint_for_failure(lambda: self.assertEqual(self.look(), ["Ada"]))

        self.assertRegex(hint, r"the INSERT at \S+ in test_rows_that_a_rollback\w+ was rolled back at ")
        self.assertIn("commit()", hint)

    def test_an_expected_error_that_was_not_raised_is_not_about_commits(self):
        def check() -> None:
            with self.assertRaises(KeyError), Session(self.engine) as session:
                session.execute(text("DELETE FROM customer"))

        self.assertEqual(self.hint_for_failure(check), "")

    def test_an_object_that_was_added_and_never_sent_is_named_with_its_line(self):
        def view() -> None:
            with Session(self.engine) as session:
                session.add(Customer(name="Ada"))

        view()

        hint = self.hint_for_failure(lambda: self.assertRowExists(Customer, name="Ada"))

        self.assertRegex(hint, r"a Customer object, added to a session at \S+test_failed_checks\.py:\d+ in view, was")

    def test_an_object_that_was_sent_or_expunged_is_not(self):
        with Session(self.engine) as session:
            session.add(Customer(name="Ada"))
            session.commit()
            left_out = Customer(name="Grace")
            session.add(left_out)
            session.expunge(left_out)

        self.assertEqual(self.hint(AssertionError("1 != 2")), "")


class EarlierTestTests(unittest.TestCase):
    def failure(self, check, isolation: str = "auto") -> str:
        class Shop(DatabaseTestCase):
            schema = Base

            def test_1_makes_a_customer(self):
                self.session.add(Customer(name="Ada"))
                self.session.commit()

            def test_2_needs_it(self):
                check(self)

        Shop.isolation = isolation
        result = run_case(Shop)
        self.assertEqual(result.testsRun, 2)
        [(_, text)] = result.failures + result.errors
        return text

    def test_rows_that_an_earlier_test_had_committed_are_named_with_that_test(self):
        def equal(test: DatabaseTestCase) -> None:
            test.assertEqual(test.session.scalars(select(Customer.name)).all(), ["Ada"])

        def one(test: DatabaseTestCase) -> None:
            test.session.scalars(select(Customer)).one()

        def count(test: DatabaseTestCase) -> None:
            test.assertEqual(test.session.scalar(select(func.count()).select_from(Customer)), 1)

        for check in (equal, one, count):
            for isolation in ("auto", "savepoint", "clone"):
                with self.subTest(check.__name__, isolation=isolation):
                    text = self.failure(check, isolation)

                    self.assertIn("found no row of customer. test_1_makes_a_customer of this class inserted", text)
                    self.assertIn("setUpTestData", text)

    def test_a_test_that_inserts_such_rows_itself_has_another_problem(self):
        def check(test: DatabaseTestCase) -> None:
            test.session.add(Customer(name="Eve"))
            test.session.commit()
            test.assertEqual(test.session.scalars(select(Customer).where(Customer.name == "Ada")).all(), [1])

        self.assertNotIn("test_1_makes_a_customer", self.failure(check))


class TimeTests(FailedCheckCase):
    def test_times_that_a_transaction_stands_still_for_are_explained(self):
        def compare_now() -> None:
            first, second = (self.session.scalar(select(func.now())) for _ in range(2))
            self.assertGreater(second, first)

        def compare_defaults() -> None:
            self.session.execute(text("CREATE TEMP TABLE t (made timestamptz DEFAULT now())"))
            first, second = (self.session.scalar(text("INSERT INTO t DEFAULT VALUES RETURNING made")) for _ in range(2))
            self.assertGreater(second, first)

        for check in (compare_now, compare_defaults):
            with self.subTest(check.__name__):
                self.assertIn("clock_timestamp() goes on", self.hint_for_failure(check))

    def test_other_times_are_not(self):
        self.session.scalar(select(func.now()))
        self.session.scalar(select(func.now()))

        self.assertEqual(self.hint(AssertionError("1 != 2")), "")


del LoggedTests, FailedCheckCase  # nothing to run in them


if __name__ == "__main__":
    unittest.main()
