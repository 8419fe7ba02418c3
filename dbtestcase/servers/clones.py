"""Private copies of a database, prepared ahead.

A test that commits for real gets a database of its own, copied from a pristine one. The copies for the next tests are
made, and connected to, while the present test runs, so that taking one costs next to nothing. PostgreSQL copies a
database file by file (``CREATE DATABASE ... TEMPLATE``) and only while nobody is connected to the original; so the
first thing made is a copy of the class's database that nobody ever connects to, and all others are copies of that one.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import count
from typing import TYPE_CHECKING, Generic, TypeVar

from dbtestcase.diagnosis import report

if TYPE_CHECKING:
    from dbtestcase.servers.instance import Instance

__all__ = ["CloneSupply", "Copy"]

Equipment = TypeVar("Equipment")
Leave = Callable[[], None]

# One more than the next test needs, for when making one takes longer than the test.
_AHEAD = 2
# Copying keeps PostgreSQL and the disk busy: it leaves the first so many seconds of a test undisturbed.
_COURTESY = 0.01


@dataclass(frozen=True)
class Copy(Generic[Equipment]):
    """A database that equals the original, and what was made ready for its use."""

    name: str
    equipment: Equipment


class CloneSupply(Generic[Equipment]):
    """Copies of one database of a running instance; those that the next tests will take are made in the background.

    Args:
        instance: A running instance; it outlives the supply.
        source: Name of the database to copy. Nobody may be connected to it while the supply is made.
        equip: Called in the background with a copy's name, to make ready what whoever takes it will need.
        unequip: Called with what ``equip`` returned, if nobody takes the copy.
    """

    def __init__(
        self, instance: Instance, source: str, equip: Callable[[str], Equipment], unequip: Callable[[Equipment], None]
    ) -> None:
        self._instance = instance
        self._equip = equip
        self._unequip = unequip
        self._pristine = f"{source}_pristine"
        self._names = (f"{source}_{number}" for number in count(1))
        # Two, so that a database is dropped while another is made.
        self._workers = ThreadPoolExecutor(max_workers=2, thread_name_prefix="dbtestcase-clones")
        self._stock: deque[Future[Copy[Equipment]]] = deque()
        # Copies that were used, each with what disconnects from it.
        self._unchanged: list[tuple[str, Leave, int]] = []
        self._changed: list[tuple[str, Leave]] = []
        self._left: list[str] = []
        self._is_wanted = threading.Event()
        self._made_pristine = self._workers.submit(instance.clone_database, source, self._pristine)

    def take(self, *, following: int) -> Copy[Equipment]:
        """Return a database that equals the original, for the caller alone.

        Args:
            following: How many more will be asked for, as far as is known; so many are begun with.

        Raises:
            psycopg2.Error: PostgreSQL could not make the copy.
        """
        self._made_pristine.result()
        self._is_wanted.set()
        if not self._stock:
            self._stock.append(self._begin_with_one())
        taken = next((copy for copy in self._stock if copy.done()), self._stock[0])
        self._stock.remove(taken)
        copy = taken.result()
        self._is_wanted.clear()
        while len(self._stock) < min(following, _AHEAD):
            self._stock.append(self._begin_with_one())
        self._clear_away()
        return copy

    def put_back(self, name: str, leave: Leave, connections: int) -> None:
        """Return a copy in which nothing was changed; it will be given again.

        Args:
            leave: Called before, in the background, to disconnect from it: servers too take a while to hang up.
            connections: How many connections to it are known of. If there were others, it is dropped.
        """
        self._unchanged.append((name, leave, connections))

    def discard(self, name: str, leave: Leave) -> None:
        """Drop a copy in the background, whoever is still connected to it.

        Args:
            leave: Called before, in the background, to disconnect from it.
        """
        self._changed.append((name, leave))

    def close(self) -> None:
        """Stop making copies; those that exist go with the instance."""
        self._is_wanted.set()
        self._workers.shutdown(wait=True, cancel_futures=True)
        for copy in self._stock:
            if not copy.cancelled() and copy.exception() is None:
                self._unequip(copy.result().equipment)
        self._stock.clear()
        for leave in [entry[1] for entry in self._unchanged] + [entry[1] for entry in self._changed]:
            leave()

    def _clear_away(self) -> None:
        # Dropped a test later than it is left: PostgreSQL, asked to drop a database from which a server process is
        # still on its way out, looks again only after 100 ms.
        for name in self._left:
            self._workers.submit(self._drop, name)
        self._left = [name for name, _ in self._changed]
        for _, leave in self._changed:
            self._workers.submit(self._when_wanted, leave)
        self._changed.clear()

    def _when_wanted(self, leave: Leave) -> None:
        self._is_wanted.wait(_COURTESY)
        leave()

    def _begin_with_one(self) -> Future[Copy[Equipment]]:
        if self._unchanged:
            return self._workers.submit(self._used_again, *self._unchanged.pop())
        return self._workers.submit(self._made, next(self._names))

    def _made(self, name: str) -> Copy[Equipment]:
        self._is_wanted.wait(_COURTESY)
        with report.span("clone", name):
            self._instance.clone_database(self._pristine, name)
        return self._equipped(name)

    def _used_again(self, name: str, leave: Leave, connections: int) -> Copy[Equipment]:
        self._when_wanted(leave)
        if self._instance.count_sessions(name) != connections:
            # Somebody has connected in his own way, another process for example, and may have changed it.
            self._instance.drop_database(name)
            return self._made(next(self._names))
        return self._equipped(name)

    def _equipped(self, name: str) -> Copy[Equipment]:
        return Copy(name, self._equip(name))

    def _drop(self, name: str) -> None:
        self._is_wanted.wait(_COURTESY)
        self._instance.drop_database(name)
