"""Private copies of a database, prepared ahead.

A test that commits for real gets a database of its own, copied from a pristine one. The copies for the next tests are
made, and connected to, while the present test runs, so that taking one costs next to nothing. PostgreSQL copies a
database file by file (``CREATE DATABASE ... TEMPLATE``) and only while nobody is connected to the original; so the
first thing made is a copy of the class's database that nobody ever connects to, and all others are copies of that one.

All this is work on the test's own server: it holds transaction ids and has sessions. A test that looks at such things
(snapshots, ``pg_stat_activity``) would see it, so :meth:`CloneSupply.pause` ends it until the next test.
"""

from __future__ import annotations

import re
import threading
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Generic, TypeVar

from dbtestcase.diagnosis import report
from dbtestcase.servers.databases import Databases
from dbtestcase.servers.properties import DatabaseProperties
from dbtestcase.servers.workers import Workers

__all__ = ["CloneSupply", "Copy", "looks_at_other_sessions"]

Connections = TypeVar("Connections")
Leave = Callable[[], None]

# One more than the next test needs, for when making one takes longer than the test.
_AHEAD = 2
# Copying keeps PostgreSQL and the disk busy: it leaves the first so many seconds of a test undisturbed.
_COURTESY = 0.01
# Transaction ids, snapshots, sessions and locks of the whole server, and what else is not of one database.
_LOOKS = re.compile(
    r"pg_(?:current_(?!xact_id|setting|schema|database|user|date|time|role|catalog)|snapshot|visible_in|xact|stat_|locks|lock_|blocking|safe_snapshot|wal|last_|replication"
    r"|isolation_test|get_wal|log_standby|export_)|txid_(?!current\b)|\bx(?:min|max)\b|\bage\(",
    re.IGNORECASE,
)


def looks_at_other_sessions(sql: str) -> bool:
    """Return whether a statement may tell what other sessions of the server do, in any of its databases."""
    return _LOOKS.search(sql) is not None


@dataclass(frozen=True)
class Copy(Generic[Connections]):
    """A database that equals the original, and the connections to it that were opened ahead."""

    name: str
    connections: Connections


