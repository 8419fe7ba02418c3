"""What a failure says where no error of the database tells what SQLite did otherwise."""

from __future__ import annotations

import unittest

from sqlalchemy import (
    Column,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    create_engine,
    func,
    insert,
    select,
    text,
)
from sqlalchemy.orm import Session

from dbtestcase import DatabaseTestCase
from dbtestcase.diagnosis.failed_checks import hint_for_check
from tests.diagnosis.support import Base, Customer, LoggedTests
from tests.support import run_case

SHOP = MetaData()
KEYS = Table("key", SHOP, Column("id", Integer, primary_key=True), Column("name", String), Column("raw", LargeBinary))


class FailedCheckCase(LoggedTests):
    def hint(self, error: BaseException) -> str:
        return hint_for_check(error, self.log.statements, self.log.earlier_inserts()) or ""

    def hint_for_failure(self, check) -> str:
        try:  # assertRaises() would take the traceback away
            check()
        except AssertionError as failure:
            return self.hint(failure)
        return self.fail("nothing failed")


class FailedCheckTests(FailedCheckCase):
    def setUp(self) -> None:
        self.ada, self.grace = Customer(name="Ada"), Customer(name="Grace")
        self.session.add_all([self.ada, self.grace])
        self.session.commit()

    def test_like_that_found_nothing_explains_upper_and_lower_case(self):
        self.session.scalars(select(Customer).where(Customer.name.like("ada%"))).all()

        self.assertIn("ilike()", self.hint(AssertionError("0 != 1")))

    def test_a_row_looked_up_by_a_number_is_told_that_sequences_go_on(self):
        self.session.get(Customer, self.ada.id + 1000)

        hint = self.hint(AssertionError("404 != 200"))

        self.assertIn("no row of customer has the key", hint)
        self.assertIn("restart_identities = True", hint)

    def test_a_deleted_row_that_is_looked_up_is_no_mistake(self):
        number = self.ada.id
        self.session.delete(self.ada)
        self.session.commit()
        self.session.get(Customer, number)

        self.assertEqual(self.hint(AssertionError("404 != 200")), "")

    def test_a_row_that_is_skipped_because_it_is_locked_is_no_mistake(self):
        query = select(Customer).where(Customer.id == 0).with_for_update(skip_locked=True)
        self.session.scalars(query).all()

        self.assertEqual(self.hint(AssertionError("None is not Customer")), "")

    def test_rows_without_order_that_the_test_read_last(self):
        def check() -> None:
            newest = self.session.scalars(select(Customer.name)).all()[-1]
            self.assertEqual(newest, "nobody")

        hint = self.hint_for_failure(check)

        self.assertIn("returned 2 rows and has no ORDER BY", hint)
        self.assertIn("order_by()", hint)

    def test_rows_without_order_in_a_list_that_differs(self):
        def view() -> list[str]:
            return list(self.session.scalars(select(Customer.name)))

        hint = self.hint_for_failure(lambda: self.assertEqual(view(), ["nobody", "Ada"]))

        self.assertIn("order_by()", hint)

    def test_rows_that_have_an_order_or_come_from_elsewhere_are_not_blamed(self):
        def ordered() -> None:
            names = self.session.scalars(select(Customer.name).order_by(Customer.name)).all()
            self.assertEqual(names, ["nobody"])

        def elsewhere() -> None:
            self.view()
            self.assertEqual(500, 200)

        for check in (ordered, elsewhere):
            with self.subTest(check.__name__):
                self.assertEqual(self.hint_for_failure(check), "")

    def view(self) -> None:
        self.session.scalars(select(Customer.name)).all()


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


class BytesTests(FailedCheckCase):
    schema = [Base, SHOP]
    driver = "postgresql+psycopg2"

    def setUp(self) -> None:
        self.shop = create_engine(self.url.set(drivername=self.driver))
        self.addCleanup(self.shop.dispose)

    def test_bytes_in_a_column_of_text_are_named_whatever_they_led_to(self):
        with self.shop.begin() as connection:
            connection.execute(insert(KEYS), {"name": b"$2b$12$", "raw": b"\0"})

        hint = self.hint(ValueError("Invalid salt"))

        self.assertIn("bytes were written to the text column 'name'", hint)
        self.assertIn("decode()", hint)

    def test_bytes_in_a_column_for_bytes_are_fine(self):
        with self.shop.begin() as connection:
            connection.execute(insert(KEYS), {"name": "Ada", "raw": b"\0"})
            self.assertEqual(bytes(connection.scalar(select(KEYS.c.raw))), b"\0")

        self.assertEqual(self.hint(ValueError("x")), "")

    def test_bytes_that_are_only_compared_are_fine(self):
        with self.shop.begin() as connection:
            connection.execute(text("SELECT 1 WHERE 'a'::bytea = :it"), {"it": b"a"})

        self.assertEqual(self.hint(ValueError("x")), "")


class BytesWithPsycopgTests(BytesTests):
    driver = "postgresql+psycopg"


del LoggedTests, FailedCheckCase  # nothing to run in them


if __name__ == "__main__":
    unittest.main()
