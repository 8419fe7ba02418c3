"""What a test pays: the statements of its own, and the round trips that the design names."""

from __future__ import annotations

import unittest
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Session

from dbtestcase.frames import Origin
from tests.sandbox.support import Sale, SandboxCase, Shop


class Log:
    """Notes the statements of the code under test."""

    def __init__(self) -> None:
        self.statements: list[str] = []

    def statement_started(self, label: str, origin: Origin, sql: str, parameters: Any) -> None:
        self.statements.append(sql)

    def statement_finished(self, label: str, rowcount: int, error: BaseException | None) -> None:
        pass

    def transaction_ended(self, label: str, origin: Origin, outcome: str) -> None:
        pass


class CostTests(SandboxCase):
    # How many round trips psycopg2 saves, since it sends a savepoint together with the statement that needs it.
    saved = 1

    def setUp(self) -> None:
        super().setUp()
        self.sandbox.observer = self.log = Log()
        with self.in_test(), self.engine.connect() as connection, connection.begin():
            # The first test of a class connects, and SQLAlchemy asks the server who it is.
            connection.execute(sa.insert(Shop).values(name="a"))
        self.ours: list[str] = []
        physical: Any = self.sandbox._core.physical
        send, query = physical.send, physical.query
        physical.send = lambda sql: (self.ours.append(sql), send(sql))[1]
        physical.query = lambda sql: (self.ours.append(sql), query(sql))[1]
        self.log.statements.clear()

    def count(self) -> tuple[int, int]:
        """Return how many statements the test sent, and how many round trips of ours came to it."""
        return len(self.log.statements), len(self.ours)

    def test_untouched_test_pays_nothing(self):
        with self.in_test():
            pass

        self.assertEqual(self.count(), (0, 0))

    def test_reading_test_pays_one_short_round_trip(self):
        with self.in_test(), Session(self.engine) as session:
            session.scalars(sa.select(Shop)).all()
            session.commit()
            session.scalars(sa.select(Shop)).all()

        self.assertEqual(self.count(), (2, 2 - self.saved))
        self.assertTrue(self.ours[-1].startswith("ROLLBACK TO"))

    def test_one_insert_through_the_commit_is_one_statement(self):
        with self.in_test(), Session(self.engine) as session:
            session.add(Shop(name="a"))
            session.commit()

        self.assertEqual(len(self.log.statements), 1)

    def test_commit_and_next_transaction_pay_one(self):
        with self.in_test(), Session(self.engine) as session:
            session.add(Shop(name="a"))
            session.commit()
            session.scalar(sa.select(sa.func.count()).select_from(Shop))

        # Besides the two: the check of deferred constraints, which this schema has, and a new savepoint.
        self.assertEqual(self.count(), (2, 4 - self.saved))
        self.assertEqual(len([sql for sql in self.ours if sql.startswith("SET CONSTRAINTS")]), 1)

    def test_savepoint_of_a_statement_that_is_known_pays_nothing(self):
        with self.in_test(), Session(self.engine) as session:
            for name in "abc":
                session.add(Shop(name=name))
                session.commit()

        # An insert each and its check of deferred constraints; the first also begins, the second needs a savepoint.
        self.assertEqual(self.count(), (3, 1 + 3 + 3 - self.saved * 3))

    def test_rollback_pays_one_and_leaves_the_savepoint_for_the_next(self):
        with self.in_test(), Session(self.engine) as session:
            session.add(Shop(name="a"))
            session.flush()
            session.rollback()
            session.add(Shop(name="a"))
            session.flush()

        # Closing the session rolls back once more.
        self.assertEqual(self.count(), (2, 4 - self.saved))

    def test_savepoints_of_the_user_cost_less_than_they_would(self):
        with self.in_test(), self.engine.connect() as connection:
            for number in range(3):
                with connection.begin_nested():
                    connection.execute(sa.insert(Shop).values(name=str(number)))

        inserts = [sql for sql in self.log.statements if sql.startswith("INSERT")]
        self.assertEqual(len(inserts), 3)
        self.assertLessEqual(len(self.ours), 5)

    def test_second_connection_that_reads_pays_nothing(self):
        with self.in_test(), Session(self.engine) as one, Session(self.engine) as two:
            one.scalars(sa.select(Shop)).all()
            two.scalars(sa.select(Sale)).all()

        self.assertEqual(self.count(), (2, 2 - self.saved))


class PsycopgCostTests(CostTests):
    driver = "psycopg"
    saved = 0


if __name__ == "__main__":
    unittest.main()
