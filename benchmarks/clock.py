"""When tests end and databases first answer: the same clock for everyone, outside of what is measured."""

from __future__ import annotations

import os
import time
import unittest
from collections.abc import Iterable
from typing import Any

from sqlalchemy import Engine, text


class Clock:
    """Runs classes as ``python -m unittest`` does and notes when each test ended and when databases first answered."""

    def __init__(self) -> None:
        self.ends: list[float] = []
        self.answers: list[float] = []

    def ask(self, engine: Engine) -> None:
        """Connect, send a first query, note the time of its answer; for tests to call."""
        with engine.connect() as connection:
            connection.execute(text("SELECT 1"))
        self.answers.append(time.perf_counter())

    def run(self, classes: Iterable[type[unittest.TestCase]]) -> Clock:
        """Run all tests of the classes, all of which are built before the first runs; the dots go nowhere.

        Raises:
            RuntimeError: A test did not pass.
        """
        load = unittest.defaultTestLoader.loadTestsFromTestCase
        suite = unittest.TestSuite([load(test_class) for test_class in classes])
        with open(os.devnull, "w") as nowhere:
            result = unittest.TextTestRunner(nowhere, resultclass=self._result).run(suite)
        for test, problem in result.errors + result.failures:
            raise RuntimeError(f"{test}: {problem}")
        return self

    def gaps(self) -> list[float]:
        """Return the times from the end of one test to the first answer in the next."""
        return [answer - end for end, answer in zip(self.ends, self.answers[1:], strict=False)]

    def lengths(self) -> list[float]:
        """Return what each test took, everything around it included."""
        return [end - before for before, end in zip(self.ends, self.ends[1:], strict=False)]

    def _result(self, *arguments: Any, **options: Any) -> _Result:
        return _Result(self.ends, *arguments, **options)


class _Result(unittest.TextTestResult):
    def __init__(self, ends: list[float], *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._ends = ends

    def stopTest(self, test: unittest.TestCase) -> None:
        super().stopTest(test)
        self._ends.append(time.perf_counter())
