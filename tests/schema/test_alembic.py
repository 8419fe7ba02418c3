from __future__ import annotations

import contextlib
import importlib.util
import io
import logging
import os
import subprocess
import sys
import textwrap
import warnings
from pathlib import Path
from types import ModuleType
from unittest import mock

from alembic import command
from alembic.config import Config
from flask import Flask
from flask_migrate import Migrate
from flask_migrate import init as flask_init
from flask_sqlalchemy import SQLAlchemy
from sqlalchemy import create_engine, text
from sqlalchemy.pool import QueuePool

from dbtestcase import URL
from dbtestcase.errors import DBTestCaseError, SchemaError
from dbtestcase.schema import AlembicMigrations
from tests.schema.support import FolderTestCase, ServerTestCase, planned
from tests.support import once

ROOT = Path(__file__).parents[2]
NOWHERE = "postgresql+psycopg2://nobody:secret@db.invalid:1/important"


class ProjectTestCase(FolderTestCase):
    """Has an Alembic project as ``alembic init`` makes it, with one migration."""

    def setUp(self) -> None:
        super().setUp()
        self.ini = self.init("alembic.ini", "migrations")
        self.migration("0001", None, 'op.create_table("shop", sa.Column("id", sa.Integer, primary_key=True))')

    def init(self, ini: str, folder: str, template: str = "generic") -> Path:
        config = Config(str(self.folder / ini), stdout=io.StringIO())
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            command.init(config, str(self.folder / folder), template=template)
        return self.folder / ini

    def migration(self, revision: str, down: str | None, *steps: str, folder: str = "migrations/versions") -> Path:
        header = (
            f"import sqlalchemy as sa\nfrom alembic import op\n\nrevision = {revision!r}\ndown_revision = {down!r}\n"
        )
        body = "\n".join(textwrap.indent(textwrap.dedent(step), "    ") for step in steps)
        return self.write(f"{folder}/{revision}.py", f"{header}\n\ndef upgrade():\n{body}\n")

    def env(self, source: str) -> None:
        """Replace env.py."""
        self.write("migrations/env.py", source)

    def env_with(self, old: str, new: str) -> None:
        """Change env.py."""
        path = self.folder / "migrations/env.py"
        source = path.read_text()
        self.assertIn(old, source)
        path.write_text(source.replace(old, new))


