"""What the tests of this room share: a schema, and a test class that reads its own log."""

from __future__ import annotations

from typing import Any

from sqlalchemy import ForeignKey
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, relationship

from dbtestcase import DatabaseTestCase
from dbtestcase.diagnosis.explain import Explanations
from dbtestcase.diagnosis.statements import StatementLog


class Base(DeclarativeBase):
    pass


class Customer(Base):
    __tablename__ = "customer"

    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str]
    age: Mapped[int | None]
    orders: Mapped[list[Order]] = relationship(back_populates="customer")


class Order(Base):
    __tablename__ = "order"

    id: Mapped[int] = mapped_column(primary_key=True)
    item: Mapped[str]
    customer_id: Mapped[int] = mapped_column(ForeignKey("customer.id"))
    customer: Mapped[Customer] = relationship(back_populates="orders")


class Account(Base):
    """A table with a column whose values no message may show."""

    __tablename__ = "account"

    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str]
    password: Mapped[str | None]


class LogEntry(Base):
    __tablename__ = "log_entry"

    id: Mapped[int] = mapped_column(primary_key=True)
    msg: Mapped[str]


class LoggedTests(DatabaseTestCase):
    """Gives tests the log of their own class's statements."""

    schema = Base
    isolation = "savepoint"  # a test that fails is not run again, which would forget what it had sent

    @property
    def explanations(self) -> Explanations:
        return self._dbtestcase.explanations

    @property
    def log(self) -> StatementLog:
        return self.explanations.log

    def failure_of(self, assertion: Any, *args: Any, **kwargs: Any) -> str:
        """Return the message with which an assertion fails."""
        with self.assertRaises(AssertionError) as caught:
            assertion(*args, **kwargs)
        return str(caught.exception)

    def explained(self, error: BaseException) -> str:
        """Return the notes that an error of this test would get."""
        self.explanations.explain(error)
        return noted(error)


def noted(error: BaseException) -> str:
    """Return the notes of an error as one text."""
    return "\n".join(getattr(error, "__notes__", ()))
