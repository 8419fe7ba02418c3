"""A throwaway PostgreSQL server: found, prepared once, copied, started, ended, deleted."""

from dbtestcase.servers.archive import KeptInstance, kept_instances, remove_kept
from dbtestcase.servers.contents import EMPTY, Contents
from dbtestcase.servers.housekeeping import cached_templates, clear_cache, leftovers
from dbtestcase.servers.instance import Instance
from dbtestcase.servers.options import ThrowawayPostgres
from dbtestcase.servers.programs import Programs, find_programs
from dbtestcase.servers.running import running_instance, running_kept, start_instance
from dbtestcase.servers.standby import discard_standby, expect

__all__ = [
    "EMPTY",
    "Contents",
    "Instance",
    "KeptInstance",
    "Programs",
    "ThrowawayPostgres",
    "cached_templates",
    "clear_cache",
    "discard_standby",
    "expect",
    "find_programs",
    "kept_instances",
    "leftovers",
    "remove_kept",
    "running_instance",
    "running_kept",
    "start_instance",
]
