"""A class whose code connects elsewhere is told: which engine, made where, and what can be done about it there."""

from __future__ import annotations

import multiprocessing
import sys
import tempfile
import textwrap
import threading
import unittest
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path
from unittest import mock

from sqlalchemy import create_engine, text
from sqlalchemy.pool import NullPool

import dbtestcase
from dbtestcase import DatabaseTestCase, ThrowawayPostgres, errors
from dbtestcase.servers import running_instance
from tests.support import Base, Customer, of_throwaway_servers, once, problems, run_case


class ShopTestCase(DatabaseTestCase):
    schema = Base


class NotUsedTests(unittest.TestCase):
    def setUp(self):
        self.folder = Path(self.enterContext(tempfile.TemporaryDirectory()))
        self.url = f"sqlite:///{self.folder}/developer.sqlite"

    def test_a_file_used_in_place_of_the_class_s_database_is_an_error_of_the_class(self):
        url = self.url

        class Shop(ShopTestCase):
            def test_it(self):
                with create_engine(url).begin() as connection:
                    connection.execute(text("CREATE TABLE customer (id integer)"))

        result = run_case(Shop)

        self.assertEqual(len(result.errors), 1)
        for words in (
            "nobody used the class's database", "developer.sqlite", "engine made at", "test_other_databases",
            "Shop.app_engines", "redirect_engine", "dbtestcase.URL", "allow_other_databases = True",
        ):  # fmt: skip
            self.assertIn(words, problems(result)[0])

    def test_so_is_one_that_was_connected_before_the_class(self):
        engine = create_engine(self.url)
        self.addCleanup(engine.dispose)
        with engine.connect() as connection:
            connection.execute(text("SELECT 1"))

        class Shop(ShopTestCase):
            def test_it(self):
                with engine.connect() as connection:
                    connection.execute(text("SELECT 1"))

        self.assertIn("nobody used the class's database", problems(run_case(Shop))[0])

    @of_throwaway_servers
    def test_one_that_is_being_opened_when_the_class_begins_was_not_there_before(self):
        # As our own are that prepare the template of a class which comes later.
        opens, has_begun, found = threading.Event(), threading.Event(), []
        with running_instance(ThrowawayPostgres()) as other:

            def connect():
                opens.set()
                has_begun.wait()
                return other.connect()

            engine = create_engine("postgresql+psycopg2://", poolclass=NullPool, creator=connect)

            def work():
                try:
                    with engine.connect() as connection:
                        found.append(connection.scalar(text("SELECT 1")))
                except Exception as error:
                    found.append(error)

            thread = threading.Thread(target=work)
            thread.start()
            opens.wait()

            class Shop(ShopTestCase):
                def test_it(self):
                    self.assertRowCount(Customer, 0)
                    has_begun.set()
                    thread.join()

            self.assertEqual(problems(run_case(Shop)), [])

        self.assertEqual(found, [1])

    def test_a_class_that_uses_its_own_database_as_well_may_use_files(self):
        url = self.url

        class Shop(ShopTestCase):
            def test_1(self):
                create_engine(url).connect().close()

            def test_2(self):
                self.assertRowCount(Customer, 0)

        class Given(ShopTestCase):
            @classmethod
            def setUpTestData(cls, session):
                session.add(Customer(name="Ada"))

            def test_1(self):
                create_engine(url).connect().close()

        class Asking(ShopTestCase):
            def test_1(self):
                create_engine(url).connect().close()
                self.assertTrue(self.external_url)

        self.assertEqual(problems(run_case(Shop, Given, Asking)), [])

    def test_one_that_says_so_may_use_files_only(self):
        url = self.url

        class Shop(ShopTestCase):
            allow_other_databases = True

            def test_it(self):
                create_engine(url).connect().close()

        class Listed(Shop):
            allow_other_databases = [url]

        self.assertEqual(problems(run_case(Shop, Listed)), [])

    def test_the_file_of_a_redirected_engine_is_refused_to_other_engines(self):
        app_engine = create_engine(self.url)
        url = self.url

        class Shop(ShopTestCase):
            app_engines = [app_engine]

            def test_it(self):
                with app_engine.begin() as connection:
                    connection.execute(text("INSERT INTO customer (name) VALUES ('Ada')"))
                create_engine(url).connect()

        result = run_case(Shop)

        self.assertEqual(len(result.errors), 1)
        for words in ("UndeclaredDatabase", "URL of a redirected engine", "engine was made at"):
            self.assertIn(words, problems(result)[0])
        self.assertEqual(list(self.folder.iterdir()), [])


