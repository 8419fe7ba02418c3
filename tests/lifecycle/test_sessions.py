"""Sessions that outlive a test, as a module's scoped_session does, are of use to the next one."""

from __future__ import annotations

import unittest

from sqlalchemy import create_engine, select
from sqlalchemy.orm import scoped_session, sessionmaker

import dbtestcase
from dbtestcase import DatabaseTestCase
from tests.support import Base, Customer, problems, recorded_warnings, run_case

Db = scoped_session(sessionmaker(create_engine(dbtestcase.URL)))


class SessionTests(unittest.TestCase):
    def setUp(self):
        self.addCleanup(Db.remove)

    def test_a_session_left_reading_or_writing_serves_the_next_test(self):
        for isolation in ("auto", "savepoint", "clone"):

            class Shop(DatabaseTestCase):
                schema = Base

                def test_1_leaves_it_writing(self):
                    self.assertEqual(Db.scalars(select(Customer.name)).all(), [])
                    Db.add(Customer(name="Ada"))
                    Db.flush()

                def test_2_leaves_it_reading(self):
                    self.assertEqual(Db.scalars(select(Customer.name)).all(), [])

                test_3 = test_1_leaves_it_writing

            Shop.isolation = isolation
            with self.subTest(isolation=isolation), recorded_warnings() as caught:
                self.assertEqual(problems(run_case(Shop)), [])
                self.assertEqual([str(each.message) for each in caught], [])


if __name__ == "__main__":
    unittest.main()
