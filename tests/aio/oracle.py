"""The random programs through ``AsyncConnection`` and ``AsyncSession``: ``python -m tests.sandbox.oracle --asyncio``.

An actor that has a thread of its own among synchronous ones takes each of its steps in a task of its own here.
"""

from __future__ import annotations

import asyncio
import re
import warnings
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import sqlalchemy as sa
from sqlalchemy import event
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, AsyncSession, create_async_engine

from dbtestcase import isolate
from dbtestcase.aio import AsyncDatabaseTestCase
from dbtestcase.errors import IsolationWarning
from tests.sandbox.oracle import URL, Programs
from tests.sandbox.players import IS_THERE, LOOKS, STREAMED, Account, outcome_of, rows_of, values_of
from tests.sandbox.programs import ALL, MODES, SAVEPOINTS, Program

__all__ = ["AsyncPrograms"]


class AsyncPrograms(AsyncDatabaseTestCase):
    """What :class:`tests.sandbox.oracle.Programs` is to synchronous engines."""

    postgres = Programs.postgres
    restart_identities = True
    schema = Programs.schema
    engines: ClassVar[dict[str, AsyncEngine]]
    judgement: Any

    async def test_by_default(self) -> None:
        given: list[Any] = []
        self.judgement.runs.append(given)
        self.judgement.warned_at.clear()
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")

            def note(result: Any) -> None:
                if any(each.category is IsolationWarning for each in caught):
                    self.judgement.warned_at.append(len(given))
                    caught.clear()
                given.append(result)

            await play(self.judgement.program, self.engines, note)

    @isolate("clone")
    async def test_on_copies(self) -> None:
        if self.judgement.wants_reference:
            given: list[Any] = []
            await play(self.judgement.program, self.engines, given.append)
            self.judgement.reference = given

    @staticmethod
    def make_engines(driver: str) -> dict[str, AsyncEngine]:
        """Return the engines of the code under test, prepared in different ways."""
        url = URL.format(driver=driver)
        plain, listening = create_async_engine(url), create_async_engine(url)

        @event.listens_for(listening.sync_engine, "connect")
        def connected(connection: Any, record: Any) -> None:
            connection.cursor().execute("SET statement_timeout = '77s'")
            connection.commit()

        settings = {"server_settings": {"statement_timeout": "66s"}}
        options = settings if driver == "asyncpg" else {"options": "-c statement_timeout=66s"}
        return {
            "plain": plain,
            "other": create_async_engine(url, pool_size=1, max_overflow=8, pool_pre_ping=True),
            "null": create_async_engine(url, poolclass=sa.NullPool),
            "auto": create_async_engine(url, isolation_level="AUTOCOMMIT"),
            "serial": create_async_engine(url, isolation_level="SERIALIZABLE"),
            "optioned": plain.execution_options(isolation_level="AUTOCOMMIT"),
            "listening": listening,
            "prepared": create_async_engine(url, connect_args=options),
        }


class Player:
    """Takes the steps of one actor; a subclass for each way of connecting has a method for each kind of step."""

    def __init__(self, engine: AsyncEngine) -> None:
        self.engine = engine
        self.nested: list[Any] = []

    async def open(self) -> None:
        raise NotImplementedError

    async def close(self) -> None:
        raise NotImplementedError

    async def execute(self, sql: str, parameters: Any) -> Any:
        raise NotImplementedError

    async def set_mode(self, mode: str) -> Any:
        raise NotImplementedError

    async def take(self, kind: str, arguments: tuple[Any, ...]) -> Any:
        if kind in ALL:
            sql = ALL[kind][0]
            return await (self.execute(sql.format(*arguments), ()) if "{}" in sql else self.execute(sql, arguments))
        if kind in SAVEPOINTS:
            return await self.execute(f"{kind} {arguments[0]}", ())
        if kind in MODES:
            return await self.set_mode(kind)
        act = getattr(self, kind.lower().replace(" ", "_"), None)
        return await act(*arguments) if act is not None else "not understood"

    async def nest_end(self) -> None:
        if self.nested:
            await self.nested.pop().commit()

    async def nest_undo(self) -> None:
        if self.nested:
            await self.nested.pop().rollback()


