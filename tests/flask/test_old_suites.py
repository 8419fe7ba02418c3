"""Suites of old shapes, each run as it was written but for its base class."""

from __future__ import annotations

import unittest
from concurrent.futures import ThreadPoolExecutor

import factory
import flask
import flask_testing
from factory.alchemy import SQLAlchemyModelFactory
from flask import Flask, current_app, request
from sqlalchemy import create_engine, select, text
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column, scoped_session, sessionmaker

import dbtestcase
from dbtestcase.flask import FlaskDatabaseTestCase
from tests.flask.shop import REQUESTS_SHARE, Customer, create_app, db
from tests.support import problems, run_case


class Base(DeclarativeBase):
    pass


class Message(Base):
    __tablename__ = "message"

    id: Mapped[int] = mapped_column(primary_key=True)
    text: Mapped[str]


def lazy_engine():
    """Make the engine of the present application at its first use, as extensions of one's own do."""
    if "engine" not in current_app.extensions:
        current_app.extensions["engine"] = create_engine(current_app.config["DB_URL"])
    return current_app.extensions["engine"]


def create_message_app(url=dbtestcase.URL) -> Flask:
    app = Flask("messages")
    app.config["DB_URL"] = url

    @app.post("/<words>")
    def add(words):
        with Session(lazy_engine()) as session:
            session.add(Message(text=words))
            session.commit()
        return {}

    @app.get("/")
    def messages():
        with Session(lazy_engine()) as session:
            return {"messages": session.scalars(select(Message.text).order_by(Message.text)).all()}

    return app


workers = ThreadPoolExecutor(2, thread_name_prefix="background")


class CustomerFactory(SQLAlchemyModelFactory):
    class Meta:
        model = Customer
        sqlalchemy_session = db.session
        sqlalchemy_session_persistence = "flush"

    name = factory.Sequence(lambda number: f"customer {number}")