class UpgradeTests(ProjectTestCase, ServerTestCase):
    def test_the_template_of_alembic_init_runs_as_it_is(self) -> None:
        self.create(AlembicMigrations(self.ini))

        self.assertEqual(self.tables(), ["alembic_version", "shop"])
        self.assertEqual(self.rows("SELECT * FROM alembic_version"), [("0001",)])

    def test_the_folder_is_enough(self) -> None:
        for migrations in (
            AlembicMigrations(self.folder / "migrations"),
            AlembicMigrations(script_location=str(self.folder / "migrations")),
        ):
            with self.subTest(migrations):
                self.admin("DROP DATABASE test WITH (FORCE)")
                self.admin("CREATE DATABASE test TEMPLATE template0")
                self.create(migrations)
                self.assertEqual(self.tables(), ["alembic_version", "shop"])

    def test_it_stops_at_the_revision_that_is_asked_for(self) -> None:
        self.migration("0002", "0001", 'op.create_table("customer", sa.Column("id", sa.Integer))')

        self.create(AlembicMigrations(self.ini, revision="0001"))

        self.assertEqual(self.tables(), ["alembic_version", "shop"])

    def test_later_steps_find_what_the_migrations_made(self) -> None:
        self.create([AlembicMigrations(self.ini), self.write("rows.sql", "INSERT INTO shop VALUES (1);")])

        self.assertEqual(self.rows("SELECT id FROM shop"), [(1,)])

    def test_env_may_add_to_the_path_what_only_migrations_import(self) -> None:
        self.write("odd/place/red_helper.py", "NAME = 'made_by_helper'")
        self.env_with(
            "from alembic import context",
            f"import sys\nsys.path.append({str(self.folder / 'odd/place')!r})\nfrom alembic import context",
        )
        self.migration("0002", "0001", "import red_helper", "op.create_table(red_helper.NAME)")
        path, modules = list(sys.path), set(sys.modules)
        self.addCleanup(lambda: [sys.modules.pop(name) for name in set(sys.modules) - modules if "red_" in name])
        self.addCleanup(sys.path.__setitem__, slice(None), path)

        self.create(AlembicMigrations(self.ini))

        self.assertIn("made_by_helper", self.tables())

    def test_env_may_use_the_connection_it_is_given(self) -> None:
        for use in ("context.configure(connection=given)", "context.configure(connection=given.connect())"):
            with self.subTest(use):
                self.admin("DROP DATABASE test WITH (FORCE)")
                self.admin("CREATE DATABASE test TEMPLATE template0")
                self.env(f"""
                    from alembic import context
                    given = context.config.attributes["connection"]
                    {use}
                    with context.begin_transaction():
                        context.run_migrations()
                """)

                self.create(AlembicMigrations(self.ini))

                self.assertEqual(self.tables(), ["alembic_version", "shop"])

    def test_work_that_env_left_uncommitted_on_our_connection_is_committed(self) -> None:
        self.env("""
            from alembic import context
            from sqlalchemy import text
            given = context.config.attributes["connection"]
            given.execute(text("SELECT 1"))
            context.configure(connection=given)
            with context.begin_transaction():
                context.run_migrations()
        """)

        self.create(AlembicMigrations(self.ini))

        self.assertEqual(self.tables(), ["alembic_version", "shop"])

    def test_a_url_from_elsewhere_is_led_to_the_test_database(self) -> None:
        self.env_with("    connectable = engine_from_config(", textwrap.indent(textwrap.dedent(f"""\
            from sqlalchemy import create_engine
            connectable = create_engine({NOWHERE!r}, connect_args={{"options": "-c application_name=moved"}})
            assert connectable.connect().exec_driver_sql("SHOW application_name").scalar() == "moved"
            _ = engine_from_config("""), "    "))  # fmt: skip

        self.create(AlembicMigrations(self.ini))

        self.assertEqual(self.tables(), ["alembic_version", "shop"])

    def test_the_url_that_stands_for_the_running_class_is_led_there_too(self) -> None:
        early = create_engine(URL)
        for made in ("create_engine(URL)", "shopapplication.engine"):
            with self.subTest(made):
                self.admin("DROP DATABASE test WITH (FORCE)")
                self.admin("CREATE DATABASE test TEMPLATE template0")
                self.env(f"""
                    import shopapplication
                    from alembic import context
                    from dbtestcase import URL
                    from sqlalchemy import create_engine
                    with {made}.connect() as connection:
                        context.configure(connection=connection)
                        with context.begin_transaction():
                            context.run_migrations()
                """)
                application = ModuleType("shopapplication")
                application.engine = early  # type: ignore[attr-defined]

                with mock.patch.dict(sys.modules, shopapplication=application):
                    self.create(AlembicMigrations(self.ini))

                self.assertEqual(self.tables(), ["alembic_version", "shop"])
        with self.assertRaisesRegex(DBTestCaseError, "no test class was running"):
            early.connect()

    def test_connections_that_were_open_before_are_neither_used_nor_kept(self) -> None:
        self.made.append("important")
        self.admin("CREATE DATABASE important TEMPLATE template0")
        engine = create_engine(self.url("important"), poolclass=QueuePool)
        self.addCleanup(engine.dispose)
        engine.connect().close()
        application = ModuleType("shopapplication")
        application.engine = engine  # type: ignore[attr-defined]
        self.enterContext(mock.patch.dict(sys.modules, shopapplication=application))
        self.env("""
            import shopapplication
            from alembic import context
            with shopapplication.engine.connect() as connection:
                context.configure(connection=connection)
                with context.begin_transaction():
                    context.run_migrations()
        """)

        self.create(AlembicMigrations(self.ini))

        self.assertEqual(self.tables(), ["alembic_version", "shop"])
        self.assertEqual(self.tables("important"), [])
        with engine.connect() as connection:
            self.assertEqual(connection.scalar(text("SELECT current_database()")), "important")

    def test_an_env_for_asyncio_gets_a_driver_that_can_do_it(self) -> None:
        self.init("async.ini", "later", "async")
        self.migration("0001", None, 'op.create_table("a", sa.Column("id", sa.Integer))', folder="later/versions")

        self.create(AlembicMigrations(self.folder / "async.ini"))

        self.assertEqual(self.tables(), ["a", "alembic_version"])

    def test_branches_in_several_folders_are_found(self) -> None:
        lines = self.ini.read_text().replace("path_separator = os", "path_separator = :").splitlines()
        lines.insert(lines.index("[alembic]") + 1, "version_locations = %(here)s/migrations/versions:%(here)s/more")
        self.ini.write_text("\n".join(lines))
        other = self.migration("b001", None, 'op.create_table("b", sa.Column("id", sa.Integer))', folder="more")
        heads = AlembicMigrations(self.ini, revision="heads")
        before = planned(heads).fingerprint

        self.assertIn('revision="heads"', self.failure(AlembicMigrations(self.ini)))
        self.create(heads)

        self.assertEqual(self.tables(), ["alembic_version", "b", "shop"])
        other.write_text(other.read_text() + "\n# edited\n")
        self.assertNotEqual(planned(heads).fingerprint, before)

    def test_a_location_relative_to_the_ini_works_from_another_folder(self) -> None:
        text = self.ini.read_text()
        self.ini.write_text(text.replace(f"script_location = {self.folder}/migrations", "script_location = migrations"))
        self.assertIn("script_location = migrations", self.ini.read_text())
        self.write("shopmodels.py", "NAME = 'shop'\n")
        self.env_with("target_metadata = None", "import shopmodels\ntarget_metadata = None")
        self.addCleanup(sys.modules.pop, "shopmodels", None)
        path = list(sys.path)

        self.create(AlembicMigrations(self.ini))

        self.assertEqual(self.tables(), ["alembic_version", "shop"])
        self.assertEqual(sys.path, path)

    def test_settings_in_pyproject_are_read(self) -> None:
        if "pyproject" not in os.listdir(Path(importlib.util.find_spec("alembic").origin).parent / "templates"):  # type: ignore[union-attr, arg-type]
            self.skipTest("this Alembic reads no pyproject.toml")
        self.write("pyproject.toml", '[tool.alembic]\nscript_location = "%(here)s/migrations"\n')
        self.ini.unlink()

        wanted = self.create(AlembicMigrations(self.folder / "pyproject.toml"))

        self.assertEqual(self.tables(), ["alembic_version", "shop"])
        self.write("pyproject.toml", '[project]\nname = "x"\n[tool.alembic]\nscript_location = "%(here)s/migrations"\n')
        self.assertEqual(planned(AlembicMigrations(self.folder / "pyproject.toml")).fingerprint, wanted.fingerprint)

    def test_arguments_for_env_arrive(self) -> None:
        self.migration("0002", "0001", 'from alembic import context\nop.execute("CREATE TABLE " + context.get_x_argument(as_dictionary=True)["name"] + " ()")')  # fmt: skip  # noqa: E501

        self.create(AlembicMigrations(self.ini, x=("name=tenant",)))

        self.assertEqual(self.tables(), ["alembic_version", "shop", "tenant"])

    def test_two_databases_have_their_own_migrations(self) -> None:
        other = self.init("audit.ini", "audit")
        self.migration("0001", None, 'op.create_table("log", sa.Column("id", sa.Integer))', folder="audit/versions")

        self.create({"main": AlembicMigrations(self.ini), "audit": AlembicMigrations(other)})

        self.assertEqual(
            [self.tables("main"), self.tables("audit")], [["alembic_version", "shop"], ["alembic_version", "log"]]
        )

    def test_a_percent_sign_in_the_url_survives_the_ini(self) -> None:
        wanted = planned(AlembicMigrations(self.ini))

        wanted.create(lambda name: self.url(name).set(password="50%d"), self.admin)

        self.assertEqual(self.tables(), ["alembic_version", "shop"])

    def test_variables_for_libpq_in_the_environment_change_nothing(self) -> None:
        with mock.patch.dict(os.environ, {"PGSERVICE": "nowhere", "PGOPTIONS": "-c nonsense=1"}):
            planned(AlembicMigrations(self.ini)).create(self.url, self.admin)

        self.assertEqual(self.tables(), ["alembic_version", "shop"])


