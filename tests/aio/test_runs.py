"""How an asynchronous test is run: its hooks, its second run, and what becomes of tasks, timeouts and dead attempts."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import time
import unittest
from contextlib import suppress
from unittest import mock

from sqlalchemy import insert, text
from sqlalchemy.exc import OperationalError
from sqlalchemy.ext.asyncio import async_sessionmaker

from dbtestcase import DatabaseTestCase, isolate
from dbtestcase.aio import AsyncDatabaseTestCase
from dbtestcase.errors import IsolationBroken
from tests.aio.support import COUNT, DRIVERS, engine_of, names, second_runs
from tests.support import Base, Customer, collect_garbage, patience, problems, run_case

MARK: contextvars.ContextVar[str] = contextvars.ContextVar("MARK", default="unset")


async def meet(engine):
    """Do what one transaction cannot carry: read while another connection has uncommitted work."""
    async with engine.connect() as writer, engine.connect() as reader:
        await writer.execute(insert(Customer).values(name="Bea"))
        await reader.scalar(COUNT)


class HooksTests(unittest.TestCase):
    def test_hooks_of_both_runs_come_in_unittests_order_each_run_in_a_loop_of_its_own(self):
        for driver in DRIVERS:
            engine = engine_of(driver)
            told, loops = [], []

            class Shop(AsyncDatabaseTestCase):
                schema = Base
                app_engines = [engine]

                def setUp(self):
                    told.append(f"setUp {MARK.get()}")
                    MARK.set("set")
                    self.addCleanup(told.append, "cleanup")

                async def asyncSetUp(self):
                    told.append(f"asyncSetUp {MARK.get()}")
                    loops.append(asyncio.get_running_loop())
                    self.addAsyncCleanup(self.read)

                async def test_it(self):
                    await meet(engine)

                async def asyncTearDown(self):
                    told.append(f"asyncTearDown {hasattr(self, 'kept')}")
                    self.kept = True

                def tearDown(self):
                    told.append("tearDown")

                async def read(self):
                    with suppress(OperationalError):
                        await names(engine)
                    told.append("async cleanup")

            with self.subTest(driver=driver), second_runs() as twice:
                result = run_case(Shop)

                self.assertEqual(problems(result), [])
                self.assertEqual(result.testsRun, 1)
                self.assertEqual(set(twice), {"test_it"})
                once = ["setUp unset", "asyncSetUp set", "asyncTearDown False", "tearDown", "async cleanup", "cleanup"]
                self.assertEqual(told, once * 2)
                self.assertIsNot(loops[0], loops[1])

    def test_debug_runs_a_test_once_on_real_connections(self):
        for driver in DRIVERS:
            engine = engine_of(driver)
            runs = []

            class Shop(AsyncDatabaseTestCase):
                schema = Base
                app_engines = [engine]

                async def test_it(self):
                    runs.append(self.id())
                    await meet(engine)

            with self.subTest(driver=driver):
                unittest.TestSuite([Shop("test_it")]).debug()

                self.assertEqual(len(runs), 1)

    def test_a_coroutine_function_in_a_synchronous_class_is_an_error_that_names_the_base_class(self):
        class Shop(DatabaseTestCase):
            async def test_it(self):
                self.fail("never awaited")

            def test_other(self):
                pass

        result = run_case(Shop)

        self.assertEqual(result.testsRun, 2)
        self.assertEqual(len(problems(result)), 1)
        self.assertIn("dbtestcase.aio.AsyncDatabaseTestCase", problems(result)[0])
        self.assertIn("test_it", problems(result)[0])

    def test_without_set_up_class_each_test_says_so(self):
        class Shop(AsyncDatabaseTestCase):
            @classmethod
            def setUpClass(cls):
                pass

            async def asyncSetUp(self):
                raise AssertionError("not reached")

            async def test_it(self):
                raise AssertionError("not reached")

        [text] = problems(run_case(Shop))
        self.assertIn("make 'super().setUpClass()' its first line", text)


class AttemptTests(unittest.TestCase):
    def test_what_ends_an_attempt_is_not_eaten_by_the_test_and_is_the_drivers_error_in_other_tasks(self):
        for driver in DRIVERS:
            engine = engine_of(driver)
            caught = []

            async def work(engine=engine, caught=caught):
                try:
                    await meet(engine)
                except OperationalError as error:
                    caught.append(error)

            class Shop(AsyncDatabaseTestCase):
                schema = Base
                app_engines = [engine]

                async def test_a_task(self):
                    await asyncio.create_task(work())

                async def test_itself(self):
                    with suppress(Exception):
                        await meet(engine)
                        caught.append("went on")

            with self.subTest(driver=driver), second_runs() as twice:
                self.assertEqual(problems(run_case(Shop)), [])
                self.assertEqual(set(twice), {"test_a_task", "test_itself"})
                self.assertIn("runs this test again", str(caught[0]))
                self.assertEqual(caught[1:], ["went on"])

    def test_one_transaction_only_is_an_error_at_the_statement_in_any_task(self):
        engine = engine_of("asyncpg")

        class Shop(AsyncDatabaseTestCase):
            schema = Base
            app_engines = [engine]
            isolation = "savepoint"

            async def test_it(self):
                # To catch it is of no use.
                with self.assertRaises(IsolationBroken):
                    await asyncio.gather(meet(engine), asyncio.sleep(0))

            async def test_next(self):
                self.assertEqual(await names(engine), [])

        result = run_case(Shop)

        self.assertEqual([test.id().rpartition(".")[2] for test, _ in result.errors], ["test_it"])
        self.assertIn('@isolate("clone")', result.errors[0][1])

    def test_a_test_that_waits_for_a_task_that_has_died_is_ended_and_runs_again(self):
        for driver in DRIVERS:
            engine = engine_of(driver)

            class Shop(AsyncDatabaseTestCase):
                schema = Base
                app_engines = [engine]

                async def test_it(self):
                    done = asyncio.Event()

                    async def work():
                        await meet(engine)
                        done.set()

                    task = asyncio.create_task(work())
                    await done.wait()
                    await task

            collect_garbage()  # tasks of earlier tests, about which the loop has something to say
            # Of a step that took long it warns as well.
            with self.subTest(driver=driver), second_runs() as twice, self.assertNoLogs("asyncio", "ERROR"):
                begun = time.monotonic()
                with mock.patch.multiple("dbtestcase.sandbox.attempt", _BOUND=0.1, _BETWEEN=10):
                    result = run_case(Shop)

                self.assertEqual(problems(result), [])
                self.assertEqual(set(twice), {"test_it"})
                self.assertLess(time.monotonic() - begun, patience(5))

    def test_what_was_cancelled_or_timed_out_in_the_middle_of_a_statement_runs_again(self):
        for driver in DRIVERS:
            engine = engine_of(driver)
            make_session = async_sessionmaker(engine)

            class Shop(AsyncDatabaseTestCase):
                schema = Base
                app_engines = [engine]

                async def test_a_timeout(self):
                    with self.assertRaises(TimeoutError):
                        async with asyncio.timeout(None) as limit, make_session() as session:
                            session.add(Customer(name="gone"))
                            await session.flush()
                            limit.reschedule(asyncio.get_running_loop().time() + 0.01)
                            await session.execute(text("SELECT pg_sleep(30)"))
                    self.assertEqual(await names(engine), [])

                async def test_a_task(self):
                    is_sleeping = asyncio.Event()

                    async def work():
                        async with engine.begin() as connection:
                            await connection.execute(insert(Customer).values(name="gone"))
                            is_sleeping.set()
                            await connection.execute(text("SELECT pg_sleep(30)"))

                    task = asyncio.create_task(work())
                    await is_sleeping.wait()
                    task.cancel()
                    with self.assertRaises(asyncio.CancelledError):
                        await task
                    self.assertEqual(await names(engine), [])

            with self.subTest(driver=driver), second_runs() as twice:
                self.assertEqual(problems(run_case(Shop)), [])
                self.assertEqual(set(twice), {"test_a_timeout", "test_a_task"})
                self.assertIn("was cancelled", twice["test_a_timeout"])

    def test_a_failure_counts_where_it_happens_on_real_connections(self):
        engine = engine_of("asyncpg")

        class Shop(AsyncDatabaseTestCase):
            schema = Base
            app_engines = [engine]

            async def test_it(self):
                async with engine.begin() as connection:
                    first = await connection.scalar(text("SELECT now()"))
                async with engine.begin() as connection:
                    self.assertNotEqual(first, await connection.scalar(text("SELECT now()")))

            async def test_red(self):
                await names(engine)
                with self.subTest("inside"):
                    self.fail("on purpose")
                self.fail("on purpose as well")

        with second_runs() as twice:
            result = run_case(Shop)

        self.assertEqual(len(result.failures), 2)
        self.assertIn("ran twice", result.failures[0][1])
        self.assertIn("SELECT customer.name", result.failures[0][1])
        self.assertIn("support.py:28 in names", result.failures[0][1])
        self.assertNotIn("in _run", result.failures[0][1])
        self.assertIn("passed after failing", twice["test_it"])

    def test_a_connection_that_is_thrown_away_does_not_break_the_others(self):
        for driver in DRIVERS:
            engine = engine_of(driver)

            class Shop(AsyncDatabaseTestCase):
                schema = Base
                app_engines = [engine]

                async def test_it(self):
                    connection = await engine.connect()
                    await connection.execute(insert(Customer).values(name="gone"))
                    with self.assertWarnsRegex(Warning, "non-checked-in connection"):
                        del connection
                        gc.collect()
                    self.assertEqual(await names(engine), [])

            with self.subTest(driver=driver), second_runs() as twice, self.assertLogs("sqlalchemy.pool"):
                self.assertEqual(problems(run_case(Shop)), [])
                self.assertEqual(set(twice), {"test_it"})

    def test_a_test_may_be_one_on_a_copy(self):
        engine = engine_of("psycopg")

        class Shop(AsyncDatabaseTestCase):
            schema = Base
            app_engines = [engine]

            @isolate("clone")
            async def test_it(self):
                await meet(engine)

            async def test_next(self):
                self.assertEqual(await names(engine), [])

        with second_runs() as twice:
            self.assertEqual(problems(run_case(Shop)), [])
            self.assertEqual(twice, {})
