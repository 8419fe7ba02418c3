from __future__ import annotations

import unittest

import flask
from flask import Flask, g, request
from flask.views import MethodView
from flask_sqlalchemy import SQLAlchemy
from sqlalchemy import func, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from dbtestcase.flask import FlaskDatabaseTestCase
from tests.support import problems, run_case

FORBIDDEN = "postgresql+psycopg2://nobody@matters.invalid:5432/production"


class Base(DeclarativeBase):
    pass


db = SQLAlchemy(model_class=Base)


class Customer(db.Model):
    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(unique=True)


class Entry(db.Model):
    __bind_key__ = "audit"

    id: Mapped[int] = mapped_column(primary_key=True)
    what: Mapped[str]


class Customers(MethodView):
    def get(self):
        return {"names": db.session.scalars(select(Customer.name).order_by(Customer.name)).all()}

    def post(self):
        db.session.add(Customer(name=request.json["name"]))
        try:
            db.session.commit()
        except IntegrityError:
            db.session.rollback()
            return {"error": "taken"}, 409
        return {}, 201


def create_app(uri: str = FORBIDDEN) -> Flask:
    app = Flask("shop")
    app.config.update(
        SECRET_KEY="test",
        SQLALCHEMY_DATABASE_URI=uri,
        SQLALCHEMY_BINDS={"audit": "postgresql+psycopg2://nobody@matters.invalid/audit"},
    )
    db.init_app(app)
    app.add_url_rule("/customers", view_func=Customers.as_view("customers"))

    @app.post("/rename/<int:number>")
    def rename(number):
        db.session.get(Customer, number).name = request.json["name"]
        db.session.commit()
        return {}

    @app.get("/context")
    def context():
        seen = getattr(g, "seen", False)
        g.seen = True
        return {"seen": seen, "user": flask.session.get("user")}

    @app.post("/login")
    def login():
        flask.session["user"] = "ada"
        return {}

    @app.get("/stream")
    def stream():
        def rows():
            yield from db.session.scalars(select(Customer.name))

        return flask.Response(flask.stream_with_context(rows()))

    @app.cli.command("add")
    def add():
        db.session.add(Customer(name="from the command"))
        db.session.commit()

    return app


class ShopTestCase(FlaskDatabaseTestCase):
    db = db

    @classmethod
    def create_app(cls):
        return create_app()


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
                self.assertEqual(self.client.get("/stream").text, "Ada")

        self.assertEqual(problems(run_case(Shop)), [])

    def test_a_command_has_its_own_session_and_its_commit_is_seen_and_undone(self):
        class Shop(ShopTestCase):
            def test_1(self):
                result = self.app.test_cli_runner().invoke(args=["add"])
                self.assertEqual(result.exit_code, 0, result.output)
                self.assertEqual(db.session.scalars(select(Customer.name)).all(), ["from the command"])

            test_2 = test_1

        self.assertEqual(problems(run_case(Shop)), [])


