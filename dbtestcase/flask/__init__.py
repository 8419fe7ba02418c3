"""The base classes for Flask applications.

Knows Flask, its database extensions and the running class behind a test class; how a server is started and how a test
is undone is no concern of it.
"""

try:
    import flask  # noqa: F401
except ModuleNotFoundError as error:
    if error.name != "flask":
        raise  # it is installed, and lacks something itself
    raise ModuleNotFoundError(
        "dbtestcase.flask needs Flask, which is not installed.\n"
        "Install it with pip install 'dbtestcase[flask]', which brings Flask-SQLAlchemy too, or take "
        "dbtestcase.DatabaseTestCase, which needs no Flask.",
        name="flask",
    ) from None

from dbtestcase.flask.case import FlaskDatabaseTestCase, FlaskLiveServerTestCase

__all__ = ["FlaskDatabaseTestCase", "FlaskLiveServerTestCase"]