class Core(Player):
    connection: AsyncConnection
    stream_now: Any = None

    async def open(self) -> None:
        self.connection = await self.engine.connect()

    async def close(self) -> None:
        await self.connection.close()

    async def execute(self, sql: str, parameters: Any) -> Any:
        given = (parameters,) if parameters else ()
        return rows_of(await self.connection.exec_driver_sql(_in_style(sql, self.engine), *given))

    async def commit(self) -> None:
        await self.connection.commit()

    async def rollback(self) -> None:
        await self.connection.rollback()

    async def set_mode(self, mode: str) -> None:
        option = {"postgresql_readonly": True} if mode == "READ ONLY" else {"isolation_level": mode}
        await self.connection.execution_options(**option)

    async def nest(self) -> None:
        self.nested.append(await self.connection.begin_nested())

    async def many(self, *arguments: int) -> int:
        sql = _in_style("INSERT INTO note (id, account) VALUES (%s, %s)", self.engine)
        rowcount: int = (await self.connection.exec_driver_sql(sql, [arguments[:2], arguments[2:]])).rowcount
        return rowcount

    async def stream(self) -> None:
        self.stream_now = await self.connection.stream(sa.text(STREAMED), execution_options={"yield_per": 2})

    async def next(self) -> Any:
        return None if self.stream_now is None else list(map(tuple, await self.stream_now.fetchmany(1)))

    async def stream_end(self) -> None:
        if self.stream_now is not None:
            await self.stream_now.close()

    async def invalidate(self) -> None:
        await self.connection.invalidate()

    async def dispose(self) -> None:
        await self.engine.dispose()

    async def copy_in(self, *arguments: int) -> Any:
        raw: Any = (await self.connection.get_raw_connection()).driver_connection
        if self.engine.dialect.driver == "asyncpg":
            return await raw.copy_records_to_table("note", records=[arguments], columns=["id", "account"])
        async with raw.cursor() as cursor, cursor.copy("COPY note (id, account) FROM STDIN") as copy:
            await copy.write_row(arguments)
        return cursor.rowcount


class Orm(Player):
    session: AsyncSession

    async def open(self) -> None:
        self.session = AsyncSession(self.engine)

    async def close(self) -> None:
        await self.session.close()

    async def execute(self, sql: str, parameters: Any) -> Any:
        for number in range(len(parameters)):
            sql = sql.replace("%s", f":p{number}", 1)
        named = {f"p{number}": value for number, value in enumerate(parameters)}
        return rows_of(await self.session.execute(sa.text(sql.replace("::", r"\:\:")), named))

    async def commit(self) -> None:
        await self.session.commit()

    async def rollback(self) -> None:
        await self.session.rollback()

    async def set_mode(self, mode: str) -> None:
        option = {"postgresql_readonly": True} if mode == "READ ONLY" else {"isolation_level": mode}
        await self.session.connection(execution_options=option)

    async def nest(self) -> None:
        self.nested.append(await self.session.begin_nested())

    async def many(self, *arguments: int) -> None:
        rows = [{"id": number, "name": f"many{number}"} for number in arguments[:2]]
        await self.session.execute(sa.insert(Account), rows)

    async def add(self, number: int, name: str) -> None:
        self.session.add(Account(id=number, name=name))

    async def get(self, number: int) -> Any:
        return values_of(await self.session.get(Account, number, populate_existing=True))

    async def change(self, number: int, n: int) -> None:
        found = await self.session.get(Account, number)
        if found is not None:
            found.n = n

    async def remove(self, number: int) -> None:
        found = await self.session.get(Account, number)
        if found is not None:
            await self.session.delete(found)

    async def flush(self) -> None:
        await self.session.flush()

    async def expire(self) -> None:
        self.session.expire_all()

    async def query(self) -> Any:
        return [values_of(each) for each in await self.session.scalars(sa.select(Account).order_by(Account.id))]


async def play(program: Program, engines: Mapping[str, AsyncEngine], note: Callable[[Any], None]) -> None:
    """Run a program; ``note`` is told what each step gave, and at last what is left in the tables."""
    players: dict[int, Player] = {}

    async def step(number: int, kind: str, arguments: tuple[Any, ...]) -> Any:
        actor = program.actors[number]
        if kind == "CLOSE":
            player = players.pop(number, None)
            return None if player is None else await player.close()
        if number not in players:
            player = (Orm if actor.way == "session" else Core)(engines[actor.engine])
            await player.open()
            players[number] = player
        return await players[number].take(kind, arguments)

    try:
        for each in program.steps:
            taken = outcome_of(step, each.actor, each.kind, each.arguments)
            note(await (asyncio.create_task(taken) if program.actors[each.actor].has_thread else taken))
    finally:
        for player in players.values():
            await outcome_of(player.close)
    engine = engines[program.actors[0].engine]
    note({kind: await outcome_of(_look, engine, kind) for kind in LOOKS})


async def _look(engine: AsyncEngine, kind: str) -> Any:
    async with engine.connect() as connection:
        if kind == "extra" and not (await connection.exec_driver_sql(IS_THERE)).scalar():
            return None
        return rows_of(await connection.exec_driver_sql(ALL[kind][0]))


def _in_style(sql: str, engine: AsyncEngine) -> str:
    """Return a statement with parameters as the engine's driver wants them."""
    if engine.dialect.driver == "psycopg":
        return sql
    numbers = iter(range(1, 10))
    return re.sub("%s", lambda _: f"${next(numbers)}", sql)
