"""Whatever way the code under test takes to the database: it sees the test's data, and nothing is left."""

from __future__ import annotations

import unittest

import sqlalchemy as sa
from sqlalchemy import exc
from sqlalchemy.orm import Session, scoped_session, sessionmaker

from dbtestcase.errors import IsolationBroken
from tests.sandbox.support import Sale, SandboxCase, Shop, raw


class IsolationTests(SandboxCase):
    def test_committed_rows_are_gone_in_the_next_test(self):
        with self.in_test(), Session(self.engine) as session:
            session.add(Shop(name="a"))
            session.commit()
            self.assertEqual(self.names(), ["a"])

        with self.in_test():
            self.assertEqual(self.names(), [])

    def test_rollback_keeps_what_was_committed_before(self):
        with self.in_test(), Session(self.engine) as session:
            session.add(Shop(name="kept"))
            session.commit()
            session.add(Shop(name="dropped"))
            session.flush()
            session.rollback()

            self.assertEqual(self.names(), ["kept"])

    def test_every_way_of_using_an_engine_shares_the_data(self):
        scoped = scoped_session(sessionmaker(self.engine))
        with self.in_test():
            with self.engine.begin() as connection:
                connection.execute(sa.insert(Shop).values(name="begin"))
            with self.engine.connect() as connection:
                connection.execute(sa.insert(Shop).values(name="connect"))
                connection.commit()
            scoped.add(Shop(name="scoped"))
            scoped.commit()
            connection = self.engine.raw_connection()
            raw(connection, "INSERT INTO shop (name, size) VALUES ('raw', 0)")
            connection.commit()
            connection.close()

            self.assertEqual(self.names(), ["begin", "connect", "raw", "scoped"])

    def test_scoped_session_goes_on_in_the_next_test(self):
        scoped = scoped_session(sessionmaker(self.engine))
        for _ in range(2):
            with self.in_test():
                scoped.add(Shop(name="a"))
                scoped.commit()
                scoped.add(Shop(name="never flushed"))

    def test_closing_without_commit_leaves_nothing(self):
        with self.in_test():
            connection = self.engine.connect()
            connection.execute(sa.insert(Shop).values(name="a"))
            connection.close()

            self.assertEqual(self.names(), [])

    def test_rollback_of_a_connection_neither_recurses_nor_ends_the_isolation(self):
        with self.in_test(), self.engine.connect() as connection:
            connection.execute(sa.insert(Shop).values(name="kept"))
            connection.commit()
            for _ in range(3):
                connection.execute(sa.insert(Shop).values(name="dropped"))
                connection.rollback()
                connection.rollback()

            self.assertEqual(self.names(), ["kept"])

    def test_integrity_error_leaves_earlier_commits_and_lets_the_test_go_on(self):
        with self.in_test(), Session(self.engine) as session:
            session.add(Shop(name="a"))
            session.commit()
            session.add(Shop(name="a"))
            with self.assertRaises(exc.IntegrityError):
                session.flush()
            session.rollback()
            session.add(Shop(name="b"))
            session.commit()

            self.assertEqual(self.names(), ["a", "b"])

    def test_failed_transaction_refuses_statements_until_it_is_rolled_back(self):
        with self.in_test():
            connection = self.engine.raw_connection()
            with self.assertRaises(Exception):  # noqa: B017 - the driver's own
                raw(connection, "SELECT 1 / 0")
            with self.assertRaisesRegex(Exception, "current transaction is aborted"):
                raw(connection, "SELECT 1")
            self.assertEqual(self.names(), [])
            connection.rollback()
            raw(connection, "SELECT 1")
            connection.close()

    def test_commit_of_a_failed_transaction_rolls_back_silently(self):
        with self.in_test():
            connection = self.engine.raw_connection()
            raw(connection, "INSERT INTO shop (name, size) VALUES ('a', 0)")
            with self.assertRaises(Exception):  # noqa: B017
                raw(connection, "SELECT 1 / 0")
            connection.commit()
            connection.close()

            self.assertEqual(self.names(), [])

    def test_nested_transactions_roll_back_alone(self):
        with self.in_test(), self.engine.begin() as connection:
            connection.execute(sa.insert(Shop).values(name="outer"))
            with connection.begin_nested() as nested:
                connection.execute(sa.insert(Shop).values(name="inner"))
                nested.rollback()
            with self.assertRaises(exc.IntegrityError), connection.begin_nested():
                connection.execute(sa.insert(Shop).values(name="outer"))
            with connection.begin_nested():
                connection.execute(sa.insert(Shop).values(name="second"))

            self.assertEqual(connection.scalars(sa.select(Shop.name).order_by(Shop.name)).all(), ["outer", "second"])

    def test_unknown_savepoint_is_an_error_of_the_server_kind(self):
        with self.in_test():
            connection = self.engine.raw_connection()
            with self.assertRaisesRegex(Exception, 'savepoint "nowhere" does not exist'):
                raw(connection, "RELEASE nowhere")
            connection.rollback()
            connection.close()

    def test_drop_all_and_create_all_are_undone_with_other_sessions_open(self):
        with self.in_test(), Session(self.engine) as session:
            session.execute(sa.text("SELECT 1"))
            Shop.metadata.drop_all(self.engine)
            self.assertEqual(sa.inspect(self.engine).get_table_names(), [])
            Shop.metadata.create_all(self.engine)

        with self.in_test():
            self.assertEqual(sorted(sa.inspect(self.engine).get_table_names()), ["sale", "shop"])

    def test_truncate_and_alter_are_undone(self):
        with self.plain.begin() as connection:
            connection.execute(sa.insert(Shop).values(name="class", size=1))
        self.addCleanup(self._delete_all)
        with self.in_test(), self.engine.begin() as connection:
            connection.exec_driver_sql("TRUNCATE shop CASCADE")
            connection.exec_driver_sql("ALTER TABLE shop ADD COLUMN more int")

        with self.in_test(), self.engine.connect() as connection:
            self.assertEqual(len(connection.exec_driver_sql("SELECT * FROM shop").one()), 3)

    def test_violated_deferred_foreign_key_raises_at_commit(self):
        with self.in_test(), Session(self.engine) as session:
            session.add(Sale(shop_id=404))
            session.flush()
            with self.assertRaises(exc.IntegrityError):
                session.commit()
            session.rollback()
            session.add(Shop(id=1, name="a"))
            session.add(Sale(shop_id=1))
            session.commit()

            self.assertEqual(self.names(), ["a"])

    def test_commit_events_run_once_per_commit(self):
        seen = []
        with self.in_test(), Session(self.engine) as session:
            sa.event.listen(session, "after_commit", lambda _: seen.append("commit"))
            sa.event.listen(session, "after_rollback", lambda _: seen.append("rollback"))
            session.add(Shop(name="a"))
            session.commit()
            session.add(Shop(name="b"))
            session.flush()
            session.rollback()

        self.assertEqual(seen, ["commit", "rollback"])

    def test_untouched_test_sends_nothing(self):
        with self.in_test():
            pass
        self.sandbox.begin_test("untouched")

        self.assertIsNone(self.sandbox._core.physical)
        self.assertEqual(self.sandbox.end_test(), [])

    def test_two_phase_commit_is_undone(self):
        if not hasattr(self.engine.dialect, "_twophase_idle_check") and self.engine.dialect.driver == "psycopg":
            self.skipTest("this SQLAlchemy sends PREPARE TRANSACTION as text on psycopg, which is refused in words")
        with self.in_test():
            with self.engine.connect() as connection:
                transaction = connection.begin_twophase()
                connection.execute(sa.insert(Shop).values(name="two"))
                transaction.prepare()
                transaction.commit()
            with self.engine.connect() as connection:
                transaction = connection.begin_twophase()
                connection.execute(sa.insert(Shop).values(name="three"))
                transaction.prepare()
                transaction.rollback()

            self.assertEqual(self.names(), ["two"])

    def test_dispose_in_a_test_keeps_the_data(self):
        with self.in_test():
            with self.engine.begin() as connection:
                connection.execute(sa.insert(Shop).values(name="a"))
            self.engine.dispose()

            self.assertEqual(self.names(), ["a"])

    def test_invalidated_connection_loses_its_uncommitted_work_only(self):
        with self.in_test():
            with self.engine.begin() as connection:
                connection.execute(sa.insert(Shop).values(name="a"))
            with self.engine.connect() as connection:
                connection.execute(sa.insert(Shop).values(name="b"))
                connection.invalidate()

            self.assertEqual(self.names(), ["a"])

    def _delete_all(self) -> None:
        with self.plain.begin() as connection:
            connection.exec_driver_sql("DELETE FROM sale")
            connection.exec_driver_sql("DELETE FROM shop")


