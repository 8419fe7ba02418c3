"""Alembic migrations as schema: run by the user's env.py, on the test database and on nothing else.

Alembic is imported only when they run.
"""

from __future__ import annotations

import argparse
import importlib.util
import io
import os
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Any

import sqlalchemy
from sqlalchemy import URL, Connection, create_engine
from sqlalchemy.pool import NullPool

from dbtestcase.errors import SchemaError
from dbtestcase.schema.connect import connect, plain_url
from dbtestcase.schema.digest import digest, file_digest, files_below, version_of
from dbtestcase.schema.failure import failure, location_of
from dbtestcase.schema.logging import restored_logging
from dbtestcase.schema.migrations import AlembicMigrations, Project
from dbtestcase.schema.parts import Part
from dbtestcase.schema.redirect import Redirection
from dbtestcase.schema.target import Target

if TYPE_CHECKING:
    from alembic.config import Config


class AlembicPart(Part):
    """Upgrades a database with the user's migrations."""

    # env.py is the user's code, and libraries that look at signals or the event loop want the main thread.
    background = False

    def __init__(self, migrations: AlembicMigrations, owner: str) -> None:
        self._migrations = migrations
        self._owner = owner
        self.project = Project.of(migrations, owner)

    def fingerprint(self) -> str | None:
        wanted = self._migrations
        texts = [
            f"sqlalchemy {sqlalchemy.__version__}",
            f"alembic {version_of('alembic')}",
            f"flask-migrate {version_of('flask-migrate')}" if wanted.app is not None else "",
            wanted.revision,
            wanted.section,
            *wanted.x,
        ]
        try:
            texts += self.project.contents()
            texts += self._dependencies()
        except OSError as exc:
            raise SchemaError(f"{self._owner}: cannot read {exc.filename}: {exc.strerror}.") from exc
        return digest("alembic", texts)

    def create(self, target: Target) -> None:
        upgrade(self._migrations, self.project, target)

    def _dependencies(self) -> Iterator[str]:
        for path in map(Path, self._migrations.depends_on):
            if not path.exists():
                raise SchemaError(f"{self._owner}: there is no {path.absolute()}, which depends_on names.")
            for file in files_below(path) if path.is_dir() else [str(path)]:
                yield file_digest(file)


def upgrade(migrations: AlembicMigrations, project: Project, target: Target) -> None:
    """Upgrade the database of ``target``."""
    try:
        import alembic.util  # noqa: F401
    except ImportError as exc:
        raise SchemaError(
            f"{target.owner}: Alembic is not installed. Install it: pip install 'dbtestcase[alembic]'."
        ) from exc
    try:
        with _environment(migrations, project, target) as (config, connection):
            ran = _run(config, migrations.revision)
            if not connection.closed and connection.in_transaction():
                connection.commit()
    except SchemaError:
        raise
    except (Exception, SystemExit) as exc:
        raise failure(
            target,
            f"upgrade to {migrations.revision!r} with the migrations in {project.scripts}",
            exc,
            location=location_of(exc, str(project.scripts), *map(str, project.versions)) or location_of(exc),
            advice=_advice(exc, migrations),
        ) from exc
    if not ran:
        raise SchemaError(
            f"{target.owner}: {project.scripts / 'env.py'} ran, but it did not run the migrations on a connection, so "
            "the database is empty.\nIt has to call context.run_migrations() outside of offline mode."
        )


@contextmanager
def _environment(
    migrations: AlembicMigrations, project: Project, target: Target
) -> Iterator[tuple[Config, Connection]]:
    """Give ``env.py`` what it may ask for, and take back whatever it leaves behind."""
    with ExitStack() as stack:
        stack.enter_context(restored_logging())
        stack.enter_context(redirect_stdout(io.StringIO()))
        stack.enter_context(_import_folders(project))
        redirection = stack.enter_context(Redirection(target.url, target.owner))
        engine = create_engine(
            plain_url(target.url), poolclass=NullPool, creator=lambda: redirection.own(connect(target.url))
        )
        stack.callback(engine.dispose)
        # No transaction is begun on it: env.py may use its own connection, and would wait for our locks.
        connection = stack.enter_context(engine.connect())
        # Some projects expect an Engine there, as pytest-alembic passes it.
        setattr(connection, "connect", lambda: connection)  # noqa: B010
        config = _config(migrations, project, target.url)
        app = migrations.app
        if app is not None:
            app = app if hasattr(app, "app_context") else app()
            if not hasattr(app, "app_context"):
                raise SchemaError(
                    f"{target.owner}: AlembicMigrations(app=...) takes a Flask application or a function that returns "
                    f"one; it got {type(app).__name__}."
                )
            stack.enter_context(app.app_context())
            config = _as_flask_migrate_does(app, config)
        config.attributes["connection"] = connection
        yield config, connection


