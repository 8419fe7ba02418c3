"""What a failing test prints, and what it leaves out."""

from __future__ import annotations

import re
import traceback
import unittest
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

from sqlalchemy import text

from dbtestcase import DatabaseTestCase
from dbtestcase.diagnosis.tracebacks import leave_out_ours
from dbtestcase.errors import IsolationBroken
from dbtestcase.frames import is_users
from tests.support import Base, Customer, run_case


class ShopTestCase(DatabaseTestCase):
    schema = Base


def failures(case: type[unittest.TestCase]) -> list[str]:
    result = run_case(case)
    return [said for _, said in result.errors + result.failures]


class PrintedTests(unittest.TestCase):
    def test_a_sub_test_that_fails_is_explained_as_well(self):
        for isolation in ("auto", "savepoint", "clone"):

            class Shop(ShopTestCase):
                def test_it(self):
                    for name in ("nowhere", "elsewhere"):
                        with self.subTest(name):
                            self.session.execute(text(f"SELECT * FROM {name}"))

            Shop.isolation = isolation
            with self.subTest(isolation):
                first, second = failures(Shop)

                self.assertIn("SQL sent: 1 statement", first)
                self.assertIn("SELECT * FROM nowhere", first)
                self.assertIn("an earlier statement of this transaction failed", second)

    def test_frames_of_this_library_are_left_out_of_the_traceback(self):
        class Shop(ShopTestCase):
            isolation = "savepoint"

            def test_database_error(self):
                self.session.execute(text("SELECT * FROM nowhere"))

            def test_in_a_with_block(self):
                with self.assertNumQueries(1):
                    pass

            def test_refused(self):
                self.session.execute(text("COMMIT"))

        said = failures(Shop)

        self.assertEqual(len(said), 3)
        for each in said:
            self.assertNotRegex(
                each, r'File "[^"]*dbtestcase/dbtestcase|File "[^"]*/dbtestcase/(sandbox|assertions|case)'
            )
            self.assertIn("test_failures.py", each)
        self.assertNotIn("contextlib.py", said[-1])

    def test_fault_of_this_library_keeps_its_frames(self):
        try:
            is_users(None)  # type: ignore[arg-type]
        except AttributeError as fault:
            leave_out_ours(fault)
            printed = "".join(traceback.format_exception(fault))

        self.assertIn("frames.py", printed)

    def test_what_the_test_failed_with_is_not_reported_a_second_time_when_it_ends(self):
        class Shop(ShopTestCase):
            isolation = "savepoint"

            def test_1(self):
                self.session.execute(text("COMMIT"))

        [said] = failures(Shop)

        self.assertIn("IsolationBroken", said)

    def test_what_the_test_swallowed_is_reported_when_it_ends_beside_another_failure(self):
        class Shop(ShopTestCase):
            isolation = "savepoint"

            def test_1(self):
                with suppress(IsolationBroken):
                    self.session.execute(text("COMMIT"))
                self.fail("another reason")

        said = failures(Shop)

        self.assertEqual(len(said), 2)
        self.assertEqual(sum("IsolationBroken" in each for each in said), 1)

    def test_statements_that_an_assertion_listed_are_not_listed_again(self):
        class Shop(ShopTestCase):
            def test_1(self):
                self.assertNumQueries(2, self.session.execute, text("SELECT 'asked once'"))

        [said] = failures(Shop)

        self.assertEqual(said.count("1. SELECT 'asked once'"), 1)

    def test_statements_of_threads_without_a_line_of_the_user_s_are_listed(self):
        class Shop(ShopTestCase):
            def test_1(self):
                with ThreadPoolExecutor(1) as pool:
                    pool.submit(self.session.execute, text("SELECT 'in a thread'")).result()
                self.fail("on purpose")

        [said] = failures(Shop)

        self.assertRegex(said, r"1\. SELECT 'in a thread'\n +1 row, [\d.]+ ms\n")
        self.assertNotIn("unknown", said)

    def test_questions_of_this_library_are_not_listed(self):
        class Shop(ShopTestCase):
            def test_1(self):
                self.session.add(Customer(name="Ada"))
                self.assertRowCount(Customer, 0)
                self.assertSchemaMatches(Base.metadata)
                self.session.flush()
                self.fail("on purpose")

        [said] = failures(Shop)

        self.assertIn("SQL sent: 1 statement", said)

    def test_error_in_tear_down_class_is_explained(self):
        class Shop(ShopTestCase):
            @classmethod
            def tearDownClass(cls):
                with cls.engine.connect() as connection:
                    connection.execute(text("SELECT * FROM costumer"))

            def test_1(self):
                pass

        [said] = failures(Shop)

        self.assertIn("if customer is meant", said)

    def test_set_up_class_of_a_mixin_is_explained_and_still_calls_the_next(self):
        class Mixin:
            @classmethod
            def setUpClass(cls):
                super().setUpClass()
                with cls.engine.connect() as connection:
                    connection.execute(text("SELECT * FROM costumer"))

        class Shop(Mixin, ShopTestCase):
            def test_1(self):
                pass

        [said] = failures(Shop)

        self.assertIn("if customer is meant", said)
        self.assertEqual(len(re.findall("What to do", said)), 1)


if __name__ == "__main__":
    unittest.main()
