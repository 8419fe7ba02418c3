"""Asynchronous test cases on a server that is there already, which asyncpg reaches without libpq."""

from __future__ import annotations

import asyncio
import shutil
import unittest
from contextlib import closing
from typing import Any

import psycopg2
from sqlalchemy import make_url, text
from sqlalchemy.exc import ProgrammingError

from dbtestcase import ExistingPostgres, errors, isolate
from dbtestcase.aio import AsyncDatabaseTestCase
from dbtestcase.schema.redirect import Redirection
from dbtestcase.servers.existing import server, start_existing
from tests.aio.support import DRIVERS, engine_of, names
from tests.servers.plain_server import PlainServer, shared_server
from tests.support import Base, Customer, once, problems, run_case
from tests.test_app_role import COUNT, invoices


@once
class ExistingServerTests(unittest.TestCase):
    plain: PlainServer

    @classmethod
    def setUpClass(cls) -> None:
        cls.plain = shared_server()
        for role in ("shop_app", '"Shop\'s app"'):
            cls.plain.execute(f"CREATE ROLE {role}; GRANT {role} TO tester")

    def setUp(self) -> None:
        self.addCleanup(server.drop_everything)

    def test_the_application_s_role_is_bound_by_policies_and_grants(self) -> None:
        url = self.plain.url()
        for driver in DRIVERS:
            engine = engine_of(driver)

            class Invoices(AsyncDatabaseTestCase):
                schema = staticmethod(invoices)
                app_engines = [engine]
                app_role = "shop_app"
                postgres = ExistingPostgres(url)

                async def test_a_tenant_sees_its_own(self, engine: Any = engine) -> None:
                    async with engine.begin() as connection:
                        await connection.execute(text("SELECT set_config('app.tenant', '1', true)"))
                        self.assertEqual(await connection.scalar(COUNT), 1)
                        self.assertEqual(await connection.scalar(text("SELECT current_user")), "shop_app")

                async def test_what_is_not_granted_is_refused(self, engine: Any = engine) -> None:
                    async with engine.begin() as connection:
                        with self.assertRaisesRegex(ProgrammingError, "permission denied"):
                            await connection.execute(text("DELETE FROM invoice"))

                async def test_the_session_of_the_class_is_the_owner_s(self) -> None:
                    self.assertEqual(await self.session.scalar(COUNT), 2)

            for isolation in ("auto", "clone"):
                with self.subTest(driver=driver, isolation=isolation):
                    Invoices.isolation = isolation  # type: ignore[assignment]
                    self.assertEqual(problems(run_case(Invoices)), [])

    def test_options_of_the_address_go_along_beside_a_role_whose_name_has_to_be_quoted(self) -> None:
        options = "application_name=ci%20run&sslmode=disable&connect_timeout=9&keepalives=1&options=-c%20work_mem%3D2MB"
        url = f"{self.plain.url()}?{options}"
        for driver in DRIVERS:
            engine = engine_of(driver)

            class Shop(AsyncDatabaseTestCase):
                schema = Base
                app_engines = [engine]
                app_role = "Shop's app"
                postgres = ExistingPostgres(url)

                async def test_1(self, engine: Any = engine) -> None:
                    async with engine.begin() as connection:
                        expected = {"application_name": "ci run", "work_mem": "2MB", "role": self.app_role}
                        for name, value in expected.items():
                            self.assertEqual(await connection.scalar(text(f"SHOW {name}")), value)
                        await connection.execute(Customer.__table__.insert(), {"name": "Ada"})  # type: ignore[attr-defined]
                    self.assertEqual(await names(self.engine), ["Ada"])

                test_2 = test_1

            with self.subTest(driver=driver):
                self.assertEqual(problems(run_case(Shop)), [])

    @unittest.skipUnless(shutil.which("openssl"), "makes a certificate with openssl")
    def test_tls_with_a_checked_certificate_is_used_by_every_driver(self) -> None:
        settings = self.plain.make_certificate()
        url = f"{self.plain.url()}?sslmode=verify-full&sslrootcert={settings['ssl_cert_file']}"
        is_secret = text("SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()")
        with self.plain.restarted_with(**settings):
            for driver in DRIVERS:
                engine = engine_of(driver)

                class Shop(AsyncDatabaseTestCase):
                    app_engines = [engine]
                    postgres = ExistingPostgres(url)

                    @isolate("clone")
                    async def test(self, engine: Any = engine) -> None:
                        async with engine.connect() as connection:
                            self.assertTrue(await connection.scalar(is_secret))
                        with closing(psycopg2.connect(self.external_url)) as own, own.cursor() as cursor:
                            cursor.execute(is_secret.text)
                            self.assertEqual(cursor.fetchone(), (True,))

                with self.subTest(driver=driver):
                    self.assertEqual(problems(run_case(Shop)), [])
            wrong = ExistingPostgres(url.replace("127.0.0.1", "localhost"))
            with self.assertRaisesRegex(errors.PostgresNotReady, "does not match host name"):
                start_existing(wrong)
            server.drop_everything()

    def test_engines_of_migrations_are_led_there_too(self) -> None:
        url = make_url(f"{self.plain.url()}?application_name=ci%20run&sslmode=disable")

        async def where(driver: str) -> tuple[Any, ...]:
            engine = engine_of(driver)
            async with engine.connect() as connection:
                found = await connection.execute(text("SELECT current_database(), current_setting('application_name')"))
                row = found.one()
            await engine.dispose()
            return tuple(row)

        for driver in DRIVERS:
            with self.subTest(driver=driver), Redirection(url, "ShopTests.schema"):
                self.assertEqual(asyncio.run(where(driver)), ("ci", "ci run"))


if __name__ == "__main__":
    unittest.main()