def _config(migrations: AlembicMigrations, project: Project, url: URL) -> Config:
    from alembic.config import Config

    quiet = io.StringIO()
    ini = None if project.ini is None else str(project.ini)
    options = argparse.Namespace(x=list(migrations.x), name=migrations.section, config=ini)
    config = Config(ini, ini_section=migrations.section, stdout=quiet, output_buffer=quiet, cmd_opts=options)
    if project.toml is not None and hasattr(config, "toml_file_name"):  # since Alembic 1.16
        config.toml_file_name = str(project.toml)
        config.toml_args = dict(config.config_args)
    values = {
        "script_location": str(project.scripts),
        "sqlalchemy.url": _url_for(project, url).render_as_string(hide_password=False),
    }
    if config.get_main_option("version_locations"):
        # Said in absolute paths, since the working directory may be another one than Alembic's command expects.
        values["version_locations"] = os.pathsep.join(map(str, project.versions))
        values["prepend_sys_path"] = os.pathsep.join(project.import_folders)
        values["path_separator"] = values["version_path_separator"] = "os"  # the latter before Alembic 1.16
    if not config.file_config.has_section(migrations.section):
        config.file_config.add_section(migrations.section)
    for name, value in values.items():
        config.set_main_option(name, value.replace("%", "%%"))
    return config


def _url_for(project: Project, url: URL) -> URL:
    source = (project.scripts / "env.py").read_text(encoding="utf-8", errors="replace")
    if "async_engine_from_config" in source or "create_async_engine" in source:
        driver = "asyncpg" if importlib.util.find_spec("psycopg") is None else "psycopg"
        return plain_url(url).set(drivername=f"postgresql+{driver}")
    return plain_url(url)


def _run(config: Config, revision: str) -> bool:
    """Do what ``alembic upgrade`` does, and return whether ``env.py`` asked for the migrations."""
    from alembic.runtime.environment import EnvironmentContext
    from alembic.script import ScriptDirectory

    script = ScriptDirectory.from_config(config)
    asked = False

    def steps(current: Any, context: Any) -> Any:
        nonlocal asked
        asked = not context.as_sql
        return script._upgrade_revs(revision, current)

    with EnvironmentContext(config, script, fn=steps, as_sql=False, destination_rev=revision):
        script.run_env()
    return asked


def _as_flask_migrate_does(app: Any, config: Config) -> Config:
    extension = getattr(app, "extensions", {}).get("migrate")
    callbacks = getattr(getattr(extension, "migrate", None), "call_configure_callbacks", None)
    return config if callbacks is None else callbacks(config)


@contextmanager
def _import_folders(project: Project) -> Iterator[None]:
    before, writing = list(sys.path), sys.dont_write_bytecode
    sys.path[:0] = [folder for folder in project.import_folders if folder not in sys.path]
    # Compiled files tell a change by the second: a migration edited within it would be run as it was before.
    sys.dont_write_bytecode = True
    try:
        yield
    finally:
        sys.path[:] = before
        sys.dont_write_bytecode = writing


def _advice(exc: BaseException, migrations: AlembicMigrations) -> str:
    if "Multiple head revisions" in str(exc):
        return 'Merge them (alembic merge heads), or write AlembicMigrations(..., revision="heads") if they are meant.'
    if "application context" in str(exc) and migrations.app is None:
        return "env.py needs a Flask application: AlembicMigrations(..., app=create_app)."
    if not isinstance(exc, KeyError):
        return ""
    return (
        'env.py finds the test database in config.get_main_option("sqlalchemy.url") and a connection to it in '
        'config.attributes["connection"].'
    )
