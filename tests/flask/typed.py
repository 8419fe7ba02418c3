"""What users of the base classes for Flask write, for type checkers: nothing here runs."""

from __future__ import annotations

from typing import ClassVar

from flask import Flask
from flask.testing import FlaskClient
from flask_sqlalchemy import SQLAlchemy
from sqlalchemy import Engine, MetaData
from sqlalchemy.orm import Session

from dbtestcase.flask import FlaskDatabaseTestCase, FlaskLiveServerTestCase

db = SQLAlchemy()
application = Flask(__name__)


def make_app() -> Flask:
    return Flask(__name__)


class ClassMethod(FlaskDatabaseTestCase):
    db = db
    schema = {"main": db, "audit": MetaData()}
    bind_databases = {"reader": "default"}

    @classmethod
    def create_app(cls) -> Flask:
        return make_app()

    @classmethod
    def setUpClass(cls) -> None:
        super().setUpClass()
        cls.app.config["TESTING"] = True

    @classmethod
    def setUpTestData(cls, session: Session) -> None:
        session.flush()

    def test_page(self) -> None:
        client: FlaskClient = self.client
        engine: Engine = self.engine_for("audit")
        self.assertEqual(client.get("/").status_code, 200)
        self.assertIsNot(engine, self.engine)


class Derived(ClassMethod):
    bind_databases: ClassVar[dict[str, str]] = {}

    @classmethod
    def create_app(cls) -> Flask:
        app = super().create_app()
        app.testing = True
        return app


class InstanceMethod(FlaskDatabaseTestCase):
    def create_app(self) -> Flask:
        return make_app()


class Factory(FlaskDatabaseTestCase):
    create_app = staticmethod(make_app)


class OfTheModule(FlaskDatabaseTestCase):
    app = application


class InSetUp(FlaskLiveServerTestCase):
    isolation = "clone"

    def setUp(self) -> None:
        self.app = make_app()
        self.address: str = self.live_server_url
