"""A PostgreSQL server that is there already: each class gets a database of its own on it.

Knows how to keep apart from whoever else uses the server; knows nothing of throwaway servers.
"""

from dbtestcase.servers.existing.instance import ExistingInstance
from dbtestcase.servers.existing.options import ExistingPostgres
from dbtestcase.servers.existing.server import at_end
from dbtestcase.servers.existing.standby import ExistingStandby, start_existing

__all__ = ["ExistingInstance", "ExistingPostgres", "ExistingStandby", "at_end", "start_existing"]