class AfterClassTests(unittest.TestCase):
    """The configured server is connected to by nothing that a class has begun, also when the class has ended."""

    def setUp(self):
        folder = Path(self.enterContext(tempfile.TemporaryDirectory()))
        self.engine = create_engine(f"sqlite:///{folder / 'production.sqlite'}")
        self.addCleanup(self.engine.dispose)

    def write(self):
        with self.engine.begin() as connection:
            connection.execute(text("INSERT INTO customer (name) VALUES ('Ada')"))

    def test_a_thread_that_goes_on_gets_no_connection(self):
        has_ended, errors = threading.Event(), []

        def work():
            has_ended.wait()
            try:
                self.engine.connect()
            except Exception as error:
                errors.append(str(error))

        write = self.write
        thread = threading.Thread(target=work, name="mailer")

        class Shop(ShopTestCase):
            app_engines = [self.engine]

            def test_it(self):
                write()
                thread.start()

        result = run_case(Shop)
        has_ended.set()
        thread.join()

        self.assertEqual(problems(result), [])
        self.assertEqual(len(errors), 1)
        for words in ("Shop has ended", "the thread 'mailer'", "test_other_databases.py", "join()"):
            self.assertIn(words, errors[0])

    def test_one_that_waits_for_work_is_anybody_s(self):
        class Shop(ShopTestCase):
            def test_it(self):
                self.assertRowCount(Customer, 0)
                self.pool.submit(list).result()

        with ThreadPoolExecutor() as Shop.pool:
            self.assertEqual(problems(run_case(Shop)), [])
            with Shop.pool.submit(self.engine.connect).result():
                pass

    def test_cleanups_from_before_set_up_still_find_the_class(self):
        write, found = self.write, []

        class Shop(ShopTestCase):
            app_engines = [self.engine]

            @classmethod
            def setUpClass(cls):
                cls.addClassCleanup(lambda: found.append(cls.url.drivername))
                cls.addClassCleanup(write)
                super().setUpClass()

            def test_it(self):
                write()

        self.assertEqual(problems(run_case(Shop)), [])
        self.assertEqual(found, ["postgresql+psycopg2"])


@once
class RemedyTests(unittest.TestCase):
    def told(self, engine_of, **attributes) -> str:
        def test_it(self):
            with self.assertRaises(errors.UndeclaredDatabase) as caught:
                engine_of().connect()
            messages.append(str(caught.exception))

        messages: list[str] = []
        shop = type("Shop", (ShopTestCase,), {"test_it": test_it, **attributes})
        self.assertEqual(problems(run_case(shop)), [])
        return messages[0]

    def module(self, path: Path) -> object:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(
            textwrap.dedent(
                """
                from sqlalchemy import create_engine
                engine = create_engine("postgresql+psycopg2://somebody:secret@127.0.0.1:1/production")
                """
            )
        )
        name = path.stem
        with mock.patch.object(sys, "path", [str(path.parent), *sys.path]):
            self.addCleanup(sys.modules.pop, name, None)
            return __import__(name)

    def test_an_engine_of_a_module_can_be_named(self):
        with tempfile.TemporaryDirectory() as folder:
            module = self.module(Path(folder, "shop_of_remedies.py"))
            told = self.told(lambda: module.engine)

        self.assertRegex(told, r"The engine was made at .*shop_of_remedies.py:3 in <module>")
        self.assertIn("What to do: add the engine to Shop.app_engines. If", told)
        self.assertNotIn("secret", told)

    def test_one_of_a_library_cannot(self):
        with tempfile.TemporaryDirectory() as folder:
            module = self.module(Path(folder, "site-packages", "library_of_remedies.py"))
            told = self.told(lambda: module.engine)

        self.assertIn("dbtestcase.URL", told)
        self.assertIn("cannot be named in Shop.app_engines", told)

    def test_one_that_is_made_in_a_function_can_be_redirected_there(self):
        told = self.told(lambda: create_engine("postgresql+psycopg2://somebody:secret@127.0.0.1:1/production"))

        self.assertIn("cls.redirect_engine(engine)", told)
        self.assertIn("test_other_databases.py", told)


