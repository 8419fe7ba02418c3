"""What a failure says where no error of the database tells what SQLite did otherwise."""

from __future__ import annotations

import unittest

from sqlalchemy import Column, Integer, LargeBinary, MetaData, String, Table, insert, select, text

from dbtestcase.diagnosis.hints import hint_for
from tests.diagnosis.support import Customer, LoggedTests

SHOP = MetaData()
KEYS = Table("key", SHOP, Column("id", Integer, primary_key=True), Column("name", String), Column("raw", LargeBinary))


class SuspicionTests(LoggedTests):
    def setUp(self) -> None:
        super().setUp()
        self.ada, self.grace = Customer(name="Ada"), Customer(name="Grace")
        self.session.add_all([self.ada, self.grace])
        self.session.commit()

    def hint(self, error: BaseException) -> str:
        return hint_for(error, statements=self.log.statements) or ""

    def hint_for_failure(self, check) -> str:
        try:  # assertRaises() would take the traceback away
            check()
        except AssertionError as failure:
            return self.hint(failure)
        return self.fail("nothing failed")

    def test_like_that_found_nothing_explains_upper_and_lower_case(self):
        self.session.scalars(select(Customer).where(Customer.name.like("ada%"))).all()

        self.assertIn("ilike()", self.hint(AssertionError("0 != 1")))

    def test_a_key_compared_with_a_number_is_told_that_sequences_go_on(self):
        number = self.ada.id
        for name, check in {
            "equal": lambda: self.assertEqual(self.ada.id, 1000),
            "the other way round": lambda: self.assertEqual(1000, self.ada.id),
            "true": lambda: self.assertTrue(self.ada.id == 1000),
            "json": lambda: self.assertEqual({"id": number}, {"id": 1000}),
            "plain": lambda: self.assertEqual({"id": number}["id"], 1000),
        }.items():
            with self.subTest(name):
                self.assertIn("restart_identities = True", self.hint_for_failure(check))

    def test_a_row_looked_up_by_a_number_is_told_so_too(self):
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

    def test_a_number_beside_a_key_of_nobody_is_no_mistake(self):
        self.log.begin_test("another, which inserts nothing")

        self.assertEqual(self.hint_for_failure(lambda: self.assertEqual(self.ada.id, 1000)), "")

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


class BytesTests(LoggedTests):
    def setUp(self) -> None:
        super().setUp()
        SHOP.create_all(self.engine)

    def test_bytes_in_a_column_of_text_are_named_whatever_they_led_to(self):
        with self.engine.begin() as connection:
            connection.execute(insert(KEYS), {"name": b"$2b$12$", "raw": b"\0"})

        hint = hint_for(ValueError("Invalid salt"), statements=self.log.statements) or ""

        self.assertIn("bytes were written to the text column 'name'", hint)
        self.assertIn("decode()", hint)

    def test_bytes_in_a_column_for_bytes_are_fine(self):
        with self.engine.begin() as connection:
            connection.execute(insert(KEYS), {"name": "Ada", "raw": b"\0"})
            self.assertEqual(bytes(connection.scalar(select(KEYS.c.raw))), b"\0")

        self.assertIsNone(hint_for(ValueError("x"), statements=self.log.statements))

    def test_bytes_that_are_only_compared_are_fine(self):
        with self.engine.begin() as connection:
            connection.execute(text("SELECT 1 WHERE 'a'::bytea = :it"), {"it": b"a"})

        self.assertIsNone(hint_for(ValueError("x"), statements=self.log.statements))


class BytesWithPsycopgTests(BytesTests):
    driver = "postgresql+psycopg"


del LoggedTests  # nothing to run in it


if __name__ == "__main__":
    unittest.main()
