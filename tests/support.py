"""What several test modules need: running a small test case inside a test, and a schema to run it on."""

from __future__ import annotations

import contextlib
import gc
import os
import time
import unittest
import warnings
from collections.abc import Callable, Iterable, Iterator

from sqlalchemy import ForeignKey
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, relationship

# CI sets it on all of its interpreters but one.
RUNS_ONCE = os.environ.get("TESTS_THAT_RUN_ONCE") != "off"
once = unittest.skipUnless(RUNS_ONCE, "takes long, and is the same on each interpreter and SQLAlchemy: CI runs it once")

# For tests of what only a server of our own has: a process, a folder, settings, who commits past us, programs that open
# what was kept. The rest of the suite passes on a server that DBTESTCASE_SERVER names as well.
of_throwaway_servers = unittest.skipIf(
    "DBTESTCASE_SERVER" in os.environ, "about throwaway servers, and DBTESTCASE_SERVER says to use one that is there"
)


class Base(DeclarativeBase):
    pass


class Customer(Base):
    __tablename__ = "customer"

    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(unique=True)
    orders: Mapped[list[Order]] = relationship(back_populates="customer")


class Order(Base):
    __tablename__ = "order"

    id: Mapped[int] = mapped_column(primary_key=True)
    item: Mapped[str]
    customer_id: Mapped[int] = mapped_column(ForeignKey("customer.id"))
    customer: Mapped[Customer] = relationship(back_populates="orders")


def run_case(*cases: type[unittest.TestCase]) -> unittest.TestResult:
    """Run test classes as unittest would, tests in name order, and return the plain result.

    Raises:
        AssertionError: No test ran and nothing failed: whatever is asserted about such a result says nothing.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("default")
        return _run(cases)


def run_with_warnings(*cases: type[unittest.TestCase]) -> tuple[unittest.TestResult, list[str]]:
    """Do what :func:`run_case` does; return the result and the texts of the ``ResourceWarning``s meanwhile."""
    with recorded_warnings() as caught:
        result = _run(cases)
    return result, [str(each.message) for each in caught if issubclass(each.category, ResourceWarning)]


def collect_garbage() -> None:
    """Collect all garbage, also what becomes that by the end of other garbage, as the pool of a connection does."""
    for _ in range(10):
        if not gc.collect():
            break


@contextlib.contextmanager
def recorded_warnings() -> Iterator[list[warnings.WarningMessage]]:
    """Record every warning of a block, and none about what an earlier test left to the garbage collector."""
    collect_garbage()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        yield caught


def patience(seconds: float) -> float:
    """Return in how many seconds something has to be done now that takes at most ``seconds`` on an idle machine."""
    has_affinity = hasattr(os, "sched_getaffinity")
    processors = len(os.sched_getaffinity(0)) if has_affinity else os.cpu_count() or 1
    return seconds * max(1.0, os.getloadavg()[0] / processors)


def happens(holds: Callable[[], bool], seconds: float) -> bool:
    """Wait until the condition holds, on a busy machine as much longer as it is busy; return whether it does."""
    begun = time.monotonic()
    while not holds():
        if time.monotonic() > begun + patience(seconds):
            return False
        time.sleep(0.01)
    return True


class _CountingResult(unittest.TestResult):
    """Counts successes too: whether ``testsRun`` counts skipped tests depends on the interpreter."""

    def __init__(self) -> None:
        super().__init__()
        self.successes = 0

    def addSuccess(self, test: unittest.TestCase) -> None:
        super().addSuccess(test)
        self.successes += 1


def _run(cases: Iterable[type[unittest.TestCase]]) -> unittest.TestResult:
    loader = unittest.TestLoader()
    suite = unittest.TestSuite(loader.loadTestsFromTestCase(case) for case in cases)
    result = _CountingResult()
    suite.run(result)
    if not result.successes and result.wasSuccessful() and not result.expectedFailures:
        raise AssertionError(f"no test of {', '.join(case.__qualname__ for case in cases)} ran.")
    return result


def problems(result: unittest.TestResult) -> list[str]:
    """Return the texts of all failures and errors; comparing with [] shows them when there are any."""
    return [text for _, text in result.failures + result.errors]
