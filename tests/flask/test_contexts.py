"""Whose context a request uses: never the one that we push; of one that the user has pushed Flask itself decides."""

from __future__ import annotations

import unittest

import flask
import flask.globals
from flask import Flask, g
from sqlalchemy import create_engine, inspect, select, text
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, scoped_session, sessionmaker

import dbtestcase
from dbtestcase.flask import FlaskDatabaseTestCase
from tests.flask.shop import REQUESTS_SHARE, Customer, ShopTestCase, create_app, db
from tests.support import problems, run_case


class Base(DeclarativeBase):
    pass


class User(Base):
    __tablename__ = "user"

    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str]


PlainSession = scoped_session(sessionmaker(create_engine(dbtestcase.URL)))


def create_plain_app() -> Flask:
    """Make an application on plain SQLAlchemy, as the manual of Flask shows it."""
    app = Flask("plain")
    app.teardown_appcontext(lambda error: PlainSession.remove())

    @app.post("/<int:number>/ban")
    def ban(number):
        PlainSession.get_one(User, number).name = "banned"
        PlainSession.commit()
        return {}

    return app


class ContextTests(unittest.TestCase):
    def passes(self, *cases):
        self.assertEqual(problems(run_case(*cases)), [])
        self.assertFalse(flask.has_app_context())

    def test_a_context_pushed_by_the_test_is_used_by_its_requests_as_flask_does_it(self):
        class Shop(FlaskDatabaseTestCase):
            db = db

            def setUp(self):
                self.app = create_app()
                self.context = self.app.app_context()
                self.context.push()
                self.addCleanup(self.context.pop)

                @self.app.get("/session")
                def session():
                    return {"same": db.session() is self.session_of_test, "seen": g.get("seen", False)}

            def test_1(self):
                self.session_of_test, g.seen = db.session(), True
                self.assertEqual(self.client.get("/session").json, {"same": REQUESTS_SHARE, "seen": REQUESTS_SHARE})

            test_2 = test_1

        self.passes(Shop)

    def test_a_context_pushed_above_ours_is_used_by_requests_and_ours_is_apart_again_below_it(self):
        class Shop(ShopTestCase):
            def test_1(self):
                g.seen = True
                for push in (self.app.app_context, self.app.test_request_context):
                    with push():
                        g.seen = True
                        self.assertIs(self.client.get("/context").json["seen"], REQUESTS_SHARE)
                    self.assertIs(self.client.get("/context").json["seen"], False)

        self.passes(Shop)

    def test_a_command_uses_the_context_that_the_test_pushed(self):
        class Shop(ShopTestCase):
            def test_1(self):
                seen = []

                @self.app.cli.command("look")
                def look():
                    seen.append(g.get("seen", False))

                g.seen = True
                self.app.test_cli_runner().invoke(args=["look"])
                with self.app.app_context():
                    g.seen = True
                    self.app.test_cli_runner().invoke(args=["look"])

                self.assertEqual(seen, [False, True])

        self.passes(Shop)

    def test_objects_stay_usable_after_a_command_under_a_context_that_the_test_pushed(self):
        class Shop(ShopTestCase):
            def test_1(self):
                @self.app.cli.command("rename")
                def rename():
                    with db.engine.begin() as connection:
                        connection.execute(text("UPDATE customer SET name = 'Grace'"))

                ada = Customer(name="Ada")
                db.session.add(ada)
                db.session.commit()
                self.assertEqual(ada.name, "Ada")
                with self.app.app_context():
                    self.app.test_cli_runner().invoke(args=["rename"])
                self.assertEqual(ada.name, "Grace")

        self.passes(Shop)

    def test_objects_stay_usable_after_requests_under_a_context_that_the_test_pushed(self):
        class Shop(ShopTestCase):
            def test_1(self):
                ours = Customer(name="Ada")
                db.session.add(ours)
                db.session.commit()
                address = f"/rename/{ours.id}"
                with self.app.app_context():
                    theirs = db.session.scalars(select(Customer)).one()

                    self.client.post(address, json={"name": "Grace"})

                    self.assertEqual([theirs.name, ours.name], ["Grace", "Grace"])

            test_2 = test_1

        self.passes(Shop)

    def test_the_session_of_plain_sqlalchemy_outlives_a_request_under_a_context_that_the_test_pushed(self):
        class Common:
            schema = Base

            def setUp(self):
                self.app = create_plain_app()
                context = self.app.app_context()
                context.push()
                self.addCleanup(context.pop)

            def test_1(self):
                user = User(name="Ada")
                PlainSession.add(user)
                PlainSession.commit()

                self.app.test_client().post(f"/{user.id}/ban")

                if REQUESTS_SHARE:  # else the context of the request ends, and with it the session
                    self.assertEqual(user.name, "banned")

            test_2 = test_1

        class WithFlask(Common, FlaskDatabaseTestCase):
            pass

        class WithoutFlask(Common, dbtestcase.DatabaseTestCase):
            pass

        self.passes(WithFlask, WithoutFlask)

    def test_a_context_of_the_class_is_used_by_its_tests_and_keeps_the_objects_of_its_session(self):
        class Shop(ShopTestCase):
            @classmethod
            def setUpClass(cls):
                super().setUpClass()
                cls.context = cls.app.app_context()
                cls.context.push()
                cls.addClassCleanup(cls.context.pop)
                cls.ada = Customer(name="Ada")
                db.session.add(cls.ada)
                db.session.commit()

            def test_1(self):
                self.assertIs(flask.globals._cv_app.get(), self.context)
                self.assertEqual(self.ada.name, "Ada")
                self.ada.name = "Grace"
                added = Customer(name="Edith")
                db.session.add(added)
                db.session.commit()
                self.assertEqual(self.client.get("/customers").json, {"names": ["Edith", "Grace"]})

            test_2 = test_1

            def test_3_runs_again_on_real_connections(self):
                with db.engine.connect() as one, db.engine.connect() as other:
                    one.execute(text("SELECT pg_advisory_xact_lock(1)"))
                    self.assertFalse(other.scalar(text("SELECT pg_try_advisory_xact_lock(1)")))
                self.test_1()

            test_4 = test_1

            def test_5_nothing_is_left_of_the_objects_of_a_test(self):
                self.assertEqual([each.name for each in db.session.identity_map.values()], ["Ada"])
                self.assertFalse(inspect(self.ada).detached)

        self.passes(Shop)

    def test_a_context_of_the_module_serves_classes_one_after_the_other(self):
        app = create_app()

        class Shop(FlaskDatabaseTestCase):
            db = db

            @classmethod
            def create_app(cls):
                return app

            def test_1(self):
                self.assertEqual(db.session.scalars(select(Customer)).all(), [])
                self.client.post("/customers", json={"name": "Ada"})
                self.assertEqual(db.session.scalars(select(Customer)).one().name, "Ada")

            test_2 = test_1

        class Next(Shop):
            pass

        with app.app_context():
            self.assertEqual(problems(run_case(Shop, Next)), [])


if __name__ == "__main__":
    unittest.main()
