"""A sandbox on a real server, and two tables to try it on."""

from __future__ import annotations

import unittest
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from dbtestcase.sandbox import Sandbox
from dbtestcase.servers import ThrowawayPostgres, running_instance


class Base(DeclarativeBase):
    pass


class Shop(Base):
    __tablename__ = "shop"

    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str | None] = mapped_column(unique=True)
    size: Mapped[int] = mapped_column(default=0)


class Sale(Base):
    __tablename__ = "sale"

    id: Mapped[int] = mapped_column(primary_key=True)
    shop_id: Mapped[int] = mapped_column(sa.ForeignKey("shop.id", deferrable=True, initially="DEFERRED"))


class SandboxCase(unittest.TestCase):
    """Each test method gets a sandbox of its own on the class's server, and begins a test with ``self.in_test()``."""

    driver = "psycopg2"
    isolation = "savepoint"

    @classmethod
    def setUpClass(cls) -> None:
        super().setUpClass()
        cls.instance = cls.enterClassContext(running_instance(ThrowawayPostgres(), owner=cls.__qualname__))
        cls.real_url = sa.make_url(cls.instance.url()).set(drivername=f"postgresql+{cls.driver}")
        cls.plain = sa.create_engine(cls.real_url, poolclass=sa.NullPool)
        Base.metadata.create_all(cls.plain)

    def setUp(self) -> None:
        super().setUp()
        self.sandbox = Sandbox(self.real_url, owner="ShopTests", isolation=self.isolation)
        self.addCleanup(self.sandbox.close)
        self.engine = self.sandbox.engine

    @contextmanager
    def in_test(self, *, problems: int = 0) -> Iterator[list[Exception]]:
        """A test in the sandbox; afterwards nothing is left, and it had so many problems, to be read from the list."""
        found: list[Exception] = []
        before = self.committed()
        self.sandbox.begin_test("ShopTests.test")
        try:
            yield found
        finally:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", ResourceWarning)  # for what a test leaves open on purpose
                found.extend(self.sandbox.end_test())
        self.assertEqual(len(found), problems, found)
        self.assertEqual(self.committed(), before)

    def committed(self) -> tuple[int, int]:
        """Return how many rows there are for everybody."""
        with self.plain.connect() as connection:
            return connection.scalar(sa.select(sa.func.count()).select_from(Shop)), connection.scalar(
                sa.select(sa.func.count()).select_from(Sale)
            )

    def names(self, engine: sa.Engine | None = None) -> list[str]:
        """Return the names of the shops that another connection of the test sees."""
        with (engine or self.engine).connect() as connection:
            return list(connection.scalars(sa.select(Shop.name).order_by(Shop.name)))

    @contextmanager
    def caught(self) -> Iterator[list[warnings.WarningMessage]]:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            yield caught


def raw(connection: Any, sql: str, *parameters: Any) -> Any:
    """Execute on a DBAPI connection; return the rows if there are any."""
    cursor = connection.cursor()
    cursor.execute(sql, *parameters)
    return cursor.fetchall() if cursor.description else cursor.rowcount
