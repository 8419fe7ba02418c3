"""dbtestcase without Flask, in one file: a small service, and the tests that run it on a real PostgreSQL.

::

    python -m unittest -v examples/plain_sqlalchemy.py

runs it from the folder that holds ``examples``; ``python PATH/TO/plain_sqlalchemy.py -v`` runs it from anywhere.
"""

from __future__ import annotations

import unittest

from sqlalchemy import CheckConstraint, ForeignKey, create_engine, func, select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column, sessionmaker

from dbtestcase import DatabaseTestCase

# ---- the service: it commits, rolls back, and knows nothing of tests ----


class Base(DeclarativeBase):
    pass


class Account(Base):
    __tablename__ = "account"

    id: Mapped[int] = mapped_column(primary_key=True)
    owner: Mapped[str] = mapped_column(unique=True)
    balance: Mapped[int] = mapped_column(CheckConstraint("balance >= 0"))


class Transfer(Base):
    __tablename__ = "transfer"

    id: Mapped[int] = mapped_column(primary_key=True)
    sender_id: Mapped[int] = mapped_column(ForeignKey("account.id"))
    receiver_id: Mapped[int] = mapped_column(ForeignKey("account.id"))
    amount: Mapped[int]


# Made at import, as many projects do, and for a server that does not exist: the tests never connect to it.
engine = create_engine("postgresql+psycopg2://bank@production.invalid/bank")
NewSession = sessionmaker(engine)


class NotEnoughMoney(Exception):
    pass


def transfer(sender_id: int, receiver_id: int, amount: int) -> None:
    """Move money from one account to another.

    Raises:
        NotEnoughMoney: The sender has less than ``amount``. Nothing has changed.
    """
    try:
        with NewSession.begin() as session:  # commits at the end of the block, or rolls back after an error
            session.add(Transfer(sender_id=sender_id, receiver_id=receiver_id, amount=amount))
            for account_id, change in ((receiver_id, amount), (sender_id, -amount)):
                session.execute(
                    update(Account).where(Account.id == account_id).values(balance=Account.balance + change)
                )
    except IntegrityError as exc:
        raise NotEnoughMoney(f"account {sender_id} has less than {amount}") from exc


def total() -> int:
    """Return what all accounts hold together."""
    with engine.connect() as connection:
        return connection.scalar(select(func.coalesce(func.sum(Account.balance), 0))) or 0


# ---- its tests ----


class TransferTests(DatabaseTestCase):
    schema = Base  # these tables exist
    app_engines = [engine]  # and this engine points to them while the class runs

    @classmethod
    def setUpTestData(cls, session: Session) -> None:
        cls.ada = Account(owner="Ada", balance=100)
        cls.grace = Account(owner="Grace", balance=10)
        session.add_all([cls.ada, cls.grace])

    def test_a_transfer_moves_money(self) -> None:
        transfer(self.ada.id, self.grace.id, 30)

        self.assertRowExists(Account, owner="Ada", balance=70)
        self.assertRowExists(Account, owner="Grace", balance=40)

    def test_each_test_starts_with_the_same_balances(self) -> None:
        self.assertEqual((self.ada.balance, self.grace.balance), (100, 10))

    def test_a_refused_transfer_changes_nothing(self) -> None:
        with self.assertRaises(NotEnoughMoney):
            transfer(self.grace.id, self.ada.id, 11)

        self.assertRowExists(Account, owner="Grace", balance=10)
        self.assertRowCount(Transfer, 0)

    def test_a_refused_transfer_leaves_the_one_before_in_place(self) -> None:
        transfer(self.grace.id, self.ada.id, 10)

        with self.assertRaises(NotEnoughMoney):
            transfer(self.grace.id, self.ada.id, 10)

        self.assertRowExists(Account, owner="Ada", balance=110)
        self.assertRowCount(Transfer, 1)

    def test_the_engine_sees_what_the_session_of_the_test_committed(self) -> None:
        self.session.add(Account(owner="Alan", balance=5))
        self.session.commit()

        self.assertEqual(total(), 115)


if __name__ == "__main__":
    unittest.main()
