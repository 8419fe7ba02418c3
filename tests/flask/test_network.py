"""What goes over the network: nothing to the configured server, and requests of a browser if a test serves them."""

from __future__ import annotations

import http.cookiejar
import socket
import threading
import unittest
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager

from flask import Flask
from flask_sqlalchemy import SQLAlchemy
from sqlalchemy import func, make_url, select
from sqlalchemy.orm import DeclarativeBase
from werkzeug.serving import WSGIRequestHandler, make_server

from dbtestcase.flask import FlaskDatabaseTestCase
from tests.flask import shop
from tests.flask.shop import Customer, ShopTestCase, create_app
from tests.support import once, problems, recorded_warnings, run_case


class ListeningServer:
    """Stands for the server of the configured URL and counts who connects."""

    def __init__(self) -> None:
        self.connections = 0
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self._thread = threading.Thread(target=self._count)
        self._thread.start()

    def _count(self) -> None:
        while True:
            connection, _ = self._listener.accept()
            with connection:
                if connection.recv(4) == b"stop":
                    return
            self.connections += 1

    def stop(self) -> None:
        with socket.create_connection(("127.0.0.1", self.port)) as connection:
            connection.sendall(b"stop")
        self._thread.join()
        self._listener.close()


def application(url: str) -> Flask:
    app = Flask("notes")
    app.config.update(
        SQLALCHEMY_DATABASE_URI=url,
        SQLALCHEMY_BINDS={"audit": f"{url}_audit"},
        SQLALCHEMY_ENGINE_OPTIONS={"pool_pre_ping": True, "connect_args": {"connect_timeout": 2}},
    )
    SQLAlchemy(app, model_class=type("Own", (DeclarativeBase,), {}))
    return app


class ConfiguredServerTests(unittest.TestCase):
    @once
    def test_not_one_connection_is_made_to_it_however_the_application_is_made(self):
        server = ListeningServer()
        self.addCleanup(server.stop)
        for driver in ("psycopg2", "psycopg"):
            url = f"postgresql+{driver}://shop:secret@127.0.0.1:{server.port}/shop"
            for case in self.ways_of_making_it(url):
                with self.subTest(case.__name__, driver=driver):
                    self.assertEqual(problems(run_case(case)), [])

        self.assertEqual(server.connections, 0)

    def ways_of_making_it(self, url: str) -> Iterator[type[FlaskDatabaseTestCase]]:
        class Work(FlaskDatabaseTestCase):
            def test_1(self):
                extension = self.app.extensions["sqlalchemy"]
                extension.create_all()
                for engine in extension.engines.values():
                    with engine.connect() as connection:
                        self.assertNotEqual(connection.scalar(select(func.inet_server_port())), make_url(url).port)
                extension.session.scalar(select(1))
                self.client.get("/nowhere")
                self.app.test_cli_runner().invoke(args=["routes"])
                extension.drop_all()

            test_2 = test_1

        class OncePerClass(Work):
            @classmethod
            def create_app(cls):
                return application(url)

        class ForEachTest(Work):
            def create_app(self):
                return application(url)

        class InSetUp(Work):
            def setUp(self):
                self.app = application(url)
                self.enterContext(self.app.app_context())

        class InSetUpClass(Work):
            @classmethod
            def setUpClass(cls):
                super().setUpClass()
                cls.app = application(url)

        class BeforeTheClass(Work):
            app = application(url)

        yield from (OncePerClass, ForEachTest, InSetUp, InSetUpClass, BeforeTheClass)


class Browser:
    """Speaks HTTP and keeps cookies, as a browser that Selenium drives."""

    def __init__(self, port: int) -> None:
        cookies = urllib.request.HTTPCookieProcessor(http.cookiejar.CookieJar())
        self._opener = urllib.request.build_opener(cookies)
        self._address = f"http://127.0.0.1:{port}"

    def get(self, path: str) -> str:
        with self._opener.open(self._address + path, timeout=30) as response:
            return response.read().decode()

    def post(self, path: str) -> str:
        with self._opener.open(self._address + path, data=b"", timeout=30) as response:
            return response.read().decode()


class Silent(WSGIRequestHandler):
    def log(self, *args: object) -> None:
        """Write nothing about requests."""


@contextmanager
def served(app: Flask) -> Iterator[Browser]:
    server = make_server("127.0.0.1", 0, app, threaded=True, request_handler=Silent)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield Browser(server.server_port)
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


class ServedApplicationTests(unittest.TestCase):
    def test_a_browser_sees_what_the_test_committed_and_the_other_way_round(self):
        class Shop(ShopTestCase):
            def test_1(self):
                shop.db.session.add(ada := Customer(name="Ada"))
                shop.db.session.commit()
                with served(self.app) as browser:
                    self.assertEqual(browser.get("/customers"), '{"names":["Ada"]}\n')
                    browser.post("/login")
                    self.assertIn('"user":"ada"', browser.get("/context"))
                    browser.post(f"/delete/{ada.id}")
                    self.assertEqual(shop.db.session.scalars(select(Customer)).all(), [])

            test_2 = test_1

        self.assertEqual(problems(run_case(Shop)), [])

    def test_a_server_that_runs_for_the_whole_class_serves_each_test_and_is_no_leftover_of_one(self):
        class Shop(FlaskDatabaseTestCase):
            @classmethod
            def setUpClass(cls):
                super().setUpClass()
                cls.app = create_app()
                with cls.app.app_context():
                    shop.db.create_all()
                    shop.db.session.add(Customer(name="of the class"))
                    shop.db.session.commit()
                cls.browser = cls.enterClassContext(served(cls.app))

            def test_1(self):
                self.assertEqual(self.browser.get("/customers"), '{"names":["of the class"]}\n')
                shop.db.session.add(Customer(name="of the test"))
                shop.db.session.commit()
                self.assertEqual(self.browser.get("/customers"), '{"names":["of the class","of the test"]}\n')

            test_2 = test_1

        with recorded_warnings() as caught:
            result = run_case(Shop)

        self.assertEqual(problems(result), [])
        self.assertEqual([str(each.message) for each in caught], [])


if __name__ == "__main__":
    unittest.main()
