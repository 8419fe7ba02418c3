"""Test classes that fail on purpose, each test with a secret in what it sends; see ``test_redaction.py``."""

from __future__ import annotations

import contextlib
import io
from typing import ClassVar

from sqlalchemy import JSON, MetaData, Table, case, func, insert, select, text, update
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from dbtestcase import DatabaseTestCase
from dbtestcase.aio import AsyncDatabaseTestCase

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


class Login(Base):
    __tablename__ = "login"

    password: Mapped[str] = mapped_column(primary_key=True)


class Plain(Base):
    __tablename__ = "plain"

    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str]


class Failing(DatabaseTestCase):
    schema = Base
    hidden_columns = ("iban",)
    lock_wait = 0.3
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

    def test_row_refused_with_a_value_of_a_composite_type(self):
        with self.engine.begin() as connection:
            connection.execute(text("CREATE TYPE login_data AS (name text, password text)"))
            connection.execute(text("CREATE TABLE visitor (id int NOT NULL, data login_data)"))
        self.session.execute(text(f"INSERT INTO visitor VALUES (NULL, ROW('a', '{SECRET}'))"))

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

    def test_row_of_another_table(self):
        self.session.execute(text("INSERT INTO plain VALUES (9, NULL)"))

    def test_value_of_another_type(self):
        self.session.execute(text("SELECT CAST(:it AS integer) AS token"), {"it": SECRET})

    def test_value_that_python_refuses(self):
        self.session.execute(insert(Account), {**self.known, "doc": {SECRET}})

    def test_value_in_double_quotes(self):
        self.session.execute(text(f'SELECT 1 FROM account WHERE password = "{SECRET}"'))

    def test_words_of_a_function(self):
        self.session.execute(text(f"DO $$ BEGIN RAISE 'the password is {SECRET}'; END $$"))

    def test_words_of_a_function_with_a_state_of_its_own(self):
        self.session.execute(
            text(f"DO $$ BEGIN RAISE 'token {SECRET} taken' USING ERRCODE = 'unique_violation'; END $$")
        )

    def test_domain(self):
        self.session.execute(text("CREATE DOMAIN pin AS text CHECK (VALUE ~ '^[0-9]+$')"))
        self.session.execute(text(f"SELECT '{SECRET}'::pin AS token"))

    def test_session_that_waits_for_rollback(self):
        self.session.add(Account(**{**self.known, "name": None}))
        with contextlib.suppress(Exception):
            self.session.flush()
        self.session.scalars(select(Account)).all()

    def test_error_that_was_swallowed(self):
        with contextlib.suppress(Exception), Session(self.engine) as session:
            session.execute(text(f"SELECT '{SECRET}'::int AS password"))
        self.fail("on purpose")

    def test_raw_cursor(self):
        raw = self.engine.raw_connection()
        raw.cursor().execute("SELECT %s::int AS password", (SECRET,))

    def test_error_during_another(self):
        try:
            self.session.execute(text(f"SELECT '{SECRET}'::int AS password"))
        except Exception:
            raise KeyError("on purpose")  # noqa: B904

    def test_error_in_a_group(self):
        try:
            self.session.execute(insert(Account), {**self.known, "name": None})
        except Exception as error:
            raise ExceptionGroup("on purpose", [error])  # noqa: B904

    def test_error_that_quotes_another(self):
        try:
            self.session.execute(insert(Account), {**self.known, "name": None})
        except Exception as error:
            raise RuntimeError(f"not stored: {error}") from error

    def test_error_that_an_assertion_quotes(self):
        with self.assertRaisesRegex(Exception, "on purpose"):
            self.session.execute(insert(Account), {**self.known, "name": None})

    def test_lock_wait(self):
        with self.engine.begin() as connection:
            connection.execute(insert(Account), self.known)
        with self.engine.begin() as one, self.engine.begin() as other:
            one.execute(text(f"UPDATE account SET password = '1{SECRET}'"))
            other.execute(text(f"UPDATE account SET password = '2{SECRET}'"))

    def test_refused_by_the_sandbox(self):
        self.session.execute(text(f"UPDATE account SET password = '{SECRET}'; COMMIT"))
        self.fail("on purpose")


class FailingTwice(DatabaseTestCase):
    schema = Base

    def test_second_run(self):
        with self.engine.begin() as one, self.engine.begin() as other:
            one.execute(text(f"INSERT INTO account (name, password) VALUES ('a', '{SECRET}')"))
            other.execute(text(f"SELECT 1 FROM account WHERE password = '{SECRET}'"))
        self.fail("on purpose")


class FailingWithAsyncpg(AsyncDatabaseTestCase):
    schema = Base
    app_engines = [create_async_engine("postgresql+asyncpg://production.invalid/shop")]

    async def test_unique_with_asyncpg(self):
        for _ in range(2):
            async with self.app_engines[0].begin() as connection:
                await connection.execute(insert(Account), {"id": 1, "name": "a", "password": SECRET})

    async def test_type_with_asyncpg(self):
        async with self.app_engines[0].begin() as connection:
            await connection.execute(text("SELECT CAST(:it AS integer) AS token"), {"it": SECRET})

    async def test_key_with_asyncpg(self):
        for _ in range(2):
            async with self.app_engines[0].begin() as connection:
                await connection.execute(text(f"INSERT INTO login VALUES ('{SECRET}')"))


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
