"""Test classes that fail on purpose, each test with a secret in what the database is sent; see ``test_hidden.py``."""

from __future__ import annotations

import io
from typing import ClassVar

from sqlalchemy import JSON, MetaData, Table, case, func, insert, select, text, update
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from dbtestcase import DatabaseTestCase

SECRET = "hunter2-hunter2"


class Base(DeclarativeBase):
    pass


class Account(Base):
    __tablename__ = "account"

    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str]
    password: Mapped[str | None]
    iban: Mapped[str | None] = mapped_column(unique=True)
    doc: Mapped[dict | None] = mapped_column(JSON)


class Failing(DatabaseTestCase):
    schema = Base
    hidden_columns = ("iban",)
    known: ClassVar[dict[str, str]] = {"name": "shown", "password": SECRET, "iban": f"DE{SECRET}"}

    def test_row_refused(self):
        self.session.execute(insert(Account), {**self.known, "name": None})

    def test_row_refused_with_values_in_the_text(self):
        self.session.execute(text(f"INSERT INTO account (name, password) VALUES (NULL, '{SECRET}')"))

    def test_row_refused_that_names_no_columns(self):
        self.session.execute(text(f"INSERT INTO account VALUES (9, NULL, '{SECRET}', 'DE{SECRET}', NULL)"))

    def test_row_refused_that_was_there_before(self):
        self.session.execute(insert(Account), self.known)
        self.session.execute(text("UPDATE account SET name = NULL"))

    def test_short_key_taken(self):
        for number in (1, 2):
            self.session.execute(insert(Account), {"id": number, "name": "shown", "iban": "#7"})

    def test_text_stumbled_over(self):
        self.session.execute(update(Account).values(password=func.no_such_function(SECRET)))

    def test_copied_row_refused(self):
        with self.engine.begin() as connection, connection.connection.cursor() as cursor:
            cursor.copy_expert("COPY account (id, password) FROM STDIN", io.StringIO(f"1\t{SECRET}\n"))

    def test_statements(self):
        self.session.scalars(select(Account).where(func.lower(Account.password) == SECRET)).all()
        self.session.execute(select(case((Account.password == SECRET, 1), else_=0)))
        self.session.execute(insert(Account), [{**self.known, "iban": f"{n}{SECRET}"} for n in range(600)])
        self.fail("on purpose")

    def test_rows(self):
        self.session.add(Account(**self.known, doc={"password": SECRET}))
        self.session.commit()
        for check in (
            lambda: self.assertRowExists(Account, iban=SECRET),
            lambda: self.assertRowAbsent(Account, name="shown"),
            lambda: self.assertRowCount(Account, 3, Account.iban == f"DE{SECRET}"),
            lambda: self.assertRowExists(Account, doc={"password": f"another {SECRET}"}),
            lambda: self.assertNumQueries(0, self.session.scalars, select(Account).where(Account.iban == SECRET)),
        ):
            with self.subTest():
                check()

    def test_refused_by_the_sandbox(self):
        self.session.execute(text(f"UPDATE account SET password = '{SECRET}'; COMMIT"))

    def test_lost_commit(self):
        first, second = Session(self.engine), Session(self.engine)
        first.execute(text(f"INSERT INTO account (name, password) VALUES ('a', '{SECRET}')"))
        second.execute(text(f"INSERT INTO account (name, password) VALUES ('b', '{SECRET}')"))
        second.commit()
        first.rollback()


class FailingInSetUpClass(DatabaseTestCase):
    schema = Base

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        with cls.engine.begin() as connection:
            connection.execute(insert(Account), {"name": None, "password": SECRET})

    def test_never_runs(self):
        pass


class KeyIsASecret(DatabaseTestCase):
    schema = MetaData()
    logins = Table("login", schema, *(column._copy() for column in Account.__table__.c if column.name == "password"))

    def test_assertion(self):
        self.assertRowExists(self.logins, password=SECRET)
