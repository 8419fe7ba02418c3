"""Asynchronous classes under other conditions: pytest, DBTESTCASE_KEEP, without a driver, on the driver of the code."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
import textwrap
import unittest
from pathlib import Path

from dbtestcase.aio import AsyncDatabaseTestCase
from tests.aio.support import DRIVERS, engine_of
from tests.support import Base, of_throwaway_servers, once, problems, run_case

ROOT = Path(__file__).parent.parent.parent
SHOP = """
    import asyncio, unittest
    from sqlalchemy import insert, select
    from sqlalchemy.ext.asyncio import create_async_engine
    from dbtestcase.aio import AsyncDatabaseTestCase
    from tests.support import Base, Customer

    engine = create_async_engine("postgresql+DRIVER://production.invalid/shop")

    async def add(name):
        async with engine.begin() as connection:
            await connection.execute(insert(Customer).values(name=name))

    class ShopTests(AsyncDatabaseTestCase):
        schema = Base
        app_engines = [engine]

        @classmethod
        def setUpTestData(cls, session):
            session.add(Customer(name="Ada"))

        async def asyncTearDown(self):
            await self.assertRowExists(Customer, name="Ada")
"""
PASSING = """
        async def test_1_twice(self):
            async with engine.begin() as connection:
                await connection.execute(insert(Customer).values(name="Bea"))
                await asyncio.gather(add("Cleo"))  # alone, two would meet or not, as it happens
            await self.assertRowCount(Customer, 3)

        async def test_2(self):
            await self.assertRowCount(Customer, 1)
"""
FAILING = """
        async def test_1_fails(self):
            self.session.add(Customer(name="Bea"))
            await self.session.flush()
            self.fail("on purpose")

        async def test_2_fails_in_a_subtest(self):
            with self.subTest("a subtest"):
                await add("Cleo")
                self.session.add(Customer(name="Dora"))
                await self.session.flush()
                self.fail("on purpose")

        async def test_3_starts_clean(self):
            await self.assertRowCount(Customer, 1)
"""
KEPT = r"(test_\d\w*): python -m dbtestcase start --psql --kept (\S+)"


def run(driver, tests, *command, **environment):
    """Run a module of tests with a command; return what it printed and its exit code."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "test_shop.py").write_text(textwrap.dedent(SHOP + tests).replace("DRIVER", driver))
        done = subprocess.run(
            [sys.executable, *command],
            cwd=folder, env={**os.environ, "PYTHONPATH": str(ROOT), **environment}, capture_output=True, text=True,
        )  # fmt: skip
        return done.stdout + done.stderr, done.returncode


class RunnerTests(unittest.TestCase):
    @once
    def test_pytest_runs_the_same_classes(self):
        for driver in DRIVERS:
            with self.subTest(driver=driver):
                printed, code = run(driver, PASSING, "-m", "pytest", "-W", "error", "-p", "no:cacheprovider")

                self.assertEqual(code, 0, printed)
                self.assertIn("2 passed", printed)
                self.assertIn("ran twice: ShopTests.test_1_twice", printed)

    @once
    def test_the_mark_of_anyio_on_a_module_changes_nothing_for_its_classes(self):
        marked = """
    import pytest
    pytestmark = pytest.mark.anyio

    async def test_a_function():
        assert asyncio.get_running_loop()
"""
        printed, code = run(DRIVERS[0], PASSING + marked, "-m", "pytest", "-v", "-p", "no:cacheprovider")

        self.assertEqual(code, 0, printed)
        self.assertIn("test_shop.py::ShopTests::test_1_twice PASSED", printed)
        self.assertRegex(printed, r"test_a_function\[asyncio\S*\] (PASSED|SKIPPED)")
        self.assertIn("ran twice: ShopTests.test_1_twice", printed)

    @once
    @of_throwaway_servers
    def test_the_database_of_a_failed_test_is_kept_with_what_it_had_written(self):
        for driver in DRIVERS:
            with self.subTest(driver=driver), tempfile.TemporaryDirectory() as cache:
                own = {"XDG_CACHE_HOME": cache, "DBTESTCASE_KEEP": "failed"}
                printed, code = run(driver, FAILING, "-m", "unittest", **own)
                kept = re.findall(rf"{KEPT}(?: --database (\S+))?\n", printed)

                self.assertEqual(code, 1, printed)
                self.assertIn("FAILED (failures=2", printed)
                self.assertEqual([test for test, _, _ in kept], ["test_1_fails", "test_2_fails_in_a_subtest"], printed)
                expected = {"test_1_fails": "Ada Bea", "test_2_fails_in_a_subtest": "Ada Cleo Dora"}
                for test, name, database in kept:
                    self.assertEqual(self.names_in(name, database, own), expected[test])

    def names_in(self, kept, database, environment):
        """Read the customers of a database that was kept."""
        where = ["--database", database] if database else []
        query = "SELECT string_agg(name, ' ' ORDER BY name) FROM customer"
        done = subprocess.run(
            [sys.executable, "-m", "dbtestcase", "start", "--psql", "--kept", kept, *where],
            cwd=ROOT, env={**os.environ, **environment}, input=query + ";\n", capture_output=True, text=True,
        )  # fmt: skip
        return done.stdout.splitlines()[2].strip()

    @once
    def test_without_a_driver_the_package_says_what_to_install(self):
        script = """
            import importlib.util, sys
            found = importlib.util.find_spec
            importlib.util.find_spec = lambda name, *rest: None if name in MISSING else found(name, *rest)
            try:
                import dbtestcase.aio
            except ModuleNotFoundError as error:
                print(error)
            import dbtestcase
            dbtestcase.DatabaseTestCase
        """
        for missing, is_enough in (
            (["asyncpg", "psycopg"], False),
            (["greenlet"], False),
            (["asyncpg"], True),
            (["psycopg"], True),
        ):
            with self.subTest(missing=missing):
                done = subprocess.run(
                    [sys.executable, "-c", textwrap.dedent(script).replace("MISSING", repr(missing))],
                    cwd=ROOT, capture_output=True, text=True, check=True,
                )  # fmt: skip

                self.assertEqual("pip install 'dbtestcase[asyncio]'" in done.stdout, not is_enough, done.stdout)

    def test_the_class_s_own_engine_uses_the_driver_of_the_code_under_test(self):
        for driver in DRIVERS:

            class Shop(AsyncDatabaseTestCase):
                schema = Base
                app_engines = [engine_of(driver)]

                async def test_it(self):
                    self.assertEqual(self.engine.dialect.driver, driver)
                    self.assertEqual(self.url.drivername, f"postgresql+{driver}")

            self.assertEqual(problems(run_case(Shop)), [])
