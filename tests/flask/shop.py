"""The application that the tests of this folder are about."""

from __future__ import annotations

import flask
import flask.globals
from flask import Flask, g, request
from flask.views import MethodView
from flask_sqlalchemy import SQLAlchemy
from sqlalchemy import select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from dbtestcase.flask import FlaskDatabaseTestCase

# Below Flask 3.2 a request uses the application context that is pushed; from then on it always has one of its own.
REQUESTS_SHARE = hasattr(flask.globals, "_cv_request")
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

    @app.post("/delete/<int:number>")
    def delete(number):
        db.session.delete(db.session.get_one(Customer, number))
        db.session.commit()
        return {}

    @app.post("/fail")
    def fail():
        g.seen = True
        db.session.add(Customer(name="never committed"))
        db.session.flush()
        raise LookupError("a fault of the view")

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
            yield request.args["first"]
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
