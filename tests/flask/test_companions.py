"""What is used beside Flask-SQLAlchemy: Flask-Migrate, factory_boy, Flask-Login."""

from __future__ import annotations

import io
import tempfile
import unittest
import warnings
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import factory
import flask_migrate
from factory.alchemy import SQLAlchemyModelFactory
from flask import Flask
from flask_login import LoginManager, UserMixin, current_user, login_required, login_user, logout_user
from flask_sqlalchemy import SQLAlchemy
from sqlalchemy import inspect, select
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from dbtestcase import AlembicMigrations
from dbtestcase.flask import FlaskDatabaseTestCase
from dbtestcase.schema.logging import restored_logging
from tests.support import problems, run_case


class Base(DeclarativeBase):
    pass


db = SQLAlchemy(model_class=Base)


class User(UserMixin, db.Model):
    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(unique=True)


def create_app(uri: str = "postgresql+psycopg2://nobody@matters.invalid/production") -> Flask:
    app = Flask("members")
    app.config.update(SECRET_KEY="test", SQLALCHEMY_DATABASE_URI=uri)
    db.init_app(app)
    flask_migrate.Migrate(app, db)
    login = LoginManager(app)
    login.user_loader(lambda number: db.session.get(User, int(number)))

    @app.post("/login/<name>")
    def log_in(name):
        login_user(db.session.scalars(select(User).filter_by(name=name)).one())
        return {}

    @app.post("/logout")
    def log_out():
        logout_user()
        return {}

    @app.post("/rename/<name>")
    @login_required
    def rename(name):
        current_user.name = name
        db.session.commit()
        return {}

    @app.get("/")
    def index():
        return {"user": current_user.name if current_user.is_authenticated else None}

    return app


class UserFactory(SQLAlchemyModelFactory):
    class Meta:
        model = User
        sqlalchemy_session_factory = lambda: db.session  # noqa: E731
        sqlalchemy_session_persistence = "commit"

    name = factory.Sequence("user{}".format)


class MembersTestCase(FlaskDatabaseTestCase):
    db = db

    @classmethod
    def create_app(cls):
        return create_app()


class CompanionTests(unittest.TestCase):
    def test_the_user_of_flask_login_is_loaded_by_each_request(self):
        class Members(MembersTestCase):
            @classmethod
            def setUpTestData(cls, session):
                cls.ada = User(name="ada")
                session.add(cls.ada)

            def test_1(self):
                self.assertIsNone(self.client.get("/").json["user"])
                self.client.post("/login/ada")
                self.assertEqual(self.client.get("/").json["user"], "ada")
                self.ada.name = "grace"
                db.session.commit()
                self.assertEqual(self.client.get("/").json["user"], "grace")
                self.client.post("/rename/edith")
                self.assertEqual(self.ada.name, "edith")
                self.assertIsNone(self.app.test_client().get("/").json["user"])
                self.client.post("/logout")
                self.assertIsNone(self.client.get("/").json["user"])

            test_2 = test_1

        self.assertEqual(problems(run_case(Members)), [])

    def test_the_client_of_flask_login(self):
        class Members(MembersTestCase):
            def test_1(self):
                from flask_login import FlaskLoginClient

                self.app.test_client_class = FlaskLoginClient
                self.addCleanup(setattr, self.app, "test_client_class", None)
                ada = User(name="ada")
                db.session.add(ada)
                db.session.commit()
                self.assertEqual(self.app.test_client(user=ada).get("/").json["user"], "ada")

            test_2 = test_1

        self.assertEqual(problems(run_case(Members)), [])

    def test_factories_make_rows_in_the_session_of_the_test_and_of_the_class(self):
        class Members(MembersTestCase):
            @classmethod
            def setUpTestData(cls, session):
                cls.ada = UserFactory(name="ada")

            def test_1(self):
                UserFactory.reset_sequence()
                UserFactory.create_batch(3)
                names = db.session.scalars(select(User.name).order_by(User.name)).all()
                self.assertEqual(names, ["ada", "user0", "user1", "user2"])
                self.client.post("/login/user1")
                self.assertEqual(self.client.get("/").json["user"], "user1")
                self.assertIn(self.ada, db.session)

            test_2 = test_1

        self.assertEqual(problems(run_case(Members)), [])

    def test_migrations_of_flask_migrate_make_the_schema(self):
        # Flask-Migrate's env.py sets up logging, which would silence the loggers of later tests.
        with tempfile.TemporaryDirectory() as folder, restored_logging(), redirect_stderr(io.StringIO()):
            migrations = Path(folder, "migrations")
            app = create_app(f"sqlite:///{folder}/scratch.db")
            with app.app_context(), redirect_stdout(io.StringIO()), warnings.catch_warnings():
                warnings.simplefilter("ignore", DeprecationWarning)  # env.py tries an old way first
                flask_migrate.init(str(migrations))
                flask_migrate.migrate(str(migrations), message="first")
            versions = list((migrations / "versions").glob("*.py"))
            self.assertEqual(len(versions), 1)

            class Members(MembersTestCase):
                schema = AlembicMigrations(migrations, app=create_app)

                def test_1(self):
                    self.assertEqual(set(inspect(db.engine).get_table_names()), {"user", "alembic_version"})
                    db.session.add(User(name="ada"))
                    db.session.commit()
                    self.client.post("/login/ada")
                    self.assertEqual(self.client.get("/").json["user"], "ada")

                test_2 = test_1

                def test_3_a_command_upgrades(self):
                    with self.app.app_context():
                        db.drop_all()
                        db.session.execute(db.text("DROP TABLE alembic_version"))
                        db.session.commit()
                    directory = ["-d", str(migrations)]
                    result = self.app.test_cli_runner().invoke(args=["db", "upgrade", *directory])
                    self.assertEqual(result.exit_code, 0, result.output)
                    self.assertRowAbsent(User)

            self.assertEqual(problems(run_case(Members)), [])
