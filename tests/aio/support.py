"""What the tests of asynchronous test cases share: engines of the code under test, and a look at second runs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from dbtestcase.diagnosis import report
from tests.support import Customer

DRIVERS = ("asyncpg", "psycopg")
COUNT = select(func.count()).select_from(Customer)


def engine_of(driver: str, **options: Any) -> AsyncEngine:
    """Return an engine as an application has it: made for a server that must never be reached."""
    return create_async_engine(f"postgresql+{driver}://shop:secret@production.invalid/shop", **options)


async def names(engine: AsyncEngine) -> list[str]:
    """Return the names of all customers, read on a connection of its own."""
    async with engine.connect() as connection:
        return sorted((await connection.scalars(select(Customer.name))).all())


@contextmanager
def second_runs() -> Iterator[dict[str, str]]:
    """Collect which tests ran twice in the block, by method name, and why."""
    told: dict[str, str] = {}

    def ran_twice(test_id: str, reason: str, outcome: str) -> None:
        told[test_id.rpartition(".")[2]] = f"{reason} ({outcome})"

    with mock.patch.object(report, "ran_twice", ran_twice):
        yield told
