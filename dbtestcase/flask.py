"""The base class for Flask applications: the application's database is the class's throwaway one.

What it adds to :class:`~dbtestcase.DatabaseTestCase` is the wiring of an application: every engine that the extension
made or will make is redirected (:mod:`dbtestcase._flask_engines`), and a request gets contexts of its own, as in
production (:mod:`dbtestcase._flask_requests`).
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar

from flask import Flask
from flask.ctx import AppContext
from flask.globals import _cv_app
from flask.testing import FlaskClient
from sqlalchemy import Engine, MetaData
from sqlalchemy.orm import Session, scoped_session

from dbtestcase import _flask_engines, _flask_requests
from dbtestcase.case import DatabaseTestCase
from dbtestcase.errors import DBTestCaseError
from dbtestcase.running import RunningClass

if TYPE_CHECKING:
    from dbtestcase.schema import SchemaLike

__all__ = ["FlaskDatabaseTestCase"]

__unittest = True


class _RunningFlaskClass(RunningClass):
    """A running test class with an application in front of its databases."""

    def __init__(self, test_class: type[FlaskDatabaseTestCase]) -> None:
        super().__init__(test_class)
        self._flask_class = test_class
        self._contexts: list[AppContext] = []

    def redirect_application(self) -> None:
        super().redirect_application()
        cls = self._flask_class
        tables = _tables(cls.db)
        self._undo.enter_context(_flask_engines.redirecting(cls.db, self._redirect_bind, self._prepare_app))
        app = _class_app(cls)
        if app is not None:
            cls.app = app
            self._undo.callback(lambda: "app" in cls.__dict__ and delattr(cls, "app"))
            self._prepare_app(app)
        if _tables(cls.db) != tables:
            # Models that create_app imports were not known when the instance was chosen.
            self.create_missing()

    @contextmanager
    def class_data_session(self) -> Iterator[Session]:
        app = self._flask_class.__dict__.get("app")
        if app is None or self._flask_class.db is None:
            with super().class_data_session() as session:
                yield session
        else:
            with app.app_context():
                yield _session_of(self._flask_class.db)

    def session_for_test(self) -> Session:
        if self._flask_class.db is not None and _cv_app.get(None) is not None:
            return _session_of(self._flask_class.db)
        return super().session_for_test()

    def begin_test(self, test: DatabaseTestCase) -> None:
        super().begin_test(test)
        per_test = vars(type(test)).get("create_app") or type(test).create_app
        if inspect.isfunction(per_test):  # an instance method, as Flask-Testing has it: an application per test
            test.__dict__["app"] = test.create_app()  # type: ignore[attr-defined]
            self._prepare_app(test.__dict__["app"])
        app = test.__dict__.get("app") or self._flask_class.__dict__.get("app")
        if app is not None:
            context = app.app_context()
            context.push()
            self._contexts.append(context)

    def leave_test(self, test: DatabaseTestCase) -> None:
        test.__dict__.pop("client", None)
        while self._contexts:
            _pop_down_to(self._contexts.pop())
        super().leave_test(test)

    def _prepare_app(self, app: Flask) -> None:
        self._undo.enter_context(_flask_requests.own_contexts(app, self._after_request))

    def _after_request(self) -> None:
        """Let the test's session see what the request committed, as a session that begins now would."""
        session = self._test.__dict__.get("session") if self._test is not None else None
        for each in {session, _current_session(self._flask_class.db)}:
            if isinstance(each, Session):
                _forget_clean_values(each)

    def _redirect_bind(self, bind_key: str | None, engine: Engine, main: Engine | None) -> None:
        if bind_key is None or bind_key in self._sandboxes:
            self.redirect(engine, bind_key)
        elif main is not None and main.url == engine.url:
            self.redirect(engine)
        else:
            self.add_database(bind_key)
            self.redirect(engine, bind_key)


class FlaskDatabaseTestCase(DatabaseTestCase):
    """Run each test of a Flask application against a real PostgreSQL and undo what it wrote.

    These attributes may be set on a subclass, beside those of :class:`~dbtestcase.DatabaseTestCase`:

    * ``db``: the application's Flask-SQLAlchemy (or Flask-SQLAlchemy-Lite) extension. Every engine it has or makes
      while the class runs points to the class's instance, whatever URL the application was configured with. Its tables
      are the ``schema`` unless one is given; each bind key has a database of its own.

    And these are there to read:

    * ``app``: the application that :meth:`create_app` returned. Its application context is pushed during each test.
    * ``client``: a test client, new for each test. A request gets an application context, a ``g`` and a database
      session of its own, as in production.
    """

    db: ClassVar[Any] = None
    app: Flask

    _running_kind = _RunningFlaskClass

    @classmethod
    def create_app(cls) -> Flask | None:
        """Return the application under test. Called once per class, when its engines can already be redirected.

        Written as an instance method it is called for every test instead. Returns ``None`` by default, for tests that
        make their applications themselves.
        """
        return None

    @cached_property
    def client(self) -> FlaskClient:
        """A client of ``self.app``, made at first use and new for each test."""
        app: Flask | None = getattr(self, "app", None)
        if app is None:
            name = type(self).__qualname__
            raise DBTestCaseError(
                f"{name}.client needs an application: define '@classmethod def create_app(cls)' on {name} and return "
                "it there, or set self.app in setUp."
            )
        return app.test_client()

    @classmethod
    def _schema(cls) -> SchemaLike | None:
        if cls.schema is None or cls.schema is cls.db:
            return _schema_of(cls.db)
        return cls.schema


def _schema_of(db: Any) -> SchemaLike | None:
    """Return the tables of an extension: one ``MetaData``, or one for each bind key."""
    metadatas: dict[str | None, MetaData] | None = getattr(db, "metadatas", None)
    if metadatas is None:
        return None  # Flask-SQLAlchemy-Lite knows no models
    bound = {key: metadata for key, metadata in metadatas.items() if key is not None}
    return {"test": metadatas[None], **bound} if bound else metadatas[None]


def _tables(db: Any) -> set[tuple[str | None, str]]:
    metadatas: dict[str | None, MetaData] = getattr(db, "metadatas", {})
    return {(key, table) for key, metadata in metadatas.items() for table in metadata.tables}


def _class_app(cls: type[FlaskDatabaseTestCase]) -> Flask | None:
    if inspect.isfunction(inspect.getattr_static(cls, "create_app")):
        return None
    app = cls.create_app()
    if app is not None and not isinstance(app, Flask):
        raise DBTestCaseError(f"{cls.__qualname__}.create_app returned {app!r}; return the Flask application.")
    return app


def _session_of(db: Any) -> Session:
    session = db.session
    return session() if isinstance(session, scoped_session) else session


def _current_session(db: Any) -> Session | None:
    """Return the extension's session of the present application context, if it has one."""
    session = getattr(db, "session", None) if _cv_app.get(None) is not None else None
    if isinstance(session, scoped_session):
        return session() if session.registry.has() else None
    return session


def _forget_clean_values(session: Session) -> None:
    for state in session.identity_map.all_states():
        if not state.modified and (instance := state.obj()) is not None:
            session.expire(instance)


def _pop_down_to(context: AppContext) -> None:
    """Pop a test's application context, and those above it that the test pushed and forgot."""
    with ExitStack() as rest:
        while (current := _cv_app.get(None)) is not None and current is not context:
            current.pop()
        if current is context:
            rest.callback(context.pop)