class ApplicationTests(unittest.TestCase):
    def test_every_bind_has_a_database_of_its_own_and_is_undone(self):
        class Shop(ShopTestCase):
            def test_1(self):
                self.assertEqual(db.session.scalar(select(func.count()).select_from(Entry)), 0)
                db.session.add_all([Customer(name="Ada"), Entry(what="Ada came")])
                db.session.commit()
                with self.engine_for("audit").connect() as connection:
                    self.assertEqual(connection.scalar(select(func.count()).select_from(Entry.__table__)), 1)

            test_2 = test_1

        self.assertEqual(problems(run_case(Shop)), [])

    def test_an_application_made_in_set_up_is_redirected(self):
        class Shop(FlaskDatabaseTestCase):
            db = db

            def setUp(self):
                self.app = create_app()
                self.client = self.app.test_client()

            def test_1(self):
                self.client.post("/customers", json={"name": "Ada"})
                self.assertEqual(self.client.get("/customers").json, {"names": ["Ada"]})

            test_2 = test_1

        self.assertEqual(problems(run_case(Shop)), [])

    def test_an_application_that_existed_before_is_redirected_and_given_back(self):
        app = create_app()
        with app.app_context():
            engine = db.engine
        pool, wsgi_app = engine.pool, app.wsgi_app

        class Shop(FlaskDatabaseTestCase):
            db = db

            def test_1(self):
                with app.app_context():
                    db.session.add(Customer(name="Ada"))
                    db.session.commit()
                    self.assertEqual(db.session.scalars(select(Customer.name)).all(), ["Ada"])

            test_2 = test_1

        self.assertEqual(problems(run_case(Shop)), [])
        self.assertIs(engine.pool, pool)
        self.assertEqual(app.wsgi_app, wsgi_app)

    def test_an_application_configured_for_sqlite_runs_on_postgresql(self):
        class Shop(ShopTestCase):
            @classmethod
            def create_app(cls):
                return create_app("sqlite://")

            def test_1(self):
                self.client.post("/customers", json={"name": "Ada"})
                self.assertEqual(self.session.scalar(select(func.version()))[:10], "PostgreSQL")
                self.assertEqual(self.client.get("/customers").json, {"names": ["Ada"]})

            test_2 = test_1

        self.assertEqual(problems(run_case(Shop)), [])

    def test_a_factory_that_creates_tables_itself_is_served_by_the_instance(self):
        class Shop(ShopTestCase):
            @classmethod
            def create_app(cls):
                app = create_app()
                with app.app_context():
                    db.create_all()
                return app

            def test_1(self):
                self.assertEqual(self.client.get("/customers").json, {"names": []})

        self.assertEqual(problems(run_case(Shop)), [])

    def test_create_app_as_an_instance_method_makes_an_application_per_test(self):
        apps = []

        class Shop(FlaskDatabaseTestCase):
            db = db

            def create_app(self):
                apps.append(create_app())
                return apps[-1]

            def test_1(self):
                self.client.post("/customers", json={"name": "Ada"})
                self.assertEqual(self.client.get("/customers").json, {"names": ["Ada"]})

            test_2 = test_1

        self.assertEqual(problems(run_case(Shop)), [])
        self.assertEqual(len(apps), 2)

    def test_old_habits_in_set_up_and_tear_down_go_on_working(self):
        class Shop(FlaskDatabaseTestCase):
            db = db

            def setUp(self):
                self.app = create_app("sqlite://")
                self.app_context = self.app.app_context()
                self.app_context.push()
                db.create_all()
                self.client = self.app.test_client()

            def tearDown(self):
                db.session.remove()
                db.drop_all()
                self.app_context.pop()

            def test_1(self):
                db.session.add(Customer(name="Ada"))
                db.session.commit()
                self.assertEqual(self.client.get("/customers").json, {"names": ["Ada"]})

            test_2 = test_1

        self.assertEqual(problems(run_case(Shop)), [])

    def test_a_context_that_the_test_forgot_to_pop_harms_nobody(self):
        class Shop(ShopTestCase):
            def test_1(self):
                self.app.app_context().push()
                db.session.add(Customer(name="Ada"))
                db.session.commit()

            test_2 = test_1

        self.assertEqual(problems(run_case(Shop)), [])
        self.assertFalse(flask.has_app_context())

    def test_client_without_an_application_says_what_to_define(self):
        class Shop(FlaskDatabaseTestCase):
            db = db

            def test_1(self):
                with self.assertRaisesRegex(Exception, "create_app"):
                    _ = self.client

        self.assertEqual(problems(run_case(Shop)), [])

    def test_class_data_is_made_in_the_extension_s_session(self):
        class Shop(ShopTestCase):
            @classmethod
            def setUpTestData(cls, session):
                cls.ada = Customer(name="Ada")
                db.session.add(cls.ada)
                assert db.session() is session

            def test_1(self):
                self.assertIn(self.ada, db.session)
                self.ada.name = "Grace"
                db.session.commit()
                self.assertEqual(self.client.get("/customers").json, {"names": ["Grace"]})

            def test_2(self):
                self.assertEqual(self.client.get("/customers").json, {"names": ["Ada"]})

        self.assertEqual(problems(run_case(Shop)), [])
