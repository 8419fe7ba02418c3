"""Which binds of an application are one database."""

from __future__ import annotations

import unittest

from flask import Flask
from flask_sqlalchemy import SQLAlchemy
from sqlalchemy import func, inspect, select, text
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from dbtestcase.errors import DBTestCaseError, SchemaError
from dbtestcase.flask import FlaskDatabaseTestCase
from tests.support import problems, run_case

WRITER = "postgresql+psycopg2://writer@primary.invalid/app"
READER = "postgresql+psycopg2://reader@replica.invalid/app"


def extension() -> SQLAlchemy:
    return SQLAlchemy(model_class=type("Base", (DeclarativeBase,), {}))


class BindTests(unittest.TestCase):
    def setUp(self):
        self.db = extension()

        class Job(self.db.Model):
            id: Mapped[int] = mapped_column(primary_key=True)

        class Report(self.db.Model):
            __bind_key__ = "reader"

            id: Mapped[int] = mapped_column(primary_key=True)

        self.Job, self.Report = Job, Report

    def case(self, binds, declared=None, **attributes):
        outer = self

        class Jobs(FlaskDatabaseTestCase):
            @classmethod
            def create_app(cls):
                app = Flask("jobs")
                app.config.update(SQLALCHEMY_DATABASE_URI=WRITER, SQLALCHEMY_BINDS=binds)
                outer.db.init_app(app)
                return app

            def seen(self, bind):
                """Return how many jobs a bind sees after one was committed, and which tables there are."""
                outer.db.session.add(outer.Job())
                outer.db.session.commit()
                with outer.db.engines[bind].connect() as connection:
                    count = connection.scalar(select(func.count()).select_from(outer.Job))
                    return count, sorted(inspect(connection).get_table_names())

        Jobs.db = self.db
        if declared is not None:
            Jobs.bind_databases = declared
        for name, value in attributes.items():
            setattr(Jobs, name, value)
        return Jobs

    def passes(self, case):
        self.assertEqual(problems(run_case(case)), [])

    def test_a_reader_that_is_declared_as_the_main_database_sees_its_rows(self):
        class Jobs(self.case({"reader": READER}, {"reader": "default"})):
            def test_1(self):
                self.assertEqual(self.seen("reader"), (1, ["job", "report"]))
                self.assertIs(self.engine_for("reader"), self.engine)

            test_2 = test_1

        self.passes(Jobs)

    def test_it_does_so_in_private_copies(self):
        class Jobs(self.case({"reader": READER}, {"reader": "default"}, isolation="clone")):
            def test_1(self):
                self.assertEqual(self.seen("reader"), (1, ["job", "report"]))

            test_2 = test_1

        self.passes(Jobs)

    def test_binds_that_are_declared_as_a_third_one_share_it(self):
        declared = {"reader": "reports", "archive": "reader"}

        class Jobs(self.case({"reader": READER, "archive": READER, "reports": READER}, declared)):
            def test_1(self):
                self.db.session.add(self.Report())
                self.db.session.commit()
                for bind in ("reader", "archive", "reports"):
                    with self.db.engines[bind].connect() as connection:
                        self.assertRegex(connection.scalar(text("SELECT current_database()")), "reports$")
                        self.assertEqual(connection.scalar(text("SELECT count(*) FROM report")), 1)

            test_2 = test_1

        Jobs.Report = self.Report
        self.passes(Jobs)

    def test_binds_that_are_configured_for_the_same_database_are_one(self):
        class Jobs(self.case({"reader": WRITER.replace("writer@primary.invalid", "reader@primary.invalid:5432")})):
            def test_1(self):
                self.assertEqual(self.seen("reader"), (1, ["job", "report"]))

            test_2 = test_1

        self.passes(Jobs)

    def test_binds_with_one_address_share_a_database_that_is_not_the_main_one(self):
        class Jobs(self.case({"reader": READER, "archive": READER})):
            def test_1(self):
                self.db.session.add(self.Report())
                self.db.session.commit()
                with self.db.engines["archive"].connect() as connection:
                    self.assertEqual(connection.scalar(text("SELECT count(*) FROM report")), 1)
                self.assertEqual(inspect(self.engine).get_table_names(), ["job"])

            test_2 = test_1

        Jobs.Report = self.Report
        self.passes(Jobs)

    def test_what_the_schema_names_is_a_database_of_its_own_whatever_the_addresses_are(self):
        class Jobs(self.case({"reader": WRITER})):
            def test_1(self):
                with self.db.engines["reader"].connect() as connection:
                    self.assertEqual(inspect(connection).get_table_names(), ["report"])

        Jobs.schema = {"main": self.db, "reader": self.db.metadatas["reader"]}
        self.passes(Jobs)

    def test_a_table_that_an_empty_bind_lacks_is_explained_with_what_to_declare(self):
        class Jobs(self.case({"replica": READER})):
            def test_1(self):
                self.seen("replica")

        texts = "".join(problems(run_case(Jobs)))

        self.assertRegex(texts, "the database of the bind 'replica', empty because no model belongs to that bind")
        self.assertRegex(texts, r"write bind_databases = \{'replica': 'default'\} on .*Jobs\.")

    def test_the_engine_of_a_bind_that_is_redirected_by_hand(self):
        class Jobs(self.case({"reader": READER})):
            @classmethod
            def setUpClass(cls):
                super().setUpClass()
                with cls.app.app_context():
                    cls.redirect_engine(cls.db.engines["reader"])

            def test_1(self):
                self.assertEqual(self.seen("reader"), (1, ["job"]))

            test_2 = test_1

        self.passes(Jobs)

    def test_a_bind_that_is_not_declared_has_a_database_of_its_own(self):
        class Jobs(self.case({"reader": READER})):
            def test_1(self):
                self.assertEqual(inspect(self.db.engines["reader"]).get_table_names(), ["report"])

        self.passes(Jobs)

    def test_advice_about_a_missing_table_looks_into_the_database_that_lacks_it(self):
        for driver in ("psycopg2", "psycopg"):
            for isolation in ("savepoint", "clone"):
                with self.subTest(driver=driver, isolation=isolation):
                    binds = {"reader": READER.replace("psycopg2", driver)}

                    class Jobs(self.case(binds, isolation=isolation)):
                        def test_1(self):
                            self.seen("reader")

                    texts = "".join(problems(run_case(Jobs)))

                    self.assertRegex(texts, "What to do: name one of the tables that exist: report")

    def test_an_application_that_each_test_makes(self):
        outer = self

        class Jobs(self.case({})):
            def create_app(self):
                app = Flask("jobs")
                app.config.update(SQLALCHEMY_DATABASE_URI=WRITER, SQLALCHEMY_BINDS={"reader": WRITER})
                outer.db.init_app(app)
                return app

            def test_1(self):
                self.assertEqual(self.seen("reader"), (1, ["job", "report"]))

            test_2 = test_1

        self.passes(Jobs)

    def test_what_cannot_be_meant_is_an_error_that_names_the_attribute(self):
        for declared, words in (
            (["reader"], "Jobs.bind_databases is \\['reader'\\]; it has to be a mapping"),
            ({"reader": None}, "has to be a mapping"),
            ({"reader": "archive", "archive": "reader"}, "back to 'reader'; end at"),
            ({"reader": "defualt"}, "'reader' is to be 'defualt', which is neither 'default'"),
        ):
            with self.subTest(declared=declared):

                class Jobs(self.case({"reader": READER}, declared)):
                    def test_1(self):
                        self.fail("not reached")

                texts = problems(run_case(Jobs))

                self.assertEqual(len(texts), 1)
                self.assertRegex(texts[0], words)

    def test_the_errors_have_kinds_of_ours(self):
        for error in (SchemaError, DBTestCaseError):
            case = self.case({}, {"reader": 1})
            with self.assertRaises(error):
                case.setUpClass()
            case.doClassCleanups()


if __name__ == "__main__":
    unittest.main()
