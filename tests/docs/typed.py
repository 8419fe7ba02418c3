"""What users write with every public name, as the documents show it, for type checkers: nothing here runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Engine, MetaData, create_engine, make_url, select, text
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

import dbtestcase.errors
from dbtestcase import (
    URL,
    AlembicMigrations,
    DatabaseTestCase,
    ExistingPostgres,
    ThrowawayPostgres,
    errors,
    isolate,
)
from dbtestcase.aio import AsyncDatabaseTestCase
from dbtestcase.errors import (
    DBTestCaseError,
    IsolationBroken,
    IsolationWarning,
    LockWait,
    PostgresNotFound,
    PostgresNotReady,
    SchemaError,
    UndeclaredDatabase,
)


class Base(DeclarativeBase):
    pass


class Customer(Base):
    __tablename__ = "customer"

    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str]


engine = create_engine(URL)
address = URL.replace("psycopg2", "psycopg")
parsed = make_url(URL)


def create_tables(connection: Connection) -> None:
    connection.execute(text("CREATE TABLE note (words text)"))


class Everything(DatabaseTestCase):
    schema = {"shop": Base, "audit": [MetaData(), Path("audit.sql"), create_tables, AlembicMigrations("alembic.ini")]}
    postgres = ThrowawayPostgres(
        settings={"jit": True, "max_connections": 20}, bin_dir=Path("/usr"), extensions=["citext"]
    )
    isolation = "savepoint"
    app_engines = [engine]
    app_role = "shop_app"
    allow_other_databases = ["db.example.com", make_url("postgresql://db.example.org/shop")]
    restart_identities = True
    hidden_columns = ["iban"]
    lock_wait = 0.5

    ada: Customer

    @classmethod
    def setUpTestData(cls, session: Session) -> None:
        cls.ada = Customer(name="Ada")
        session.add(cls.ada)

    @classmethod
    def setUpClass(cls) -> None:
        super().setUpClass()
        cls.redirect_engine(engine, "audit")
        cls.redirect_engine(engine)

    def setUp(self) -> None:
        self.session.add(Customer(name="Grace"))

    def test_what_is_there(self) -> None:
        main: Engine = self.engine
        other: Engine = self.engine_for("audit")
        session: Session = self.session
        alive: bool = self.instance.is_alive()
        addresses: tuple[str, str] = (self.external_url, self.instance.url(database="audit"))
        parameters: dict[str, Any] = self.instance.dsn()
        another = create_engine(self.url)
        self.assertIsNot(main, other)
        self.assertTrue(session and alive and addresses and parameters and another)

    @isolate("clone")
    def test_assertions(self) -> None:
        with self.assertNumQueries(1) as queries:
            self.session.scalars(select(Customer)).all()
        sql: str = queries[0].text
        seconds: float | None = queries[0].seconds
        self.assertNumQueries(1, self.session.scalars, select(Customer), msg="one")
        with self.assertNoRepeatedQueries(at_most=2), self.capture_queries() as captured:
            self.session.flush()
        self.assertEqual((len(captured), bool(sql), bool(seconds)), (1, True, True))
        self.assertRowExists(Customer, name="Ada")
        self.assertRowAbsent(Customer, "still there", name="Alan")
        self.assertRowCount(Customer, 1, Customer.name == "Ada", msg="one Ada")
        self.assertTransient(Customer(name="Alan"))
        self.assertPending(self.ada)
        self.assertPersistent(self.ada, "lost")
        self.assertDeleted(self.ada)
        self.assertDetached(self.ada)
        self.assertSchemaMatches(Base, server_defaults=True, ignore=("alembic_version",))


class OfAFunction(DatabaseTestCase):
    schema = staticmethod(create_tables)


class OfAPlainFunction(DatabaseTestCase):
    schema = create_tables


class OfAStaticMethod(DatabaseTestCase):
    @staticmethod
    def schema(connection: Connection) -> None:
        connection.execute(text("CREATE TABLE note (words text)"))


@isolate("class")
class InOrder(DatabaseTestCase):
    schema = Base


class Copies(DatabaseTestCase):
    schema = Path("schema.sql")
    isolation = "clone"


class OnAServer(DatabaseTestCase):
    postgres = ExistingPostgres("postgresql://tester@db.example.com/postgres", extensions=["citext"])
    allow_other_databases = True


class Sorted(DatabaseTestCase):
    postgres = ThrowawayPostgres(locale_provider="icu", icu_locale="en-US", encoding="UTF8", tcp=True)

    def test_address(self) -> None:
        url: str = self.instance.url()
        self.assertTrue(url)


async_engine = create_async_engine("postgresql+asyncpg://production.invalid/shop")


class Asynchronous(AsyncDatabaseTestCase):
    schema = Base
    app_engines = [async_engine, engine]

    ada: Customer

    @classmethod
    def setUpTestData(cls, session: Session) -> None:
        cls.ada = Customer(name="Ada")
        session.add(cls.ada)

    async def asyncSetUp(self) -> None:
        self.session.add(Customer(name="Grace"))
        await self.session.commit()

    async def test_what_is_there(self) -> None:
        main: AsyncEngine = self.engine
        session: AsyncSession = self.session
        other: AsyncEngine = self.engine_for("audit")
        address: str = self.external_url
        async with self.assertNumQueries(1) as queries, self.assertNoRepeatedQueries():
            await session.scalars(select(Customer))
        with self.capture_queries() as captured:
            await session.flush()
        await self.assertRowExists(Customer, name="Ada")
        await self.assertRowAbsent(Customer, "still there", name="Alan")
        await self.assertRowCount(Customer, 2, msg="two")
        await self.assertSchemaMatches(Base)
        self.assertPersistent(self.ada)
        self.assertTrue(main and other and address and queries and captured)


ALL: list[type[DBTestCaseError]] = [
    *(PostgresNotFound, PostgresNotReady, SchemaError, IsolationBroken, LockWait, UndeclaredDatabase),
    errors.DBTestCaseError,
    dbtestcase.errors.SchemaError,
]
WARNING: type[UserWarning] = IsolationWarning
