"""The base class for Flask applications: the application's database is the class's throwaway one.

What it adds to :class:`~dbtestcase.DatabaseTestCase` is the wiring of an application: every engine that an extension
made or will make is redirected (:mod:`dbtestcase.flask.extensions`), and a request gets contexts of its own, as in
production (:mod:`dbtestcase.flask.requests`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar

from flask import Flask
from flask.testing import FlaskClient

from dbtestcase.case import DatabaseTestCase
from dbtestcase.flask.running import RunningFlaskClass
from dbtestcase.flask.running_live import RunningLiveServerClass
from dbtestcase.lifecycle import wiring
from dbtestcase.lifecycle.isolation import Isolation

__all__ = ["FlaskDatabaseTestCase", "FlaskLiveServerTestCase"]

__unittest = True


class FlaskDatabaseTestCase(DatabaseTestCase):
    """Run each test of a Flask application against a real PostgreSQL and undo what it wrote.

    Whatever URL an application was configured with, it is never connected to: every engine that an extension has made
    or makes while the class runs points to the class's instance.

    An application on plain SQLAlchemy has no ``db``: its tables are named in ``schema``, its engines in
    ``app_engines`` or with :meth:`~dbtestcase.DatabaseTestCase.redirect_engine`.
    """

    db: ClassVar[Any] = None
    """The application's Flask-SQLAlchemy (or Flask-SQLAlchemy-Lite) extension.

    Its tables are the ``schema`` unless one is given; each bind key has a database of its own. If it is not set, the
    extension that the class's module has imported is taken, or else that of the application.
    """

    bind_databases: ClassVar[Mapping[str, str]] = {}
    """Binds that are one database, as ``{"reader": "default"}``; ``"default"`` is the main one.

    Binds that are configured with the same address are one database without being named here.
    """

    app: Flask
    """The application under test, as :meth:`create_app` returned it or as the class body sets it.

    Its application context is pushed during each test, unless the class or the module has pushed one.
    """

    _dbtestcase = wiring.NotRunning(RunningFlaskClass)

    if TYPE_CHECKING:
        # Type checkers take this for what a class method, an instance method and a static method may override.
        create_app: ClassVar[Callable[..., Flask | None]]
        """Returns the application under test: a class method once per class, an instance method for every test."""
    else:

        @classmethod
        def create_app(cls):
            """Return the application under test. Called once per class, when its engines can already be redirected.

            Written as an instance method it is called for every test instead. Returns ``None`` by default, for tests
            that make their applications themselves.
            """
            return

    @cached_property
    def client(self) -> FlaskClient:
        """A client of ``self.app``, made at first use and new for each test.

        A request gets an application context, a ``g`` and a database session of its own, as in production. Where the
        test has pushed a context itself, Flask's own rules hold: below Flask 3.2 the request uses that context, and
        with it its session.
        """
        app: Flask | None = getattr(self, "app", None)
        if app is None:
            name = type(self).__qualname__
            raise wiring.NotThere(
                f"{name}.client needs an application: define '@classmethod def create_app(cls)' on {name} and return "
                "it there, or set self.app in setUp."
            )
        client: FlaskClient = wiring.running_class(type(self)).client_for_test(self, app)
        return client


class FlaskLiveServerTestCase(FlaskDatabaseTestCase):
    """Serve the application over HTTP to the tests of a class: for browsers, and for whatever else speaks HTTP.

    The server listens on this machine only, on a port that the system chooses, from ``setUpClass`` until the class
    has ended; each request has a thread of its own. Each test has a private copy of the class's database, in which test
    and requests commit for real and see each other's commits; ``refresh()`` an object that a request has changed.

    A request that is still being answered when its test ends has five seconds to come to its end; one that takes longer
    is named in a ``ResourceWarning``. An exception in a request is shown with the test that fails.
    """

    isolation: ClassVar[Isolation] = "clone"

    live_server_url: ClassVar[str] = wiring.SetByClass()  # type: ignore[assignment]
    """``http://127.0.0.1:PORT``, without a slash at its end."""

    _dbtestcase = wiring.NotRunning(RunningLiveServerClass)
