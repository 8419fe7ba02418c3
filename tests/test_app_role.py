"""``app_role``: grants and row level security bind the code under test as in production."""

from __future__ import annotations

import unittest
from typing import Any

from flask import Flask
from flask_sqlalchemy import SQLAlchemy
from sqlalchemy import Connection, create_engine, text
from sqlalchemy.exc import ProgrammingError
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from dbtestcase import DatabaseTestCase, errors
from dbtestcase.flask import FlaskDatabaseTestCase
from tests.support import of_throwaway_servers, problems, recorded_warnings, run_case

app_engine = create_engine("postgresql+psycopg2://shop_app:secret@production.invalid/shop")


def invoices(connection: Connection) -> None:
    """Create a table of which a tenant sees its own rows."""
    for statement in (
        "CREATE TABLE invoice (id int, tenant int)",
        "ALTER TABLE invoice ENABLE ROW LEVEL SECURITY",
        "CREATE POLICY own ON invoice TO shop_app USING (tenant = current_setting('app.tenant', true)::int)",
        "GRANT SELECT ON invoice TO shop_app",
        "INSERT INTO invoice VALUES (1, 1), (2, 2)",
    ):
        connection.execute(text(statement))


COUNT = text("SELECT count(*) FROM invoice")


class AppRoleTests(unittest.TestCase):
    def test_policies_and_grants_bind_the_application_and_not_the_class(self) -> None:
        class Invoices(DatabaseTestCase):
            schema = staticmethod(invoices)
            app_engines = [app_engine]
            app_role = "shop_app"

            def test_a_tenant_sees_its_own(self) -> None:
                with app_engine.begin() as connection:
                    connection.execute(text("SELECT set_config('app.tenant', '1', true)"))
                    self.assertEqual(connection.scalar(COUNT), 1)
                    self.assertEqual(connection.scalar(text("SELECT current_user")), "shop_app")

            def test_what_is_not_granted_is_refused(self) -> None:
                with app_engine.begin() as connection, self.assertRaisesRegex(ProgrammingError, "permission denied"):
                    connection.execute(text("DELETE FROM invoice"))

            def test_the_session_of_the_class_is_the_owner_s(self) -> None:
                self.assertEqual(self.session.scalar(COUNT), 2)
                with app_engine.connect() as connection:
                    self.assertEqual(connection.scalar(COUNT), 0)

            def test_rows_that_the_test_commits_are_seen_by_policy(self) -> None:
                self.session.execute(text("INSERT INTO invoice VALUES (3, 7)"))
                self.session.commit()
                with app_engine.begin() as connection:
                    connection.execute(text("SET LOCAL app.tenant = '7'"))
                    self.assertEqual(connection.scalar(COUNT), 1)

        for isolation in ("auto", "clone"):
            with self.subTest(isolation=isolation):
                Invoices.isolation = isolation  # type: ignore[assignment]
                result = run_case(Invoices)
                self.assertEqual(problems(result), [])
                self.assertEqual(result.testsRun, 4)

    def test_a_schema_that_grants_nothing_lets_the_role_use_all_rows(self) -> None:
        class Base(DeclarativeBase):
            pass

        class Note(Base):
            __tablename__ = "note"
            id: Mapped[int] = mapped_column(primary_key=True)
            words: Mapped[str]

        class Notes(DatabaseTestCase):
            schema = Base
            app_engines = [app_engine]
            app_role = "shop_app"

            def test_writing(self) -> None:
                with Session(app_engine) as session:
                    session.add(Note(words="hello"))
                    session.commit()
                    self.assertEqual(session.query(Note).count(), 1)

            def test_no_ddl(self) -> None:
                with app_engine.begin() as connection, self.assertRaises(ProgrammingError):
                    connection.execute(text("DROP TABLE note"))

        self.assertEqual(problems(run_case(Notes)), [])

    def test_a_flask_request_is_bound_too(self) -> None:
        class Base(DeclarativeBase):
            pass

        db = SQLAlchemy(model_class=Base)

        def create() -> Flask:
            app = Flask(__name__)
            app.config["SQLALCHEMY_DATABASE_URI"] = "postgresql+psycopg2://shop_app@production.invalid/shop"
            db.init_app(app)

            @app.get("/<int:tenant>")
            def count(tenant: int) -> dict[str, Any]:
                db.session.execute(text("SELECT set_config('app.tenant', :tenant, true)"), {"tenant": str(tenant)})
                return {"count": db.session.scalar(COUNT)}

            return app

        class Requests(FlaskDatabaseTestCase):
            schema = staticmethod(invoices)
            app_role = "shop_app"

            @classmethod
            def create_app(cls) -> Flask:
                return create()

            def test_each_tenant(self) -> None:
                self.assertEqual([self.client.get(f"/{n}").json for n in (1, 2, 3)], [{"count": n} for n in (1, 1, 0)])

        self.assertEqual(problems(run_case(Requests)), [])

    @of_throwaway_servers
    def test_a_superuser_s_engine_on_a_schema_with_policies_is_told(self) -> None:
        def schema(connection: Connection) -> None:
            connection.execute(text("CREATE ROLE shop_app"))
            invoices(connection)

        class Unbound(DatabaseTestCase):
            app_engines = [app_engine]

            def test(self) -> None:
                with app_engine.connect() as connection:
                    self.assertEqual(connection.scalar(COUNT), 2)

        Unbound.schema = staticmethod(schema)  # type: ignore[assignment]
        with recorded_warnings() as caught:
            self.assertEqual(problems(run_case(Unbound)), [])

        told = [str(each.message) for each in caught if "app_role" in str(each.message)]
        self.assertEqual(len(told), 1)
        self.assertIn("app_role = 'shop_app' on", told[0])

    def test_what_is_no_role_is_named(self) -> None:
        class Wrong(DatabaseTestCase):
            app_role = 7  # type: ignore[assignment]

            def test(self) -> None: ...

        with self.assertRaisesRegex(errors.DBTestCaseError, "app_role is 7"):
            Wrong.setUpClass()
        Wrong.doClassCleanups()
