"""A request through a test client runs as it does in production."""

from __future__ import annotations

import unittest
from contextvars import ContextVar

import flask
from flask import g, request
from flask.testing import FlaskCliRunner
from sqlalchemy import select
from werkzeug.middleware.dispatcher import DispatcherMiddleware
from werkzeug.middleware.proxy_fix import ProxyFix
from werkzeug.test import Client

from tests.flask.shop import REQUESTS_SHARE, Customer, ShopTestCase, db
from tests.support import problems, run_case


class RequestTests(unittest.TestCase):
    def test_a_request_sees_the_test_s_row_and_the_other_way_round(self):
        class Shop(ShopTestCase):
            def test_1(self):
                db.session.add(Customer(name="Ada"))
                db.session.commit()
                self.assertEqual(self.client.get("/customers").json, {"names": ["Ada"]})
                self.client.post("/customers", json={"name": "Grace"})
                self.assertEqual(
                    db.session.scalars(select(Customer.name).order_by(Customer.name)).all(), ["Ada", "Grace"]
                )

            def test_2(self):
                with self.app.app_context():
                    self.assertEqual(self.client.get("/customers").json, {"names": []})

        self.assertEqual(problems(run_case(Shop)), [])

    def test_what_one_request_committed_survives_the_rollback_of_the_next(self):
        class Shop(ShopTestCase):
            def test_1(self):
                self.assertEqual(self.client.post("/customers", json={"name": "Ada"}).status_code, 201)
                self.assertEqual(self.client.post("/customers", json={"name": "Ada"}).status_code, 409)
                self.assertEqual(self.client.get("/customers").json, {"names": ["Ada"]})

            test_2 = test_1

        self.assertEqual(problems(run_case(Shop)), [])

    def test_each_request_has_its_own_g_while_the_test_s_context_is_pushed(self):
        class Shop(ShopTestCase):
            def test_1(self):
                g.seen = True
                self.assertIs(self.client.get("/context").json["seen"], False)
                self.assertIs(self.client.get("/context").json["seen"], False)
                self.assertIs(g.seen, True)

        self.assertEqual(problems(run_case(Shop)), [])

    def test_objects_of_the_test_stay_usable_after_a_request_that_changed_them(self):
        class Shop(ShopTestCase):
            def test_1(self):
                ada = Customer(name="Ada")
                db.session.add(ada)
                db.session.commit()
                self.client.post(f"/rename/{ada.id}", json={"name": "Grace"})
                self.assertEqual(ada.name, "Grace")
                ada.name = "Edith"
                db.session.commit()
                self.assertEqual(self.client.get("/customers").json, {"names": ["Edith"]})

        self.assertEqual(problems(run_case(Shop)), [])

    def test_a_change_of_the_test_that_is_not_flushed_yet_outlives_a_request(self):
        class Shop(ShopTestCase):
            def test_1(self):
                ada = Customer(name="Ada")
                db.session.add(ada)
                db.session.commit()
                ada.name = "Grace"
                self.client.get("/customers")
                self.assertEqual(ada.name, "Grace")

        self.assertEqual(problems(run_case(Shop)), [])

    def test_cookies_persist_between_the_requests_of_a_client(self):
        class Shop(ShopTestCase):
            def test_1(self):
                self.client.post("/login")
                self.assertEqual(self.client.get("/context").json["user"], "ada")

            def test_2(self):
                self.assertIsNone(self.client.get("/context").json["user"])

        self.assertEqual(problems(run_case(Shop)), [])

    def test_a_client_in_a_with_block_keeps_the_request_s_context(self):
        class Shop(ShopTestCase):
            def test_1(self):
                with self.client as client:
                    client.post("/login")
                    self.assertEqual(flask.session["user"], "ada")
                    client.get("/context")
                    self.assertEqual(request.path, "/context")
                self.assertFalse(flask.has_request_context())
                self.assertTrue(flask.has_app_context())

        self.assertEqual(problems(run_case(Shop)), [])

    def test_a_streaming_response_reads_the_test_s_rows(self):
        class Shop(ShopTestCase):
            def test_1(self):
                db.session.add(Customer(name="Ada"))
                db.session.commit()
                self.assertEqual(self.client.get("/stream?first=-").text, "-Ada")

        self.assertEqual(problems(run_case(Shop)), [])

    def test_a_command_has_its_own_session_and_its_commit_is_seen_and_undone(self):
        class Shop(ShopTestCase):
            def test_1(self):
                result = self.app.test_cli_runner().invoke(args=["add"])
                self.assertEqual(result.exit_code, 0, result.output)
                self.assertEqual(db.session.scalars(select(Customer.name)).all(), ["from the command"])

            test_2 = test_1

        self.assertEqual(problems(run_case(Shop)), [])

    def test_a_streamed_body_is_made_in_the_request_s_contexts_and_session(self):
        class Shop(ShopTestCase):
            def test_1(self):
                g.seen = "by the test"
                sessions = []

                @self.app.get("/stream/sessions")
                def stream_sessions():
                    def parts():
                        for number in range(2):
                            sessions.append(db.session())
                            yield f"{number}{g.get('seen', '-')}{request.path}\n"

                    return flask.Response(flask.stream_with_context(parts()))

                response = self.client.get("/stream/sessions")

                self.assertEqual(response.text, "0-/stream/sessions\n1-/stream/sessions\n")
                self.assertNotIn(db.session(), sessions)

        self.assertEqual(problems(run_case(Shop)), [])

    def test_a_streamed_body_that_nobody_reads_leaves_the_session_of_the_test_alone(self):
        class Shop(ShopTestCase):
            def test_1(self):
                ada = Customer(name="Ada")
                db.session.add(ada)
                db.session.commit()

                self.client.get("/stream?first=x")

                self.assertIn(ada, db.session)
                self.assertEqual(ada.name, "Ada")

            test_2 = test_1

        self.assertEqual(problems(run_case(Shop)), [])

    def test_a_streamed_body_read_in_a_with_block(self):
        class Shop(ShopTestCase):
            def test_1(self):
                db.session.add(Customer(name="Ada"))
                db.session.commit()
                with self.client as client:
                    self.assertEqual(client.get("/stream?first=-").text, "-Ada")
                    self.assertEqual(request.args["first"], "-")
                self.assertFalse(flask.has_request_context())

        self.assertEqual(problems(run_case(Shop)), [])

    def test_the_session_of_a_client_can_be_changed_before_a_request(self):
        class Shop(ShopTestCase):
            def test_1(self):
                with self.client.session_transaction() as session:
                    session["user"] = "grace"
                self.assertEqual(self.client.get("/context").json["user"], "grace")

        self.assertEqual(problems(run_case(Shop)), [])

    def test_two_clients_are_two_users_also_when_one_is_in_a_with_block(self):
        class Shop(ShopTestCase):
            def test_1(self):
                other = self.app.test_client()
                with self.client as client:
                    client.post("/login")
                    g.seen = True  # in the context that the client keeps
                    self.assertEqual(other.get("/context").json, {"seen": False, "user": None})
                    self.assertEqual(flask.session["user"], "ada")
                    client.post("/customers", json={"name": "Ada"})
                    self.assertEqual(other.get("/customers").json, {"names": ["Ada"]})

        self.assertEqual(problems(run_case(Shop)), [])

    def test_teardown_functions_run_once_for_each_request(self):
        class Shop(ShopTestCase):
            def test_1(self):
                over = []
                self.app.teardown_appcontext(lambda error: over.append("context"))
                self.app.teardown_request(lambda error: over.append("request"))
                self.client.get("/customers")
                self.assertEqual(over, ["request", "context"])
                self.client.get("/customers")
                self.assertEqual(over, ["request", "context"] * 2)

        self.assertEqual(problems(run_case(Shop)), [])

    def test_an_error_that_leaves_a_view_leaves_no_context_and_no_row(self):
        class Shop(ShopTestCase):
            def test_1(self):
                self.app.testing = True
                with self.assertRaisesRegex(LookupError, "a fault of the view"):
                    self.client.post("/fail")
                self.assertFalse(flask.has_request_context())
                self.assertFalse(hasattr(g, "seen"))
                self.assertEqual(self.client.get("/customers").json, {"names": []})

            def test_2(self):
                self.app.testing = False
                self.app.logger.disabled = True
                self.assertEqual(self.client.post("/fail").status_code, 500)
                self.assertEqual(self.client.get("/customers").json, {"names": []})

        self.assertEqual(problems(run_case(Shop)), [])
        self.assertFalse(flask.has_app_context())

    def test_a_request_that_the_code_under_test_makes_of_itself_is_left_to_flask(self):
        class Shop(ShopTestCase):
            def test_1(self):
                @self.app.get("/inner")
                def inner():
                    return {"marked": g.get("marked", False), "request": request.path}

                @self.app.get("/outer")
                def outer():
                    g.marked = True
                    return self.app.test_client().get("/inner").json

                self.assertEqual(self.client.get("/outer").json, {"marked": REQUESTS_SHARE, "request": "/inner"})

        self.assertEqual(problems(run_case(Shop)), [])

    def test_an_async_view_has_its_own_session_too(self):
        class Shop(ShopTestCase):
            def test_1(self):
                @self.app.post("/async")
                async def add():
                    db.session.add(Customer(name="Ada"))
                    db.session.commit()
                    return {}

                self.assertEqual(self.client.post("/async").status_code, 200)
                self.assertEqual(self.client.get("/customers").json, {"names": ["Ada"]})

        self.assertEqual(problems(run_case(Shop)), [])

    def test_context_variables_of_the_test_are_seen_by_its_requests(self):
        tenant = ContextVar("tenant", default="none")

        class Shop(ShopTestCase):
            def test_1(self):
                self.app.add_url_rule("/tenant", view_func=lambda: tenant.get())
                token = tenant.set("acme")
                self.addCleanup(tenant.reset, token)
                self.assertEqual(self.client.get("/tenant").text, "acme")

        self.assertEqual(problems(run_case(Shop)), [])

    def test_a_middleware_around_the_application_changes_nothing(self):
        class Shop(ShopTestCase):
            def test_1(self):
                self.app.wsgi_app = ProxyFix(self.app.wsgi_app)
                g.seen = True
                self.assertIs(self.client.get("/context").json["seen"], False)
                dispatched = Client(DispatcherMiddleware(self.app))
                self.assertIs(dispatched.get("/context").json["seen"], False)

        self.assertEqual(problems(run_case(Shop)), [])

    def test_a_command_that_fails_leaves_no_context(self):
        class Shop(ShopTestCase):
            def test_1(self):
                @self.app.cli.command("fail")
                def fail():
                    db.session.add(Customer(name="never committed"))
                    db.session.flush()
                    raise LookupError("a fault of the command")

                result = self.app.test_cli_runner().invoke(args=["fail"])
                self.assertIsInstance(result.exception, LookupError)
                self.assertEqual(self.client.get("/customers").json, {"names": []})

        self.assertEqual(problems(run_case(Shop)), [])
        self.assertFalse(flask.has_app_context())

    def test_flask_is_as_it_was_after_the_class(self):
        before = (
            flask.Flask.__call__,
            FlaskCliRunner.invoke,
            type(db).init_app,
            list(flask.appcontext_pushed.receivers),
        )

        class Shop(ShopTestCase):
            def test_1(self):
                self.client.get("/customers")

        self.assertEqual(problems(run_case(Shop)), [])
        after = (
            flask.Flask.__call__,
            FlaskCliRunner.invoke,
            type(db).init_app,
            list(flask.appcontext_pushed.receivers),
        )
        self.assertEqual(after, before)
