"""Private copies of a database, prepared ahead.

A test that commits for real gets a database of its own, copied from a pristine one. The copy for the next test is made
while the present test runs, so that taking it costs as much as a connect. PostgreSQL copies a database file by file
(``CREATE DATABASE ... TEMPLATE``) and only while nobody is connected to the original; so the first thing made is a copy
of the class's database that nobody ever connects to, and all others are copies of that one.
"""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor
from itertools import count
from typing import TYPE_CHECKING

from dbtestcase.diagnosis import report

if TYPE_CHECKING:
    from dbtestcase.postgres.instance import Instance

__all__ = ["CloneSupply"]


class CloneSupply:
    """Copies of one database of a running instance, one at a time, the next one made in the background.

    Args:
        instance: A running instance; it outlives the supply.
        source: Name of the database to copy. Nobody may be connected to it while the supply is made.
    """

    def __init__(self, instance: Instance, source: str) -> None:
        self._instance = instance
        self._pristine = f"{source}_pristine"
        self._names = (f"{source}_{number}" for number in count(1))
        self._worker = ThreadPoolExecutor(max_workers=1, thread_name_prefix="dbtestcase-clones")
        self._next: Future[str] | None = None
        self._made_pristine = self._worker.submit(instance.clone_database, source, self._pristine)

    def take(self, *, more: bool = True) -> str:
        """Return the name of a database that equals the original, for the caller alone.

        Args:
            more: Begin with the next copy at once; ``False`` when no other will be asked for.

        Raises:
            psycopg2.Error: PostgreSQL could not make the copy.
        """
        self._made_pristine.result()
        ready, self._next = self._next or self._begin(), None
        name = ready.result()
        if more:
            self._next = self._begin()
        return name

    def put_back(self, name: str) -> None:
        """Return a copy in which nothing was changed; it is the next one that :meth:`take` gives."""
        if self._next is not None:
            self._worker.submit(self._drop_result, self._next)
        self._next = Future()
        self._next.set_result(name)

    def discard(self, name: str) -> None:
        """Drop a copy in the background, whoever is still connected to it."""
        self._worker.submit(self._instance.drop_database, name)

    def close(self) -> None:
        """Stop making copies; those that exist go with the instance."""
        self._worker.shutdown(wait=True, cancel_futures=True)

    def _begin(self) -> Future[str]:
        return self._worker.submit(self._copy, next(self._names))

    def _copy(self, name: str) -> str:
        with report.span("clone", name):
            self._instance.clone_database(self._pristine, name)
        return name

    def _drop_result(self, copy: Future[str]) -> None:
        self._instance.drop_database(copy.result())
