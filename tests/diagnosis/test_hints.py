"""The sentence that tells the user what to do about a usual mistake."""

from __future__ import annotations

import unittest

from sqlalchemy import Column, Integer, MetaData, Table, func, select, text
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from dbtestcase.diagnosis.hints import hint_for
from tests.diagnosis.support import Customer, LoggedTests, Order, noted


class HintTests(LoggedTests):
    def hint(self, *statements, **values) -> str:
        """Return the hint for the error that the last of these statements raises."""
        with Session(self.engine) as session, self.assertRaises(Exception) as caught:
            for statement in statements:
                session.execute(text(statement) if isinstance(statement, str) else statement, values)
        return hint_for(caught.exception, tables=lambda: ["customer", "order", "Shop"]) or ""

    def test_a_row_that_was_sent_and_refused_is_not_said_to_be_never_sent(self):
        with Session(self.engine) as session:
            session.add(Order(item="tea", customer_id=999999))
            with self.assertRaises(IntegrityError):
                session.commit()

        self.assertNotIn("never sent", self.explained(AssertionError("500 != 409")))

    def test_a_row_that_was_never_sent_is_said_to_be(self):
        with Session(self.engine) as session:
            session.add(Customer(name="Ada"))

        self.assertIn("never sent", self.explained(AssertionError("1 != 0")))

    def test_wrong_table_name_gets_the_nearest_names(self):
        self.assertIn("if customer is meant, write that.", self.hint("SELECT * FROM costumer"))

    def test_a_table_outside_of_the_search_path_is_told_to_be_named_with_its_schema(self):
        hint = self.hint("SET search_path TO pg_catalog", "SELECT * FROM customer")

        self.assertIn("search_path", hint)
        self.assertNotIn("double quotes", hint)

    def test_table_name_with_capitals_is_told_to_be_quoted(self):
        self.assertIn('Write "Shop" with double quotes', self.hint("SELECT * FROM Shop"))

    def test_table_in_an_empty_database_points_to_schema_and_imports(self):
        with Session(self.engine) as session, self.assertRaises(Exception) as caught:
            session.execute(text("SELECT * FROM nowhere"))

        hint = hint_for(caught.exception)

        self.assertIn("the database has no tables", hint)
        self.assertIn("imported", hint)

    def test_missing_parent_row_points_to_the_relationship(self):
        hint = self.hint("INSERT INTO \"order\" (item, customer_id) VALUES ('tea', 999999)")

        self.assertIn('Key (customer_id)=(999999) is not present in table "customer"', hint)
        self.assertIn("set the relationship", hint)

    def test_deleting_a_parent_points_to_the_children(self):
        hint = self.hint(
            "INSERT INTO customer (id, name) VALUES (77, 'Ada')",
            "INSERT INTO \"order\" (item, customer_id) VALUES ('tea', 77)",
            "DELETE FROM customer",
        )

        self.assertIn("Delete them first", hint)

    def test_null_in_a_column_names_it(self):
        self.assertIn("customer.name got no value", self.hint("INSERT INTO customer (name) VALUES (NULL)"))

    def test_null_in_a_foreign_key_points_to_the_relationship(self):
        self.assertIn("Set the relationship", self.hint("INSERT INTO \"order\" (item) VALUES ('tea')"))

    def test_used_up_key_points_to_the_sequence(self):
        insert = "INSERT INTO customer (id, name) VALUES (78, 'Ada')"

        self.assertIn("setval()", self.hint(insert, insert))

    def test_text_for_a_number_points_to_the_type(self):
        self.assertIn("only what fits its type", self.hint("SELECT * FROM customer WHERE id = 'abc'"))

    def test_types_that_differ_in_a_comparison_are_named(self):
        hint = self.hint(select(Customer).where(Customer.name == text("5")))

        self.assertIn("operator does not exist: character varying = integer", hint)
        self.assertIn("different types", hint)

    def test_number_for_a_boolean_is_recognized(self):
        self.assertIn("true and false", self.hint("SELECT id FROM customer WHERE (id IS NULL) = 1"))

    def test_column_that_is_not_grouped_by_is_explained(self):
        self.assertIn("GROUP BY", self.hint(select(Customer.name, func.count()).group_by(Customer.age)))

    def test_number_that_is_too_large_points_to_bigint(self):
        self.assertIn("BigInteger", self.hint("INSERT INTO customer (name, age) VALUES ('x', :n)", n=2**40))

    def test_going_on_in_a_failed_transaction_points_to_the_first_failure(self):
        with Session(self.engine) as session:
            with self.assertRaises(Exception):  # noqa: B017
                session.execute(text("SELECT * FROM nowhere"))
            with self.assertRaises(Exception) as caught:
                session.execute(text("SELECT 1"))

        self.assertIn("an earlier statement of this transaction failed", hint_for(caught.exception))

    def test_table_created_twice_points_to_schema(self):
        table = Table("customer", MetaData(), Column("id", Integer))
        with self.engine.connect() as connection, self.assertRaises(Exception) as caught:
            table.create(connection)

        self.assertIn("'schema' has created it already", hint_for(caught.exception))

    def test_types_of_extensions_point_to_the_option(self):
        self.assertIn("extensions=", self.hint("SELECT 'a'::citext"))

    def test_lazy_load_after_close_names_class_attribute_and_remedy(self):
        with Session(self.engine) as session:
            session.add(Customer(name="Ada", orders=[Order(item="tea")]))
            session.commit()
            customer = session.scalars(select(Customer)).one()

        with self.assertRaises(Exception) as caught:
            len(customer.orders)

        self.assertIn("selectinload(Customer.orders)", hint_for(caught.exception))

    def test_expired_value_after_close_is_explained(self):
        with Session(self.engine) as session:
            customer = Customer(name="Ada")
            session.add(customer)
            session.commit()

        with self.assertRaises(Exception) as caught:
            str(customer.name)

        self.assertIn("expire_on_commit=False", hint_for(caught.exception))

    def test_session_after_a_failed_flush_points_to_rollback_and_the_cause(self):
        self.session.add(Customer(name=None))
        with self.assertRaises(Exception):  # noqa: B017
            self.session.flush()
        with self.assertRaises(Exception) as caught:
            self.session.scalars(select(Customer)).all()

        hint = hint_for(caught.exception)

        self.assertIn("session.rollback()", hint)
        self.assertIn("It began with", hint)

    def test_other_errors_get_none(self):
        for error in (ValueError("x"), AssertionError("1 != 2"), KeyError()):
            with self.subTest(error=error):
                self.assertIsNone(hint_for(error))


