"""Group ``asyncio``: what one asynchronous test takes, with everything around it."""

from __future__ import annotations

import asyncio
import unittest
from typing import Any, ClassVar

from sqlalchemy import create_engine, make_url
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, create_async_engine
from sqlalchemy.pool import NullPool

from benchmarks import workload
from benchmarks.cases import repeated
from benchmarks.clock import Clock
from benchmarks.plan import Contender, Group, Row, Table, Target
from benchmarks.servers import OneServer

Series = dict[str, list[float]]

UNTOUCHED = "untouched"
DRIVERS = ("psycopg", "asyncpg")
_WARM_UP = 20


async def read(session: AsyncSession) -> int:
    """Count."""
    return await session.scalar(workload.COUNT) or 0


async def write(session: AsyncSession) -> int:
    """Insert, commit, count."""
    session.add(workload.Item(name="Ada"))
    await session.commit()
    return await read(session)


async def write_on_two_drivers(session: AsyncSession, synchronous: Any) -> int:
    """Insert over both, and count."""
    with synchronous.begin() as connection:
        connection.execute(workload.INSERT)
    return await write(session)


BODIES = {"read": read, "write": write}
ALONE = {"read": 0, "write": 1}


class Untouched:
    """Touches no database."""

    async def test(self) -> None:
        pass


class Bodied:
    """Runs one of the bodies, and looks at what it returns."""

    body: ClassVar[Any]
    expected: ClassVar[int | None] = None
    session: AsyncSession

    async def test(self) -> None:
        found = await type(self).body(self.session)
        if self.expected is not None and found != self.expected:
            raise AssertionError(f"{found} rows, not {self.expected}: those of another test are there")


class TwoDrivers(Bodied):
    """Writes over a synchronous engine as well."""

    synchronous: ClassVar[Any]

    async def test(self) -> None:
        if await write_on_two_drivers(self.session, self.synchronous) != 2:
            raise AssertionError("the two do not see each other")


class RealCommits(unittest.IsolatedAsyncioTestCase):
    """A session on a bare engine; what is committed stays. unittest gives each test an event loop of its own."""

    engine: ClassVar[AsyncEngine]
    session: AsyncSession

    async def asyncSetUp(self) -> None:
        self.session = AsyncSession(self.engine)

    async def asyncTearDown(self) -> None:
        await self.session.close()


class InOneLoop(unittest.TestCase):
    """The same in one event loop for all tests, so that connections are kept: what no test costs more than."""

    engine: ClassVar[AsyncEngine]
    runner: ClassVar[asyncio.Runner]
    body: ClassVar[Any]

    @classmethod
    def setUpClass(cls) -> None:
        cls.runner = cls.enterClassContext(asyncio.Runner(debug=True))

    @classmethod
    def tearDownClass(cls) -> None:
        cls.runner.run(cls.engine.dispose())

    def test(self) -> None:
        async def run() -> None:
            async with AsyncSession(self.engine) as session:
                await type(self).body(session)

        self.runner.run(run())


def _lengths(test_class: type[unittest.TestCase]) -> list[float]:
    return Clock().run([test_class]).lengths()[_WARM_UP:]


def plain(number: int) -> Series:
    """Measure unittest's asynchronous class without a database."""
    bases = (repeated(Untouched, number), unittest.IsolatedAsyncioTestCase)
    return {UNTOUCHED: _lengths(type("Plain", bases, {}))}


def ours(number: int, driver: str) -> Series:
    """Measure dbtestcase, a class for each body."""
    from dbtestcase.aio import AsyncDatabaseTestCase

    def measure(tests: type, **attributes: Any) -> list[float]:
        engines = [create_async_engine(f"postgresql+{driver}://never-connected-to/")]
        engines += [attributes["synchronous"]] if "synchronous" in attributes else []
        attributes = {"schema": workload.schema(1), "app_engines": engines, **attributes}
        return _lengths(type("Ours", (repeated(tests, number), AsyncDatabaseTestCase), attributes))

    measured = {UNTOUCHED: measure(Untouched)}
    for name, body in BODIES.items():
        measured[name] = measure(Bodied, body=body, expected=ALONE[name])
    measured["two drivers"] = measure(TwoDrivers, synchronous=create_engine("postgresql+psycopg2://never/"))
    measured["a copy"] = measure(Bodied, body=write, expected=1, isolation="clone")
    return measured


def bare(number: int, driver: str, one_loop: bool) -> Series:
    """Measure sessions on a bare engine."""
    measured = {}
    for name, body in BODIES.items():
        databases = OneServer(workload.schema(1))
        url = make_url(databases.start().url).set(drivername=f"postgresql+{driver}")
        # A connection of asyncpg works in one event loop only.
        options = {} if one_loop or driver == "psycopg" else {"poolclass": NullPool}
        engine = create_async_engine(url, **options)
        bases = (repeated(InOneLoop, number),) if one_loop else (repeated(Bodied, number), RealCommits)
        try:
            measured[name] = _lengths(type("Theirs", bases, {"engine": engine, "body": body}))
            asyncio.run(engine.dispose())
        finally:
            databases.close()
    return measured


def _name(driver: str, who: str) -> str:
    return f"{who}, {driver}"


_PLAIN, _OURS, _BARE, _ONE_LOOP = "plain unittest", "dbtestcase", "a bare AsyncEngine", "a bare AsyncEngine, one loop"
_DOES = {"read": "counts rows", "write": "inserts, commits and counts"}


def _table(series: str, driver: str) -> Table:
    names = [_name(driver, who) for who in (_BARE, _ONE_LOOP, _OURS)]
    return Table(
        f"An asynchronous test that {_DOES[series]}, with {driver}",
        tuple(Row(name, series) for name in names),
        reference=names[0],
        targets=(Target(names[2], over=names[0], at_most=1.3),),
    )


def _table_of_copies(driver: str) -> Table:
    name = _name(driver, _OURS)
    rows = (
        Row(name, "write", "in one transaction"),
        Row(name, "a copy", "on a copy"),
        Row(name, "two drivers", "on a copy, with psycopg2 beside it"),
    )
    return Table(f"An asynchronous test that writes, with {driver}", rows, reference=rows[0].label)


ASYNCIO = Group(
    "asyncio",
    "one asynchronous test: untouched, read, write, with a synchronous engine beside it",
    (
        Contender(_PLAIN, "asynchronous:plain", {"number": 300}),
        *(
            contender
            for driver in DRIVERS
            for contender in (
                Contender(_name(driver, _BARE), "asynchronous:bare", {"number": 150, "driver": driver, "one_loop": 0}),
                Contender(
                    _name(driver, _ONE_LOOP), "asynchronous:bare", {"number": 150, "driver": driver, "one_loop": 1}
                ),
                Contender(_name(driver, _OURS), "asynchronous:ours", {"number": 150, "driver": driver}),
            )
        ),
    ),
    (
        Table(
            "An asynchronous test that touches no database",
            (Row(_PLAIN, UNTOUCHED), *(Row(_name(driver, _OURS), UNTOUCHED) for driver in DRIVERS)),
            reference=_PLAIN,
        ),
        *(_table(series, driver) for driver in DRIVERS for series in BODIES),
        *map(_table_of_copies, DRIVERS),
    ),
    pinned=True,
)
