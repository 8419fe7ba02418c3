"""What the tests of the one transaction share: a schema, engines of each driver, and why tests ran twice."""

from __future__ import annotations

import unittest
from importlib.util import find_spec
from typing import Any
from unittest import mock

import sqlalchemy as sa

from dbtestcase import DatabaseTestCase
from dbtestcase.diagnosis import report
from tests.support import run_case

__all__ = ["DRIVERS", "Items", "add", "application_engine", "count", "run_noting_reasons"]

DRIVERS = ("psycopg2", "psycopg") if find_spec("psycopg") else ("psycopg2",)


def make(connection: sa.Connection) -> None:
    connection.exec_driver_sql("CREATE TABLE item (id int PRIMARY KEY, n int)")


class Items(DatabaseTestCase):
    """A class with one empty table."""

    schema = staticmethod(make)  # type: ignore[assignment]


def application_engine(driver: str = "psycopg2", **options: Any) -> sa.Engine:
    """Return an engine of the code under test, for a server that does not exist."""
    return sa.create_engine(f"postgresql+{driver}://nobody@nowhere.invalid/nothing", **options)


def add(engine: Any, number: int) -> None:
    """Commit a row."""
    with engine.begin() as connection:
        connection.execute(sa.text("INSERT INTO item VALUES (:number)"), {"number": number})


def count(engine: Any) -> int:
    """Return how many rows are seen by a new transaction."""
    with engine.connect() as connection:
        found: int = connection.scalar(sa.text("SELECT count(*) FROM item"))
    return found


def run_noting_reasons(*cases: type[unittest.TestCase]) -> tuple[unittest.TestResult, dict[str, str]]:
    """Run test classes; return the result, and for each test that ran twice why it did, by the test's name."""
    reasons: dict[str, str] = {}

    def note(test_id: str, reason: str, outcome: str) -> None:
        reasons[test_id.rpartition(".")[2]] = reason

    with mock.patch.object(report, "ran_twice", note):
        return run_case(*cases), reasons
