"""The spare: the next class's instance, booted while the present class's tests run."""

from __future__ import annotations

import os
import threading
from collections.abc import Hashable
from contextlib import suppress
from typing import Any

import psycopg2

from dbtestcase.postgres.contents import Contents
from dbtestcase.postgres.instance import Instance
from dbtestcase.postgres.keeping import at_end
from dbtestcase.postgres.options import ThrowawayPostgres
from dbtestcase.postgres.server import Boot, Server
from dbtestcase.postgres.surroundings import hidden_variables
from dbtestcase.postgres.template import Recipe, begin_boot, boot, is_there

__all__ = ["expect", "forget_spare", "take"]

_LONGEST_GOODBYE = 5.0


class ConnectionAhead:
    """A connection to a server on its way, opened as soon as that answers, so that no test has to wait for one."""

    def __init__(self, boot: Boot) -> None:
        self._boot = boot
        self._connection: Any = None
        self._thread = threading.Thread(target=self._connect, name="dbtestcase connection", daemon=True)
        self._thread.start()

    def _connect(self) -> None:
        # Whatever goes wrong here is told to whoever takes the server, or connects to it.
        with suppress(Exception):
            address = self._boot.address()
            # Between two classes no instance hides them.
            with hidden_variables():
                self._connection = psycopg2.connect(**address)

    def take(self) -> Any:
        """Return the connection, or ``None``."""
        self._thread.join()
        connection, self._connection = self._connection, None
        return connection

    def forget(self) -> None:
        """Close it; the server has been ended."""
        connection = self.take()
        if connection is not None:
            connection.close()


class Spare:
    """A server on its way or ready, and for what it fits."""

    def __init__(self, recipe: Recipe) -> None:
        self.recipe = recipe
        self._boot: Boot | None = begin_boot(recipe, greet="test")
        self._server: Server | None = None
        self._error: BaseException | None = None
        self._unwanted = False
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._ahead = ConnectionAhead(self._boot) if self._boot is not None else None
        if self._boot is None:
            # The template has to be made first, and only for that it takes a thread of this process.
            self._thread = threading.Thread(target=self._make, name="dbtestcase spare", daemon=True)
            self._thread.start()

    def _make(self) -> None:
        try:
            server = boot(self.recipe, greet="test")
        except BaseException as exc:
            self._error = exc
            return
        with self._lock:
            self._server = server
            unwanted = self._unwanted
        if unwanted:
            server.end()

    def take(self) -> Server:
        """Wait until it is ready and return it; an error on the way is raised here."""
        if self._boot is not None:
            try:
                return self._boot.wait()
            except Exception:
                # The whole way again: it tells a damaged template from a real fault, and raises that.
                return boot(self.recipe)
        assert self._thread is not None
        try:
            self._thread.join()
        except BaseException:
            self.forget()
            raise
        if self._error is not None:
            raise self._error
        assert self._server is not None
        return self._server

    def take_connection(self) -> Any:
        """Return a psycopg2 connection to its database ``test`` that is open already, or ``None``."""
        return self._ahead.take() if self._ahead is not None else None

    def forget(self) -> None:
        """End it, wherever it is, and delete it."""
        if self._boot is not None:
            self._boot.cancel()
            if self._ahead is not None:
                self._ahead.forget()
            return
        with self._lock:
            self._unwanted = True
            server = self._server
        if server is not None:
            server.end()


def _key(options: ThrowawayPostgres, contents: Contents) -> Hashable:
    return (options, contents.key, os.environ.get("DBTESTCASE_BIN_DIR"))


_lock = threading.Lock()
_spare: tuple[Hashable, Spare | BaseException] | None = None
_is_at_end = False


def expect(options: ThrowawayPostgres, contents: Contents, *, owner: str = "") -> None:
    """Begin to boot an instance for this in the background; one that waits for something else is ended.

    Never raises: an error is raised by the :func:`running_instance` that wants the instance.
    """
    global _spare, _is_at_end
    key = _key(options, contents)
    with _lock:
        if _spare is not None and _spare[0] == key:
            return
        previous, _spare = _spare, None
        if not _is_at_end:
            _is_at_end = True
            at_end(forget_spare)
    _end(previous)
    try:
        recipe = Recipe(options, contents, owner)
        if not contents.background and (not is_there(recipe)):
            return  # only the main thread can make it
        spare: Spare | BaseException = Spare(recipe)
    except Exception as exc:
        spare = exc
    with _lock:
        _spare = (key, spare)


def take(options: ThrowawayPostgres, contents: Contents) -> Instance | None:
    """Return the spare if it fits; ``None`` if there is none that does, and the one that does not is ended.

    Raises:
        Exception: What went wrong while it was booted.
    """
    global _spare
    with _lock:
        spare, _spare = _spare, None
    if spare is None:
        return None
    if spare[0] != _key(options, contents):
        _end(spare)
        return None
    if isinstance(spare[1], BaseException):
        return None  # the whole way again raises it, if it still holds
    instance = Instance.of(spare[1].take(), spare[1].recipe)
    instance.ready_connection = spare[1].take_connection()
    return instance


def forget_spare() -> None:
    """End and delete a spare that nobody took."""
    global _spare
    with _lock:
        spare, _spare = _spare, None
    _end(spare)


def _end(spare: tuple[Hashable, Spare | BaseException] | None) -> None:
    if spare is not None and isinstance(spare[1], Spare):
        with suppress(Exception):
            spare[1].forget()


def _after_fork_in_child() -> None:
    # The spare is the parent's.
    global _lock, _spare
    _lock = threading.Lock()
    _spare = None


os.register_at_fork(after_in_child=_after_fork_in_child)