class ExplanationsTests(LoggedTests):
    def test_error_gets_the_hint_and_then_the_statements(self):
        with Session(self.engine) as session, self.assertRaises(Exception) as caught:
            session.execute(text("SELECT * FROM costumer"))

        note = self.explained(caught.exception)

        self.assertIn("What to do: if customer is meant, write that.", note)
        self.assertIn("1. SELECT * FROM costumer", note)
        self.assertLess(note.index("What to do"), note.index("SQL sent"))

    def test_hint_does_not_quote_hidden_values(self):
        with self.engine.connect() as connection, self.assertRaises(Exception) as caught:
            connection.execute(text("CREATE TABLE key (token text UNIQUE)"))
            for _ in range(2):
                connection.execute(text("INSERT INTO key (token) VALUES (:token)"), {"token": "s3cr3t-value"})

        note = self.explained(caught.exception)

        self.assertIn("there is a row with this value, made by", note)
        self.assertNotIn("s3cr3t-value", f"{caught.exception}{caught.exception.orig}{note}")

    def test_the_test_s_own_unsent_objects_are_a_hint(self):
        self.session.add(Customer(name="Ada"))
        error = AssertionError("[] != ['Ada']")

        self.explanations.hint_at_unsent(error, self.session)

        self.assertRegex(noted(error), r"commit\(\) first\? The test's session holds .*added at .*test_hints\.py:\d+")


if __name__ == "__main__":
    unittest.main()
