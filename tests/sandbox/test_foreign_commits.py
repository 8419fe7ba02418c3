"""Who has committed past the engines: told, unless it was this library itself."""

from __future__ import annotations

import unittest

from sqlalchemy import text

from dbtestcase import DatabaseTestCase
from tests.support import Base, Customer, problems, run_case


class ForeignCommitTests(unittest.TestCase):
    def test_copies_that_are_made_while_tests_commit_are_no_commits_of_others(self) -> None:
        class Shop(DatabaseTestCase):
            schema = Base

            def test_0_meets_and_so_makes_copies(self) -> None:
                with self.engine.connect() as one, self.engine.connect() as other:
                    one.execute(text("SELECT pg_advisory_lock(1)"))
                    self.assertFalse(other.scalar(text("SELECT pg_try_advisory_lock(1)")))

            def test_1_commits(self) -> None:
                self.session.add(Customer(name="Ada"))
                self.session.commit()

            test_2 = test_3 = test_4 = test_5 = test_6 = test_7 = test_1_commits

        for _ in range(4):  # the copies come at another moment each time
            self.assertEqual(problems(run_case(Shop)), [])
