"""What belongs to one connection is not shown to another: temporary tables, plans, cursors, advisory locks."""

from __future__ import annotations

import select
import unittest
from contextlib import closing
from typing import Any

import psycopg2

from dbtestcase.errors import IsolationBroken, UncommittedRead
from dbtestcase.sandbox.drivers import connect_parameters
from tests.sandbox.support import SandboxCase, raw


class BelongingsTests(SandboxCase):
    def open(self) -> Any:
        connection = self.engine.raw_connection()
        self.addCleanup(connection.close)
        return connection

    def open_new(self) -> Any:
        """A connection that is closed for good when it is given back."""
        connection = self.engine.raw_connection()
        connection.detach()
        return connection.dbapi_connection

    def state(self, connection: Any, sql: str) -> str | None:
        """Return the SQLSTATE with which a statement fails."""
        with self.assertRaises(Exception) as caught:
            raw(connection, sql)
        return self.sandbox._core.driver.sqlstate(caught.exception)

    def test_a_statement_that_a_cursor_of_another_forbids_is_undone_and_the_others_go_on(self):
        with self.in_test(problems=1):
            one, two = self.open(), self.open()
            raw(one, "DECLARE reader CURSOR FOR SELECT id FROM shop")

            with self.assertRaisesRegex(IsolationBroken, "cursor 'reader' of connection 1"):
                raw(two, "CREATE INDEX by_size ON shop (size)")

            two.rollback()
            self.assertEqual(raw(one, "FETCH ALL FROM reader"), [])
            one.rollback()
            self.assertEqual(raw(two, "SELECT 1"), [(1,)])

    # -- temporary tables

    def test_temporary_table_of_another_connection_is_refused_with_the_way_out(self):
        with self.in_test(problems=1):
            one, two = self.open(), self.open()
            raw(one, "CREATE TEMP TABLE basket (id int)")
            one.commit()
            raw(one, "INSERT INTO basket VALUES (1)")

            with self.assertRaisesRegex(IsolationBroken, "temporary table 'basket' of connection 1.*\"clone\""):
                raw(two, "SELECT * FROM basket")

    def test_temporary_table_goes_with_its_connection(self):
        with self.in_test():
            for _ in range(2):
                connection = self.open_new()
                raw(connection, "CREATE TEMPORARY TABLE basket AS SELECT 1 AS id")
                connection.commit()
                connection.close()

            last = self.open()
            self.assertEqual(self.state(last, "SELECT * FROM basket"), "42P01")

    def test_temporary_table_that_was_rolled_back_is_in_nobodys_way(self):
        with self.in_test():
            one, two = self.open(), self.open()
            raw(one, "CREATE TEMP TABLE basket (id int)")
            one.rollback()
            raw(two, "CREATE TEMP TABLE basket (id int)")
            self.assertEqual(raw(two, "SELECT * FROM basket"), [])

    def test_on_commit_drop_and_delete_rows_act_at_the_virtual_commit(self):
        with self.in_test():
            connection = self.open()
            raw(connection, "CREATE TEMP TABLE once (id int) ON COMMIT DROP")
            raw(connection, "CREATE TEMP TABLE emptied (id int) ON COMMIT DELETE ROWS")
            raw(connection, "INSERT INTO emptied VALUES (1)")
            connection.commit()
            self.assertEqual(raw(connection, "SELECT * FROM emptied"), [])
            raw(connection, "INSERT INTO emptied VALUES (2)")
            self.assertEqual(raw(connection, "SELECT * FROM emptied"), [(2,)])
            connection.rollback()
            self.assertEqual(raw(connection, "SELECT * FROM emptied"), [])
            self.assertEqual(self.state(connection, "SELECT * FROM once"), "42P01")

    # -- plans

    def test_plan_of_another_connection_does_not_exist(self):
        with self.in_test():
            one, two = self.open(), self.open()
            raw(one, "PREPARE shops AS SELECT 1")
            self.assertEqual(self.state(two, "EXECUTE shops"), "26000")
            two.rollback()
            raw(two, "DEALLOCATE ALL")
            self.assertEqual(raw(one, "EXECUTE shops"), [(1,)])

    def test_plan_of_the_same_name_is_refused(self):
        with self.in_test(problems=1):
            one, two = self.open(), self.open()
            raw(one, "PREPARE shops AS SELECT 1")
            with self.assertRaisesRegex(IsolationBroken, "prepared statement 'shops' of connection 1"):
                raw(two, "PREPARE shops AS SELECT 2")

    def test_plans_end_with_the_test(self):
        for _ in range(2):
            with self.in_test():
                raw(self.open(), "PREPARE shops AS SELECT 1")

    def test_executed_plan_is_compared_like_the_statement_that_it_is(self):
        with self.in_test(), self.caught() as caught:
            one, two = self.open(), self.open()
            raw(one, "PREPARE add (int) AS INSERT INTO shop (id, size) VALUES ($1, 0)")
            raw(one, "EXECUTE add (1)")
            raw(two, "SELECT * FROM shop WHERE id = 2")
            self.assertEqual([w for w in caught if w.category is UncommittedRead], [])
            raw(two, "SELECT * FROM shop WHERE id = 1")
            self.assertEqual(len([w for w in caught if w.category is UncommittedRead]), 1)

    # -- cursors

    def test_cursor_ends_with_its_transaction_unless_held(self):
        with self.in_test():
            connection, other = self.open(), self.open()
            raw(connection, "DECLARE plain CURSOR FOR SELECT 1")
            raw(connection, "DECLARE held CURSOR WITH HOLD FOR SELECT 2")
            connection.commit()
            self.assertEqual(raw(connection, "FETCH FROM held"), [(2,)])
            self.assertEqual(self.state(connection, "FETCH FROM plain"), "34000")
            self.assertEqual(self.state(other, "FETCH FROM held"), "34000")
            connection.rollback()
            raw(connection, "DECLARE plain CURSOR FOR SELECT 3")
            self.assertEqual(raw(connection, "FETCH FROM plain"), [(3,)])

    def test_statement_that_an_open_cursor_of_others_forbids_is_refused_with_the_way_out(self):
        with self.in_test(problems=1):
            connection = self.open()
            raw(connection, "DECLARE held CURSOR WITH HOLD FOR SELECT id FROM shop")
            connection.commit()
            with self.assertRaisesRegex(IsolationBroken, "cursor 'held'"):
                raw(connection, "CREATE INDEX by_size ON shop (size)")

    def test_cursor_of_the_same_name_is_refused(self):
        with self.in_test(problems=1):
            one, two = self.open(), self.open()
            raw(one, "DECLARE plain CURSOR FOR SELECT 1")
            with self.assertRaisesRegex(IsolationBroken, "cursor 'plain' of connection 1"):
                raw(two, "DECLARE plain CURSOR FOR SELECT 1")

    # -- advisory locks

    def test_try_of_a_lock_that_another_connection_holds_is_false(self):
        with self.in_test():
            one, two = self.open(), self.open()
            self.assertEqual(raw(one, "SELECT pg_try_advisory_lock(%s)", (1,)), [(True,)])
            self.assertEqual(raw(two, "SELECT pg_try_advisory_lock(%s)", (1,)), [(False,)])
            self.assertEqual(raw(two, "SELECT pg_try_advisory_lock(2)"), [(True,)])
            self.assertEqual(raw(two, "SELECT pg_advisory_unlock(1)"), [(False,)])
            self.assertEqual(raw(one, "SELECT pg_advisory_unlock(1)"), [(True,)])
            self.assertEqual(raw(two, "SELECT pg_try_advisory_lock(1)"), [(True,)])

    def test_lock_of_a_transaction_is_free_after_its_end(self):
        with self.in_test():
            one, two = self.open(), self.open()
            for end in (one.commit, one.rollback):
                raw(one, "SELECT pg_advisory_xact_lock(hashtext('jobs'))")
                self.assertEqual(raw(two, "SELECT pg_try_advisory_xact_lock(hashtext('jobs'))"), [(False,)])
                end()
            self.assertEqual(raw(two, "SELECT pg_try_advisory_xact_lock(hashtext('jobs'))"), [(True,)])

    def test_waiting_for_an_advisory_lock_is_named_and_shared_ones_are_not(self):
        with self.in_test(), self.caught() as caught:
            one, two = self.open(), self.open()
            raw(one, "SELECT pg_advisory_xact_lock_shared(1)")
            raw(two, "SELECT pg_advisory_xact_lock_shared(1)")
            self.assertEqual(caught, [])
            raw(two, "SELECT pg_advisory_xact_lock(1)")

        self.assertIn("asks for an advisory lock that connection 1", str(caught[0].message))

    # -- sequences

    def test_last_value_of_a_sequence_is_the_connection_s_own(self):
        with self.in_test(), self.caught() as caught:
            one, two = self.open(), self.open()
            raw(one, "INSERT INTO shop (size) VALUES (0)")
            raw(one, "SELECT lastval()")
            self.assertEqual(caught, [])
            raw(two, "SELECT nextval('shop_id_seq')")
            raw(one, "SELECT lastval()")

        self.assertIn("asks for the last value of a sequence", str(caught[0].message))

    # -- notifications

    def test_notification_reaches_a_real_connection_at_the_commit_only(self):
        with self.in_test(), closing(psycopg2.connect(**connect_parameters(self.real_url))) as listener:
            listener.autocommit = True
            raw(listener, "LISTEN jobs")
            connection = self.open()
            raw(connection, "NOTIFY jobs, 'undone'")
            connection.rollback()
            raw(connection, "SELECT pg_notify(%s, %s)", ("jobs", "a"))
            raw(connection, "NOTIFY jobs, 'b'")
            listener.poll()
            self.assertEqual(listener.notifies, [])
            connection.commit()

            while len(listener.notifies) < 2 and select.select([listener], [], [], 5)[0]:
                listener.poll()
            self.assertEqual([notify.payload for notify in listener.notifies], ["a", "b"])


class PsycopgBelongingsTests(BelongingsTests):
    driver = "psycopg"


if __name__ == "__main__":
    unittest.main()
