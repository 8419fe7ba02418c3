"""What the assertions accept, and what they say when they fail."""

from __future__ import annotations

import threading
import unittest

from sqlalchemy import create_engine, select, text
from sqlalchemy.orm import Session

from dbtestcase.assertions import DatabaseAssertions
from tests.diagnosis.support import Account, Base, Customer, LogEntry, LoggedTests, Order


class NumQueriesTests(LoggedTests):
    def test_block_with_the_expected_number_passes_and_hands_out_the_queries(self):
        with self.assertNumQueries(2) as captured:
            self.session.scalars(select(Customer)).all()
            self.session.scalars(select(Order)).all()

        self.assertEqual(len(captured), 2)
        self.assertIn('FROM "order"', captured[1].sql)

    def test_failure_counts_and_lists_the_queries_with_their_values_and_lines(self):
        def read_twice():
            with self.assertNumQueries(1):
                self.session.get(Customer, 41)
                self.session.get(Customer, 42)

        message = self.failure_of(read_twice)

        self.assertIn("2 queries were sent, 1 expected:", message)
        self.assertIn("1. SELECT customer.id", message)
        self.assertIn("WHERE customer.id = 42", message)
        self.assertRegex(message, r"tests/test_assertions\.py:\d+ in read_twice")

    def test_insert_through_commit_counts_one(self):
        with self.assertNumQueries(1):
            self.session.add(Customer(name="Ada"))
            self.session.commit()

    def test_savepoints_of_the_code_under_test_are_not_counted(self):
        with self.assertNumQueries(1), self.session.begin_nested():
            self.session.execute(text("SELECT 1"))

    def test_callable_form_passes_arguments_on(self):
        self.assertNumQueries(1, self.session.get, Customer, ident=1)

    def test_callable_form_fails_with_the_message_given(self):
        message = self.failure_of(self.assertNumQueries, 2, self.session.get, Customer, 1, msg="get() got cheaper")

        self.assertIn("1 query was sent, 2 expected:", message)
        self.assertIn("get() got cheaper", message)

    def test_no_query_at_all_is_said_plainly(self):
        message = self.failure_of(self.assertNumQueries, 1, lambda: None)

        self.assertEqual(message, "0 queries were sent, 1 expected.")

    def test_core_and_raw_cursors_and_other_engines_count(self):
        other = create_engine(self.url)
        self.addCleanup(other.dispose)

        with self.assertNumQueries(3), self.engine.connect() as connection:
            connection.execute(text("SELECT 1"))
            with other.connect() as second:
                second.exec_driver_sql("SELECT 2")
            raw = self.engine.raw_connection()
            raw.cursor().execute("SELECT %s", (3,))
            raw.close()

    def test_executemany_is_one_query(self):
        with self.assertNumQueries(1) as captured, self.engine.begin() as connection:
            connection.execute(text("INSERT INTO customer (name) VALUES (:n)"), [{"n": "a"}, {"n": "b"}])

        self.assertEqual(str(captured[0]).count("INSERT"), 1)

    def test_queries_of_threads_count(self):
        def ask():
            with Session(self.engine) as session:
                session.scalars(select(Customer)).all()

        with self.assertNumQueries(2):
            threads = [threading.Thread(target=ask) for _ in range(2)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()

    def test_an_exception_in_the_block_is_not_replaced(self):
        with self.assertRaisesRegex(KeyError, "mine"), self.assertNumQueries(5):
            raise KeyError("mine")

    def test_number_that_is_none_is_refused(self):
        for wrong, error in (("2", TypeError), (True, TypeError), (-1, ValueError)):
            with self.subTest(wrong=wrong), self.assertRaisesRegex(error, "expected number"):
                self.assertNumQueries(wrong)

    def test_blocks_may_be_nested(self):
        with self.assertNumQueries(2):
            self.session.execute(text("SELECT 1"))
            with self.assertNumQueries(1):
                self.session.execute(text("SELECT 2"))

    def test_row_assertions_are_not_counted(self):
        with self.assertNumQueries(0):
            self.assertRowAbsent(Customer, name="Ada")


class CaptureQueriesTests(LoggedTests):
    def test_list_grows_in_the_block_and_stays_afterwards(self):
        with self.capture_queries() as captured:
            self.session.execute(text("SELECT 1"))
            before = len(captured)
            self.session.execute(text("SELECT 2"))
        self.session.execute(text("SELECT 3"))

        self.assertEqual((before, len(captured)), (1, 2))

    def test_query_tells_rows_time_line_and_values(self):
        self.session.add(Customer(name="Ada"))
        self.session.commit()

        with self.capture_queries() as captured:
            self.session.scalars(select(Customer).where(Customer.name == "Ada")).all()

        query = captured[0]
        self.assertEqual(query.rows, 1)
        self.assertGreater(query.seconds, 0)
        self.assertEqual(query.origin.function, "test_query_tells_rows_time_line_and_values")
        self.assertIn("WHERE customer.name = 'Ada'", str(query))
        self.assertIsNone(query.error)

    def test_failed_query_keeps_its_error(self):
        with self.capture_queries() as captured, self.assertRaises(Exception) as caught, Session(self.engine) as other:
            other.execute(text("SELECT * FROM nowhere"))

        self.assertIs(captured[0].error, caught.exception.orig)


class NoRepeatedQueriesTests(LoggedTests):
    def setUp(self):
        self.session.add_all([Customer(name=name, orders=[Order(item="tea")]) for name in ("Ada", "Bob", "Eve")])
        self.session.commit()

    def test_lazy_loading_is_named_with_relationship_line_and_remedy(self):
        def list_orders():
            with self.assertNoRepeatedQueries():
                for customer in self.session.scalars(select(Customer)):
                    len(customer.orders)

        message = self.failure_of(list_orders)

        self.assertIn("1 query was sent more than once, out of 4:", message)
        self.assertIn('3 times: SELECT "order".id', message)
        self.assertRegex(message, r"3 times by lazy loading of Customer\.orders, at .*test_assertions\.py:\d+ in list")
        self.assertIn("selectinload(Customer.orders)", message)

    def test_lazy_loading_of_the_one_side_is_named(self):
        with self.assertRaisesRegex(AssertionError, r"lazy loading of Order\.customer"), self.assertNoRepeatedQueries():
            for order in self.session.scalars(select(Order)):
                self.assertTrue(order.customer.name)

    def test_refreshing_expired_objects_one_by_one_is_named(self):
        customers = self.session.scalars(select(Customer)).all()
        self.session.commit()

        expected = "deferred or expired columns of Customer"
        with self.assertRaisesRegex(AssertionError, expected), self.assertNoRepeatedQueries():
            self.assertEqual(sorted(each.name for each in customers), ["Ada", "Bob", "Eve"])

    def test_as_many_as_allowed_pass(self):
        with self.assertNoRepeatedQueries(at_most=3):
            for customer in self.session.scalars(select(Customer)):
                len(customer.orders)

    def test_values_written_into_raw_sql_do_not_hide_a_repetition(self):
        with self.assertRaisesRegex(AssertionError, "2 times: SELECT"), self.assertNoRepeatedQueries():
            for number in (1, 2):
                self.session.execute(text(f"SELECT name FROM customer WHERE id = {number}"))

    def test_different_queries_pass(self):
        with self.assertNoRepeatedQueries():
            self.session.scalars(select(Customer)).all()
            self.session.scalars(select(Order)).all()

    def test_at_most_zero_is_refused(self):
        with self.assertRaisesRegex(ValueError, "assertNumQueries"), self.assertNoRepeatedQueries(at_most=0):
            pass


class RowTests(LoggedTests):
    def setUp(self):
        self.ada = Customer(id=1001, name="Ada", age=36)
        self.session.add_all([self.ada, Customer(id=1002, name="Bob", age=36)])
        self.session.commit()

    def test_row_that_is_there_is_found_by_class_and_by_table(self):
        self.assertRowExists(Customer, name="Ada", age=36)
        self.assertRowExists(Customer.__table__, name="Bob")
        self.assertRowExists(Customer, name="Bob", age=36)

    def test_missing_row_shows_the_nearest_and_in_what_it_differs(self):
        message = self.failure_of(self.assertRowExists, Customer, name="Ado", age=36)

        self.assertIn("no row of Customer has name='Ado', age=36. 2 rows are there", message)
        self.assertIn("  id=1001: name is 'Ada', not 'Ado'\n", message)
        self.assertLess(message.index("id=1001"), message.index("id=1002"))

    def test_empty_table_is_said_to_be_empty(self):
        message = self.failure_of(self.assertRowExists, Order, item="tea")

        self.assertIn("no row of Order has item='tea': the table is empty.", message)

    def test_unsent_changes_of_the_session_are_named(self):
        self.ada.name = "Augusta"
        self.session.add(Customer(name="Eve"))

        message = self.failure_of(self.assertRowExists, Customer, name="Eve")

        self.assertRegex(
            message, r"new: Customer object, added at \S+ in test_unsent_\w+; changed: Customer\(id=1001\)\)"
        )
        self.assertIn("flush()", message)

    def test_flushed_and_uncommitted_rows_of_the_own_session_are_seen(self):
        self.session.add(Customer(name="Eve"))
        self.session.flush()

        self.assertRowExists(Customer, name="Eve")

    def test_assertion_leaves_the_session_usable_when_the_values_do_not_fit(self):
        self.session.add(Customer(name="Eve"))
        self.session.flush()

        with self.assertRaisesRegex(ValueError, "rows of Customer cannot be compared with age='old'"):
            self.assertRowExists(Customer, age="old")

        self.session.commit()
        self.assertRowExists(Customer, name="Eve")

    def test_session_whose_transaction_has_failed_does_not_stop_an_assertion(self):
        with self.assertRaises(Exception):  # noqa: B017
            self.session.execute(text("SELECT * FROM nowhere"))

        self.assertRowExists(Customer, name="Ada")

        self.session.rollback()
        self.assertEqual(self.ada.name, "Ada")

    def test_assertion_begins_no_transaction(self):
        self.session.close()

        self.assertRowExists(Customer, name="Ada")

        self.assertFalse(self.session.in_transaction())

    def test_relationships_take_objects(self):
        self.session.add(Order(item="tea", customer=self.ada))
        self.session.commit()
        bob = self.session.get(Customer, 1002)

        self.assertRowExists(Order, customer=self.ada)
        message = self.failure_of(self.assertRowExists, Order, item="tea", customer=bob)

        self.assertIn("customer is another", message)

    def test_hidden_columns_are_not_shown(self):
        self.session.add(Account(id=7, name="Ada", password="lovelace"))
        self.session.commit()

        message = self.failure_of(self.assertRowExists, Account, name="Ada", password="guess")
        listed = self.failure_of(self.assertRowAbsent, Account, name="Ada")

        self.assertNotIn("lovelace", message + listed)
        self.assertNotIn("guess", message)
        self.assertIn("no row of Account has name='Ada', password=(hidden)", message)
        self.assertIn("id=7: password is (hidden), not (hidden)", message)
        self.assertIn("id=7, name='Ada', password=(hidden)", listed)

    def test_unknown_column_is_a_type_error_with_the_nearest_name(self):
        with self.assertRaisesRegex(TypeError, "Customer has no column 'nme'; did you mean 'name'"):
            self.assertRowExists(Customer, nme="Ada")
        with self.assertRaisesRegex(TypeError, "customer has no column 'nme'"):
            self.assertRowAbsent(Customer.__table__, nme="Ada")

    def test_what_is_no_entity_is_a_type_error(self):
        for wrong in ("customer", int, self.ada):
            with self.subTest(wrong=wrong), self.assertRaisesRegex(TypeError, "a mapped class or a Table is needed"):
                self.assertRowExists(wrong, name="Ada")

    def test_row_that_should_be_absent_is_shown(self):
        self.assertRowAbsent(Customer, name="Eve")

        message = self.failure_of(self.assertRowAbsent, Customer, age=36)

        self.assertIn("2 rows of Customer have age=36, none expected:", message)
        self.assertIn("  id=1001, name='Ada', age=36", message)

    def test_wrong_row_count_shows_rows_and_criteria(self):
        self.assertRowCount(Customer, 2)
        self.assertRowCount(Customer, 1, Customer.name == "Ada")

        message = self.failure_of(self.assertRowCount, Customer, 3, Customer.age == 36, msg="after the import")

        self.assertIn("2 rows of Customer where customer.age = 36, 3 expected:", message)
        self.assertIn("name='Bob'", message)
        self.assertIn("after the import", message)

    def test_criterion_that_is_no_expression_is_refused(self):
        with self.assertRaisesRegex(TypeError, "criterion 1 is of type bool"):
            self.assertRowCount(Customer, 1, Customer.name is None)

    def test_missing_table_is_the_databases_own_error(self):
        class Unmade(Base):
            __tablename__ = "unmade"
            id = Customer.__table__.c.id._copy()

        self.addCleanup(Base.metadata.remove, Unmade.__table__)

        with self.assertRaisesRegex(Exception, 'relation "unmade" does not exist'):
            self.assertRowCount(Unmade, 0)


class ColumnCalledMsgTests(LoggedTests):
    def setUp(self):
        self.session.execute(text("INSERT INTO log_entry (msg) VALUES ('started')"))

    def test_msg_is_the_column_where_there_is_one(self):
        self.assertRowExists(LogEntry, msg="started")
        self.assertRowAbsent(LogEntry, msg="ended")
        self.assertIn("msg is 'started', not 'ended'", self.failure_of(self.assertRowExists, LogEntry, msg="ended"))

    def test_a_message_is_given_by_position_then(self):
        message = self.failure_of(self.assertRowExists, LogEntry, "not logged", msg="ended")

        self.assertIn("not logged", message)
        self.assertIn("no row of LogEntry has msg='ended'", message)

    def test_msg_is_the_message_where_there_is_no_such_column(self):
        for given in ({"msg": "told"}, {}):
            with self.subTest(given):
                position = () if given else ("told",)
                message = self.failure_of(self.assertRowExists, Customer, *position, **given, name="nobody")

                self.assertIn("told", message)
                self.assertIn("no row of Customer has name='nobody'", message)


class StateTests(LoggedTests):
    def test_each_state_is_recognized(self):
        customer = Customer(name="Ada")
        self.assertTransient(customer)
        self.session.add(customer)
        self.assertPending(customer)
        self.session.commit()
        self.assertPersistent(customer)
        self.session.delete(customer)
        self.session.flush()
        self.assertDeleted(customer)
        self.session.commit()
        self.assertDetached(customer)

    def test_message_names_the_state_and_the_call_that_led_to_it(self):
        customer = Customer(name="Ada")
        self.session.add(customer)
        self.session.commit()
        number = customer.id
        self.session.close()

        message = self.failure_of(self.assertPersistent, customer)

        self.assertIn(f"Customer(id={number}) is detached, persistent expected", message)
        self.assertRegex(message, r"by close\(\) at .*test_assertions\.py:\d+ in test_message_names")

    def test_rolled_back_insert_is_explained(self):
        customer = Customer(name="Ada")
        self.session.add(customer)
        self.session.flush()
        self.session.rollback()

        message = self.failure_of(self.assertPersistent, customer)

        self.assertRegex(message, r"Customer object is transient, persistent expected: .*rollback\(\) at ")

    def test_pending_object_is_told_to_be_flushed(self):
        customer = Customer(name="Ada")
        self.session.add(customer)

        message = self.failure_of(self.assertPersistent, customer)

        self.assertRegex(message, r"is pending, persistent expected: .*flush\(\) or commit\(\).* by add\(\) at ")

    def test_what_is_not_mapped_is_a_type_error(self):
        for wrong in (Customer, "Ada", None):
            with self.subTest(wrong=wrong), self.assertRaisesRegex(TypeError, "instance of a mapped class"):
                self.assertPersistent(wrong)


class NamesTests(unittest.TestCase):
    def test_users_may_have_every_other_private_name(self):
        # Without what unittest itself keeps in each class.
        own = {name: value for name, value in vars(DatabaseAssertions).items() if callable(value)}
        private = [name for name in own if name[0] == "_" and not name.startswith("__")]

        self.assertEqual(private, [])


class SchemaTests(LoggedTests):
    def test_schema_as_the_metadata_says_passes(self):
        self.assertSchemaMatches(Base.metadata)

    def test_differences_are_listed(self):
        with self.engine.begin() as connection:
            connection.execute(text("ALTER TABLE customer ADD COLUMN nickname text"))

        message = self.failure_of(self.assertSchemaMatches, Base.metadata)

        self.assertIn("1 difference between the database and the metadata:", message)
        self.assertIn("nickname", message)


if __name__ == "__main__":
    unittest.main()
