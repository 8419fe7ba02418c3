"""What code on an AsyncEngine sees within a test, and what is left of it in the next."""

from __future__ import annotations

import asyncio
import unittest

from sqlalchemy import exc, insert, select, text
from sqlalchemy.ext.asyncio import AsyncSession, async_scoped_session, async_sessionmaker, create_async_engine
from sqlalchemy.pool import NullPool

import dbtestcase
from dbtestcase.aio import AsyncDatabaseTestCase
from tests.aio.support import COUNT, DRIVERS, engine_of, names, second_runs
from tests.support import Base, Customer, problems, run_case

LATE = create_async_engine(dbtestcase.URL.replace("psycopg2", "asyncpg"))


def habits(engine, case=AsyncDatabaseTestCase):
    """Return a class of tests that use an engine in the ways that applications do."""
    auto = engine.execution_options(isolation_level="AUTOCOMMIT")
    make_session = async_sessionmaker(engine, expire_on_commit=False)
    scoped = async_scoped_session(make_session, scopefunc=asyncio.current_task)

    class Habits(case):
        schema = Base
        app_engines = [engine]

        @classmethod
        def setUpTestData(cls, session):
            cls.ada = Customer(name="Ada")
            session.add(cls.ada)

        async def asyncSetUp(self):
            self.assertEqual(await names(engine), ["Ada"])

        async def test_a_session_commits_rolls_back_and_goes_on(self):
            async with make_session() as session:
                session.add(Customer(name="Bea"))
                await session.commit()
                session.add(Customer(name="gone"))
                await session.flush()
                await session.rollback()
                session.add(Customer(name="Cleo"))
                await session.commit()
            self.assertEqual(await names(engine), ["Ada", "Bea", "Cleo"])

        async def test_begin_commits_at_the_end_of_its_block(self):
            async with engine.begin() as connection:
                await connection.execute(insert(Customer), [{"name": "Bea"}, {"name": "Cleo"}])
            with self.assertRaises(LookupError):
                async with engine.begin() as connection:
                    await connection.execute(insert(Customer), [{"name": "gone"}])
                    raise LookupError
            self.assertEqual(await names(engine), ["Ada", "Bea", "Cleo"])

        async def test_what_was_not_committed_is_gone_when_the_connection_is_closed(self):
            async with engine.connect() as connection:
                await connection.execute(insert(Customer).values(name="gone"))
            self.assertEqual(await names(engine), ["Ada"])

        async def test_a_violated_constraint_undoes_its_savepoint_only(self):
            async with make_session() as session:
                session.add(Customer(name="Bea"))
                await session.flush()
                with self.assertRaises(exc.IntegrityError):
                    async with session.begin_nested():
                        session.add(Customer(name="Ada"))
                await session.commit()
            self.assertEqual(await names(engine), ["Ada", "Bea"])

        async def test_a_violated_constraint_undoes_its_transaction(self):
            async with make_session() as session:
                session.add(Customer(name="Bea"))
                await session.commit()
                session.add(Customer(name="Ada"))
                with self.assertRaises(exc.IntegrityError):
                    await session.commit()
                await session.rollback()
                session.add(Customer(name="Cleo"))
                await session.commit()
            self.assertEqual(await names(engine), ["Ada", "Bea", "Cleo"])

        async def test_autocommit(self):
            async with auto.connect() as connection:
                await connection.execute(insert(Customer).values(name="Bea"))
            self.assertEqual(await names(engine), ["Ada", "Bea"])

        async def test_rows_are_streamed(self):
            async with make_session() as session:
                stream = await session.stream_scalars(select(Customer.name))
                self.assertEqual([name async for name in stream], ["Ada"])
                partitions = await session.stream(select(Customer.name), execution_options={"yield_per": 1})
                self.assertEqual([rows async for rows in partitions.partitions()], [[("Ada",)]])

        async def test_run_sync(self):
            async with engine.begin() as connection:
                await connection.run_sync(lambda known: known.execute(insert(Customer).values(name="Bea")))
            self.assertEqual(await self.session.run_sync(lambda session: session.scalar(COUNT)), 2)

        async def test_a_scoped_session(self):
            scoped.add(Customer(name="Bea"))
            await scoped.commit()
            await scoped.remove()
            self.assertEqual(await names(engine), ["Ada", "Bea"])

        async def test_the_class_s_engine_session_and_objects(self):
            self.assertIsInstance(self.session, AsyncSession)
            self.ada.name = "Augusta"
            self.session.add(Customer(name="Bea"))
            await self.session.commit()
            self.assertEqual(self.ada.name, "Augusta")
            self.assertEqual(await names(self.engine), ["Augusta", "Bea"])
            self.assertEqual(await names(engine), ["Augusta", "Bea"])
            await self.assertRowExists(Customer, name="Augusta")
            await self.assertRowAbsent(Customer, name="Ada")
            self.assertPersistent(self.ada)

        async def test_engines_made_of_the_url(self):
            mine = create_async_engine(self.url, poolclass=NullPool)
            async with mine.begin() as connection:
                await connection.execute(insert(Customer).values(name="Bea"))
            self.assertEqual(await names(engine), ["Ada", "Bea"])
            await mine.dispose()

        async def test_an_engine_that_is_disposed_of(self):
            await engine.dispose()
            self.assertEqual(await names(engine), ["Ada"])

        def test_z_one_that_is_not_asynchronous(self):
            with self.assertRaises(RuntimeError):
                asyncio.get_running_loop()

    return Habits


