"""Tests on private copies: each gets copies of the class's databases for its engines."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

from sqlalchemy import URL

from dbtestcase.sandbox import MOST, ConnectionsAhead, LeftOpen, SandboxedDatabase
from dbtestcase.servers.clones import CloneSupply

__all__ = ["Copies"]

_ROOMY = 50  # connections


class Copies:
    """The copies of a class's databases. Nobody may be connected to these when it is made.

    Args:
        instance: The class's running instance.
        databases: Its databases, by name.
    """

    def __init__(self, instance: Any, databases: Mapping[str, SandboxedDatabase]) -> None:
        self._databases = dict(databases)
        self._originals: dict[str, URL] = {name: each.real_url for name, each in databases.items()}
        # What is opened ahead, or closed later, must not be what a test of a small server lacks.
        self._is_roomy = int(str(instance.options.settings.get("max_connections", 100))) >= _ROOMY
        self._supplies = {name: CloneSupply(instance, name, partial(self._connect, name), _close) for name in databases}
        self._present: dict[str, str] = {}
        self._connections: dict[str, int] = {}

    def begin_test(self, *, following: int) -> None:
        """Let each database be a fresh copy.

        Args:
            following: How many tests will want copies after this one, as far as is known.
        """
        for name, supply in self._supplies.items():
            copy = supply.take(following=following)
            self._present[name] = copy.name
            self._databases[name].use_real(self._originals[name].set(database=copy.name), copy.equipment)

    def end_test(self) -> list[LeftOpen]:
        """Go back to the class's databases; return what the test has left open.

        Copies in which nothing was changed are used once more.
        """
        left: list[LeftOpen] = []
        for name, copy in self._present.items():
            database = self._databases[name]
            self._connections[copy] = self._connections.get(copy, 0) + database.real.made
            changed = database.real.have_written
            # Not all, because they take the place of connections that the next test may open.
            idle = database.real.give_up_idle(at_most=MOST if self._is_roomy else 0)
            left += database.leave_real()
            leave = partial(_close_all, idle)
            database.use_real(self._originals[name])
            if changed:
                self._supplies[name].discard(copy, leave)
            else:
                self._supplies[name].put_back(copy, leave, self._connections[copy])
        self._present.clear()
        return left

    @property
    def names(self) -> Mapping[str, str]:
        """The names of the present test's copies, by the name of the database."""
        return self._present

    def close(self) -> None:
        """Stop making copies."""
        for supply in self._supplies.values():
            supply.close()

    def _connect(self, name: str, copy: str) -> ConnectionsAhead | None:
        if not self._is_roomy:
            return None
        return self._databases[name].open_ahead(self._originals[name].set(database=copy))


def _close_all(connections: list[Any]) -> None:
    for connection in connections:
        connection.close()


def _close(connections: ConnectionsAhead | None) -> None:
    if connections is not None:
        connections.close()
