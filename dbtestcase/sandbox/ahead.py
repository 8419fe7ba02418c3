"""Real connections that were opened before anybody asked for them, to a database that nobody uses yet.

To connect costs more than anything else that a test with a private database waits for. Tests of one class connect in
much the same way, so connections like those of the test before are opened while that one still runs.
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from typing import Any

import sqlalchemy as sa

from . import loops
from .setup import Setup

__all__ = ["MOST", "ConnectionsAhead", "Habits"]

# How many connections may be open that the present test has not asked for.
MOST = 3


class Habits:
    """How a test connects: the best guess of what the next test will do."""

    def __init__(self) -> None:
        self._before: list[Setup] = []
        self._now: list[Setup] = []

    def connects(self, setup: Setup) -> None:
        """Note that a connection is opened in the present test."""
        self._now.append(setup)

    def next_test(self) -> None:
        """The present test is over."""
        if self._now:
            self._before, self._now = self._now, []

    def expected(self) -> list[Setup]:
        """Return the setups with which the next test is expected to connect, each as often as it is."""
        # The present test may not have opened all of its own yet.
        likely = max(self._now, self._before, key=len)
        return [each for each in likely if not each.is_bound_to_loop][:MOST]


class ConnectionsAhead:
    """Connections to one database for those who will ask for them; may be made in any thread."""

    def __init__(self, url: sa.URL, setups: Iterable[Setup]) -> None:
        self._url = url
        self._connections: list[tuple[Setup, Any]] = []
        for setup in setups:
            # Whatever goes wrong here is told to the test, when it connects itself.
            with suppress(Exception):
                connection = loops.run(setup.connect, url) if setup.is_async else setup.connect(url)
                self._connections.append((setup, connection))

    def __len__(self) -> int:
        return len(self._connections)

    def take(self, setup: Setup) -> Any:
        """Return a connection that was opened in the same way, the caller's from now on, or ``None``."""
        for number, (opened, connection) in enumerate(self._connections):
            if opened.connects_like(setup, self._url) and not _native(connection).closed:
                del self._connections[number]
                return connection
        return None

    @property
    def of_the_driver(self) -> list[Any]:
        """Those that nobody has taken yet."""
        return [_native(connection) for _, connection in self._connections]

    def close(self) -> None:
        """Close those that nobody has taken."""
        for _, connection in self._connections:
            with suppress(Exception):
                connection.close() if _native(connection) is connection else _native(connection).pgconn.finish()
        self._connections.clear()


def _native(connection: Any) -> Any:
    """Return the driver's own connection behind an adapter of SQLAlchemy's."""
    return getattr(connection, "driver_connection", connection)