class OldSuiteTests(unittest.TestCase):
    def passes(self, *cases):
        self.assertEqual(problems(run_case(*cases)), [])
        self.assertFalse(flask.has_app_context())

    @unittest.skipUnless(REQUESTS_SHARE, "from Flask 3.2 on no request uses the context of a test")
    def test_one_context_and_one_session_for_test_and_requests(self):
        class CustomerTests(FlaskDatabaseTestCase):
            def setUp(self):
                self.app = create_app("sqlite://")
                self.ctx = self.app.app_context()
                self.ctx.push()
                db.create_all()
                self.ada = Customer(name="Ada")
                db.session.add(self.ada)  # never committed: requests use the same session
                db.session.flush()
                self.http = self.app.test_client()

            def tearDown(self):
                db.session.remove()
                db.drop_all()
                self.ctx.pop()

            def test_list(self):
                self.assertEqual(self.http.get("/customers").json, {"names": ["Ada"]})

            def test_rename_changes_the_object_of_the_test(self):
                self.http.post(f"/rename/{self.ada.id}", json={"name": "Grace"})
                self.assertEqual(self.ada.name, "Grace")
                self.assertIs(db.session.get(Customer, self.ada.id), self.ada)

            def test_a_conflict_rolls_back_what_the_test_did_not_commit(self):
                db.session.commit()
                self.assertEqual(self.http.post("/customers", json={"name": "Ada"}).status_code, 409)
                self.assertEqual(self.http.get("/customers").json, {"names": ["Ada"]})

        self.passes(CustomerTests)

    def test_a_request_context_that_is_pushed_for_the_class(self):
        class CustomerTests(FlaskDatabaseTestCase):
            db = db

            @classmethod
            def setUpClass(cls):
                super().setUpClass()
                cls.app = create_app("sqlite://")
                cls.ctx = cls.app.test_request_context("/somewhere")
                cls.ctx.push()
                db.create_all()
                cls.ada = Customer(name="Ada")
                db.session.add(cls.ada)
                db.session.commit()

            @classmethod
            def tearDownClass(cls):
                db.session.remove()
                cls.ctx.pop()
                super().tearDownClass()

            def test_1(self):
                self.assertEqual(request.path, "/somewhere")
                self.assertEqual(self.ada.name, "Ada")
                self.app.test_client().post(f"/rename/{self.ada.id}", json={"name": "Grace"})
                self.assertRowExists(Customer, name="Grace")

            test_2 = test_1

        self.passes(CustomerTests)

    def test_what_a_test_leaves_in_the_session_of_the_class_s_context_is_not_in_the_next(self):
        class CustomerTests(FlaskDatabaseTestCase):
            db = db

            @classmethod
            def setUpClass(cls):
                super().setUpClass()
                cls.app = create_app("sqlite://")
                cls.enterClassContext(cls.app.app_context())
                db.create_all()
                cls.ada = Customer(name="Ada")
                db.session.add(cls.ada)
                db.session.commit()

            def test_0_sends_nothing(self):
                db.session.add(Customer(name="Edith"))

            def test_1_leaves_changes(self):
                self.ada.name = "Grace"
                db.session.flush()
                self.assertRowCount(Customer, 1)
                self.ada.name = "Edith"
                db.session.add(Customer(name="Alan"))

            def test_2_finds_none(self):
                self.assertEqual(self.ada.name, "Ada")
                db.session.commit()
                self.assertRowCount(Customer, 1, Customer.name == "Ada")
                self.assertRowCount(Customer, 1)

        self.passes(CustomerTests)

    def test_an_engine_made_lazily_inside_the_application(self):
        class MessageTests(FlaskDatabaseTestCase):
            schema = Base

            def setUp(self):
                self.app = create_message_app()
                self.ctx = self.app.app_context()
                self.ctx.push()
                Base.metadata.create_all(lazy_engine())

            def tearDown(self):
                Base.metadata.drop_all(lazy_engine())
                self.ctx.pop()

            def test_1(self):
                self.client.post("/hello")
                with Session(lazy_engine()) as session:
                    self.assertEqual(session.scalars(select(Message.text)).all(), ["hello"])
                self.assertEqual(self.client.get("/").json, {"messages": ["hello"]})

            test_2 = test_1

        self.passes(MessageTests)

    def test_an_engine_inside_the_application_that_is_configured_for_another_database(self):
        class MessageTests(FlaskDatabaseTestCase):
            schema = Base

            @classmethod
            def create_app(cls):
                return create_message_app("sqlite:///of-the-developer.db")

            @classmethod
            def setUpClass(cls):
                super().setUpClass()
                with cls.app.app_context():
                    cls.redirect_engine(lazy_engine())

            def test_1(self):
                self.client.post("/hello")
                self.assertEqual(self.client.get("/").json, {"messages": ["hello"]})
                self.assertRowCount(Message, 1)

            test_2 = test_1

        self.passes(MessageTests)

    def test_an_application_on_plain_sqlalchemy_whose_engine_is_declared(self):
        engine = create_engine("postgresql+psycopg2://nobody@matters.invalid/messages")
        PlainSession = scoped_session(sessionmaker(engine))

        class MessageTests(FlaskDatabaseTestCase):
            schema = Base
            app_engines = [engine]

            @classmethod
            def create_app(cls):
                app = Flask("messages")
                app.extensions["sqlalchemy"] = engine
                app.teardown_appcontext(lambda error: PlainSession.remove())

                @app.post("/<words>")
                def add(words):
                    PlainSession.add(Message(text=words))
                    PlainSession.commit()
                    return {}

                return app

            @classmethod
            def setUpTestData(cls, session):
                session.add(Message(text="of the class"))

            def test_1(self):
                self.client.post("/hello")
                self.assertEqual(self.session.scalars(select(Message.text)).all(), ["of the class", "hello"])

            test_2 = test_1

        self.passes(MessageTests)

    def test_a_db_that_is_no_extension_is_told_what_to_write(self):
        class MessageTests(FlaskDatabaseTestCase):
            db = scoped_session(sessionmaker())

            def test_1(self):
                self.fail("not reached")

        texts = problems(run_case(MessageTests))

        self.assertEqual(len(texts), 1)
        self.assertRegex(texts[0], "MessageTests.db is .*scoped_session.*no extension such as that of Flask-SQLAlchemy")
        self.assertRegex(texts[0], "name the tables in 'schema' and the engines in 'app_engines'")

    def test_flask_testing(self):
        class CustomerTests(FlaskDatabaseTestCase, flask_testing.TestCase):
            def create_app(self):
                return create_app("sqlite://")

            def setUp(self):
                db.create_all()
                db.session.add(Customer(name="Ada"))
                db.session.commit()

            def tearDown(self):
                db.session.remove()
                db.drop_all()

            def test_1(self):
                self.assert200(self.client.get("/customers"))
                self.assertEqual(self.client.get("/customers").json, {"names": ["Ada"]})
                self.assertStatus(self.client.post("/customers", json={"name": "Ada"}), 409)

            test_2 = test_1

        self.passes(CustomerTests)

    def test_a_view_that_leaves_its_work_to_a_thread_of_the_application(self):
        class CustomerTests(FlaskDatabaseTestCase):
            db = db

            @classmethod
            def create_app(cls):
                app = create_app("sqlite://")

                def work(name):
                    with app.app_context():
                        db.session.add(Customer(name=name))
                        db.session.commit()
                        return db.session.scalar(text("SELECT count(*) FROM customer"))

                @app.post("/jobs/<name>")
                def begin_work(name):
                    return {"count": workers.submit(work, name).result()}

                return app

            def test_1(self):
                self.assertEqual(self.client.post("/jobs/Ada").json, {"count": 1})
                self.assertEqual(self.client.post("/jobs/Grace").json, {"count": 2})
                self.assertEqual(self.client.get("/customers").json, {"names": ["Ada", "Grace"]})

            test_2 = test_1

        self.passes(CustomerTests)

    def test_factories_that_flush_into_the_session_of_the_extension(self):
        class CustomerTests(FlaskDatabaseTestCase):
            db = db

            @classmethod
            def create_app(cls):
                return create_app("sqlite://")

            @classmethod
            def setUpTestData(cls, session):
                cls.ada = CustomerFactory(name="Ada")
                cls.others = CustomerFactory.create_batch(2)

            def test_1(self):
                CustomerFactory(name="of the test")
                db.session.commit()
                self.assertEqual(len(self.client.get("/customers").json["names"]), 4)
                self.client.post(f"/rename/{self.ada.id}", json={"name": "Grace"})
                self.assertEqual(self.ada.name, "Grace")
                self.others[0].name = "changed"
                db.session.commit()

            test_2 = test_1

        self.passes(CustomerTests)


