"""A running test class with a Flask application in front of its databases."""

from __future__ import annotations

import inspect
import threading
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import cached_property
from typing import Any

from flask import Flask
from flask.testing import FlaskClient
from sqlalchemy import Engine, MetaData
from sqlalchemy.orm import Session

from dbtestcase.diagnosis.tracebacks import chain, database_of, sqlstate
from dbtestcase.errors import DBTestCaseError
from dbtestcase.flask.binds import BindDatabases
from dbtestcase.flask.contexts import current_application_context, keep_apart, popping_leftovers
from dbtestcase.flask.extensions import (
    Applications,
    applications_of,
    engines_of,
    extension_of,
    tables_of,
    watching_applications,
)
from dbtestcase.flask.requests import own_contexts
from dbtestcase.flask.schema import extension_for, is_schema_of_extension, schema_of
from dbtestcase.flask.sessions import LastingSession, existing_session, expire_loaded, session_of_context
from dbtestcase.lifecycle.isolation import isolation_of
from dbtestcase.lifecycle.plans import plain_url, plan_of
from dbtestcase.lifecycle.running import RunningClass
from dbtestcase.sandbox import SandboxedDatabase

__all__ = ["RunningFlaskClass"]


class RunningFlaskClass(RunningClass):
    """Redirects the engines of every application that the class uses, and separates requests from tests.

    Attributes:
        extension: The one whose tables are the class's schema: the class's own, or the first that it found.
        binds: Which of the application's binds are one database.
    """

    def __init__(self, test_class: type[Any]) -> None:
        super().__init__(test_class)
        self.binds = BindDatabases(test_class.bind_databases, test_class.__qualname__)
        self.extension = _checked_extension(test_class)
        self._created = tables_of(self.extension)
        self._applications = Applications()
        self._added: list[str] = []
        self._of_test = ExitStack()
        self._thread: int | None = None
        self._own_context: Any | None = None
        self._lasting: LastingSession | None = None

    @classmethod
    def schema_of(cls, test_class: Any) -> Any:
        binds = BindDatabases(test_class.bind_databases, test_class.__qualname__)
        return schema_of(test_class, extension_for(test_class), binds.database_of)

    @property
    def schema(self) -> Any:
        return schema_of(self._class, self.extension, self.binds.database_of)

    def database(self, name: str | None) -> SandboxedDatabase:
        return super().database(None if name is None else self.binds.database_of(name))

    def redirect_application(self) -> None:
        super().redirect_application()
        self._undo.enter_context(own_contexts(self._after_request))
        self._undo.enter_context(watching_applications(self._redirect_app, self.extension))
        app = self._class_app()
        if app is not None:
            self._class.app = app
            self._undo.callback(self._forget_app)
            self._redirect_app(app)
        # After the class's own, which decides about the driver.
        for known in applications_of(self.extension):
            self._redirect_app(known)

    @contextmanager
    def class_data_session(self) -> Iterator[Session]:
        app = getattr(self._class, "app", None)
        # Where the application has a role of its own, class data are the owner's.
        if isinstance(app, Flask) and extension_of(app) is not None and self._class.app_role is None:
            with app.app_context():
                session = session_of_context()
                assert session is not None
                yield session
        else:
            with super().class_data_session() as session:
                yield session

    def present_session(self, test: Any) -> Session | None:
        return super().present_session(test) or session_of_context()

    def session_for_test(self) -> Session:
        return session_of_context() or super().session_for_test()

    def begin_test(self, test: Any) -> None:
        super().begin_test(test)
        self._push_context(test)

    def _push_context(self, test: Any) -> None:
        self._thread = threading.get_ident()
        self._of_test.enter_context(popping_leftovers())
        if self._makes_app_per_test and "app" not in vars(test):  # Flask-Testing has made it already
            app = test.create_app()
            vars(test)["app"] = _checked_app(app, self._class)
            self._of_test.callback(vars(test).pop, "app", None)
            self._redirect_app(app)
        app = getattr(test, "app", None)
        present = current_application_context()
        if self._lasting is not None:
            self._lasting.put_back()  # all sessions are closed between two runs of a test
        lasts = present is not None and isolation_of(test) != "class"  # where each test goes on with what there is
        session = existing_session() if lasts else None
        self._lasting = LastingSession(session) if session is not None else None
        # A context that the user has pushed for the class or the module does what ours would do.
        if isinstance(app, Flask) and (present is None or present.app is not app):
            self._own_context = app.app_context()
            keep_apart(self._own_context)
            self._own_context.push()

    def leave_test(self, test: Any) -> None:
        self._own_context = None
        try:
            self._of_test.close()
            if self._lasting is not None:
                self._lasting.close()
        finally:  # a teardown function of the application may raise; the test is to be undone all the same
            super().leave_test(test)
            self._release_collected()

    def has_left_nothing(self, test: Any) -> bool:
        return False  # an application context is pushed for every test

    def client_for_test(self, test: Any, app: Flask) -> FlaskClient:
        """Return a new client, which the test object forgets after the test."""
        self._of_test.callback(vars(test).pop, "client", None)
        return app.test_client()

    def after_test(self, test: Any, problems: list[Exception], *, has_failed: bool) -> None:
        super().after_test(test, problems, has_failed=has_failed)
        if self._lasting is not None:
            self._lasting.put_back()

    def explain(self, test: Any, error: BaseException) -> bool:
        if any(sqlstate(each) == "42P01" for each in chain(error)):
            failed_in = database_of(error)
            for bind_key in self._added:
                if self.databases[bind_key].real_url.database == failed_in:
                    error.add_note(
                        f"What to do: this is the database of the bind {bind_key!r}, empty because no model belongs to "
                        "that bind. If it is the same database as the main one, as a replica is, write "
                        f"bind_databases = {{{bind_key!r}: 'default'}} on {self.name}."
                    )
        return super().explain(test, error)

    def add_database(self, database: str) -> None:
        if self.connections.are_to_copies:
            raise DBTestCaseError(
                f"{self.name}: a bind {database!r} of the application came up only in the middle of a test, too late "
                "for a private copy of its database.\n"
                f"Name it before: schema = {{'test': ..., {database!r}: ...}} on {self.name}, with None for a database "
                "without tables."
            )
        super().add_database(database)
        self._added.append(database)

    @contextmanager
    def start(self, wanted: Any) -> Iterator[Any]:
        with super().start(wanted) as instance:
            for database in self._added:  # when an instance replaces one that was spoilt
                if database not in wanted.databases:
                    instance.create_database(database)
            yield instance

    def _class_app(self) -> Flask | None:
        if self._makes_app_per_test:
            return None
        # A factory that was assigned to the name is no method, and is called as it is.
        factory = inspect.getattr_static(self._class, "create_app")
        app = factory() if inspect.isfunction(factory) else self._class.create_app()
        return None if app is None else _checked_app(app, self._class)

    @cached_property
    def _makes_app_per_test(self) -> bool:
        """Whether ``create_app`` is an instance method, as Flask-Testing has it."""
        found = inspect.getattr_static(self._class, "create_app")
        if not inspect.isfunction(found):
            return False
        defined_in = found.__qualname__.rpartition(".")[0]
        is_in_class_body = any(base.__qualname__ == defined_in for base in self._class.__mro__)
        return is_in_class_body or next(iter(inspect.signature(found).parameters), None) == "self"

    def _forget_app(self) -> None:
        if "app" in vars(self._class):
            del self._class.app

    def _redirect_app(self, app: Flask) -> None:
        """Redirect the engines of an application, and create the tables that its models have brought."""
        extension = extension_of(app)
        if extension is None:
            return
        if app not in self._applications:
            engines = engines_of(extension, app)
            # Noted first: to add a database may make a context, and so come back here.
            self._applications.add(app, list(engines.values()))
            self._join_equal_binds(engines)
            for key, engine in engines.items():
                self._redirect_bind(key, engine, engines)
        if self.extension is None:
            self.extension = extension
        if self.extension is extension:
            self._create_what_is_new()

    def _join_equal_binds(self, engines: Mapping[str | None, Engine]) -> None:
        # A bind for which the class's own schema names a database is what that says.
        by_itself = () if is_schema_of_extension(self._class) else self.databases
        if self.binds.join_equal({key: engine for key, engine in engines.items() if key not in by_itself}):
            self._created = set()  # tables of such a bind are in a database of their own up to now

    def _redirect_bind(self, bind_key: str | None, engine: Engine, engines: Mapping[str | None, Engine]) -> None:
        database = self.binds.database_of(bind_key)
        is_planned = database is None or database in self.databases
        if database is not None and database not in engines and (is_schema_of_extension(self._class) or not is_planned):
            raise DBTestCaseError(
                f"{self._class.__qualname__}.bind_databases: {bind_key!r} is to be {database!r}, which is neither "
                "'default', for the main database, nor another bind, nor a database that the schema names."
            )
        if database is not None and not is_planned:
            self.add_database(database)
        self.redirect(engine, database)

    def _create_what_is_new(self) -> None:
        """Create the tables of models that were imported after the instance was chosen, by ``create_app`` say."""
        tables = tables_of(self.extension)
        if tables == self._created or not is_schema_of_extension(self._class):
            return
        if self.runs.test is not None and not self.runs.is_untouched:
            return  # it may hold locks that we would wait for; the test has made its tables itself
        wanted = plan_of(self._class, self.schema)
        for database in wanted.databases:
            if database not in self.databases:
                self.add_database(database)
        if self.connections.are_to_copies:
            self._create_in_copies()
        else:
            wanted.create(lambda database: plain_url(self.instance, database), lambda _: None)
            self.connections.sequences.are_as_prepared = False
            self._created = tables

    def _create_in_copies(self) -> None:
        """Create the tables for the present test alone, whose copies were made without them."""
        metadatas: dict[str | None, MetaData] = getattr(self.extension, "metadatas", {})
        with self.explanations.log.muted():
            for key, metadata in metadatas.items():
                if metadata.tables:
                    metadata.create_all(self.database(key).engine)

    def _release_collected(self) -> None:
        """Let go of the engines of applications that exist no more, so that many tests do not add up."""
        for engine in self._applications.engines_of_collected():
            for each in self.databases.values():
                each.restore(engine)

    def _after_request(self, has_shared_context: bool) -> None:
        """Let the test's sessions see what a request or command committed, but for one that it has used itself."""
        test = self.runs.test
        if test is None or threading.get_ident() != self._thread:
            return
        present = existing_session()
        sessions = {vars(test).get("session"), present}
        if self._own_context is not None:
            sessions.add(existing_session(self._own_context))
        if has_shared_context:
            sessions.discard(present)
        for session in sessions:
            if isinstance(session, Session):
                expire_loaded(session)


def _checked_extension(test_class: type[Any]) -> Any | None:
    extension = extension_for(test_class)
    if extension is not None and not hasattr(extension, "init_app"):
        name = test_class.__qualname__
        raise DBTestCaseError(
            f"{name}.db is {extension!r}, which is no extension such as that of Flask-SQLAlchemy.\n"
            f"For an application on plain SQLAlchemy leave {name}.db out: name the tables in 'schema' and the engines "
            "in 'app_engines', or call cls.redirect_engine(engine) where an engine is made later."
        )
    return extension


def _checked_app(app: Any, test_class: type) -> Flask:
    if not isinstance(app, Flask):
        raise DBTestCaseError(f"{test_class.__qualname__}.create_app returned {app!r}; return the Flask application.")
    return app
