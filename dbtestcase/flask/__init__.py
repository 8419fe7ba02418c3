"""The base classes for Flask applications.

Knows Flask and a running test class; knows nothing of servers, transactions or schemas.
"""

from dbtestcase.flask.case import FlaskDatabaseTestCase

__all__ = ["FlaskDatabaseTestCase"]
