"""Statements that wait for each other on real connections."""

from __future__ import annotations

import threading
import time
import unittest
from unittest import mock

import psycopg2
from sqlalchemy import create_engine, select, text
from sqlalchemy.orm import Session, scoped_session, sessionmaker

from dbtestcase import ThrowawayPostgres
from dbtestcase.diagnosis import locks
from dbtestcase.diagnosis.backends import ask_server
from dbtestcase.errors import LockWait
from tests.diagnosis.support import Account, Base, Customer, LoggedTests, noted
from tests.support import patience


class LockCase(LoggedTests):
    isolation = "clone"
    postgres = ThrowawayPostgres(settings={"deadlock_timeout": "100ms"})
    driver = "postgresql+psycopg2"
    lock_wait = 0.2

    @classmethod
    def setUpTestData(cls, session):
        session.add_all([Customer(id=1, name="Ada"), Customer(id=2, name="Bob"), Account(id=1, name="Ada")])

    def setUp(self):
        # Another engine than that of the class for the other driver.
        self.connecting = create_engine(self.url.set(drivername=self.driver))
        self.addCleanup(self.connecting.dispose)


class LockTests(LockCase):
    def test_drop_all_with_a_session_left_open_names_both_sides_and_the_remedy(self):
        def forgets_its_session():
            session = Session(self.connecting)
            session.scalars(select(Customer)).all()
            return session

        session = forgets_its_session()
        started = time.monotonic()

        with self.assertRaises(LockWait) as caught:
            Base.metadata.drop_all(self.connecting)

        took = time.monotonic() - started
        session.close()
        message = str(caught.exception)
        self.assertLess(took, patience(self.lock_wait + 5))
        self.assertRegex(message, r"LockTests: a statement waited [\d.]+ m?s for a lock and was cancelled")
        self.assertRegex(message, r"Waiting:\n  connection \d+ \(process \d+\), waiting for [\d.]+ m?s\n")
        self.assertIn("needs AccessExclusiveLock on customer", message)
        self.assertRegex(
            message, r"Blocked by:\n  a Session on connection \d+ \(process \d+\), idle in transaction, begun "
        )
        self.assertRegex(message, r"its transaction began at tests/diagnosis/test_locks\.py:\d+ in forgets_its_session")
        self.assertIn("last statement: SELECT customer.id", message)
        self.assertIn("session.close(), remove() of a scoped_session", message)
        self.assertIn("DROP needs the table for itself", message)
        self.assertIn("would never have ended", message)
        self.assertIn("LockTests.lock_wait", message)
        self.assertNotIn("%(", message)

    def test_scoped_session_and_row_lock_are_explained(self):
        registry = scoped_session(sessionmaker(self.connecting))
        registry.get(Account, 1).password = "t0ps3cret"
        registry.flush()

        with self.assertRaises(LockWait) as caught, self.connecting.begin() as connection:
            connection.execute(text("UPDATE account SET name = 'x'"))

        registry.remove()
        message = str(caught.exception)
        self.assertIn("a row that another transaction has changed", message)
        self.assertRegex(message, r"UPDATE account SET password ?= ?\?")
        self.assertNotIn("t0ps3cret", message)

    def test_connection_that_nobody_here_opened_is_told_as_such(self):
        stranger = psycopg2.connect(self.external_url, application_name="psql of somebody")
        self.addCleanup(stranger.close)
        stranger.cursor().execute("LOCK TABLE customer")

        expected = "(?s)not opened through an engine of the class.*psql of somebody"
        with self.assertRaisesRegex(LockWait, expected), Session(self.connecting) as session:
            session.scalars(select(Customer)).all()

    def test_waiter_goes_on_undisturbed_when_the_lock_is_given_in_time(self):
        holder = Session(self.connecting)
        holder.get(Customer, 1, with_for_update=True)
        self.enterContext(mock.patch.object(self.explanations.locks, "limit", 60))  # a timer may come late
        timer = threading.Timer(0.1, holder.rollback)
        timer.start()

        with Session(self.connecting) as session:
            session.get(Customer, 1, with_for_update=True).name = "waited"
            session.commit()

        timer.join()
        self.assertFalse(self.explanations.locks.is_busy)

    def test_slow_statement_that_waits_for_no_lock_is_left_alone(self):
        with self.connecting.connect() as connection:
            self.assertEqual(connection.execute(text(f"SELECT pg_sleep({self.lock_wait * 3}), 1")).one()[1], 1)

    def test_cancelled_by_somebody_else_stays_the_drivers_error(self):
        with self.assertRaises(Exception) as caught, self.connecting.connect() as connection:
            connection.execute(text("SET statement_timeout = '50ms'"))
            connection.execute(text("SELECT pg_sleep(5)"))

        self.assertIn("statement timeout", str(caught.exception))
        self.assertNotIsInstance(caught.exception, LockWait)

    def test_advisory_lock_is_explained(self):
        with self.connecting.connect() as holder, self.connecting.connect() as waiter:
            holder.execute(text("SELECT pg_advisory_lock(7)"))
            with self.assertRaisesRegex(LockWait, "advisory lock"):
                waiter.execute(text("SELECT pg_advisory_lock(7)"))

    def test_a_cancellation_that_the_server_did_not_take_is_sent_again(self):
        cancellations = []

        def ask_busy_server(url, query, parameters=()):
            if "pg_cancel_backend" in query:
                cancellations.append(query)
                if len(cancellations) == 1:
                    raise psycopg2.OperationalError("timeout expired")
            return ask_server(url, query, parameters)

        with (
            mock.patch.object(locks, "ask_server", ask_busy_server),
            self.connecting.connect() as holder,
            self.connecting.connect() as waiter,
        ):
            holder.execute(text("SELECT pg_advisory_lock(7)"))
            waiter.execute(text("SET statement_timeout = '60s'"))  # or a failure would hang
            with self.assertRaisesRegex(LockWait, "advisory lock"):
                waiter.execute(text("SELECT pg_advisory_lock(7)"))

        self.assertEqual(len(cancellations), 2)

    def test_deadlock_of_two_threads_names_both(self):
        meet = threading.Barrier(2, timeout=60)
        errors = []

        def lock(first, second):
            with Session(self.connecting) as session:
                try:
                    session.get(Customer, first, with_for_update=True)
                    meet.wait()
                    session.get(Customer, second, with_for_update=True)
                except Exception as error:
                    errors.append(error)

        self.enterContext(mock.patch.object(self.explanations.locks, "limit", 60))
        threads = [threading.Thread(target=lock, args=pair, name=f"worker {pair[0]}") for pair in ((1, 2), (2, 1))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)

        [error] = errors
        note = noted(error.orig)
        self.assertIn("waited for each other", note)
        self.assertIn(f"in thread 'worker {1}'", note)
        self.assertIn(f"in thread 'worker {2}'", note)
        self.assertRegex(note, r"its transaction began at tests/diagnosis/test_locks\.py:\d+ in lock")
        self.assertIn("same order", note)


class PsycopgLockTests(LockTests):
    driver = "postgresql+psycopg"


class UnlimitedTests(LockCase):
    lock_wait = 0

    def test_waits_for_ever_if_the_limit_is_zero(self):
        holder = Session(self.connecting)
        holder.get(Customer, 1, with_for_update=True)
        timer = threading.Timer(0.4, holder.rollback)
        timer.start()

        with Session(self.connecting) as session:
            session.get(Customer, 1, with_for_update=True)

        timer.join()
        self.assertFalse(self.explanations.locks.is_busy)


del LoggedTests, LockCase  # nothing to run in them


if __name__ == "__main__":
    unittest.main()
