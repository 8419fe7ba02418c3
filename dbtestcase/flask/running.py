"""A running test class with a Flask application in front of its databases."""

from __future__ import annotations

import inspect
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import cached_property
from typing import TYPE_CHECKING, Any

from flask import Flask
from flask.testing import FlaskClient
from sqlalchemy import Engine, MetaData
from sqlalchemy.orm import Session

from dbtestcase import sandbox
from dbtestcase.errors import DBTestCaseError, IsolationBroken
from dbtestcase.flask.contexts import popping_what_is_left
from dbtestcase.flask.extensions import (
    Applications,
    applications_of,
    engines_of,
    extension_of,
    meeting,
    tables_of,
)
from dbtestcase.flask.requests import own_contexts
from dbtestcase.flask.sessions import existing_session, forget_what_was_read, session_of_context
from dbtestcase.lifecycle.running import RunningClass, plan_of

if TYPE_CHECKING:
    from dbtestcase.case import DatabaseTestCase
    from dbtestcase.flask import FlaskDatabaseTestCase

__all__ = ["RunningFlaskClass"]


class RunningFlaskClass(RunningClass):
    """Redirects the engines of every application that the class meets, and separates requests from tests.

    Attributes:
        extension: The one whose tables are the class's schema: the class's own, or the first that it met.
    """

    def __init__(self, test_class: type[FlaskDatabaseTestCase]) -> None:
        super().__init__(test_class)
        self._flask_class = test_class
        self._begins_at_once = True  # an application context is pushed for every test
        self.extension = test_class._extension()
        self._created = tables_of(self.extension)
        self._applications = Applications()
        self._added: list[str] = []
        self._of_test = ExitStack()
        self._thread: int | None = None
        self._fault: Exception | None = None

    def redirect_application(self) -> None:
        super().redirect_application()
        self._undo.enter_context(own_contexts(self._after_request))
        self._undo.enter_context(meeting(self._meet, self.extension))
        app = self._class_app()
        if app is not None:
            self._flask_class.app = app
            self._undo.callback(self._forget_app)
            self._meet(app)
        # After the class's own, which decides about the driver.
        for known in applications_of(self.extension):
            try:
                self._meet(known)
            except IsolationBroken:
                # Of another driver: no concern of this class unless it is used, which says this again.
                self._applications.forget(known)

    @contextmanager
    def class_data_session(self) -> Iterator[Session]:
        app = getattr(self._flask_class, "app", None)
        if isinstance(app, Flask) and extension_of(app) is not None:
            with app.app_context():
                session = session_of_context()
                assert session is not None
                yield session
        else:
            with super().class_data_session() as session:
                yield session

    def present_session(self, test: DatabaseTestCase) -> Session | None:
        return super().present_session(test) or session_of_context()

    def session_for_test(self) -> Session:
        return session_of_context() or super().session_for_test()

    def begin_test(self, test: DatabaseTestCase) -> None:
        super().begin_test(test)
        try:
            self._push_context(test)
        except BaseException:
            self.drop_test(test)
            raise

    def _push_context(self, test: DatabaseTestCase) -> None:
        self._thread = threading.get_ident()
        self._of_test.enter_context(popping_what_is_left())
        if self._makes_app_per_test and "app" not in vars(test):  # Flask-Testing has made it already
            app = test.create_app()  # type: ignore[attr-defined]
            vars(test)["app"] = _checked(app, self._flask_class)
            self._of_test.callback(vars(test).pop, "app", None)
            self._meet(app)
        app = getattr(test, "app", None)
        if isinstance(app, Flask):
            app.app_context().push()

    def leave_test(self, test: DatabaseTestCase) -> None:
        try:
            self._of_test.close()
        except Exception as fault:  # of a teardown function of the application; the test is to be undone all the same
            self._fault = fault
        super().leave_test(test)

    def client_for_test(self, test: DatabaseTestCase, app: Flask) -> FlaskClient:
        """Return a new client, which the test object forgets after the test."""
        self._of_test.callback(vars(test).pop, "client", None)
        return app.test_client()

    def end_test(self, test: DatabaseTestCase) -> None:
        try:
            super().end_test(test)
        finally:
            self._forget_the_gone()
            fault, self._fault = self._fault, None
        if fault is not None:
            raise fault

    def add_database(self, database: str) -> None:
        if self._test is not None and self.main.isolation == "clone":
            raise DBTestCaseError(
                f"{self._class.__qualname__}: a bind {database!r} of the application was met only in the middle of a "
                "test, too late for a private copy of its database.\n"
                f"Name it before: schema = {{'test': ..., {database!r}: ...}} on {self._class.__qualname__}, with None "
                "for a database without tables."
            )
        super().add_database(database)
        self._added.append(database)
        sandbox.activate(self._sandboxes)
        if self._cloning is not None:
            # It knows the databases that there were; the next test that wants copies makes another.
            self._cloning.close()
            self._cloning = None
        if self._test is not None:
            added = self._sandboxes[database]
            added.use_isolation(self.main.isolation)
            added.begin_test(self._test.id())

    @contextmanager
    def _start(self, wanted: Any) -> Iterator[Any]:
        with super()._start(wanted) as instance:
            for database in self._added:  # when an instance replaces one that was spoilt
                if database not in wanted.databases:
                    instance.execute(f"CREATE DATABASE {_quoted(database)}")
            yield instance

    def _class_app(self) -> Flask | None:
        if self._makes_app_per_test:
            return None
        app = self._flask_class.create_app()
        return None if app is None else _checked(app, self._flask_class)

    @cached_property
    def _makes_app_per_test(self) -> bool:
        """Whether ``create_app`` is an instance method, as Flask-Testing has it."""
        return inspect.isfunction(inspect.getattr_static(self._flask_class, "create_app"))

    def _forget_app(self) -> None:
        if "app" in vars(self._flask_class):
            del self._flask_class.app

    def _meet(self, app: Flask) -> None:
        """Redirect the engines of an application, and create the tables that its models have brought."""
        extension = extension_of(app)
        if extension is None:
            return
        if app not in self._applications:
            engines = engines_of(extension, app)
            # Noted first: to add a database may make a context, and so come back here.
            self._applications.add(app, list(engines.values()))
            for key, engine in engines.items():
                self._redirect_bind(key, engine, engines.get(None))
        if self.extension is None:
            self.extension = extension
        if self.extension is extension:
            self._create_what_is_new()

    def _redirect_bind(self, bind_key: str | None, engine: Engine, main: Engine | None) -> None:
        if bind_key is None or bind_key in self._sandboxes:
            self.redirect(engine, bind_key)
        elif main is not None and _share_a_database(main, engine):
            self.redirect(engine)
        else:
            self.add_database(bind_key)
            self.redirect(engine, bind_key)

    def _create_what_is_new(self) -> None:
        """Create the tables of models that were imported after the instance was chosen, by ``create_app`` say."""
        tables = tables_of(self.extension)
        if tables == self._created or not self._flask_class._schema_is_the_extension_s():
            return
        if self._test is not None and not self.is_untouched:
            return  # it may hold locks that we would wait for; the test has made its tables itself
        wanted = plan_of(self._class)
        for database in wanted.databases:
            if database not in self._sandboxes:
                self.add_database(database)
        if self._test is not None and self.main.isolation == "clone":
            self._create_in_copies()
        else:
            wanted.create(self._plain_url, lambda _: None)
            self._created = tables

    def _create_in_copies(self) -> None:
        """Create the tables for the present test alone, whose copies were made without them."""
        metadatas: dict[str | None, MetaData] = getattr(self.extension, "metadatas", {})
        with self.explanations.log.muted():
            for key, metadata in metadatas.items():
                if metadata.tables:
                    metadata.create_all(self.sandbox(key).engine)

    def _forget_the_gone(self) -> None:
        """Let go of the engines of applications that exist no more, so that many tests do not add up."""
        for engine in self._applications.engines_of_the_gone():
            for each in self._sandboxes.values():
                each.restore(engine)

    def _after_request(self) -> None:
        """Let the test's session see what a request or command committed."""
        if threading.get_ident() != self._thread or self._test is None:
            return
        for session in {vars(self._test).get("session"), existing_session()}:
            if isinstance(session, Session):
                forget_what_was_read(session)


def _checked(app: Any, test_class: type) -> Flask:
    if not isinstance(app, Flask):
        raise DBTestCaseError(f"{test_class.__qualname__}.create_app returned {app!r}; return the Flask application.")
    return app


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _share_a_database(one: Engine, other: Engine) -> bool:
    in_memory = one.dialect.name == "sqlite" and one.url.database in (None, "", ":memory:")
    return one.url == other.url and not in_memory
