"""unittest base classes for SQLAlchemy and Flask code, run on a real PostgreSQL that nobody has to set up.

Importing this package starts nothing: no server, no search for programs, no engine.
"""

from dbtestcase import errors
from dbtestcase.case import DatabaseTestCase
from dbtestcase.lifecycle.isolation import isolate
from dbtestcase.sandbox import URL
from dbtestcase.schema import AlembicMigrations
from dbtestcase.servers import ExistingPostgres, ThrowawayPostgres

__all__ = ["URL", "AlembicMigrations", "DatabaseTestCase", "ExistingPostgres", "ThrowawayPostgres", "errors", "isolate"]