class SurroundingsTests(ProjectTestCase, ServerTestCase):
    def test_loggers_are_as_they_were_and_nothing_is_printed(self) -> None:
        logger = logging.getLogger("shop.service")
        handler = logging.StreamHandler(io.StringIO())
        logger.addHandler(handler)
        self.addCleanup(logger.removeHandler, handler)
        self.migration("0002", "0001", 'print("noise")')
        self.env_with("from alembic import context", textwrap.dedent("""\
            from alembic import context
            import logging.config
            logging.basicConfig(level=logging.DEBUG)
            logging.config.dictConfig({"version": 1, "root": {"level": "DEBUG"}, "disable_existing_loggers": True})
            logging.disable(logging.CRITICAL)
            logging.getLogger("shop.late")
            logging.config.dictConfig({"version": 1, "disable_existing_loggers": True})
        """))  # fmt: skip
        before = (logging.root.level, list(logging.root.handlers), logging.root.manager.disable, logger.level)
        output, errors = io.StringIO(), io.StringIO()

        with contextlib.redirect_stdout(output), contextlib.redirect_stderr(errors):
            self.create(AlembicMigrations(self.ini))

        self.assertEqual(
            (logging.root.level, list(logging.root.handlers), logging.root.manager.disable, logger.level), before
        )
        self.assertFalse(logger.disabled)
        self.assertEqual(logger.handlers, [handler])
        self.assertFalse(logging.getLogger("shop.late").disabled)
        self.assertEqual((output.getvalue(), errors.getvalue()), ("", ""))
        with self.assertLogs("shop.service", "INFO"):
            logger.info("heard")

    def test_a_module_imported_meanwhile_can_configure_logging_later(self) -> None:
        self.write("shoplogging.py", "from logging.config import fileConfig\n")
        self.addCleanup(sys.modules.pop, "shoplogging", None)
        self.env_with("from alembic import context", "from alembic import context\nimport shoplogging")

        self.create(AlembicMigrations(self.ini))

        with self.assertRaises((KeyError, OSError)):  # whichever this Python raises for a missing file
            sys.modules["shoplogging"].fileConfig(str(self.folder / "no.ini"))

    def test_no_compiled_file_is_left_beside_the_migrations(self) -> None:
        with mock.patch.object(sys, "dont_write_bytecode", False):
            self.create(AlembicMigrations(self.ini))

        self.assertEqual(list(self.folder.rglob("*.pyc")), [])

    def test_no_connection_is_left_open(self) -> None:
        self.create(AlembicMigrations(self.ini))

        self.assertNobodyConnected()