# What one transaction cannot carry, and its reason.
ON_REAL_CONNECTIONS = {
    "test_gathered_sessions": "came while another",
    "test_a_raw_connection": "the driver's own connection",
    "test_uncommitted_work_is_seen_by_nobody_else": "met uncommitted work",
}


def needing_real_connections(engine):
    make_session = async_sessionmaker(engine)

    async def add(name):
        async with make_session() as session:
            session.add(Customer(name=name))
            await session.commit()

    class Real(AsyncDatabaseTestCase):
        schema = Base
        app_engines = [engine]

        async def test_gathered_sessions(self):
            await asyncio.gather(*map(add, "abcd"))
            self.assertEqual(await names(engine), ["a", "b", "c", "d"])

        async def test_a_raw_connection(self):
            async with engine.connect() as connection:
                raw = (await connection.get_raw_connection()).driver_connection
                await raw.execute("INSERT INTO customer (name) VALUES ('raw')")
                await connection.execute(text("COMMIT"))
            self.assertEqual(await names(engine), ["raw"])

        async def test_uncommitted_work_is_seen_by_nobody_else(self):
            async with make_session() as writer, make_session() as reader:
                writer.add(Customer(name="Bea"))
                await writer.flush()
                self.assertEqual(await reader.scalar(COUNT), 0)
                await writer.commit()
                self.assertEqual(await reader.scalar(COUNT), 1)

        async def test_z_a_task_group_on_copies(self):
            async with asyncio.TaskGroup() as group:
                for name in "abc":
                    group.create_task(add(name))
            self.assertEqual(await names(engine), ["a", "b", "c"])

    return Real


class IsolationTests(unittest.TestCase):
    maxDiff = None

    def test_what_applications_do_runs_in_one_transaction(self):
        for driver in DRIVERS:
            for options in ({}, {"poolclass": NullPool}, {"pool_size": 1, "max_overflow": 0}):
                with self.subTest(driver=driver, **options), second_runs() as twice:
                    result = run_case(habits(engine_of(driver, **options)))

                    self.assertEqual(problems(result), [])
                    self.assertEqual(twice, {})

    def test_the_same_in_other_isolations(self):
        for driver in DRIVERS:
            for isolation in ("clone", "savepoint"):
                with self.subTest(driver=driver, isolation=isolation):
                    case = habits(engine_of(driver))
                    case.isolation = isolation

                    self.assertEqual(problems(run_case(case)), [])

    def test_an_engine_serves_class_after_class(self):
        for engine in (engine_of("asyncpg"), engine_of("psycopg"), LATE):
            for _ in range(2):
                self.assertEqual(problems(run_case(habits(engine))), [])

    def test_an_engine_that_was_used_in_another_loop_serves_a_test(self):
        engine = engine_of("asyncpg", pool_size=1, max_overflow=0)

        class Shop(AsyncDatabaseTestCase):
            schema = Base
            app_engines = [engine]

            @classmethod
            def setUpClass(cls):
                super().setUpClass()
                cls.before = asyncio.run(names(engine))

            async def test_it(self):
                self.assertEqual(await names(engine), self.before)

            @classmethod
            def tearDownClass(cls):
                cls.before += asyncio.run(names(engine))
                super().tearDownClass()

        self.assertEqual(problems(run_case(Shop)), [])

    def test_in_the_class_s_database_tests_see_what_earlier_ones_committed(self):
        for driver in DRIVERS:
            engine = engine_of(driver)

            class Story(AsyncDatabaseTestCase):
                schema = Base
                app_engines = [engine]
                isolation = "class"

                async def test_1(self):
                    self.session.add(Customer(name="Ada"))
                    await self.session.commit()

                async def test_2(self):
                    self.assertEqual(await names(self.app_engines[0]), ["Ada"])

            self.assertEqual(problems(run_case(Story)), [])

    def test_what_meets_runs_again_on_real_connections(self):
        for driver in DRIVERS:
            with self.subTest(driver=driver), second_runs() as twice:
                result = run_case(needing_real_connections(engine_of(driver)))

                self.assertEqual(problems(result), [])
                self.assertEqual(set(twice), set(ON_REAL_CONNECTIONS))
                for test, reason in ON_REAL_CONNECTIONS.items():
                    self.assertIn(reason, twice[test])
                    self.assertIn("(passed)", twice[test])

    def test_databases_of_a_class_have_asynchronous_engines(self):
        class Two(AsyncDatabaseTestCase):
            schema = {"test": Base, "audit": Base}

            async def test_each_has_its_own_rows(self):
                async with self.engine_for("audit").begin() as connection:
                    await connection.execute(insert(Customer).values(name="Bea"))
                self.assertEqual(await names(self.engine_for("audit")), ["Bea"])
                self.assertEqual(await names(self.engine), [])

        self.assertEqual(problems(run_case(Two)), [])
