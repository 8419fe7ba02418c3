"""Which extension a class uses, and that each kind of them works."""

from __future__ import annotations

import sys
import types
import unittest

import flask_sqlalchemy_lite
from flask import Flask
from flask_sqlalchemy import SQLAlchemy
from sqlalchemy import func, select
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from dbtestcase.flask import FlaskDatabaseTestCase
from tests.support import problems, run_case

FORBIDDEN = "postgresql+psycopg2://nobody@matters.invalid/production"


class Base(DeclarativeBase):
    pass


class Note(Base):
    __tablename__ = "note"

    id: Mapped[int] = mapped_column(primary_key=True)
    words: Mapped[str]


def create_lite_app(db, **engines) -> Flask:
    app = Flask("lite")
    app.config["SQLALCHEMY_ENGINES"] = {"default": FORBIDDEN, **engines}
    db.init_app(app)

    @app.post("/<words>")
    def add(words):
        db.session.add(Note(words=words))
        db.session.commit()
        return {}

    @app.get("/")
    def words():
        return {"words": db.session.scalars(select(Note.words).order_by(Note.words)).all()}

    return app


class LiteTests(unittest.TestCase):
    def test_the_light_extension_with_a_factory(self):
        lite = flask_sqlalchemy_lite.SQLAlchemy()

        class Notes(FlaskDatabaseTestCase):
            db = lite
            schema = Base

            @classmethod
            def create_app(cls):
                return create_lite_app(lite)

            @classmethod
            def setUpTestData(cls, session):
                assert lite.session is session
                cls.first = Note(words="first")
                session.add(cls.first)

            def test_1(self):
                self.assertIs(self.session, lite.session)
                self.client.post("/second")
                self.assertEqual(self.client.get("/").json, {"words": ["first", "second"]})
                self.first.words = "changed"
                lite.session.commit()
                self.assertEqual(self.client.get("/").json, {"words": ["changed", "second"]})

            test_2 = test_1

        self.assertEqual(problems(run_case(Notes)), [])

    def test_the_light_extension_unknown_to_the_class_in_set_up(self):
        class Notes(FlaskDatabaseTestCase):
            schema = Base

            def setUp(self):
                self.db = flask_sqlalchemy_lite.SQLAlchemy()
                self.app = create_lite_app(self.db)

            def test_1(self):
                self.client.post("/second")
                with self.app.app_context():
                    self.assertEqual(self.db.session.scalars(select(Note.words)).all(), ["second"])

            test_2 = test_1

        self.assertEqual(problems(run_case(Notes)), [])

    def test_several_engines_of_the_light_extension(self):
        lite = flask_sqlalchemy_lite.SQLAlchemy()

        class Notes(FlaskDatabaseTestCase):
            db = lite
            schema = {"test": Base, "audit": Base}

            @classmethod
            def create_app(cls):
                return create_lite_app(lite, audit="sqlite://", empty=FORBIDDEN.replace("production", "empty"))

            def test_1(self):
                with lite.get_engine("audit").begin() as connection:
                    connection.execute(Note.__table__.insert(), {"words": "audited"})
                self.assertEqual(self.client.get("/").json, {"words": []})
                with self.engine_for("audit").connect() as connection:
                    self.assertEqual(connection.scalar(select(func.count()).select_from(Note)), 1)
                with lite.get_engine("empty").connect() as connection:
                    self.assertRegex(connection.scalar(select(func.current_database())), "empty$")

            test_2 = test_1

        self.assertEqual(problems(run_case(Notes)), [])

    def test_the_light_extension_is_no_schema(self):
        lite = flask_sqlalchemy_lite.SQLAlchemy()

        class Notes(FlaskDatabaseTestCase):
            db = schema = lite

            def test_1(self):
                self.fail("not reached")

        self.assertRegex("".join(problems(run_case(Notes))), "(?s)Notes.schema.*declarative base of your models")


def new_extension() -> SQLAlchemy:
    class OwnBase(DeclarativeBase):
        pass

    db = SQLAlchemy(model_class=OwnBase)
    db.Thing = type("Thing", (db.Model,), {"id": mapped_column(primary_key=True, type_=db.Integer)})
    return db


def create_app(db) -> Flask:
    app = Flask("things")
    app.config["SQLALCHEMY_DATABASE_URI"] = FORBIDDEN
    db.init_app(app)

    @app.post("/")
    def add():
        db.session.add(db.Thing())
        db.session.commit()
        return {}

    return app


