"""Statements that wait for each other on real connections."""

from __future__ import annotations

import sys
import threading
import time
import unittest
import weakref

import psycopg2
from sqlalchemy import Engine, create_engine, event, select, text
from sqlalchemy.orm import Session, scoped_session, sessionmaker

from dbtestcase.diagnosis.backends import idle_in_transaction
from dbtestcase.diagnosis.locks import LockWatch
from dbtestcase.diagnosis.watched import watch_connection
from dbtestcase.errors import LockWait
from dbtestcase.frames import user_origin
from tests.diagnosis.support import Base, Customer, ServerTests, noted


class LockCase(ServerTests):
    settings = {"deadlock_timeout": "100ms"}
    driver = "postgresql+psycopg2"
    lock_wait = 0.2

    def setUp(self):
        self.watch = LockWatch(lambda: self.url, owner="ShopTests", limit=self.lock_wait)
        self.engine = self.watched_engine()
        with Session(self.engine) as session:
            session.add_all([Customer(name="Ada", password="s3cr3t"), Customer(name="Bob")])
            session.commit()
            self.ada, self.bob = session.scalars(select(Customer.id)).all()
        self.addCleanup(self.empty)

    def watched_engine(self) -> Engine:
        engine = create_engine(self.url.set(drivername=self.driver))
        self.addCleanup(engine.dispose)
        numbers = iter(range(1, 99))

        @event.listens_for(engine, "connect")
        def connected(connection, record):
            held = weakref.ref(record)
            watch_connection(
                connection,
                label=f"connection {next(numbers)}",
                opened=user_origin(sys._getframe(1)),
                is_handed_out=lambda: held() is not None and held().fairy_ref is not None,
                locks=self.watch,
            )

        return engine

    def empty(self):
        with create_engine(self.url).begin() as connection:
            Base.metadata.create_all(connection)
            connection.execute(text('TRUNCATE customer, "order"'))
        connection.engine.dispose()


