"""Real connections that were opened before anybody asked for them, to a database that nobody uses yet.

To connect costs more than anything else that a test with a private database waits for. Tests of one class connect in
much the same way, so connections like those of the test before are opened while that one still runs.
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from typing import Any, NamedTuple

import sqlalchemy as sa

__all__ = ["MOST", "ConnectionsAhead", "Habits", "Way"]

# How many connections may be open that the present test has not asked for.
MOST = 3


class Way(NamedTuple):
    """How an engine connects, wherever to."""

    dialect: sa.Dialect
    connect_args: dict[str, Any]

    def arguments(self, url: sa.URL) -> tuple[Any, dict[str, Any]]:
        """Return what the driver's ``connect()`` is called with."""
        positional, named = self.dialect.create_connect_args(url)
        return tuple(positional), {**named, **self.connect_args}

    def connect(self, url: sa.URL) -> Any:
        """Open a connection of the driver."""
        positional, named = self.arguments(url)
        return self.dialect.connect(*positional, **named)


class Habits:
    """In which ways a test connects: the best guess of what the next test will do."""

    def __init__(self) -> None:
        self._before: list[Way] = []
        self._now: list[Way] = []

    def connects(self, way: Way) -> None:
        """Note that a connection is opened in the present test."""
        self._now.append(way)

    def next_test(self) -> None:
        """The present test is over."""
        self._before, self._now = self._now, []

    def expected(self) -> list[Way]:
        """Return the ways in which the next test is expected to connect, each as often as it is."""
        return (self._before or self._now)[:MOST]


class ConnectionsAhead:
    """Connections to one database for those who will ask for them; may be made in any thread."""

    def __init__(self, url: sa.URL, ways: Iterable[Way]) -> None:
        self._url = url
        self._connections: list[tuple[Way, Any]] = []
        for way in ways:
            # Whatever goes wrong here is told to the test, when it connects itself.
            with suppress(Exception):
                self._connections.append((way, way.connect(url)))

    def __len__(self) -> int:
        return len(self._connections)

    def take(self, way: Way) -> Any:
        """Return a connection that was opened in this way, the caller's from now on, or ``None``."""
        for number, (opened, connection) in enumerate(self._connections):
            if (
                type(opened.dialect) is type(way.dialect)
                and opened.arguments(self._url) == way.arguments(self._url)
                and not connection.closed
            ):
                del self._connections[number]
                return connection
        return None

    def close(self) -> None:
        """Close those that nobody has taken."""
        for _, connection in self._connections:
            with suppress(Exception):
                connection.close()
        self._connections.clear()
