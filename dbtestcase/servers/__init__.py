"""A PostgreSQL for a test class: a throwaway server, or databases of its own on a server that is there already."""

from dbtestcase.servers.archive import kept_instances, remove_kept
from dbtestcase.servers.choice import DEFAULT, PostgresOptions, chosen
from dbtestcase.servers.contents import EMPTY, Contents
from dbtestcase.servers.databases import BaseInstance, Databases
from dbtestcase.servers.existing import ExistingPostgres
from dbtestcase.servers.housekeeping import cached_templates, clear_cache, leftovers
from dbtestcase.servers.instance import Instance
from dbtestcase.servers.options import ThrowawayPostgres
from dbtestcase.servers.programs import find_programs
from dbtestcase.servers.roles import check_app_role, with_app_role
from dbtestcase.servers.running import begin, running_instance, running_kept, start_instance
from dbtestcase.servers.standby import discard_standby, expect, expects

__all__ = [
    "DEFAULT",
    "EMPTY",
    "BaseInstance",
    "Contents",
    "Databases",
    "ExistingPostgres",
    "Instance",
    "PostgresOptions",
    "ThrowawayPostgres",
    "begin",
    "cached_templates",
    "check_app_role",
    "chosen",
    "clear_cache",
    "discard_standby",
    "expect",
    "expects",
    "find_programs",
    "kept_instances",
    "leftovers",
    "remove_kept",
    "running_instance",
    "running_kept",
    "start_instance",
    "with_app_role",
]