ENGINE = create_engine("postgresql+psycopg2://somebody@127.0.0.1:1/production")


def connects(url: str | None) -> str:
    """Connect with the application's engine, as a worker process does, or to what that process is given."""
    try:
        (ENGINE if url is None else create_engine(url)).connect().close()
    except Exception as error:
        return str(error)
    return "connected"


@once
class OtherProcessTests(unittest.TestCase):
    """Processes of multiprocessing that are not forked have engines of their own."""

    def told(self, method: str, **attributes: object) -> list[str]:
        found: list[str] = []

        class Shop(ShopTestCase):
            app_engines = [ENGINE]
            isolation = "clone"

            def test_it(self) -> None:
                context = multiprocessing.get_context(method)
                with ProcessPoolExecutor(1, mp_context=context) as pool:
                    found.extend(pool.map(connects, [None, self.external_url]))

        for name, value in attributes.items():
            setattr(Shop, name, value)
        self.assertEqual(problems(run_case(Shop)), [])
        return found

    def test_the_application_s_engine_goes_nowhere_there(self) -> None:
        for method in ("spawn", "forkserver"):
            with self.subTest(method):
                own, given = self.told(method)

                self.assertRegex(
                    own, "the database 'production' .*which is not the database of .*Shop. It has not been connected to"
                )
                self.assertIn("Give self.external_url to the process", own)
                self.assertEqual(given, "connected")

    def test_it_goes_where_the_class_allows_it(self) -> None:
        own, _ = self.told("spawn", allow_other_databases=["127.0.0.1"])

        self.assertIn("Connection refused", own)

    def test_after_the_class_processes_are_nobody_s(self) -> None:
        self.told("spawn")

        with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
            self.assertIn("Connection refused", pool.submit(connects, None).result())


class AllowedTests(unittest.TestCase):
    def test_a_list_of_hosts_or_urls(self):
        listed = create_engine("postgresql+psycopg2://somebody@127.0.0.1:1/elsewhere")
        other = create_engine("postgresql+psycopg2://somebody@127.0.0.1:2/elsewhere")
        for allowed, others in (
            (["127.0.0.1"], "Connection refused"),
            (["postgresql://127.0.0.1:1/elsewhere"], "not the database of"),
            (["postgresql://127.0.0.1:1"], "not the database of"),
            (["postgresql://127.0.0.1:1/another", "::1"], None),
        ):
            with self.subTest(allowed):

                def test_it(self, others=others):
                    with self.assertRaisesRegex(Exception, "Connection refused" if others else "not the database of"):
                        listed.connect()
                    with self.assertRaisesRegex(Exception, others or "not the database of"):
                        other.connect()

                shop = type("Shop", (ShopTestCase,), {"allow_other_databases": allowed, "test_it": test_it})

                self.assertEqual(problems(run_case(shop)), [])

    @of_throwaway_servers
    def test_another_database_of_the_class_s_server_is_reached_from_a_copy(self):
        class Shop(ShopTestCase):
            def test_it(self):
                url = self.engine.url.set(database="postgres")
                with create_engine(url).connect() as connection:
                    self.assertEqual(connection.scalar(text("SELECT current_database()")), "postgres")
                self.assertNotEqual(self.engine.url.database, "test")

        self.assertEqual(problems(run_case(Shop)), [])

    def test_engines_made_from_our_url_are_ours(self):
        engine = create_engine(dbtestcase.URL)

        class Shop(ShopTestCase):
            def test_it(self):
                engine.connect().close()

        self.assertEqual(problems(run_case(Shop)), [])


if __name__ == "__main__":
    unittest.main()