class FailureTests(ProjectTestCase, ServerTestCase):
    def test_a_failing_migration_is_told_with_file_line_statement_and_the_servers_words(self) -> None:
        path = self.migration("0002", "0001", "pass", 'op.execute("CREATE TABLE customer (id nonsense)")')

        message = self.failure(AlembicMigrations(self.ini))

        self.assertIn("ShopTests.schema: could not upgrade to 'head'", message)
        self.assertIn(f"{path}:10 in upgrade", message)
        self.assertIn('type "nonsense" does not exist', message)
        self.assertIn("CREATE TABLE customer (id nonsense)", message)

    def test_an_exception_in_env_is_told_with_its_line(self) -> None:
        self.env("import os\nos.environ['NO_SUCH_VARIABLE']\n")

        message = self.failure(AlembicMigrations(self.ini))

        self.assertIn("env.py:2", message)
        self.assertIn("KeyError: 'NO_SUCH_VARIABLE'", message)
        self.assertIn('config.get_main_option("sqlalchemy.url")', message)

    def test_an_env_that_gives_up_does_not_end_the_run(self) -> None:
        self.env("raise SystemExit(3)\n")

        self.assertIn("SystemExit: 3", self.failure(AlembicMigrations(self.ini)))

    def test_an_env_that_migrates_nothing_is_refused(self) -> None:
        self.env("")

        self.assertIn("did not run the migrations", self.failure(AlembicMigrations(self.ini)))

    def test_an_env_that_only_prints_sql_is_refused(self) -> None:
        self.env("""
            from alembic import context
            context.configure(url="postgresql://", as_sql=True)
            with context.begin_transaction():
                context.run_migrations()
        """)

        self.assertIn("offline mode", self.failure(AlembicMigrations(self.ini)))

    def test_an_engine_for_another_database_system_is_refused(self) -> None:
        self.env("""
            from alembic import context
            from sqlalchemy import create_engine
            with create_engine("sqlite://").connect() as connection:
                context.configure(connection=connection)
                context.run_migrations()
        """)

        message = self.failure(AlembicMigrations(self.ini))

        self.assertIn("an engine for sqlite", message)
        self.assertIn("any postgresql:// URL", message)

    def test_an_engine_that_connects_in_its_own_way_is_stopped_before_it_sends_anything(self) -> None:
        self.made.append("important")
        self.admin("CREATE DATABASE important TEMPLATE template0")
        host = self.url().query["host"]
        port = self.url().query.get("port", 5432)
        self.env(f"""
            from alembic import context
            from sqlalchemy import create_engine
            import psycopg2
            def connect():
                return psycopg2.connect(host={host!r}, port={port!r}, user="postgres", dbname="important")
            engine = create_engine("postgresql+psycopg2://", creator=connect)
            with engine.connect() as connection:
                context.configure(connection=connection)
                with context.begin_transaction():
                    context.run_migrations()
        """)

        message = self.failure(AlembicMigrations(self.ini))

        self.assertIn("creator=", message)
        self.assertEqual(self.tables("important"), [])

    def test_an_env_for_several_databases_is_refused(self) -> None:
        self.env(f"""
            from alembic import context
            from sqlalchemy import create_engine
            for name in ("one", "two"):
                with create_engine({NOWHERE!r}.replace("important", name)).connect() as connection:
                    context.configure(connection=connection)
                    with context.begin_transaction():
                        context.run_migrations()
        """)

        message = self.failure(AlembicMigrations(self.ini))

        self.assertIn("several databases ('one', 'two')", message)

    def test_alembic_missing_says_what_to_install(self) -> None:
        wanted = planned(AlembicMigrations(self.ini))

        with (
            mock.patch.dict(sys.modules, {"alembic.util": None}),
            self.assertRaisesRegex(SchemaError, r"pip install 'dbtestcase\[alembic\]'"),
        ):
            wanted.create(self.url, self.admin)

    def test_an_unknown_revision_is_told_in_alembics_words(self) -> None:
        message = self.failure(AlembicMigrations(self.ini, revision="ffff"))

        self.assertIn("Can't locate revision identified by 'ffff'", message)


