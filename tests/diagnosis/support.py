"""A throwaway server with a small schema, and a sandbox whose statements are logged, without ``DatabaseTestCase``."""

from __future__ import annotations

import unittest
import warnings
from typing import Any, ClassVar

from sqlalchemy import URL, Engine, ForeignKey, create_engine, make_url
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column, relationship

from dbtestcase.assertions import DatabaseAssertions
from dbtestcase.diagnosis import states
from dbtestcase.diagnosis.statements import StatementLog
from dbtestcase.sandbox import Sandbox
from dbtestcase.servers import ThrowawayPostgres, running_instance


class Base(DeclarativeBase):
    pass


class Customer(Base):
    __tablename__ = "customer"

    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str]
    age: Mapped[int | None]
    password: Mapped[str | None]
    orders: Mapped[list[Order]] = relationship(back_populates="customer")


class Order(Base):
    __tablename__ = "order"

    id: Mapped[int] = mapped_column(primary_key=True)
    item: Mapped[str]
    customer_id: Mapped[int] = mapped_column(ForeignKey("customer.id"))
    customer: Mapped[Customer] = relationship(back_populates="orders")


class ServerTests(unittest.TestCase):
    """Gives each test class an instance with the schema above; ``settings`` are those of PostgreSQL."""

    settings: ClassVar[dict[str, object]] = {}
    url: ClassVar[URL]

    @classmethod
    def setUpClass(cls) -> None:
        super().setUpClass()
        instance = cls.enterClassContext(running_instance(ThrowawayPostgres(settings=cls.settings)))
        cls.url = make_url(instance.url())
        engine = create_engine(cls.url)
        Base.metadata.create_all(engine)
        engine.dispose()


class LoggedTests(DatabaseAssertions, ServerTests):
    """Runs each test in a sandbox, with a log of its statements and a session."""

    hidden: ClassVar[tuple[str, ...]] = ()
    driver: ClassVar[str] = "postgresql+psycopg2"

    def setUp(self) -> None:
        super().setUp()
        self.enterContext(states.watching())
        self.log = StatementLog(hidden=self.hidden, mode="failed")
        self.sandbox = Sandbox(self.url.set(drivername=self.driver), owner="ShopTests", observer=self.log)
        self.addCleanup(self.sandbox.close)
        self.sandbox.begin_test(self.id())
        self.addCleanup(self.end_sandbox)
        self.log.begin_test(self.id())
        self.engine: Engine = self.sandbox.engine
        self.session = Session(self.engine)
        self.addCleanup(self.session.close)

    def end_sandbox(self) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ResourceWarning)
            self.sandbox.end_test()

    @property
    def _dbtestcase_log(self) -> StatementLog:
        return self.log

    def failure_of(self, assertion: Any, *args: Any, **kwargs: Any) -> str:
        """Return the message with which an assertion fails."""
        with self.assertRaises(AssertionError) as caught:
            assertion(*args, **kwargs)
        return str(caught.exception)


def noted(error: BaseException) -> str:
    """Return the notes of an error as one text."""
    return "\n".join(getattr(error, "__notes__", ()))
