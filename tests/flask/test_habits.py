"""Suites that were written for other ways of testing run with their base class changed, and nothing else."""

from __future__ import annotations

import os
import tempfile
import unittest

import flask
import flask_testing
from flask import Flask, current_app, g, url_for
from flask_sqlalchemy import SQLAlchemy
from sqlalchemy import inspect, select, text

from dbtestcase.errors import IsolationWarning
from dbtestcase.flask import FlaskDatabaseTestCase
from tests.flask.shop import Customer, ShopTestCase, create_app, db
from tests.support import problems, run_case

app = create_app("sqlite://")


class FlaskTestingAndOurs(FlaskDatabaseTestCase, flask_testing.TestCase):
    """What a project writes that wants to keep the assertions of Flask-Testing."""


class HabitTests(unittest.TestCase):
    def passes(self, case):
        result = run_case(case)
        self.assertEqual(problems(result), [])
        self.assertFalse(flask.has_app_context())
        return result

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

        self.passes(Shop)

    def test_a_context_that_the_test_forgot_to_pop_harms_nobody(self):
        class Shop(ShopTestCase):
            def test_1(self):
                self.app.app_context().push()
                db.session.add(Customer(name="Ada"))
                db.session.commit()

            test_2 = test_1

        self.passes(Shop)

    def test_without_db_and_create_app_the_imported_extension_is_found(self):
        class Shop(FlaskDatabaseTestCase):
            def setUp(self):
                self.app = create_app("sqlite://")
                self.app_context = self.app.app_context()
                self.app_context.push()
                db.create_all()

            def tearDown(self):
                db.session.remove()
                db.drop_all()
                self.app_context.pop()

            def test_1(self):
                db.session.add(Customer(name="Ada"))
                db.session.commit()
                self.assertEqual(Customer.query.filter_by(name="Ada").one().name, "Ada")

            test_2 = test_1

            def test_3_tables_are_there_from_the_start(self):
                self.assertRowAbsent(Customer)

        self.passes(Shop)
        self.assertEqual(Shop._dbtestcase.kind.schema_of(Shop), db)

    def test_an_application_of_the_module(self):
        class Shop(FlaskDatabaseTestCase):
            def setUp(self):
                self.context = app.app_context()
                self.context.push()
                db.create_all()
                self.client = app.test_client()

            def tearDown(self):
                db.session.remove()
                db.drop_all()
                self.context.pop()

            def test_1(self):
                self.client.post("/customers", json={"name": "Ada"})
                self.assertEqual(self.client.get("/customers").json, {"names": ["Ada"]})
                self.assertEqual(db.session.scalars(select(Customer.name)).all(), ["Ada"])

            test_2 = test_1

        self.passes(Shop)

    def test_an_application_of_the_module_named_on_the_class(self):
        class Shop(FlaskDatabaseTestCase):
            db = db

            def test_1(self):
                self.assertIs(current_app._get_current_object(), app)
                self.client.post("/customers", json={"name": "Ada"})
                self.assertEqual(db.session.scalars(select(Customer.name)).all(), ["Ada"])

            test_2 = test_1

        Shop.app = app
        self.passes(Shop)
        self.assertIs(Shop.app, app)

    def test_a_request_context_pushed_by_hand(self):
        class Shop(FlaskDatabaseTestCase):
            def setUp(self):
                self.context = app.test_request_context("/here")
                self.context.push()

            def tearDown(self):
                self.context.pop()

            def test_1(self):
                self.assertEqual(url_for("customers"), "/customers")
                db.session.add(Customer(name="Ada"))
                db.session.commit()
                self.assertEqual(app.test_client().get("/customers").json, {"names": ["Ada"]})
                self.assertEqual(flask.request.path, "/here")

            test_2 = test_1

        self.passes(Shop)

    def test_a_request_context_that_the_test_forgot_to_pop(self):
        class Shop(FlaskDatabaseTestCase):
            def test_1(self):
                self.assertFalse(flask.has_request_context())
                app.test_request_context("/here").push()
                app.app_context().push()
                db.session.add(Customer(name="Ada"))
                db.session.flush()

            test_2 = test_1

        self.passes(Shop)

    def test_a_test_that_pops_the_context_that_we_pushed(self):
        class Shop(ShopTestCase):
            def test_1(self):
                flask.globals._cv_app.get().pop()
                with self.app.app_context():
                    self.assertEqual(db.session.scalars(select(Customer)).all(), [])

            test_2 = test_1

        self.passes(Shop)

    def test_an_application_and_tables_made_in_set_up_class(self):
        class Shop(FlaskDatabaseTestCase):
            schema = ()

            @classmethod
            def setUpClass(cls):
                super().setUpClass()
                cls.app = create_app("sqlite://")
                cls.context = cls.app.app_context()
                cls.context.push()
                db.create_all()
                db.session.add(Customer(name="of the class"))
                db.session.commit()

            @classmethod
            def tearDownClass(cls):
                db.session.remove()
                db.drop_all()
                cls.context.pop()
                del cls.app
                super().tearDownClass()

            def test_1(self):
                db.session.add(Customer(name="Ada"))
                db.session.commit()
                self.assertEqual(self.client.get("/customers").json, {"names": ["Ada", "of the class"]})

            test_2 = test_1

        self.passes(Shop)

    def test_tables_are_dropped_while_a_request_of_the_test_is_still_open(self):
        class Shop(FlaskDatabaseTestCase):
            def setUp(self):
                self.app = create_app("sqlite://")
                self.context = self.app.test_request_context()
                self.context.push()
                db.create_all()

            def tearDown(self):
                with self.app.app_context():
                    db.drop_all()
                    self.assertEqual(inspect(db.engine).get_table_names(), [])
                db.session.remove()
                self.context.pop()

            def test_1(self):
                db.session.add_all([Customer(name="Ada"), Customer(name="Grace")])
                db.session.commit()
                db.session.scalars(select(Customer)).first()

            test_2 = test_1

        with self.assertWarns(IsolationWarning):  # in production one would wait for the other
            self.passes(Shop)

    def test_a_database_file_for_each_test(self):
        class Flaskr(FlaskDatabaseTestCase):
            def setUp(self):
                self.file, self.path = tempfile.mkstemp()
                self.app = create_app(f"sqlite:///{self.path}")
                self.client = self.app.test_client()
                with self.app.app_context():
                    db.drop_all()
                    db.create_all()
                    db.session.execute(text("INSERT INTO customer (name) VALUES ('test'), ('other')"))
                    db.session.commit()

            def tearDown(self):
                self.assertEqual(os.path.getsize(self.path), 0)
                os.close(self.file)
                os.unlink(self.path)

            def test_1(self):
                self.client.post("/customers", json={"name": "Ada"})
                self.assertEqual(self.client.get("/customers").json, {"names": ["Ada", "other", "test"]})
                with self.app.app_context():
                    self.assertIsNotNone(db.session.execute(select(Customer).filter_by(name="Ada")).first())

            test_2 = test_1

        self.passes(Flaskr)

    def test_a_suite_for_flask_testing_without_flask_testing(self):
        class BaseTestCase(FlaskDatabaseTestCase):
            def create_app(self):
                return create_app("sqlite://")

            def setUp(self):
                db.create_all()

            def tearDown(self):
                db.session.remove()
                db.drop_all()

        class Shop(BaseTestCase):
            def test_1(self):
                self.assertIs(current_app._get_current_object(), self.app)
                self.client.post("/customers", json={"name": "Ada"})
                self.assertEqual(self.client.get("/customers").json, {"names": ["Ada"]})
                self.assertEqual(Customer.query.count(), 1)

            test_2 = test_1

        self.passes(Shop)

    def test_a_suite_for_flask_testing_that_keeps_its_assertions(self):
        apps = []

        class Shop(FlaskTestingAndOurs):
            def create_app(self):
                apps.append(create_app("sqlite://"))
                return apps[-1]

            def test_1(self):
                self.assertEqual(url_for("customers"), "/customers")
                self.assertStatus(self.client.post("/customers", json={"name": "Ada"}), 201)
                self.assert200(self.client.get("/customers"))
                self.assert404(self.client.get("/nowhere"))
                self.assertEqual(self.client.get("/customers").json, {"names": ["Ada"]})

            test_2 = test_1

        self.passes(Shop)
        self.assertEqual(len(apps), 2)

    def test_a_suite_that_calls_its_client_app(self):
        class Shop(FlaskDatabaseTestCase):
            def setUp(self):
                application = create_app("sqlite://")
                self.app = application.test_client()
                with application.app_context():
                    db.create_all()

            def test_1(self):
                self.app.post("/customers", json={"name": "Ada"})
                self.assertEqual(self.app.get("/customers").json, {"names": ["Ada"]})

            test_2 = test_1

        self.passes(Shop)

    def test_an_application_and_tables_of_the_class_that_each_test_adds_to(self):
        class Shop(FlaskDatabaseTestCase):
            @classmethod
            def setUpClass(cls):
                super().setUpClass()
                cls.app = create_app("sqlite://")
                cls.context = cls.app.app_context()
                cls.context.push()
                db.create_all()
                db.session.add(Customer(name="of the class"))
                db.session.commit()

            @classmethod
            def tearDownClass(cls):
                db.drop_all()
                db.session.remove()
                cls.context.pop()

            def test_1(self):
                db.session.add(Customer(name="of the test"))
                db.session.commit()
                self.assertEqual(self.client.get("/customers").json, {"names": ["of the class", "of the test"]})

            test_2 = test_1

        self.passes(Shop)

    def test_a_session_on_g_that_a_teardown_function_closes(self):
        class Shop(ShopTestCase):
            def test_1(self):
                closed = []

                @self.app.before_request
                def open_session():
                    g.db = db.sessionmaker(db.engine)()

                @self.app.teardown_appcontext
                def close_session(error):
                    if "db" in g:
                        closed.append(g.pop("db").close())

                self.client.get("/customers")
                self.assertEqual(len(closed), 1)

        self.passes(Shop)

    def test_an_extension_of_an_application_that_the_test_makes_all_by_itself(self):
        class Shop(FlaskDatabaseTestCase):
            def setUp(self):
                self.app = Flask("own")
                self.app.config["SQLALCHEMY_DATABASE_URI"] = "sqlite://"
                with self.app.app_context():
                    self.db = SQLAlchemy(self.app)

                    class Thing(self.db.Model):
                        id = self.db.Column(self.db.Integer, primary_key=True)

                    self.Thing = Thing
                    self.db.create_all()

            def test_1(self):
                with self.app.app_context():
                    self.db.session.add(self.Thing())
                    self.db.session.commit()
                    self.assertEqual(self.Thing.query.count(), 1)

            test_2 = test_1

        self.passes(Shop)

    def test_a_teardown_function_that_raises_is_an_error_of_its_test_only(self):
        class Shop(FlaskDatabaseTestCase):
            def create_app(self):
                return create_app()

            def test_1(self):
                @self.app.teardown_appcontext
                def fail(error):
                    raise LookupError("a fault of the teardown function")

                db.session.add(Customer(name="Ada"))
                db.session.commit()

            def test_2(self):
                self.assertEqual(db.session.scalars(select(Customer)).all(), [])

        result = run_case(Shop)

        self.assertEqual([test.id().rpartition(".")[2] for test, _ in result.errors + result.failures], ["test_1"])
        self.assertRegex(result.errors[0][1], "a fault of the teardown function")
        self.assertFalse(flask.has_app_context())

    def test_a_create_app_that_raises_is_an_error_of_its_test_only(self):
        class Shop(FlaskDatabaseTestCase):
            def create_app(self):
                if "test_1" in self.id():
                    raise LookupError("a fault of the factory")
                return create_app()

            def test_1(self):
                self.fail("not reached")

            def test_2(self):
                self.assertEqual(self.client.get("/customers").json, {"names": []})

        result = run_case(Shop)

        self.assertEqual([test.id().rpartition(".")[2] for test, _ in result.errors + result.failures], ["test_1"])
        self.assertRegex(result.errors[0][1], "a fault of the factory")

    def test_what_sqlite_let_through_is_named_in_the_failure(self):
        class Shop(ShopTestCase):
            def test_1(self):
                db.session.execute(text("INSERT INTO customer (id, name) VALUES (1, 2), ('one', 'Ada')"))

        self.assertRegex("".join(problems(run_case(Shop))), "(?s)What to do: .*SQLite")