class ChoiceTests(unittest.TestCase):
    def in_module(self, case, **names):
        """Let a class look as if it were defined in a module that imports ``names``."""
        module = sys.modules["tests.flask.imagined"] = types.ModuleType("tests.flask.imagined")
        self.addCleanup(sys.modules.pop, module.__name__, None)
        vars(module).update(names)
        case.__module__ = module.__name__
        return case

    def test_the_extension_that_the_module_imports_gives_the_schema(self):
        db = new_extension()

        class Things(FlaskDatabaseTestCase):
            def setUp(self):
                self.app = create_app(db)

            def test_1(self):
                self.client.post("/")
                self.assertRowCount(db.Thing, 1)

            test_2 = test_1

        self.assertEqual(problems(run_case(self.in_module(Things, database=db, again=db))), [])

    def test_of_two_imported_extensions_the_one_of_the_application_is_taken(self):
        db, other = new_extension(), new_extension()

        class Things(FlaskDatabaseTestCase):
            @classmethod
            def create_app(cls):
                return create_app(db)

            def test_1(self):
                self.client.post("/")
                self.assertRowCount(db.Thing, 1)

            test_2 = test_1

        self.assertEqual(problems(run_case(self.in_module(Things, db=db, other=other))), [])

    def test_an_extension_that_nobody_named_is_met_with_the_first_application(self):
        db = new_extension()

        class Things(FlaskDatabaseTestCase):
            def setUp(self):
                self.app = create_app(db)
                self.context = self.app.app_context()
                self.context.push()
                self.addCleanup(self.context.pop)

            def test_1(self):
                db.session.add(db.Thing())
                db.session.commit()
                self.client.post("/")
                self.assertEqual(db.session.scalars(select(db.Thing.id)).all()[-1], self.last())

            def last(self):
                return db.session.scalar(select(func.max(db.Thing.id)))

            test_2 = test_1

        self.assertEqual(problems(run_case(self.in_module(Things))), [])

    def test_an_application_that_nobody_named_is_met_when_its_context_is_pushed(self):
        db = new_extension()
        app = create_app(db)

        class Things(FlaskDatabaseTestCase):
            def test_1(self):
                with app.app_context():
                    db.create_all()
                    db.session.add(db.Thing())
                    db.session.commit()
                    self.assertEqual(db.session.scalar(select(func.count()).select_from(db.Thing)), 1)

            test_2 = test_1

            def test_3_also_by_its_first_request(self):
                self.assertEqual(app.test_client().post("/").status_code, 200)

        self.assertEqual(problems(run_case(self.in_module(Things))), [])

    def test_models_that_set_up_imports_have_their_tables(self):
        for isolation in ("savepoint", "clone"):
            with self.subTest(isolation=isolation):
                db = new_extension()

                class Things(FlaskDatabaseTestCase):
                    def setUp(self, db=db):
                        if not hasattr(db, "Late"):
                            db.Late = type("Late", (db.Model,), {"id": db.Column(db.Integer, primary_key=True)})
                        self.app = create_app(db)

                    def test_1(self, db=db):
                        with self.app.app_context():
                            db.session.add(db.Late())
                            db.session.commit()
                            self.assertRowCount(db.Late, 1)

                    test_2 = test_3 = test_1

                Things.isolation = isolation
                self.assertEqual(problems(run_case(self.in_module(Things, db=db))), [])

    def test_an_extension_initialised_late_within_a_context(self):
        db = new_extension()

        class Things(FlaskDatabaseTestCase):
            @classmethod
            def create_app(cls):
                app = Flask("late")
                app.config["SQLALCHEMY_DATABASE_URI"] = FORBIDDEN
                with app.app_context():
                    db.init_app(app)
                    db.create_all()
                    db.session.add(db.Thing())
                    db.session.commit()
                return app

            def test_1(self):
                self.assertEqual(db.session.scalar(select(func.count()).select_from(db.Thing)), 1)
                db.session.add(db.Thing())
                db.session.commit()

            test_2 = test_1

        self.assertEqual(problems(run_case(self.in_module(Things))), [])

    def test_an_extension_of_a_kind_of_its_own(self):
        class Reconnecting(SQLAlchemy):
            def init_app(self, app):
                super().init_app(app)
                with app.app_context():
                    self.create_all()

        db = Reconnecting()
        db.Thing = type("Thing", (db.Model,), {"id": db.Column(db.Integer, primary_key=True)})

        class Things(FlaskDatabaseTestCase):
            @classmethod
            def create_app(cls):
                return create_app(db)

            def test_1(self):
                self.client.post("/")
                self.assertRowCount(db.Thing, 1)

            test_2 = test_1

        Things.db = db
        self.assertEqual(problems(run_case(Things)), [])

    def test_classes_with_different_applications_in_one_process(self):
        def case(db):
            class Things(FlaskDatabaseTestCase):
                @classmethod
                def create_app(cls):
                    return create_app(db)

                def test_1(self):
                    self.client.post("/")
                    self.assertRowCount(db.Thing, 1)

                test_2 = test_1

            return self.in_module(Things)

        self.assertEqual(problems(run_case(*(case(new_extension()) for _ in range(3)))), [])
