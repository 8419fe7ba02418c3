"""However an application is made and configured, its engines lead to the class's instance."""

from __future__ import annotations

import gc
import importlib.util
import json
import os
import tempfile
import unittest
import weakref
from inspect import getmembers

import psutil
from flask import Flask
from flask_sqlalchemy import SQLAlchemy
from sqlalchemy import create_engine, func, inspect, select, text
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column
from sqlalchemy.pool import NullPool, StaticPool

import dbtestcase
from dbtestcase import DatabaseTestCase
from dbtestcase.flask import FlaskDatabaseTestCase
from tests.flask.shop import FORBIDDEN, Customer, Entry, ShopTestCase, create_app, db
from tests.support import collect_garbage, once, problems, run_case


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

    def test_client_without_an_application_says_what_to_define(self):
        class Shop(FlaskDatabaseTestCase):
            db = db

            def test_1(self):
                with self.assertRaisesRegex(Exception, "create_app"):
                    _ = self.client

        self.assertEqual(problems(run_case(Shop)), [])

    def test_whoever_only_looks_at_a_test_without_an_application_meets_no_exception(self):
        class Shop(FlaskDatabaseTestCase):
            def test_1(self):
                pass

        self.assertFalse(hasattr(Shop("test_1"), "client"))
        self.assertIn("test_1", dict(getmembers(Shop("test_1"))))

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

    @once
    def test_several_hundred_applications_in_one_class_leave_nothing_behind(self):
        process = psutil.Process()
        seen = []

        class Shop(FlaskDatabaseTestCase):
            db = db

            def setUp(self):
                self.app = Flask("small", static_folder=None)
                self.app.config["SQLALCHEMY_DATABASE_URI"] = FORBIDDEN
                db.init_app(self.app)
                self.context = self.app.app_context()
                self.context.push()

            def tearDown(self):
                db.session.remove()
                self.context.pop()

            def look(self, number):
                db.session.execute(text("INSERT INTO customer (name) VALUES ('Ada')"))
                db.session.commit()
                if number in (50, 299):
                    gc.collect()
                    running = self._dbtestcase
                    engines = sum(len(each.taken) for each in running.databases.values())
                    self.assertLess(engines, 30)
                    seen.append((process.num_fds(), len(running._undo._exit_callbacks)))
                    seen.append(process.memory_info().rss)

        for number in range(300):
            setattr(Shop, f"test_{number:03}", lambda self, number=number: self.look(number))

        self.assertEqual(problems(run_case(Shop)), [])
        (early_files, early_callbacks), early_bytes, (late_files, late_callbacks), late_bytes = seen
        self.assertLessEqual(late_files, early_files)  # another test's may have been closed meanwhile
        self.assertEqual(late_callbacks, early_callbacks)
        self.assertLess(late_bytes - early_bytes, 10_000_000)

    def test_an_application_ends_with_its_test(self):
        apps = []

        class Shop(FlaskDatabaseTestCase):
            db = db

            def create_app(self):
                app = create_app()
                apps.append(weakref.ref(app))
                return app

            def test_1(self):
                self.client.get("/customers")

            def test_2(self):
                collect_garbage()
                self.assertIsNone(apps[0]())

        self.assertEqual(problems(run_case(Shop)), [])


class Plain(DeclarativeBase):
    pass


class Note(Plain):
    __tablename__ = "note"

    id: Mapped[int] = mapped_column(primary_key=True)


def count_notes(engine) -> int:
    with Session(engine) as session:
        session.add(Note())
        session.commit()
        return session.scalar(select(func.count()).select_from(Note))


def configured(uri, **config) -> Flask:
    app = Flask("configured")
    app.config.update(SQLALCHEMY_DATABASE_URI=uri, **config)
    SQLAlchemy(app)
    return app