class FlaskMigrateTests(ServerTestCase):
    def setUp(self) -> None:
        super().setUp()
        # Flask-Migrate's env.py asks old and new releases of the extension for the engine, in that order.
        self.enterContext(warnings.catch_warnings())
        warnings.simplefilter("ignore", DeprecationWarning)
        self.db = SQLAlchemy()
        with self.create_app().app_context(), contextlib.redirect_stdout(io.StringIO()):
            flask_init(str(self.folder / "migrations"))
        self.write(
            "migrations/versions/0001.py",
            """
            import sqlalchemy as sa
            from alembic import op

            revision = "0001"
            down_revision = None


            def upgrade():
                op.create_table("shop", sa.Column("id", sa.Integer))
            """,
        )

    def create_app(self, url: str = NOWHERE) -> Flask:
        app = Flask("shop")
        app.config["SQLALCHEMY_DATABASE_URI"] = url
        self.db.init_app(app)
        Migrate(app, self.db)
        return app

    def test_the_folder_runs_within_the_application(self) -> None:
        for app in (self.create_app, self.create_app()):
            with self.subTest(app=app):
                self.admin("DROP DATABASE test WITH (FORCE)")
                self.admin("CREATE DATABASE test TEMPLATE template0")

                self.create(AlembicMigrations(self.folder / "migrations", app=app))

                self.assertEqual(self.tables(), ["alembic_version", "shop"])

    def test_an_application_that_looks_into_its_database_when_it_is_made_finds_the_test_database(self) -> None:
        def create_app() -> Flask:
            app = self.create_app(URL)
            with app.app_context(), self.db.engine.connect() as connection:
                self.assertFalse(self.db.inspect(connection).has_table("shop"))
            return app

        self.create(AlembicMigrations(self.folder / "migrations", app=create_app))

        self.assertEqual(self.tables(), ["alembic_version", "shop"])

    def test_without_an_application_the_argument_is_named(self) -> None:
        self.assertIn("app=create_app", self.failure(AlembicMigrations(self.folder / "migrations")))

    def test_an_application_on_sqlite_is_told_to_use_a_postgresql_url(self) -> None:
        migrations = AlembicMigrations(self.folder / "migrations", app=lambda: self.create_app("sqlite://"))

        self.assertIn("an engine for sqlite", self.failure(migrations))

    def test_something_else_than_an_application_is_refused(self) -> None:
        self.assertIn("it got int", self.failure(AlembicMigrations(self.folder / "migrations", app=lambda: 3)))