class LockTests(LockCase):
    def test_drop_all_with_a_session_left_open_names_both_sides_and_the_remedy(self):
        def forgets_its_session():
            session = Session(self.engine)
            session.scalars(select(Customer)).all()
            return session

        session = forgets_its_session()
        started = time.monotonic()

        with self.assertRaises(LockWait) as caught:
            Base.metadata.drop_all(self.engine)

        took = time.monotonic() - started
        session.close()
        message = str(caught.exception)
        self.assertLess(took, self.lock_wait + 1)
        self.assertRegex(message, r"ShopTests: a statement waited [\d.]+ m?s for a lock and was cancelled")
        self.assertRegex(message, r"Waiting:\n  connection \d \(process \d+\), waiting for [\d.]+ m?s\n")
        self.assertIn("needs AccessExclusiveLock on customer", message)
        self.assertRegex(
            message, r"Blocked by:\n  a Session on connection \d \(process \d+\), idle in transaction, begun "
        )
        self.assertRegex(message, r"its transaction began at tests/diagnosis/test_locks\.py:\d+ in forgets_its_session")
        self.assertIn("last statement: SELECT customer.id", message)
        self.assertIn("session.close(), remove() of a scoped_session", message)
        self.assertIn("DROP needs the table for itself", message)
        self.assertIn("would never have ended", message)
        self.assertIn("ShopTests.lock_wait", message)
        self.assertNotIn("%(", message)

    def test_scoped_session_and_row_lock_are_explained(self):
        registry = scoped_session(sessionmaker(self.engine))
        registry.get(Customer, self.ada).password = "t0ps3cret"
        registry.flush()

        with self.assertRaises(LockWait) as caught, self.engine.begin() as connection:
            connection.execute(text("UPDATE customer SET name = 'x' WHERE id = :id"), {"id": self.ada})

        registry.remove()
        message = str(caught.exception)
        self.assertIn("a row that another transaction has changed", message)
        self.assertIn("password = '(hidden)'", message.replace("password='", "password = '"))
        self.assertNotIn("t0ps3cret", message)

    def test_connection_that_nobody_here_opened_is_told_as_such(self):
        stranger = psycopg2.connect(
            host=self.url.query["host"], port=self.url.query["port"], user="postgres", dbname="test",
            application_name="psql of somebody",
        )  # fmt: skip
        self.addCleanup(stranger.close)
        stranger.cursor().execute("LOCK TABLE customer")

        expected = "(?s)not opened through an engine of the class.*psql of somebody"
        with self.assertRaisesRegex(LockWait, expected), Session(self.engine) as session:
            session.scalars(select(Customer)).all()

    def test_waiter_goes_on_undisturbed_when_the_lock_is_given_in_time(self):
        holder = Session(self.engine)
        holder.get(Customer, self.ada, with_for_update=True)
        timer = threading.Timer(self.lock_wait / 3, holder.rollback)
        timer.start()

        with Session(self.engine) as session:
            session.get(Customer, self.ada, with_for_update=True).name = "waited"
            session.commit()

        timer.join()
        self.assertFalse(self.watch.is_busy)

    def test_slow_statement_that_waits_for_no_lock_is_left_alone(self):
        with self.engine.connect() as connection:
            self.assertEqual(connection.execute(text(f"SELECT pg_sleep({self.lock_wait * 3}), 1")).one()[1], 1)

    def test_cancelled_by_somebody_else_stays_the_drivers_error(self):
        with self.assertRaises(Exception) as caught, self.engine.connect() as connection:
            connection.execute(text("SET statement_timeout = '50ms'"))
            connection.execute(text("SELECT pg_sleep(5)"))

        self.assertIn("statement timeout", str(caught.exception))
        self.assertNotIsInstance(caught.exception, LockWait)

    def test_advisory_lock_is_explained(self):
        with self.engine.connect() as holder, self.engine.connect() as waiter:
            holder.execute(text("SELECT pg_advisory_lock(7)"))
            with self.assertRaisesRegex(LockWait, "advisory lock"):
                waiter.execute(text("SELECT pg_advisory_lock(7)"))

    def test_deadlock_of_two_threads_names_both(self):
        meet = threading.Barrier(2, timeout=10)
        errors = []

        def lock(first, second):
            with Session(self.engine) as session:
                try:
                    session.get(Customer, first, with_for_update=True)
                    meet.wait()
                    session.get(Customer, second, with_for_update=True)
                except Exception as error:
                    errors.append(error)

        self.watch.limit = 5
        threads = [
            threading.Thread(target=lock, args=pair, name=f"worker {pair[0]}")
            for pair in ((self.ada, self.bob), (self.bob, self.ada))
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(20)

        [error] = errors
        note = noted(error.orig)
        self.assertIn("waited for each other", note)
        self.assertIn(f"in thread 'worker {self.ada}'", note)
        self.assertIn(f"in thread 'worker {self.bob}'", note)
        self.assertRegex(note, r"its transaction began at tests/diagnosis/test_locks\.py:\d+ in lock")
        self.assertIn("same order", note)

    def test_connections_idle_in_transaction_are_reported_with_state_age_statement_and_line(self):
        session = Session(self.engine)
        self.addCleanup(session.close)
        session.scalars(select(Customer)).all()

        [report] = idle_in_transaction(self.url, self.watch.backends)

        self.assertRegex(
            report, r"a Session on connection \d \(process \d+\), idle in transaction, begun [\d.]+ ms ago"
        )
        self.assertIn("last statement: SELECT customer.id", report)
        self.assertRegex(report, r"opened at tests/diagnosis/test_locks\.py:\d+ in setUp")


class PsycopgLockTests(LockTests):
    driver = "postgresql+psycopg"


class UnlimitedTests(LockCase):
    lock_wait = 0

    def test_waits_for_ever_if_the_limit_is_zero(self):
        holder = Session(self.engine)
        holder.get(Customer, self.ada, with_for_update=True)
        timer = threading.Timer(0.4, holder.rollback)
        timer.start()

        with Session(self.engine) as session:
            session.get(Customer, self.ada, with_for_update=True)

        timer.join()
        self.assertFalse(self.watch.is_busy)


if __name__ == "__main__":
    unittest.main()
