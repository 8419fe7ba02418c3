"""The base classes for Flask applications.

Knows Flask and a running test class; knows nothing of servers, transactions or schemas.
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
