"""Several connections at once: what two real ones would give, or a sentence that names both."""

from __future__ import annotations

import unittest
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Session

from dbtestcase.errors import IsolationBroken, LostCommit, UncommittedRead
from tests.sandbox.support import SandboxCase, Shop, raw

INSERT = "INSERT INTO shop (id, name, size) VALUES (%s, %s, 0)"


class InterleavingTests(SandboxCase):
    def open(self) -> Any:
        connection = self.engine.raw_connection()
        self.addCleanup(connection.close)
        return connection

    def flags(self, caught: list) -> list[str]:
        return [str(warning.message) for warning in caught if warning.category is UncommittedRead]

    def test_sessions_may_commit_in_the_other_order(self):
        with self.in_test(), Session(self.engine) as one, Session(self.engine) as two:
            one.add(Shop(id=1, name="one"))
            one.flush()
            two.add(Shop(id=2, name="two"))
            two.flush()
            one.commit()
            two.commit()

            self.assertEqual(self.names(), ["one", "two"])

    def test_a_stream_that_ends_while_others_commit_takes_nothing_with_it(self):
        with self.in_test():
            with Session(self.engine) as session:
                session.add_all(Shop(id=number, name=f"old {number}") for number in range(6))
                session.commit()
            with Session(self.engine) as reader, Session(self.engine) as writer:
                for shop in reader.scalars(sa.select(Shop).order_by(Shop.id).execution_options(yield_per=2)):
                    writer.add(Shop(id=shop.id + 10, name=f"new {shop.id}"))
                    writer.commit()

            self.assertEqual(len(self.names()), 12)
            with self.engine.connect() as connection:
                self.assertEqual(connection.scalar(sa.text("SELECT count(*) FROM pg_cursors")), 0)

    def test_a_stream_that_was_given_up_in_the_middle_takes_nothing_with_it(self):
        with self.in_test():
            with Session(self.engine) as session:
                session.add_all(Shop(id=number, name=f"old {number}") for number in range(6))
                session.commit()
            reader = self.engine.connect()
            rows = reader.execution_options(yield_per=2).execute(sa.select(Shop.id).order_by(Shop.id))
            self.assertEqual(next(rows), (0,))
            with self.engine.begin() as writer:
                writer.execute(sa.insert(Shop).values(id=99, name="new"))
            reader.rollback()
            reader.close()

            self.assertEqual(len(self.names()), 7)

    def test_rollback_of_a_reader_takes_nothing_with_it(self):
        with self.in_test():
            reader, writer = self.open(), self.open()
            raw(reader, "SELECT 1")
            raw(writer, INSERT, (1, "a"))
            writer.commit()
            reader.rollback()

            self.assertEqual(self.names(), ["a"])

    def test_rollback_of_what_came_later_keeps_what_was_committed_between(self):
        with self.in_test():
            one, two = self.open(), self.open()
            raw(one, "SELECT 1")
            raw(two, INSERT, (1, "kept"))
            two.commit()
            raw(one, INSERT, (2, "dropped"))
            one.rollback()

            self.assertEqual(self.names(), ["kept"])

    def test_rollback_beneath_a_commit_names_both_even_if_nobody_looks(self):
        with self.in_test(problems=1) as problems:
            below, above = self.open(), self.open()
            raw(below, INSERT, (1, "below"))
            raw(above, INSERT, (2, "above"))
            above.commit()
            below.rollback()

        message = str(problems[0])
        self.assertIsInstance(problems[0], LostCommit)
        self.assertIn("connection 1", message)
        self.assertIn("connection 2", message)
        self.assertIn("had already committed", message)
        self.assertRegex(message, r"begun at \S+.py:\d+ in \w+")

    def test_rollback_beneath_open_work_lets_that_one_only_roll_back(self):
        with self.in_test():
            below, above = self.open(), self.open()
            raw(below, INSERT, (1, "below"))
            raw(above, INSERT, (2, "above"))
            below.rollback()
            above.rollback()

            self.assertEqual(self.names(), [])

        with self.in_test(problems=1):
            below, above = self.open(), self.open()
            raw(below, INSERT, (1, "below"))
            raw(above, INSERT, (2, "above"))
            below.rollback()
            with self.assertRaises(LostCommit):
                above.commit()

    def test_sql_error_of_one_leaves_the_other_alone(self):
        with self.in_test():
            one, two = self.open(), self.open()
            raw(one, INSERT, (1, "one"))
            with self.assertRaises(Exception):  # noqa: B017
                raw(two, "SELECT 1 / 0")
            raw(one, INSERT, (2, "more"))
            one.commit()
            two.rollback()

            self.assertEqual(self.names(), ["more", "one"])

    def test_reading_uncommitted_rows_of_another_connection_warns_once_and_names_both(self):
        with self.in_test(), self.caught() as caught:
            writer, reader = self.open(), self.open()
            raw(writer, INSERT, (1, "a"))
            raw(reader, "SELECT name FROM shop")
            raw(reader, "SELECT name FROM shop")

        (flag,) = self.flags(caught)
        self.assertIn("SELECT name FROM shop", flag)
        self.assertIn("INSERT INTO shop", flag)
        self.assertIn("connection 1", flag)
        self.assertIn("connection 2", flag)

    def test_reading_other_rows_or_other_tables_says_nothing(self):
        with self.in_test(), self.caught() as caught:
            raw(self.open(), INSERT, (7, "seven"))
            one, two = self.open(), self.open()
            raw(one, "UPDATE shop SET size = 1 WHERE id = %s", (1,))
            raw(two, "SELECT size FROM shop WHERE id = %s", (2,))
            raw(two, "SELECT count(*) FROM sale")
            raw(two, INSERT, (2, "other"))
            raw(two, "UPDATE shop SET size = 1 WHERE id = %s", (2,))

        self.assertEqual(self.flags(caught), [])

    def test_waiting_for_a_row_that_another_connection_locked_is_named(self):
        with self.plain.begin() as connection:
            connection.execute(sa.insert(Shop).values(id=1, name="a", size=0))
        self.addCleanup(self._delete_all)
        with self.in_test(), self.caught() as caught:
            one, two = self.open(), self.open()
            raw(one, "SELECT id FROM shop WHERE id = 1 FOR UPDATE")
            raw(two, "UPDATE shop SET size = 2 WHERE id = 1")

        self.assertEqual(len(self.flags(caught)), 1)

    def test_waiting_for_a_unique_key_is_named(self):
        with self.in_test(), self.caught() as caught:
            one, two = self.open(), self.open()
            raw(one, INSERT, (1, "same"))
            with self.assertRaises(Exception):  # noqa: B017
                raw(two, INSERT, (2, "same"))
            two.rollback()

        self.assertEqual(len(self.flags(caught)), 1)

    def test_dropping_a_table_that_another_connection_reads_is_named(self):
        with self.in_test(), self.caught() as caught:
            one, two = self.open(), self.open()
            raw(one, "SELECT count(*) FROM sale")
            raw(two, "DROP TABLE sale")

        self.assertEqual(len(self.flags(caught)), 1)

    def test_commit_that_a_serializable_transaction_should_not_see_is_named(self):
        with self.in_test(), self.caught() as caught:  # noqa: SIM117
            with self.engine.connect() as one, self.engine.connect() as two:
                one = one.execution_options(isolation_level="SERIALIZABLE")
                one.execute(sa.text("SELECT 1"))
                two.execute(sa.insert(Shop).values(id=1, name="a"))
                two.commit()
                one.execute(sa.select(Shop.id)).all()

        self.assertEqual(len(self.flags(caught)), 1)

    def test_write_skew_of_serializable_transactions_is_named(self):
        with self.in_test(), self.caught() as caught:
            one, two = self.open(), self.open()
            for connection in (one, two):
                self.make_serializable(connection)
                raw(connection, "SELECT count(*) FROM shop")
            raw(one, INSERT, (1, "a"))
            one.commit()
            raw(two, INSERT, (2, "b"))

        self.assertIn("fail to serialize", self.flags(caught)[0])

    def make_serializable(self, connection: Any) -> None:
        raw(connection, "SET TRANSACTION ISOLATION LEVEL SERIALIZABLE")

    def test_rows_written_by_a_trigger_are_not_shown_silently(self):
        with self.plain.begin() as connection:
            connection.exec_driver_sql(
                "CREATE FUNCTION grow() RETURNS trigger LANGUAGE plpgsql AS "
                "$$ BEGIN INSERT INTO sale VALUES (NEW.id, NEW.id); RETURN NEW; END $$"
            )
            connection.exec_driver_sql("CREATE TRIGGER grow AFTER INSERT ON shop FOR EACH ROW EXECUTE FUNCTION grow()")
            connection.exec_driver_sql("CREATE TABLE town (id int PRIMARY KEY)")
        try:
            with self.in_test(), self.caught() as caught:
                one, two = self.open(), self.open()
                raw(one, INSERT, (1, "a"))  # before anybody knew of a second connection
                raw(two, "SELECT * FROM sale")
                self.assertEqual(len(self.flags(caught)), 1)
            with self.in_test(), self.caught() as caught:
                one, two = self.open(), self.open()
                raw(one, "INSERT INTO town VALUES (1)")
                raw(one, INSERT, (2, "b"))
                # Its trigger wrote to sale only: what is new in town was written by what said so.
                raw(two, "UPDATE town SET id = 9 WHERE id = 8")
                self.assertEqual(self.flags(caught), [])
        finally:
            with self.plain.begin() as connection:
                connection.exec_driver_sql("DROP FUNCTION grow CASCADE; DROP TABLE town")

    def test_locks_that_go_together_say_nothing(self):
        with self.in_test(), self.caught() as caught:
            one, two = self.open(), self.open()
            raw(one, INSERT, (1, "a"))
            one.commit()
            for connection in (one, two):
                raw(connection, "SELECT * FROM shop FOR SHARE")
                raw(connection, "LOCK TABLE sale IN SHARE MODE")
            self.assertEqual(self.flags(caught), [])
            raw(two, "SELECT * FROM shop FOR UPDATE")
            self.assertEqual(len(self.flags(caught)), 1)

    def test_each_row_of_executemany_is_compared_even_if_a_later_one_fails(self):
        with self.in_test(), self.caught() as caught:
            one, two = self.open(), self.open()
            raw(one, INSERT, (1, "a"))
            with self.assertRaises(Exception):  # noqa: B017
                two.cursor().executemany(INSERT, [(2, "a"), (3, None), (3, None)])
            self.assertEqual(len(self.flags(caught)), 1)

    def test_row_that_is_locked_twice_does_not_confuse_the_ids(self):
        with self.in_test(), self.caught() as caught:
            one, two = self.open(), self.open()
            raw(one, INSERT, (1, "a"))
            raw(one, INSERT, (2, "b"))
            one.commit()
            raw(one, "SELECT id FROM shop WHERE id = 1 FOR UPDATE")
            raw(two, "INSERT INTO sale VALUES (1, 2)")
            raw(one, "SELECT id FROM shop WHERE id = 1 FOR UPDATE")
            two.commit()
            self.assertEqual(self.flags(caught), [])

    def test_lock_that_does_not_wait_reads_what_was_there(self):
        with self.in_test(), self.caught() as caught:
            one, two = self.open(), self.open()
            raw(one, INSERT, (1, "a"))
            one.commit()
            raw(two, "SELECT 1")
            raw(one, "UPDATE shop SET size = 1")
            self.assertEqual(raw(two, "SELECT id FROM shop FOR KEY SHARE"), [(1,)])
            self.assertEqual(self.flags(caught), [])
            raw(two, "SELECT size FROM shop FOR KEY SHARE")
            self.assertEqual(len(self.flags(caught)), 1)

    def test_table_named_with_its_schema_is_compared_too(self):
        with self.in_test(), self.caught() as caught:
            one, two = self.open(), self.open()
            raw(one, INSERT, (1, "a"))
            raw(two, "SELECT name FROM public.shop")
            self.assertEqual(len(self.flags(caught)), 1)

    def test_commit_of_one_is_not_failed_by_another_ones_pending_violation(self):
        with self.in_test(), self.caught():
            one, two = self.open(), self.open()
            raw(one, "INSERT INTO sale (id, shop_id) VALUES (1, 404)")
            raw(two, INSERT, (1, "a"))
            two.commit()

            self.assertEqual(self.names(), ["a"])

        with self.in_test(), self.caught():
            one, two = self.open(), self.open()
            raw(two, INSERT, (1, "a"))
            raw(one, "INSERT INTO sale (id, shop_id) VALUES (1, 404)")
            two.commit()
            with self.assertRaisesRegex(Exception, "sale_shop_id_fkey"):
                one.commit()

    def test_an_insert_is_not_taken_for_a_row_whose_change_was_lost(self):
        with self.in_test(), self.caught() as caught:
            first, below, lost, other = self.open(), self.open(), self.open(), self.open()
            raw(first, INSERT, (1, "a"))
            first.commit()
            raw(below, "INSERT INTO sale (id, shop_id) VALUES (1, 1)")
            raw(lost, "UPDATE shop SET size = size + 1")
            below.rollback()
            raw(other, INSERT, (5, "e"))

        self.assertEqual(self.flags(caught), [])

    def test_many_commits_above_an_open_reader_go_on(self):
        with self.in_test():
            reader, writer = self.open(), self.open()
            raw(reader, "SELECT 1")
            for number in range(100):
                raw(writer, INSERT, (number, str(number)))
                writer.commit()

            self.assertEqual(len(self.names()), 100)
            self.assertLess(len(self.sandbox._core.run.transactions.stack), 5)

    def _delete_all(self) -> None:
        with self.plain.begin() as connection:
            connection.execute(sa.delete(Shop))

    def test_copy_keeps_the_wire_for_itself(self):
        if self.driver != "psycopg":
            self.skipTest("psycopg2 copies in one call")
        with self.in_test(problems=1):
            one, two = self.open(), self.open()
            with one.cursor().copy("COPY shop TO STDOUT"), self.assertRaises(IsolationBroken):
                raw(two, "SELECT 1")


class PsycopgInterleavingTests(InterleavingTests):
    driver = "psycopg"


if __name__ == "__main__":
    unittest.main()