class FactoryTests(unittest.TestCase):
    """The ways in which suites have their application."""

    def passes(self, case):
        self.assertEqual(problems(run_case(case)), [])

    def test_an_application_that_asks_the_database_while_it_is_made(self):
        class CustomerTests(FlaskDatabaseTestCase):
            db = db

            @classmethod
            def create_app(cls):
                app = create_app("sqlite://")
                with app.app_context():
                    app.config["KNOWN"] = db.session.scalars(select(Customer.name)).all()
                return app

            def test_1(self):
                self.assertEqual(self.app.config["KNOWN"], [])
                self.assertEqual(self.client.post("/customers", json={"name": "Ada"}).status_code, 201)

            test_2 = test_1

        self.passes(CustomerTests)

    def test_an_application_that_makes_the_schema(self):
        class CustomerTests(FlaskDatabaseTestCase):
            db = db
            schema = ()

            @classmethod
            def create_app(cls):
                app = create_app("sqlite://")
                with app.app_context():
                    db.create_all()
                return app

            @classmethod
            def setUpTestData(cls, session):
                session.add(Customer(name="Ada"))

            def test_1(self):
                self.assertEqual(self.client.get("/customers").json, {"names": ["Ada"]})

        self.passes(CustomerTests)

    def test_a_factory_that_is_assigned_to_the_name(self):
        made = []

        def make_app(config="sqlite://"):
            made.append(create_app(config))
            return made[-1]

        for assigned in (make_app, staticmethod(make_app), lambda: make_app()):
            made.clear()

            class CustomerTests(FlaskDatabaseTestCase):
                db = db
                create_app = assigned

                def test_1(self):
                    self.assertEqual(made, [self.app])
                    self.assertEqual(self.client.get("/customers").json, {"names": []})

                test_2 = test_1

            with self.subTest(assigned=assigned):
                self.passes(CustomerTests)

    def test_a_method_that_is_inherited_from_a_mixin_makes_one_for_each_test(self):
        made = []

        class Mixin:
            def create_app(self):
                made.append(self.id())
                return create_app("sqlite://")

        class CustomerTests(Mixin, FlaskDatabaseTestCase):
            db = db

            def test_1(self):
                self.assertEqual(self.client.get("/customers").json, {"names": []})

            test_2 = test_1

        self.passes(CustomerTests)
        self.assertEqual(len(made), 2)

    def test_what_is_no_application_is_told(self):
        class CustomerTests(FlaskDatabaseTestCase):
            @classmethod
            def create_app(cls):
                return create_app("sqlite://").test_client()

            def test_1(self):
                self.fail("not reached")

        self.assertRegex("".join(problems(run_case(CustomerTests))), "CustomerTests.create_app returned <FlaskClient")


if __name__ == "__main__":
    unittest.main()
