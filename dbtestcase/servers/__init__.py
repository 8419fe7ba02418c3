"""A throwaway PostgreSQL server: found, prepared once, copied, started, ended, deleted."""

from dbtestcase.servers.contents import EMPTY, Contents
from dbtestcase.servers.housekeeping import cached_templates, clear_cache, leftovers
from dbtestcase.servers.instance import Instance
from dbtestcase.servers.kept import KeptInstance, kept_instances, remove_kept, running_kept
from dbtestcase.servers.options import ThrowawayPostgres
from dbtestcase.servers.programs import Programs, find_programs
from dbtestcase.servers.running import running_instance
from dbtestcase.servers.spare import expect, forget_spare

__all__ = [
    "EMPTY",
    "Contents",
    "Instance",
    "KeptInstance",
    "Programs",
    "ThrowawayPostgres",
    "cached_templates",
    "clear_cache",
    "expect",
    "find_programs",
    "forget_spare",
    "kept_instances",
    "leftovers",
    "remove_kept",
    "running_instance",
    "running_kept",
]