class ClassPhaseTests(SandboxCase):
    def tearDown(self) -> None:
        super().tearDown()
        with self.plain.begin() as connection:
            connection.exec_driver_sql("DELETE FROM shop")

    def test_commits_between_tests_stay(self):
        with self.engine.begin() as connection:
            connection.execute(sa.insert(Shop).values(name="class"))

        with self.in_test():
            self.assertEqual(self.names(), ["class"])
        self.assertEqual(self.committed(), (1, 0))

    def test_connection_left_open_is_named_when_the_first_test_begins(self):
        connection = self.engine.connect()
        connection.execute(sa.text("SELECT 1"))

        with self.assertWarnsRegex(ResourceWarning, r"test_isolation.py:\d+ in test_connection_left_open"):
            self.sandbox.begin_test("first")
        self.assertEqual(self.sandbox.end_test(), [])

    def test_uncommitted_changes_of_the_class_phase_are_an_error(self):
        connection = self.engine.connect()
        connection.execute(sa.insert(Shop).values(name="lost"))

        with self.assertRaisesRegex(IsolationBroken, "uncommitted changes"):
            self.sandbox.begin_test("first")
        with self.in_test():
            self.assertEqual(self.names(), [])


class PsycopgIsolationTests(IsolationTests):
    driver = "psycopg"


class PsycopgClassPhaseTests(ClassPhaseTests):
    driver = "psycopg"


if __name__ == "__main__":
    unittest.main()