class CloneSupply(Generic[Connections]):
    """Copies of one database of a running server; those that the next tests will take are made in the background.

    Args:
        server: A running server; it outlives the supply.
        source: Name of the database to copy. Nobody may be connected to it while the supply is made.
        connect: Called in the background with a copy's name, to open the connections that whoever takes it will need.
        disconnect: Called with what ``connect`` returned, if nobody takes the copy, or not yet.
        alone: Every test is to be alone on the server: nothing is done while one runs.
    """

    def __init__(
        self,
        server: Databases,
        source: str,
        connect: Callable[[str], Connections],
        disconnect: Callable[[Connections], None],
        *,
        alone: bool = False,
    ) -> None:
        self._server = server
        self._source = source
        self._connect = connect
        self._disconnect = disconnect
        self._alone = alone
        self._pristine = server.new_copy_name(source)
        # Two, so that a database is dropped while another is made.
        self._workers = Workers(2, "dbtestcase-clones")
        self._stock: deque[Future[Copy[Connections]]] = deque()
        # Copies that were used, each with what disconnects from it.
        self._unchanged: list[tuple[str, Leave, int]] = []
        self._changed: list[tuple[str, Leave]] = []
        self._left: list[str] = []
        self._leaves: set[Leave] = set()
        self._is_wanted = threading.Event()
        self._pausing = threading.Condition()
        self._is_paused = False
        self._working = 0
        self._made_pristine: Future[DatabaseProperties] = self._workers.submit(self._make_pristine)

    def take(self, *, following: int) -> Copy[Connections]:
        """Return a database that equals the original, for the caller alone.

        Args:
            following: How many more will be asked for, as far as is known; so many are begun with.
        """
        self.resume()
        self._made_pristine.result()
        self._is_wanted.set()
        if not self._stock:
            self._stock.append(self._begin_with_one())
        taken = next((copy for copy in self._stock if copy.done()), self._stock[0])
        self._stock.remove(taken)
        copy = taken.result()
        self._is_wanted.clear()
        while not self._alone and len(self._stock) < min(following, _AHEAD):
            self._stock.append(self._begin_with_one())
        self._clear_away()
        if self._alone:
            self.pause()
        return copy

    def put_back(self, name: str, leave: Leave, connections: int) -> None:
        """Return a copy in which nothing was changed; it will be given again.

        Args:
            leave: Called before, in the background, to disconnect from it: servers too take a while to hang up. A
                second call does nothing.
            connections: How many connections to it are known of. If there were others, it is dropped.
        """
        self._leaves.add(leave)
        self._unchanged.append((name, leave, connections))

    def discard(self, name: str, leave: Leave) -> None:
        """Drop a copy in the background, whoever is connected to it; ``leave`` is called before, to disconnect."""
        self._leaves.add(leave)
        self._changed.append((name, leave))

    def pause(self) -> None:
        """Let whoever has taken a copy be alone on the server, until :meth:`resume` or the next :meth:`take`.

        Returns once all that was being done in the background is done and its connections are closed.
        """
        with self._pausing:
            self._is_paused = True
            self._pausing.wait_for(lambda: not self._working)
        for leave in [*self._leaves]:
            self._leave(leave)
        for copy in self._stock:
            if copy.done() and copy.exception() is None:
                self._disconnect(copy.result().connections)
        self._server.maintenance.close(wait=True)

    def close(self) -> None:
        """Stop making copies; those that exist go with the server."""
        self._is_wanted.set()
        self.resume()
        self._workers.shutdown(wait=True)
        for copy in self._stock:
            if not copy.cancelled() and copy.exception() is None:
                self._disconnect(copy.result().connections)
        self._stock.clear()
        for leave in [*self._leaves]:
            self._leave(leave)

    def resume(self) -> None:
        """End :meth:`pause`, once the one who wanted to be alone has gone."""
        with self._pausing:
            self._is_paused = False
            self._pausing.notify_all()

    def _leave(self, leave: Leave) -> None:
        leave()
        self._leaves.discard(leave)

    @contextmanager
    def _at_work(self) -> Iterator[None]:
        """Do something on the server, not while a test wants to be alone."""
        with self._pausing:
            self._pausing.wait_for(lambda: not self._is_paused)
            self._working += 1
        try:
            yield
        finally:
            with self._pausing:
                self._working -= 1
                self._pausing.notify_all()

    def _clear_away(self) -> None:
        # Dropped a test later than it is left: PostgreSQL, asked to drop a database from which a server process is
        # still on its way out, looks again only after 100 ms.
        for name in self._left:
            self._workers.submit(self._drop, name)
        self._left = [name for name, _ in self._changed]
        for _, leave in self._changed:
            self._workers.submit(self._disconnect_from, leave)
        self._changed.clear()

    def _disconnect_from(self, leave: Leave) -> None:
        self._is_wanted.wait(_COURTESY)
        with self._at_work():
            self._leave(leave)

    def _begin_with_one(self) -> Future[Copy[Connections]]:
        if self._unchanged:
            return self._workers.submit(self._used_again, *self._unchanged.pop())
        return self._workers.submit(self._made)

    def _make_pristine(self) -> DatabaseProperties:
        with self._at_work():
            self._server.clone_database(self._source, self._pristine)
            return DatabaseProperties(self._server, self._source)

    def _made(self) -> Copy[Connections]:
        self._is_wanted.wait(_COURTESY)
        with self._at_work():
            return self._make()

    def _make(self) -> Copy[Connections]:
        name = self._server.new_copy_name(self._source)
        with report.span("clone", name):
            self._server.clone_database(self._pristine, name)
            changes = ";\n".join(self._made_pristine.result().statements(name))
            if changes:
                self._server.execute(changes)
        return Copy(name, self._connect(name))

    def _used_again(self, name: str, leave: Leave, connections: int) -> Copy[Connections]:
        self._is_wanted.wait(_COURTESY)
        with self._at_work():
            self._leave(leave)
            if self._server.count_sessions(name) == connections:
                return Copy(name, self._connect(name))
            # Somebody has connected in his own way, another process for example, and may have changed it; or rows
            # were changed by what no engine saw: COPY, or a cursor of a class of the test's own.
            self._server.drop_database(name)
            return self._make()

    def _drop(self, name: str) -> None:
        self._is_wanted.wait(_COURTESY)
        with self._at_work():
            self._server.drop_database(name)
