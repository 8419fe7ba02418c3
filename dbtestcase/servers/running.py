"""Running instances: for as long as a block runs, or until they are stopped."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from dbtestcase.errors import DBTestCaseError
from dbtestcase.servers import standby
from dbtestcase.servers.archive import find_kept
from dbtestcase.servers.choice import PostgresOptions, chosen
from dbtestcase.servers.contents import EMPTY, Contents
from dbtestcase.servers.databases import BaseInstance
from dbtestcase.servers.existing import ExistingPostgres, start_existing
from dbtestcase.servers.instance import Instance
from dbtestcase.servers.options import ThrowawayPostgres
from dbtestcase.servers.recipe import Recipe
from dbtestcase.servers.server import Boot
from dbtestcase.servers.supervisor_client import current_supervisor
from dbtestcase.servers.template import boot

__all__ = ["begin", "running_instance", "running_kept", "start_instance"]


def begin(options: PostgresOptions) -> None:
    """Start what an instance of these options will need, without waiting for it.

    Never raises: an error is raised by :func:`running_instance`.
    """
    with suppress(DBTestCaseError):
        if isinstance(chosen(options), ThrowawayPostgres):
            current_supervisor()


@contextmanager
def running_instance(
    options: PostgresOptions, contents: Contents = EMPTY, *, owner: str = ""
) -> Iterator[BaseInstance]:
    """Yield a running instance: the standby if one was expected for this, else one that is made now.

    When the block is left, also by an error, it is told to end; it is dead, and its folder deleted, a few milliseconds
    later, whatever this process does meanwhile.

    Raises:
        PostgresNotFound: There are no server programs.
        PostgresNotReady: The server does not start.
        Exception: Whatever ``contents.prepare`` raises.
    """
    options = chosen(options)
    start: Callable[..., BaseInstance] = start_existing if isinstance(options, ExistingPostgres) else start_instance
    instance = standby.take(options, contents) or start(options, contents, owner=owner)
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
    kept = find_kept(name)
    launch = Recipe(kept.options, EMPTY, kept.owner).launch
    instance = Instance(Boot(launch, kept.options, pack=kept.pack).wait(), owner=kept.owner)
    try:
        yield instance
    finally:
        instance.stop()
