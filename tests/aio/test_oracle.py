"""Some random programs through asynchronous connections; ``tests.sandbox.oracle --asyncio`` runs thousands."""

from __future__ import annotations

import unittest
import warnings
from collections import Counter

import sqlalchemy as sa

from tests.aio import oracle
from tests.aio.support import DRIVERS
from tests.sandbox.oracle import judged, random_programs
from tests.sandbox.programs import show
from tests.support import once

PROGRAMS = 40


class AsyncOracleTests(unittest.TestCase):
    @once
    def test_a_program_gives_what_it_gives_on_real_connections_or_runs_again(self) -> None:
        self.enterContext(warnings.catch_warnings())
        warnings.simplefilter("ignore", sa.exc.SAWarning)
        for driver in DRIVERS:
            verdicts: Counter[str] = Counter()
            for judgement in judged(random_programs(PROGRAMS, 5), driver, oracle.AsyncPrograms):
                verdicts[judgement.verdict] += 1
                with self.subTest(driver=driver, number=judgement.number):
                    self.assertFalse(judgement.verdict.isupper(), f"{judgement.difference}\n{show(judgement.program)}")
            self.assertGreater(verdicts["equal"], PROGRAMS / 10, verdicts)
            self.assertGreater(verdicts["ran again"], PROGRAMS / 10, verdicts)
