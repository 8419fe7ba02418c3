"""Running instances: for as long as a block runs, or until they are stopped."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from dbtestcase.servers import standby
from dbtestcase.servers.archive import open_kept
from dbtestcase.servers.contents import EMPTY, Contents
from dbtestcase.servers.instance import Instance
from dbtestcase.servers.options import ThrowawayPostgres
from dbtestcase.servers.recipe import Recipe
from dbtestcase.servers.server import Boot
from dbtestcase.servers.template import boot

__all__ = ["running_instance", "running_kept", "start_instance"]


@contextmanager
def running_instance(options: ThrowawayPostgres, contents: Contents = EMPTY, *, owner: str = "") -> Iterator[Instance]:
    """Yield a running instance: the standby if one was expected for this, else one that is booted now.

    When the block is left, also by an error, it is told to end; it is dead, and its folder deleted, a few milliseconds
    later, whatever this process does meanwhile.

    Raises:
        PostgresNotFound: There are no server programs.
        PostgresNotReady: The server does not start.
        Exception: Whatever ``contents.prepare`` raises.
    """
    instance = standby.take(options, contents) or start_instance(options, contents, owner=owner)
    try:
        yield instance
    finally:
        instance.end()


def start_instance(
    options: ThrowawayPostgres | None = None, contents: Contents = EMPTY, *, owner: str = ""
) -> Instance:
    """Return an instance that is booted now, with the default options if there are none; its ``stop()`` ends it.

    Raises:
        PostgresNotFound: There are no server programs.
        PostgresNotReady: The server does not start.
        Exception: Whatever ``contents.prepare`` raises.
    """
    return Instance(boot(Recipe(options or ThrowawayPostgres(), contents, owner)), owner=owner)


@contextmanager
def running_kept(name: str) -> Iterator[Instance]:
    """Yield a running copy of a kept instance; what is done to it is thrown away.

    Raises:
        DBTestCaseError: There is none of that name.
        PostgresNotReady: It does not start.
    """
    options, pack, owner = open_kept(name)
    recipe = Recipe(options, EMPTY, owner)
    instance = Instance(Boot(recipe.launch, options, pack=pack).wait(), owner=owner)
    try:
        yield instance
    finally:
        instance.stop()
