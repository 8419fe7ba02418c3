"""Tests with ``isolation = "clone"``: each gets private copies of the class's databases for its sandboxes."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING

from sqlalchemy import URL

from dbtestcase.postgres.clones import CloneSupply

if TYPE_CHECKING:
    from dbtestcase.postgres import Instance
    from dbtestcase.sandbox import Sandbox

__all__ = ["Cloning"]

_forks = 0


def _note_fork() -> None:
    global _forks
    _forks += 1


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_parent=_note_fork)


class Cloning:
    """The copies of a class's databases. Nobody may be connected to these when it is made.

    Args:
        instance: The class's running instance.
        sandboxes: The sandboxes of its databases, by database name.
    """

    def __init__(self, instance: Instance, sandboxes: Mapping[str, Sandbox]) -> None:
        self._sandboxes = sandboxes
        self._originals: dict[str, URL] = {name: each.real_url for name, each in sandboxes.items()}
        self._supplies = {name: CloneSupply(instance, name) for name in sandboxes}
        self._present: dict[str, str] = {}
        self._forks_before = 0

    def begin_test(self, *, more: bool) -> None:
        """Let each sandbox use a fresh copy.

        Args:
            more: Whether another test will want copies after this one.
        """
        self._forks_before = _forks
        for name, supply in self._supplies.items():
            copy = self._present[name] = supply.take(more=more)
            self._sandboxes[name].move_to(self._originals[name].set(database=copy))

    def end_test(self) -> None:
        """Let the sandboxes use the class's databases again; copies in which nothing was changed are used once more."""
        for name, copy in self._present.items():
            sandbox = self._sandboxes[name]
            # What a child process did on connections of its own, nobody here knows.
            changed = sandbox.has_changed_database or _forks != self._forks_before
            sandbox.move_to(self._originals[name])
            if changed:
                self._supplies[name].discard(copy)
            else:
                self._supplies[name].put_back(copy)
        self._present.clear()

    def close(self) -> None:
        """Stop making copies."""
        for supply in self._supplies.values():
            supply.close()
