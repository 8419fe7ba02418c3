"""FlaskLiveServerTestCase: the application is served over HTTP while the tests of a class run."""

from __future__ import annotations

import http.client
import json
import socket
import threading
import unittest
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from time import monotonic
from unittest import mock
from urllib.parse import urlsplit

from flask import Response
from sqlalchemy import select, text

from dbtestcase.flask import FlaskLiveServerTestCase, running_live
from tests.flask.shop import Customer, create_app, db
from tests.support import problems, recorded_warnings, run_case


def get(url: str) -> str:
    with urllib.request.urlopen(url, timeout=30) as response:
        return response.read().decode()


def post(url: str, body: object = None) -> int:
    request = urllib.request.Request(url, json.dumps(body).encode(), {"Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=30) as response:
            return response.status
    except urllib.error.HTTPError as error:
        with error:
            return error.code


class LiveShopTestCase(FlaskLiveServerTestCase):
    db = db

    @classmethod
    def create_app(cls):
        return create_app()

    def connection(self) -> http.client.HTTPConnection:
        address = urlsplit(self.live_server_url)
        return http.client.HTTPConnection(address.hostname, address.port, timeout=30)


class LiveServerTests(unittest.TestCase):
    def runs(self, *cases):
        """Run classes; return the texts of their failures and of the warnings."""
        with recorded_warnings() as caught:
            result = run_case(*cases)
        return problems(result), [str(each.message) for each in caught]

    def passes(self, *cases):
        self.assertEqual(self.runs(*cases), ([], []))

    def test_test_and_browser_see_each_others_commits_and_the_next_test_sees_none(self):
        class Shop(LiveShopTestCase):
            def test_1(self):
                self.assertRegex(self.live_server_url, r"\Ahttp://127\.0\.0\.1:\d+\Z")
                self.assertEqual(get(f"{self.live_server_url}/customers"), '{"names":[]}\n')
                db.session.add(Customer(name="Ada"))
                db.session.commit()
                self.assertEqual(get(f"{self.live_server_url}/customers"), '{"names":["Ada"]}\n')
                self.assertEqual(post(f"{self.live_server_url}/customers", {"name": "Grace"}), 201)
                self.assertEqual(post(f"{self.live_server_url}/customers", {"name": "Grace"}), 409)
                self.assertEqual(db.session.scalars(select(Customer.name)).all(), ["Ada", "Grace"])

            test_2 = test_1

        self.passes(Shop)

    def test_what_is_not_committed_is_not_seen_by_a_request(self):
        class Shop(LiveShopTestCase):
            def test_1(self):
                db.session.add(Customer(name="Ada"))
                db.session.flush()
                self.assertEqual(get(f"{self.live_server_url}/customers"), '{"names":[]}\n')

        self.passes(Shop)

    def test_it_answers_while_the_class_is_set_up_and_every_test_sees_what_it_did_then(self):
        class Shop(LiveShopTestCase):
            @classmethod
            def setUpTestData(cls, session):
                post(f"{cls.live_server_url}/customers", {"name": "Ada"})

            @classmethod
            def setUpClass(cls):
                super().setUpClass()
                post(f"{cls.live_server_url}/customers", {"name": "Edith"})

            def test_1(self):
                self.assertEqual(get(f"{self.live_server_url}/customers"), '{"names":["Ada","Edith"]}\n')
                post(f"{self.live_server_url}/customers", {"name": "Grace"})

            test_2 = test_1

        self.passes(Shop)

    def test_an_application_of_each_test_is_served(self):
        class Made(LiveShopTestCase):
            def create_app(self):
                return create_app()

            def test_1(self):
                self.app.add_url_rule("/mine", view_func=lambda: self.id())
                self.assertEqual(get(f"{self.live_server_url}/mine"), self.id())

            test_2 = test_1

        class MadeInSetUp(Made):
            @classmethod
            def create_app(cls):
                return None

            def setUp(self):
                self.app = create_app()

        self.passes(Made, MadeInSetUp)

    def test_without_an_application_it_says_what_to_define(self):
        class Shop(FlaskLiveServerTestCase):
            def test_1(self):
                with self.assertRaises(urllib.error.HTTPError) as caught:
                    get(self.live_server_url)
                with caught.exception as answer:
                    self.assertRegex(answer.read().decode(), "Shop has no application to serve: return it from create")

        self.passes(Shop)

    def test_many_requests_at_once_each_have_a_thread_and_a_session(self):
        together = threading.Barrier(5, timeout=30)

        class Shop(LiveShopTestCase):
            @classmethod
            def create_app(cls):
                app = create_app()

                @app.post("/together/<name>")
                def add(name):
                    db.session.add(Customer(name=name))
                    together.wait()
                    db.session.commit()
                    return {}

                return app

            def test_1(self):
                with ThreadPoolExecutor(5) as pool:
                    urls = [f"{self.live_server_url}/together/{number}" for number in range(5)]
                    self.assertEqual(list(pool.map(post, urls)), [200] * 5)
                self.assertRowCount(Customer, 5)

            test_2 = test_1

        self.passes(Shop)

    def test_a_client_may_keep_its_connection_object_over_requests_and_tests(self):
        class Shop(LiveShopTestCase):
            @classmethod
            def setUpClass(cls):
                super().setUpClass()
                cls.kept = cls.connection(cls)
                cls.addClassCleanup(cls.kept.close)

            def test_1(self):
                for _ in range(2):
                    self.kept.request("GET", "/customers", headers={"Connection": "keep-alive"})
                    self.assertEqual(self.kept.getresponse().read(), b'{"names":[]}\n')

            test_2 = test_1

        self.passes(Shop)

    def test_a_connection_that_sends_nothing_keeps_no_test_waiting(self):
        class Shop(LiveShopTestCase):
            def test_1(self):
                address = urlsplit(self.live_server_url)
                opened_ahead = socket.create_connection((address.hostname, address.port))
                Shop.addClassCleanup(opened_ahead.close)
                get(f"{self.live_server_url}/customers")

            test_2 = test_1

        begun = monotonic()
        with mock.patch.object(running_live, "_BOUND", 60):  # more than the whole class needs on the busiest machine
            self.passes(Shop)
        self.assertLess(monotonic() - begun, 60)

    def test_a_request_that_nobody_waits_for_is_answered_before_its_test_is_undone(self):
        statuses = []

        class Shop(LiveShopTestCase):
            def test_1(self):
                has_begun = threading.Event()

                @self.app.post("/slow")
                def slow():
                    has_begun.set()
                    db.session.execute(text("SELECT pg_sleep(0.2)"))
                    db.session.add(Customer(name="slow"))
                    db.session.commit()
                    return {}

                url = f"{self.live_server_url}/slow"
                browser = threading.Thread(target=lambda: statuses.append(post(url)))
                self.addClassCleanup(browser.join)
                browser.start()
                self.assertTrue(has_begun.wait(30))

            def test_2(self):
                self.assertRowAbsent(Customer)

        texts, _ = self.runs(Shop)

        self.assertEqual(texts, [])
        self.assertEqual(statuses, [200])

    def test_a_request_that_hangs_is_named_and_the_next_test_and_the_end_of_the_class_go_on(self):
        end, outcome = threading.Event(), []
        self.addCleanup(end.set)

        class Shop(LiveShopTestCase):
            def test_1(self):
                has_begun = threading.Event()

                @self.app.get("/hang")
                def hang():
                    db.session.scalar(text("SELECT 1"))
                    has_begun.set()
                    end.wait(600)
                    try:
                        db.session.execute(text("SELECT 1"))
                    except Exception as error:
                        outcome.append(error)
                    outcome.append("ended")
                    return {}

                address = urlsplit(self.live_server_url)
                browser = socket.create_connection((address.hostname, address.port))
                self.addClassCleanup(browser.close)
                browser.sendall(b"GET /hang HTTP/1.0\r\n\r\n")
                self.assertTrue(has_begun.wait(30))

            def test_2(self):
                self.assertEqual(get(f"{self.live_server_url}/customers"), '{"names":[]}\n')

        begun = monotonic()
        with mock.patch.object(running_live, "_BOUND", 0.2):
            texts, warned = self.runs(Shop)
        seconds = monotonic() - begun

        self.assertEqual(texts, [])
        self.assertRegex("\n".join(warned), r"still answering GET /hang \(it is at .*test_live_server.py:\d+ in hang\)")
        self.assertRegex("\n".join(warned), r"the thread that answers GET /hang .* has not")
        self.assertLess(seconds, 500)  # the view waits for 600
        threads = [each for each in threading.enumerate() if each.name == "request to the live server"]
        end.set()
        for each in threads:
            each.join(30)
        self.assertIsInstance(outcome[0], Exception)  # its test is over, so what it sends is refused
        self.assertEqual(outcome[-1], "ended")

    def test_a_browser_that_goes_on_between_the_tests_is_told_so(self):
        statuses = []

        class Shop(LiveShopTestCase):
            @classmethod
            def tearDownClass(cls):
                statuses.append(post(f"{cls.live_server_url}/customers", {"name": "Ada"}))
                super().tearDownClass()

            def test_1(self):
                pass

        self.passes(Shop)
        self.assertEqual(statuses, [503])

    def test_nothing_listens_after_the_class_also_when_set_up_class_raises(self):
        urls = []

        class Shop(LiveShopTestCase):
            def test_1(self):
                urls.append(self.live_server_url)

        class Failing(LiveShopTestCase):
            @classmethod
            def setUpClass(cls):
                super().setUpClass()
                urls.append(cls.live_server_url)
                raise LookupError("of set-up")

            def test_1(self):
                self.fail("not reached")

        before = set(threading.enumerate())
        texts, warned = self.runs(Shop, Failing)

        self.assertEqual((len(texts), warned), (1, []))
        self.assertEqual([each for each in threading.enumerate() if each not in before and "live" in each.name], [])
        self.assertEqual(len(urls), 2)
        for url in urls:
            with self.assertRaisesRegex(urllib.error.URLError, "refused"):
                get(url)
        self.assertNotIn("live_server_url", vars(Shop))


class ErrorsInRequestsTests(unittest.TestCase):
    def failure_of(self, test, *, testing=False):
        class Shop(LiveShopTestCase):
            @classmethod
            def create_app(cls):
                app = create_app()
                app.testing = testing
                app.logger.disabled = True
                return app

            def test_0_fails_without_a_request(self):
                self.fail("for a reason of its own")

        Shop.test_1 = test
        result = run_case(Shop)
        texts = {each.id().rpartition(".")[2]: text for each, text in result.failures + result.errors}
        self.assertNotIn("live server", texts["test_0_fails_without_a_request"])
        return texts.get("test_1")

    def test_what_a_view_raised_is_shown_with_the_test_that_fails(self):
        def test(self):
            self.assertEqual(post(f"{self.live_server_url}/fail"), 200)

        for testing in (False, True):
            with self.subTest(testing=testing):
                failure = self.failure_of(test, testing=testing)

                self.assertRegex(failure, "(?s)500 != 200.*while the test was running: POST /fail ended in an error")
                self.assertRegex(failure, r'shop.py", line \d+, in fail\n.*\n.*LookupError: a fault of the view')
                self.assertEqual(failure.count("ended in an error"), 1)
                self.assertNotIn("full_dispatch_request", failure)

    def test_values_of_hidden_columns_and_of_queries_are_not_shown(self):
        value = "s3cr" + "3t"  # in this way it is in no line of code that a traceback shows

        def test(self):
            def refused():
                db.session.execute(text("SELECT CAST(:it AS integer) AS password"), {"it": value})

            self.app.add_url_rule("/reset", view_func=refused, methods=["POST"])
            self.assertEqual(post(f"{self.live_server_url}/reset?token={value}"), 200)

        failure = self.failure_of(test)

        self.assertIn("POST /reset ended in an error", failure)
        self.assertIn("invalid input syntax for type integer: (hidden)", failure)
        self.assertNotIn(value, failure)

    def test_what_is_raised_outside_of_views_is_shown_as_well(self):
        def in_a_body(self):
            self.app.add_url_rule("/body", view_func=lambda: Response(1 / 0 for _ in range(2)))
            with self.assertRaises(Exception):  # noqa: B017
                get(f"{self.live_server_url}/body")
            self.fail("after it")

        def in_a_wrapper(self):
            application = self.app.wsgi_app
            self.app.wsgi_app = lambda environ, start: application(1 / 0, start)
            self.addCleanup(vars(self.app).pop, "wsgi_app")
            self.assertEqual(post(f"{self.live_server_url}/customers"), 200)

        for test in (in_a_body, in_a_wrapper):
            with self.subTest(test.__name__):
                self.assertRegex(self.failure_of(test), r"(?s)ended in an error:.*ZeroDivisionError")

    def test_a_test_that_expects_an_error_page_passes(self):
        def test(self):
            self.assertEqual(post(f"{self.live_server_url}/fail"), 500)

        self.assertIsNone(self.failure_of(test))


if __name__ == "__main__":
    unittest.main()
