"""What an asynchronous test leaves behind: connections, tasks, assertions that nobody awaited; who waits for whom."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import textwrap
import unittest
from pathlib import Path

from sqlalchemy import insert, select, text, update

from dbtestcase.aio import AsyncDatabaseTestCase
from tests.aio.support import DRIVERS, engine_of, names, second_runs
from tests.support import (
    Base,
    Customer,
    collect_garbage,
    once,
    problems,
    recorded_warnings,
    run_case,
    run_with_warnings,
)

ROOT = Path(__file__).parent.parent.parent
MANY = """
    import gc, os, threading, unittest
    from sqlalchemy import func, select
    from sqlalchemy.ext.asyncio import create_async_engine
    from dbtestcase.aio import AsyncDatabaseTestCase
    from tests.support import Base, Customer

    engine = create_async_engine("postgresql+DRIVER://production.invalid/shop")

    def descriptors():
        gc.collect()
        return len(os.listdir("/proc/self/fd"))

    class Many(AsyncDatabaseTestCase):
        schema = Base
        app_engines = [engine]
        known = []

        async def write(self, number):
            async with engine.begin() as connection:
                self.assertEqual(await connection.scalar(select(func.count()).select_from(Customer)), 0)
            self.session.add(Customer(name=f"customer {number}"))
            await self.session.commit()
            await self.assertRowCount(Customer, 1)

    def of(number):
        async def test(self):
            await self.write(number)
            if number in (100, 499):
                self.known.append(descriptors())
        return test

    for number in range(500):
        setattr(Many, f"test_{number:03}", of(number))

    class Copies(Many):
        isolation = "clone"
        test_zz = None

    for number in range(40, 500):
        setattr(Copies, f"test_{number:03}", None)

    class First(AsyncDatabaseTestCase):
        async def test(self):
            pass

    if __name__ == "__main__":
        unittest.TextTestRunner().run(unittest.TestSuite([First("test")]))
        del First
        before = descriptors()
        result = unittest.main(exit=False).result
        assert result.wasSuccessful() and result.testsRun == 540, result
        assert Many.known[0] == Many.known[1], Many.known
        print("left:", descriptors() - before, "descriptors")
"""


class LeftOpenTests(unittest.TestCase):
    def test_a_connection_that_is_left_open_is_named_and_closed(self):
        for driver in DRIVERS:
            for isolation in ("auto", "clone"):
                engine = engine_of(driver)
                kept = []

                class Shop(AsyncDatabaseTestCase):
                    schema = Base
                    app_engines = [engine]

                    async def test_1(self):
                        connection = await engine.connect()
                        kept.append(connection)
                        await connection.execute(select(Customer))

                    async def test_2(self):
                        self.assertEqual(await names(engine), [])

                Shop.isolation = isolation
                with self.subTest(driver=driver, isolation=isolation):
                    result, warnings = run_with_warnings(Shop)

                    self.assertEqual(problems(result), [])
                    self.assertEqual(len(warnings), 1, warnings)
                    self.assertIn("was left open in the test", warnings[0])
                    self.assertIn("test_leftovers.py", warnings[0])
                    self.assertIn("in test_1", warnings[0])

    def test_a_task_that_uses_a_connection_beyond_its_test_is_named_and_cancelled(self):
        for driver in DRIVERS:
            for isolation in ("auto", "clone"):
                engine = engine_of(driver)
                ended = []

                class Shop(AsyncDatabaseTestCase):
                    schema = Base
                    app_engines = [engine]

                    async def work(self, begun):
                        try:
                            async with engine.connect() as connection:
                                await connection.execute(select(Customer))
                                begun.set()
                                await asyncio.Event().wait()
                        finally:
                            ended.append("cancelled")

                    async def test_1(self):
                        begun = asyncio.Event()
                        self.task = asyncio.create_task(self.work(begun))
                        await begun.wait()

                    async def test_2_leaves_one_that_uses_none(self):
                        await names(engine)
                        self.task = asyncio.create_task(asyncio.Event().wait())

                Shop.isolation = isolation
                with self.subTest(driver=driver, isolation=isolation):
                    result, warnings = run_with_warnings(Shop)

                    self.assertEqual(problems(result), [])
                    self.assertEqual(ended, ["cancelled"])
                    self.assertEqual(len(warnings), 1, warnings)
                    self.assertIn("by a task that was still running", warnings[0])
                    self.assertIn("in work", warnings[0])

    def test_what_a_first_run_was_about_to_get_is_left_to_no_garbage_collector(self):
        for driver in DRIVERS:
            engine = engine_of(driver)

            class Shop(AsyncDatabaseTestCase):
                app_engines = [engine]

                async def test_it(self):
                    async with engine.execution_options(isolation_level="SERIALIZABLE").connect() as connection:
                        self.level = await connection.scalar(text("SHOW transaction_isolation"))
                    self.assertEqual(self.level, "serializable")

            with self.subTest(driver), recorded_warnings() as caught:
                self.assertEqual(problems(run_case(Shop)), [])
                collect_garbage()
                self.assertEqual([str(each.message) for each in caught], [])

    def test_an_assertion_that_nobody_awaits_is_an_error(self):
        class Shop(AsyncDatabaseTestCase):
            schema = Base

            async def test_1(self):
                self.assertRowExists(Customer, name="nobody")

            async def test_2(self):
                await self.assertRowCount(Customer, 0)
                with self.assertRaises(AssertionError):
                    await self.assertRowExists(Customer, name="nobody")

        with second_runs():
            result = run_case(Shop)

        [text] = problems(result)
        self.assertIn("test_1", text)
        self.assertIn("assertRowExists() at tests/aio/test_leftovers.py", text)
        self.assertIn("'await self.assertRowExists(...)'", text)

    @once
    def test_five_hundred_tests_leave_nothing_and_no_warning(self):
        for driver in DRIVERS:
            with self.subTest(driver=driver):
                run = subprocess.run(
                    [sys.executable, "-W", "error", "-c", textwrap.dedent(MANY).replace("DRIVER", driver)],
                    cwd=ROOT, env={**os.environ, "DBTESTCASE_SQL": "failed"}, capture_output=True, text=True,
                )  # fmt: skip

                self.assertEqual(run.returncode, 0, run.stderr)
                self.assertIn("left: 0 descriptors", run.stdout, run.stderr)
                self.assertNotIn("Warning", run.stderr)
                self.assertNotIn("rror", run.stderr)


class LockTests(unittest.TestCase):
    def test_a_statement_that_waits_for_another_task_s_row_is_ended_and_says_who_has_it(self):
        for driver in DRIVERS:
            engine = engine_of(driver)

            class Shop(AsyncDatabaseTestCase):
                schema = Base
                app_engines = [engine]
                isolation = "clone"
                lock_wait = 0.2

                @classmethod
                def setUpTestData(cls, session):
                    session.add(Customer(name="Ada"))

                async def test_it(self):
                    async with engine.connect() as first, engine.connect() as second:
                        await first.execute(update(Customer).values(name="Bea"))
                        await second.execute(update(Customer).values(name="Cleo"))

                async def test_next(self):
                    async with engine.begin() as connection:
                        await connection.execute(insert(Customer).values(name="Bea"))
                    self.assertEqual(await names(engine), ["Ada", "Bea"])

            with self.subTest(driver=driver):
                result = run_case(Shop)

                [text] = problems(result)
                self.assertIn("LockWait", text)
                self.assertIn("UPDATE customer SET name='Bea'", text)
                self.assertRegex(text, r"its transaction began at tests/aio/test_leftovers.py:\d+ in test_it")
