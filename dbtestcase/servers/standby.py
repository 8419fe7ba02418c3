"""The standby: the next class's instance, booted while the present class's tests run."""

from __future__ import annotations

import os
from collections.abc import Hashable
from contextlib import suppress
from typing import Any

import psycopg2

from dbtestcase.libpq import hidden_variables
from dbtestcase.native import Gate, new_lock, start_thread
from dbtestcase.servers.contents import Contents
from dbtestcase.servers.instance import Instance
from dbtestcase.servers.options import ThrowawayPostgres
from dbtestcase.servers.recipe import Recipe
from dbtestcase.servers.server import Boot, Server
from dbtestcase.servers.supervisor_client import at_end
from dbtestcase.servers.template import begin_boot, boot

__all__ = ["discard_standby", "expect", "take"]


class Standby:
    """A server that is wanted soon: it is on its way, or is ready, with a connection open."""

    def __init__(self, options: ThrowawayPostgres, contents: Contents, owner: str) -> None:
        self._options = options
        self._contents = contents
        self._owner = owner
        self._lock = new_lock()
        self._is_unwanted = False
        self._over = Gate()
        self._recipe: Recipe | None = None
        self._boot: Boot | None = None
        self._server: Server | None = None
        self._connection: Any = None
        self._error: BaseException | None = None
        if not start_thread(self._make):
            self._over.open()

    # In the thread that makes it

    def _make(self) -> None:
        try:
            # Whatever goes wrong before there is a template goes wrong again for the one who wants the instance.
            with suppress(Exception):
                self._recipe = Recipe(self._options, self._contents, self._owner)
                server = self._booted(self._recipe)
                if server is not None:
                    self._connect(server)
        finally:
            self._over.open()

    def _connect(self, server: Server) -> None:
        try:
            with hidden_variables():
                connection = psycopg2.connect(**server.address())
        except psycopg2.Error:
            server.end()  # whoever wants the instance gets another, or is told there what goes wrong
            return
        with self._lock:
            is_unwanted = self._is_unwanted
            if not is_unwanted:
                self._server, self._connection = server, connection
        if is_unwanted:
            connection.close()
            server.end()

    def _booted(self, recipe: Recipe) -> Server | None:
        begun = begin_boot(recipe)
        if begun is not None:
            with self._lock:
                self._boot = begun
                is_unwanted = self._is_unwanted
            if is_unwanted:
                begun.cancel()
                return None
            return begun.wait()
        if not self._contents.background:
            return None  # only the main thread can make its template
        try:
            return boot(recipe)
        except BaseException as exc:
            self._error = exc
            return None

    # In the thread that wants it

    def take(self) -> Instance | None:
        """Wait until it is ready and return it; ``None`` if it has to be done all over again."""
        try:
            self._over.wait()
        except BaseException:
            self.discard()
            raise
        if self._error is not None:
            raise self._error
        server, connection = self._let_go()
        if server is None or self._recipe is None:
            return None
        instance = Instance(server, owner=self._owner)
        instance.ready_connection = connection
        return instance

    def discard(self) -> None:
        """End it, wherever it is, and delete it."""
        server, connection = self._let_go()
        if connection is not None:
            connection.close()
        if server is not None:
            server.end()
        elif self._boot is not None:
            self._boot.cancel()

    def _let_go(self) -> tuple[Server | None, Any]:
        with self._lock:
            self._is_unwanted = True
            server, self._server = self._server, None
            connection, self._connection = self._connection, None
        return server, connection


def _key(options: ThrowawayPostgres, contents: Contents) -> Hashable:
    return (options, contents.key, os.environ.get("DBTESTCASE_BIN_DIR"))


_lock = new_lock()
_standby: tuple[Hashable, Standby] | None = None


def expect(options: ThrowawayPostgres, contents: Contents, *, owner: str = "") -> None:
    """Begin to boot an instance for this in the background; one that waits for something else is ended.

    Never raises: an error is raised by the :func:`running_instance` that wants the instance.
    """
    global _standby
    key = _key(options, contents)
    with _lock:
        if _standby is not None and _standby[0] == key:
            return
        previous, _standby = _standby, (key, Standby(options, contents, owner))
    _end(previous)


def take(options: ThrowawayPostgres, contents: Contents) -> Instance | None:
    """Return the standby if it fits and lives; ``None`` if there is none, and one that does not fit is ended."""
    global _standby
    with _lock:
        standby, _standby = _standby, None
    if standby is None:
        return None
    if standby[0] != _key(options, contents):
        _end(standby)
        return None
    instance = standby[1].take()
    if instance is not None and not instance.is_alive():
        instance.end()
        return None
    return instance


def discard_standby() -> None:
    """End and delete a standby that nobody took."""
    global _standby
    with _lock:
        standby, _standby = _standby, None
    _end(standby)


def _end(standby: tuple[Hashable, Standby] | None) -> None:
    if standby is not None:
        with suppress(Exception):
            standby[1].discard()


def _after_fork_in_child() -> None:
    # The standby is the parent's.
    global _lock, _standby
    _lock = new_lock()
    _standby = None


at_end(discard_standby)
os.register_at_fork(after_in_child=_after_fork_in_child)
