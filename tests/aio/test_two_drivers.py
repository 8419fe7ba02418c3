"""Synchronous and asynchronous engines in one class: each sees what the other has committed."""

from __future__ import annotations

import asyncio
import unittest
import warnings

from flask import Flask
from sqlalchemy import create_engine, insert, select
from sqlalchemy.orm import Session
from sqlalchemy.pool import NullPool

from dbtestcase import DatabaseTestCase
from dbtestcase.aio import AsyncDatabaseTestCase
from dbtestcase.flask import FlaskDatabaseTestCase
from tests.aio.support import DRIVERS, engine_of, names, second_runs
from tests.support import Base, Customer, problems, run_case


def add(engine, name):
    with Session(engine) as session:
        session.add(Customer(name=name))
        session.commit()


async def add_async(engine, name):
    async with engine.begin() as connection:
        await connection.execute(insert(Customer).values(name=name))


class TwoDriversTests(unittest.TestCase):
    def test_tests_that_take_turns_with_drivers_accuse_nobody_of_a_commit(self):
        for driver in DRIVERS:
            engine = engine_of(driver)
            other = create_engine("postgresql+psycopg2://production.invalid/shop")

            class Shop(AsyncDatabaseTestCase):
                schema = Base
                app_engines = [engine, other]

                async def test_1(self):
                    self.assertEqual(await names(engine), [])

                async def test_2(self):
                    add(other, "Ada")

                async def test_3(self):
                    self.assertEqual(await names(engine), [])

                async def test_4(self):
                    add(other, "Ada")

            with self.subTest(driver=driver):
                self.assertEqual(problems(run_case(Shop)), [])

    def test_each_sees_what_the_other_committed_and_the_rest_of_the_class_begins_on_copies(self):
        for driver in DRIVERS:
            for synchronous in ("psycopg2", "psycopg"):
                engine = engine_of(driver)
                other = create_engine(f"postgresql+{synchronous}://production.invalid/shop")

                class Shop(AsyncDatabaseTestCase):
                    schema = Base
                    app_engines = [engine, other]

                    async def test_1_of_one_driver(self):
                        await add_async(engine, "Ada")
                        self.assertEqual(await names(engine), ["Ada"])

                    async def test_2_of_both(self):
                        await add_async(engine, "Ada")
                        await asyncio.to_thread(add, other, "Bea")
                        add(other, "Cleo")
                        self.assertEqual(await names(engine), ["Ada", "Bea", "Cleo"])

                    async def test_3_of_both(self):
                        add(other, "Bea")
                        await add_async(engine, "Ada")
                        with other.connect() as connection:
                            self.assertEqual(connection.scalars(select(Customer.name)).all(), ["Bea", "Ada"])

                with self.subTest(driver=driver, synchronous=synchronous), second_runs() as twice:
                    self.assertEqual(problems(run_case(Shop)), [])
                    self.assertEqual(set(twice), {"test_2_of_both"})
                    self.assertIn("cannot share a connection of", twice["test_2_of_both"])

    def test_a_synchronous_class_takes_asynchronous_engines(self):
        for driver in DRIVERS:
            engine = engine_of(driver, poolclass=NullPool)  # connections of asyncpg cannot be handed from loop to loop

            class Shop(DatabaseTestCase):
                schema = Base
                app_engines = [engine]

                def test_1(self):
                    asyncio.run(add_async(engine, "Ada"))
                    self.assertEqual(asyncio.run(names(engine)), ["Ada"])

                def test_2(self):
                    asyncio.run(add_async(engine, "Ada"))
                    self.assertEqual(self.session.scalars(select(Customer.name)).all(), ["Ada"])

                def test_3(self):
                    self.assertEqual(asyncio.run(names(engine)), [])

            with self.subTest(driver=driver), warnings.catch_warnings():
                warnings.simplefilter("error")
                with second_runs():
                    self.assertEqual(problems(run_case(Shop)), [])

    def test_a_pool_that_hands_connections_from_loop_to_loop_fails_as_it_does_in_production(self):
        engine = engine_of("asyncpg")

        class Shop(DatabaseTestCase):
            schema = Base
            app_engines = [engine]

            def test_1(self):
                for _ in range(2):
                    asyncio.run(names(engine))

            def test_2(self):
                asyncio.run(names(engine))

        with second_runs():
            [text] = problems(run_case(Shop))
        self.assertIn("attached to a different loop", text)
        self.assertIn("in test_1", text)

    def test_asynchronous_views_of_flask_and_its_tests_see_each_others_commits(self):
        for driver in DRIVERS:
            engine = engine_of(driver)
            app = Flask(__name__)

            @app.post("/customers/<name>")
            async def create(name, engine=engine):
                await add_async(engine, name)
                return await names(engine)

            @app.errorhandler(Exception)
            def failed(error):
                return str(error), 500

            class Shop(FlaskDatabaseTestCase):
                schema = Base
                app_engines = [engine]

                @classmethod
                def create_app(cls):
                    return app

                def test_1(self):
                    self.session.add(Customer(name="Ada"))
                    self.session.commit()
                    self.assertEqual(self.client.post("/customers/Bea").json, ["Ada", "Bea"])
                    self.assertRowExists(Customer, name="Bea")

                def test_2(self):
                    self.assertEqual(self.client.post("/customers/Cleo").json, ["Cleo"])

            with self.subTest(driver=driver), second_runs() as twice:
                self.assertEqual(problems(run_case(Shop)), [])
                self.assertEqual(set(twice), {"test_1"})
