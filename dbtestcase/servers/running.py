"""An instance for as long as a block runs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from dbtestcase.servers import spare
from dbtestcase.servers.contents import EMPTY, Contents
from dbtestcase.servers.instance import Instance
from dbtestcase.servers.options import ThrowawayPostgres

__all__ = ["running_instance"]


@contextmanager
def running_instance(options: ThrowawayPostgres, contents: Contents = EMPTY, *, owner: str = "") -> Iterator[Instance]:
    """Yield a running instance: the spare if one was expected for this, else one that is booted now.

    When the block is left, also by an error, it is told to end; it is dead, and its folder deleted, a few milliseconds
    later, whatever this process does meanwhile.

    Raises:
        PostgresNotFound: There are no server programs.
        PostgresNotReady: The server does not start.
        Exception: Whatever ``contents.prepare`` raises.
    """
    instance = spare.take(options, contents) or Instance(options, contents, owner=owner)
    try:
        yield instance
    finally:
        instance.end()