class ConfigurationTests(unittest.TestCase):
    def passes(self, app, *, schema=Plain, base=FlaskDatabaseTestCase):
        """Check that an application's engine writes into the class's instance, twice from scratch."""

        class Notes(base):
            def test_1(self):
                with app.app_context():
                    engine = app.extensions["sqlalchemy"].engine
                    self.assertEqual(count_notes(engine), 1)
                    with engine.connect() as connection:
                        self.assertEqual(connection.dialect.name, "postgresql")

            test_2 = test_1

        Notes.schema = schema
        self.assertEqual(problems(run_case(Notes)), [])

    def test_a_sqlite_file_is_not_created(self):
        with tempfile.TemporaryDirectory() as folder:
            self.passes(configured(f"sqlite:///{folder}/app.db"))
            self.assertEqual(os.listdir(folder), [])

    def test_a_server_that_does_not_answer_is_not_asked(self):
        self.passes(
            configured(
                "postgresql+psycopg2://someone:secret@192.0.2.1/shop",
                SQLALCHEMY_ENGINE_OPTIONS={"connect_args": {"connect_timeout": 60, "sslmode": "verify-full"}},
            )
        )

    def test_an_application_for_another_driver_goes_on_using_it(self):
        uri = "postgresql+psycopg://someone@matters.invalid/shop"
        self.passes(configured(uri))

        class Notes(FlaskDatabaseTestCase):
            schema = Plain

            def test_1(self):
                app = configured(uri)
                with app.app_context():
                    engine = app.extensions["sqlalchemy"].engine
                    self.assertEqual(count_notes(engine), 1)
                    self.assertEqual(engine.driver, "psycopg")

            test_2 = test_1

        self.assertEqual(problems(run_case(Notes)), [])

    @unittest.skipUnless(importlib.util.find_spec("pymysql"), "no MySQL driver is installed")
    def test_an_application_for_mysql_runs_on_postgresql(self):
        self.passes(configured("mysql+pymysql://someone@192.0.2.1/shop"))

    def test_engine_options_of_a_server_are_kept_as_far_as_they_mean_something(self):
        self.passes(
            configured(
                "postgresql+psycopg2://matters.invalid/shop",
                SQLALCHEMY_ENGINE_OPTIONS={
                    "pool_pre_ping": True,
                    "pool_recycle": 1,
                    "pool_size": 5,
                    "pool_timeout": 3,
                    "echo_pool": False,
                    "isolation_level": "REPEATABLE READ",
                    "pool_use_lifo": True,
                    "execution_options": {"a": 1},
                },
            )
        )

    def test_a_pool_of_one_connection_serves_the_test_and_its_request(self):
        app = configured(
            "postgresql+psycopg2://matters.invalid/shop",
            SQLALCHEMY_ENGINE_OPTIONS={"pool_size": 1, "max_overflow": 0, "pool_timeout": 0.2},
        )
        db = app.extensions["sqlalchemy"]
        app.add_url_rule("/", view_func=lambda: str(db.session.scalar(select(func.count()).select_from(Note))))

        class Notes(FlaskDatabaseTestCase):
            schema = Plain

            def test_1(self):
                with app.app_context():
                    db.session.add(Note())
                    db.session.commit()
                    db.session.scalars(select(Note)).all()
                    self.assertEqual(app.test_client().get("/").text, "1")

            test_2 = test_1

        Notes.app = app
        self.assertEqual(problems(run_case(Notes)), [])

    def test_a_pool_without_connections_of_its_own(self):
        for pool in (NullPool, StaticPool):
            with self.subTest(pool=pool.__name__):
                self.passes(
                    configured(
                        "postgresql+psycopg2://matters.invalid/shop", SQLALCHEMY_ENGINE_OPTIONS={"poolclass": pool}
                    )
                )

    def test_the_late_url_in_a_configuration_needs_no_base_class_that_knows_flask(self):
        app = configured(dbtestcase.URL)

        self.passes(app, base=DatabaseTestCase)
        self.passes(app)

    def test_the_late_url_serves_binds_too(self):
        app = configured(dbtestcase.URL, SQLALCHEMY_BINDS={"audit": dbtestcase.URL.replace("/test?", "/audit?")})

        class Notes(DatabaseTestCase):
            schema = {"test": Plain, "audit": Plain}

            def test_1(self):
                with app.app_context():
                    db = app.extensions["sqlalchemy"]
                    self.assertEqual([count_notes(db.engines[key]) for key in (None, "audit")], [1, 1])

            test_2 = test_1

        self.assertEqual(problems(run_case(Notes)), [])

    def test_plain_sqlalchemy_in_a_flask_application(self):
        engine = create_engine("postgresql+psycopg2://matters.invalid/shop")

        class Notes(FlaskDatabaseTestCase):
            schema = Plain
            app_engines = [engine]

            @classmethod
            def create_app(cls):
                app = Flask("plain")
                app.add_url_rule("/", view_func=lambda: str(count_notes(engine)))
                return app

            def test_1(self):
                self.assertEqual(self.client.get("/").text, "1")
                self.session.add(Note())
                self.session.commit()
                self.assertEqual(self.client.get("/").text, "3")

            test_2 = test_1

        self.assertEqual(problems(run_case(Notes)), [])

    def test_the_late_url_of_a_database_that_a_class_does_not_have_harms_only_who_uses_it(self):
        engine = create_engine(dbtestcase.URL.replace("/test?", "/elsewhere?"))

        class Notes(DatabaseTestCase):
            def test_1(self):
                with self.assertRaisesRegex(dbtestcase.errors.DBTestCaseError, "'elsewhere'.*has only 'test'"):
                    engine.connect()
                create_engine(dbtestcase.URL.replace("/test?", "/nowhere?"))

        self.assertEqual(problems(run_case(Notes)), [])

    def test_binds_with_the_same_url_as_the_default_are_one_database(self):
        uri = "postgresql+psycopg2://matters.invalid/shop"
        app = configured(uri, SQLALCHEMY_BINDS={"same": uri})

        class Notes(FlaskDatabaseTestCase):
            schema = Plain

            def test_1(self):
                with app.app_context():
                    engines = app.extensions["sqlalchemy"].engines
                    self.assertEqual([count_notes(engines[key]) for key in (None, "same")], [1, 2])

            test_2 = test_1

        self.assertEqual(problems(run_case(Notes)), [])

    def test_an_application_of_another_driver_can_be_used_beside_the_one_of_the_class(self):
        db = SQLAlchemy()
        other, own = Flask("other"), Flask("own")
        for app, driver in ((other, "psycopg2"), (own, "psycopg")):
            app.config["SQLALCHEMY_DATABASE_URI"] = f"postgresql+{driver}://matters.invalid/shop"
        db.init_app(other)

        class Shop(FlaskDatabaseTestCase):
            @classmethod
            def create_app(cls):
                db.init_app(own)
                return own

            def test_1(self):
                self.assertEqual(db.session.scalar(select(1)), 1)
                self.assertEqual(db.engine.driver, "psycopg")

            def test_2(self):
                with other.app_context():
                    self.assertEqual(db.session.scalar(select(2)), 2)
                    self.assertEqual(db.engine.driver, "psycopg2")
                self.assertEqual(db.session.scalar(select(1)), 1)

        Shop.db = db
        self.assertEqual(problems(run_case(Shop)), [])

    def test_options_of_the_extension_hold_and_each_bind_keeps_its_driver(self):
        for driver, other in (("psycopg2", "psycopg"), ("psycopg", "psycopg2")):
            with self.subTest(driver=driver):
                self.options_hold(f"postgresql+{driver}://matters.invalid/shop", f"postgresql+{other}://x.invalid/log")

    def options_hold(self, uri, log):
        db = SQLAlchemy(
            session_options={"expire_on_commit": False},
            engine_options={
                "pool_size": 2,
                "max_overflow": 0,
                "isolation_level": "REPEATABLE READ",
                "json_serializer": lambda value: json.dumps({"kept": value}),
            },
        )

        class Page(db.Model):
            id = db.Column(db.Integer, primary_key=True)
            body = db.Column(db.JSON)

        class Visit(db.Model):
            __bind_key__ = "log"
            id = db.Column(db.Integer, primary_key=True)

        class Pages(FlaskDatabaseTestCase):
            @classmethod
            def create_app(cls):
                app = Flask("pages")
                app.config.update(SQLALCHEMY_DATABASE_URI=uri, SQLALCHEMY_BINDS={"log": {"url": log}})
                db.init_app(app)
                return app

            def test_1(self):
                page = Page(body="words")
                db.session.add_all([page, Visit()])
                db.session.commit()
                self.assertNotIn("body", inspect(page).expired_attributes)
                db.session.refresh(page)
                self.assertEqual(page.body, {"kept": "words"})
                self.assertRowCount(Visit, 1)
                with db.engine.connect() as connection:
                    self.assertEqual(connection.get_isolation_level(), "REPEATABLE READ")
                self.assertNotEqual(db.engine.driver, db.engines["log"].driver)

            test_2 = test_1

        Pages.db = db
        self.assertEqual(problems(run_case(Pages)), [])

    def test_a_bind_that_is_met_within_a_test_is_undone_too(self):
        class Notes(FlaskDatabaseTestCase):
            schema = Plain

            def test_1(self):
                app = configured("sqlite://", SQLALCHEMY_BINDS={"new": "sqlite://"})
                with app.app_context(), app.extensions["sqlalchemy"].engines["new"].begin() as connection:
                    connection.execute(text("CREATE TABLE kept (id int)"))

            test_2 = test_1

            def test_3_a_spoilt_instance_is_replaced_with_all_its_databases(self):
                app = configured("sqlite://", SQLALCHEMY_BINDS={"new": "sqlite://"})
                with app.app_context(), app.extensions["sqlalchemy"].engines["new"].connect() as connection:
                    connection.execute(text("CREATE TABLE kept (id int)"))

            test_4 = test_1

        self.assertEqual(problems(run_case(Notes)), [])

    def test_a_new_bind_in_a_clone_test_is_an_error_that_says_what_to_write(self):
        class Notes(FlaskDatabaseTestCase):
            isolation = "clone"

            def test_1(self):
                configured("sqlite://", SQLALCHEMY_BINDS={"new": "sqlite://"})

        self.assertRegex("".join(problems(run_case(Notes))), r"schema = \{'test': \.\.\., 'new': \.\.\.\}")

    def test_real_commits_in_a_private_copy(self):
        class Shop(ShopTestCase):
            isolation = "clone"

            def test_1(self):
                self.assertEqual(self.client.post("/customers", json={"name": "Ada"}).status_code, 201)
                self.assertEqual(self.client.post("/customers", json={"name": "Ada"}).status_code, 409)
                self.assertEqual(db.session.scalars(select(Customer.name)).all(), ["Ada"])

            test_2 = test_1

        self.assertEqual(problems(run_case(Shop)), [])