class PlanTests(ProjectTestCase):
    def fingerprint(self, migrations: AlembicMigrations | None = None) -> str:
        found = planned(migrations or AlembicMigrations(self.ini)).fingerprint
        assert found is not None
        return found

    def test_missing_files_are_named(self) -> None:
        self.assertIn("no file", self.planning_error(AlembicMigrations(self.folder / "no.ini")))
        self.assertIn("no env.py", self.planning_error(AlembicMigrations(self.folder)))
        self.assertIn(
            "script_location", self.planning_error(AlembicMigrations(self.write("empty.ini", "[other]\nx = 1\n")))
        )
        self.assertIn("cannot understand", self.planning_error(AlembicMigrations(self.write("bad.ini", "nonsense"))))
        self.assertIn("depends_on", self.planning_error(AlembicMigrations(self.ini, depends_on=["no/such"])))

    def test_whatever_it_is_made_of_changes_the_fingerprint(self) -> None:
        seen = [self.fingerprint()]
        versions = self.folder / "migrations/versions"

        def change(path: Path, content: str) -> None:
            path.write_text(content)
            seen.append(self.fingerprint())

        change(versions / "0001.py", (versions / "0001.py").read_text() + "\n# edited")
        change(versions / "0002.py", "revision = '0002'\ndown_revision = '0001'\n")
        change(versions / "rows.csv", "1,2\n")
        change(self.folder / "migrations/env.py", (self.folder / "migrations/env.py").read_text() + "\n# edited")
        change(self.ini, self.ini.read_text() + "\n# edited")
        (versions / "0002.py").rename(versions / "0003.py")
        seen.append(self.fingerprint())
        for options in (
            {"revision": "0001"},
            {"x": ("a=b",)},
            {"section": "DEFAULT", "script_location": self.folder / "migrations"},
            {"depends_on": [self.ini]},
        ):
            seen.append(self.fingerprint(AlembicMigrations(self.ini, **options)))  # type: ignore[arg-type]

        self.assertEqual(len(set(seen)), len(seen))

    def test_what_it_is_not_made_of_does_not(self) -> None:
        before = self.fingerprint()

        self.write("migrations/versions/__pycache__/x.pyc", "x")
        self.write("migrations/__pycache__/y.py", "x")
        self.write("migrations/script.py.mako", "x")
        self.write("migrations/.hidden", "x")
        (self.folder / "elsewhere.py").write_text("x = 1")

        self.assertEqual(self.fingerprint(), before)

    def test_code_of_ours_that_a_migration_imports_counts_and_what_env_only_imports_does_not(self) -> None:
        self.write("shopmodels/__init__.py", "")
        names = self.write("shopmodels/deep/names.py", "NAME = 'shop'\n")
        self.env_with("target_metadata = None", "import shopmodels\ntarget_metadata = None")
        before = self.fingerprint()
        names.write_text("NAME = 'store'\n")
        self.assertEqual(self.fingerprint(), before)

        self.migration("0002", "0001", "from shopmodels.deep.names import NAME")
        before = self.fingerprint()
        names.write_text("NAME = 'market'\n")

        self.assertNotEqual(self.fingerprint(), before)

    def test_code_of_ours_that_such_code_imports_counts_too(self) -> None:
        self.write("shopmodels/__init__.py", "from shopnames.all import NAMES\n")
        self.write("shopnames/__init__.py", "import shopmodels  # in a circle\n")
        names = self.write("shopnames/all.py", "NAMES = 'shop'\n")
        self.migration("0002", "0001", "import shopmodels")
        before = self.fingerprint()

        names.write_text("NAMES = 'store'\n")

        self.assertNotEqual(self.fingerprint(), before)

    def test_a_module_that_env_uses_counts_unless_only_as_its_target_metadata(self) -> None:
        self.write("shop/__init__.py", "")
        models = self.write("shop/models.py", "Base = None\n")
        settings = self.write("shop/settings.py", "SCHEMAS = ('a',)\n")
        helper = self.write("helper.py", "def prepare(): pass\n")
        self.env_with(
            "target_metadata = None",
            "import helper\nfrom shop import models\nfrom shop.settings import SCHEMAS\n\nhelper.prepare()\n"
            "print(SCHEMAS)\ntarget_metadata = models.Base",
        )
        before = self.fingerprint()
        models.write_text("Base = 1\n")
        self.assertEqual(self.fingerprint(), before)

        for file in (settings, helper):
            file.write_text("# edited\n")
            self.assertNotEqual(self.fingerprint(), before)
            before = self.fingerprint()

    def test_files_of_data_that_a_migration_names_count_wherever_the_project_has_them(self) -> None:
        self.migration("0002", "0001", 'op.execute((ROOT / "sql" / "views.sql").read_text())')
        before = self.fingerprint()
        views = self.write("database/sql/views.sql", "SELECT 1")
        self.write(".venv/views.sql", "SELECT 1")
        self.assertNotEqual(self.fingerprint(), before)

        before = self.fingerprint()
        self.write("database/sql/others.sql", "SELECT 1")
        self.assertEqual(self.fingerprint(), before)
        views.write_text("SELECT 2")
        self.assertNotEqual(self.fingerprint(), before)

    def test_code_in_the_folders_that_an_env_is_wont_to_add_to_the_path_counts(self) -> None:
        for number, folder in enumerate(("migrations", "src", "migrations/src")):
            with self.subTest(folder):
                helper = self.write(f"{folder}/red_names{number}.py", "NAME = 'shop'\n")
                self.migration("0002", "0001", f"from red_names{number} import NAME")
                before = self.fingerprint()
                helper.write_text("NAME = 'market'\n")

                self.assertNotEqual(self.fingerprint(), before)

    @once
    def test_it_is_found_out_without_importing_alembic(self) -> None:
        script = textwrap.dedent("""
            import sys
            from dbtestcase.schema import AlembicMigrations, plan
            print(plan(AlembicMigrations(sys.argv[1]), owner="A.schema").fingerprint)
            assert not any(name.split(".")[0] == "alembic" for name in sys.modules), "alembic was imported"
        """)

        done = subprocess.run(
            [sys.executable, "-c", script, str(self.ini)], cwd=ROOT, capture_output=True, text=True, check=False
        )

        self.assertEqual((done.stderr, done.stdout.strip()), ("", self.fingerprint()))

    def test_options_are_compared_by_value(self) -> None:
        self.assertEqual(AlembicMigrations("a.ini", x="a=b"), AlembicMigrations("a.ini", x=["a=b"]))
        self.assertNotEqual(AlembicMigrations("a.ini"), AlembicMigrations("a.ini", revision="heads"))
