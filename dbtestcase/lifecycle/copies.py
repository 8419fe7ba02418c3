"""Tests with ``isolation = "clone"``: each gets private copies of the class's databases for its sandboxes."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

from sqlalchemy import URL

from dbtestcase.servers.clones import CloneSupply

if TYPE_CHECKING:
    from dbtestcase.sandbox import Sandbox
    from dbtestcase.sandbox.ahead import ConnectionsAhead
    from dbtestcase.servers import Instance

__all__ = ["Cloning"]

_ROOMY = 50  # connections


class Cloning:
    """The copies of a class's databases. Nobody may be connected to these when it is made.

    Args:
        instance: The class's running instance.
        sandboxes: The sandboxes of its databases, by database name.
    """

    def __init__(self, instance: Instance, sandboxes: Mapping[str, Sandbox]) -> None:
        self._sandboxes = sandboxes
        self._originals: dict[str, URL] = {name: each.real_url for name, each in sandboxes.items()}
        # What is opened ahead, or closed later, must not be what a test of a small server lacks.
        self._is_roomy = int(str(instance.options.settings.get("max_connections", 100))) >= _ROOMY
        self._supplies = {name: CloneSupply(instance, name, partial(self._connect, name), _close) for name in sandboxes}
        self._present: dict[str, str] = {}
        self._connections: dict[str, int] = {}

    def begin_test(self, *, following: int) -> None:
        """Let each sandbox use a fresh copy.

        Args:
            following: How many tests will want copies after this one, as far as is known.
        """
        for name, supply in self._supplies.items():
            copy = supply.take(following=following)
            self._present[name] = copy.name
            self._sandboxes[name].move_to(self._originals[name].set(database=copy.name), copy.equipment)

    def end_test(self) -> None:
        """Let the sandboxes use the class's databases again; copies in which nothing was changed are used once more."""
        for name, copy in self._present.items():
            sandbox = self._sandboxes[name]
            self._connections[copy] = self._connections.get(copy, 0) + sandbox.connections_made
            leave = partial(_close_all, sandbox.take_idle() if self._is_roomy else [])
            changed = sandbox.has_changed_database
            sandbox.move_to(self._originals[name])
            if changed:
                self._supplies[name].discard(copy, leave)
            else:
                self._supplies[name].put_back(copy, leave, self._connections[copy])
        self._present.clear()

    def close(self) -> None:
        """Stop making copies."""
        for supply in self._supplies.values():
            supply.close()

    def _connect(self, name: str, copy: str) -> ConnectionsAhead | None:
        if not self._is_roomy:
            return None
        return self._sandboxes[name].open_ahead(self._originals[name].set(database=copy))


def _close_all(connections: list[Any]) -> None:
    for connection in connections:
        connection.close()


def _close(connections: ConnectionsAhead | None) -> None:
    if connections is not None:
        connections.close()
