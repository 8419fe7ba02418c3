"""A class's databases on an existing server: made when it wants them, or ahead while the class before runs."""

from __future__ import annotations

import os
import threading
from concurrent.futures import Future

import psycopg2

from dbtestcase.errors import PostgresNotReady
from dbtestcase.servers.contents import EMPTY, Contents
from dbtestcase.servers.existing.connections import once_there_is_room
from dbtestcase.servers.existing.instance import ExistingInstance, Filling
from dbtestcase.servers.existing.options import ExistingPostgres
from dbtestcase.servers.existing.server import ExistingServer, server_for
from dbtestcase.servers.existing.templates import Template, Templates

__all__ = ["ExistingStandby", "start_existing"]


def start_existing(options: ExistingPostgres, contents: Contents = EMPTY, *, owner: str = "") -> ExistingInstance:
    """Return new databases for a class. Their ``stop()`` drops them.

    Raises:
        PostgresNotReady: The server cannot be reached, or lacks what is asked for.
        Exception: Whatever ``contents.prepare`` raises.
    """
    server = server_for(options)
    # The schema is created on connections that do not wait for a server that is full.
    template = once_there_is_room(lambda: _template(server, contents, owner))
    for is_last in (False, True):
        try:
            instance = ExistingInstance(server, template, owner=owner)
            if server.is_roomy:
                instance.open_ready_connection()
            return instance
        except psycopg2.errors.InvalidCatalogName as exc:
            if is_last:
                raise _explained(server, exc) from exc
            # Somebody has dropped the template, and this process still knew of it.
            templates_of(server).forget(template)
            template = _template(server, contents, owner)
        except psycopg2.Error as exc:
            raise _explained(server, exc) from exc
    raise AssertionError


def _template(server: ExistingServer, contents: Contents, owner: str) -> Template:
    templates = templates_of(server)
    try:
        return templates.find(contents) or templates.make(contents, owner)
    except psycopg2.Error as exc:
        raise _explained(server, exc) from exc


def _explained(server: ExistingServer, exc: psycopg2.Error) -> PostgresNotReady:
    options = server.options
    return PostgresNotReady(
        f"{options.origin}: no database could be made on the server at {options.place}. It says:\n"
        f"  {options.redacted(str(exc).strip())}"
    )


class ExistingStandby:
    """Databases that are wanted soon; made while the present class's tests run."""

    seconds = 0.0  # that a class waits for them, as good as none

    def __init__(self, options: ExistingPostgres, contents: Contents, owner: str) -> None:
        self.server = server_for(options)
        self._options = options
        self._contents = contents
        self._owner = owner
        self._lock = threading.Lock()
        self._is_unwanted = False
        self._future: Future[ExistingInstance | None] = self.server.workers.submit(self._make)
        self.server.expects_more = True

    def _make(self) -> ExistingInstance | None:
        # Only the main thread may make some templates, and a small server has no room for two at once.
        may_make = self._contents.background and self.server.is_roomy
        if not (may_make or templates_of(self.server).find(self._contents)):
            return None
        instance = start_existing(self._options, self._contents, owner=self._owner)
        with self._lock:
            if not self._is_unwanted:
                return instance
        instance.end()
        return None

    def take(self) -> ExistingInstance | None:
        """Wait until it is ready and return it; ``None`` if it has to be done all over again."""
        self.server.expects_more = False
        try:
            return self._future.result()
        except Exception:
            return None  # it goes wrong again for the one who wants it, or it does not

    def discard(self) -> None:
        """Drop them, as soon as they are made."""
        self.server.expects_more = False
        self._future.cancel()  # which succeeds if nothing was begun
        with self._lock:
            self._is_unwanted = True
            is_ready = self._future.done() and not self._future.cancelled() and self._future.exception() is None
        instance = self._future.result() if is_ready else None
        if instance is not None:
            instance.end()


_lock = threading.Lock()
_templates: dict[int, Templates] = {}


def templates_of(server: ExistingServer) -> Templates:
    """Return the templates that this process knows of on a server."""
    with _lock:
        known = _templates.get(server.owner)
        if known is None:
            known = _templates[server.owner] = Templates(server, lambda names: Filling(server, names))
        return known


def _after_fork_in_child() -> None:
    global _lock
    _lock = threading.Lock()
    _templates.clear()


os.register_at_fork(after_in_child=_after_fork_in_child)
