"""A throwaway PostgreSQL server: found, prepared once, copied, started, ended, deleted."""

from dbtestcase.postgres.contents import EMPTY, Contents
from dbtestcase.postgres.housekeeping import cached_templates, clear_cache, leftovers
from dbtestcase.postgres.instance import Instance
from dbtestcase.postgres.kept import KeptInstance, kept_instances, remove_kept, running_kept
from dbtestcase.postgres.options import ThrowawayPostgres
from dbtestcase.postgres.programs import Programs, find_programs
from dbtestcase.postgres.running import running_instance
from dbtestcase.postgres.spare import expect, forget_spare

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
