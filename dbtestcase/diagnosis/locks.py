"""Statements that wait for a lock: ended after a while, with a sentence that says who holds it.

A thread looks at what has been running for too long. If PostgreSQL says that it is blocked, the thread writes down who
blocks it, while that can still be seen, and cancels it; the driver's error is then replaced by :class:`LockWait`.
``lock_timeout`` would be simpler, but when its error arrives the scene is over, and the code under test may set or
read it for its own purposes.
"""

from __future__ import annotations

import os
import re
import threading
import weakref
from collections.abc import Callable
from contextlib import AbstractContextManager, suppress

import psycopg2
from sqlalchemy import URL

from dbtestcase.diagnosis import messages
from dbtestcase.diagnosis.backends import Activity, Backends, activities, ask_server
from dbtestcase.diagnosis.listing import duration
from dbtestcase.diagnosis.redaction import Redaction
from dbtestcase.diagnosis.sqltext import text_of
from dbtestcase.diagnosis.tracebacks import sqlstate
from dbtestcase.errors import LockWait
from dbtestcase.frames import Origin
from dbtestcase.native import monotonic

__all__ = ["LockWatch"]

_CANCELED, _DEADLOCK = "57014", "40P01"
_DEPTH = 4  # blockers of blockers of blockers
_WAITING = """
SELECT l.locktype, l.mode, l.relation::regclass::text,
       -- through jsonb, because PostgreSQL 13 has no such column
       extract(epoch FROM clock_timestamp() - (to_jsonb(l) ->> 'waitstart')::timestamptz)::float
FROM pg_locks l WHERE l.pid = %s AND NOT l.granted
"""
_NEEDS_TABLE_ALONE = re.compile(
    r"\s*(drop|alter|truncate|lock|create\s+(unique\s+)?index|reindex|cluster|vacuum\s+full)\b", re.I
)


class _Running:
    """A statement that is being executed; a class, because each statement enters one."""

    __slots__ = ("_watch", "pid", "scene", "started", "thread_ident", "was_stopped")

    def __init__(self, watch: LockWatch, pid: int) -> None:
        self._watch = watch
        self.pid = pid
        self.thread_ident = threading.get_ident()
        self.started = monotonic()
        self.scene: str | None = None
        self.was_stopped = False

    def __enter__(self) -> None:
        self._watch._begun(self)

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        self._watch._ended(self, error)


class LockWatch:
    """Watches the statements on the real connections of a test class.

    Args:
        url: The database that they are connected to now.
        owner: The name of the test class.
        limit: How long a statement may wait for a lock, in seconds; 0: for ever.
        end_stopped: Ends a server process that somebody has stopped; returns whether it was one.
    """

    def __init__(
        self,
        url: Callable[[], URL],
        *,
        owner: str,
        limit: float,
        redaction: Redaction | None = None,
        end_stopped: Callable[[int], bool] = lambda pid: False,
    ) -> None:
        self.backends = Backends(redaction or Redaction())
        self.limit = limit
        self._url = url
        self._owner = owner
        self._end_stopped = end_stopped
        self._running: dict[int, _Running] = {}
        self._lock = threading.Lock()
        self._others: list[Callable[[], tuple[int, object] | None]] = []
        self._others_seen: dict[int, tuple[object, _Running]] = {}
        # The watcher's watches, once this is one of them; a forked child has others.
        self.watched_among: object = None

    def statement(
        self, pid: int, sql: object, parameters: object, origin: Origin, *, begins: bool
    ) -> AbstractContextManager[None]:
        """Watch what is sent in the block by the connection whose server process is ``pid``.

        Args:
            begins: The connection was in no transaction before.

        Raises:
            LockWait: It waited too long for a lock.
        """
        self.backends.sends(pid, sql, parameters, origin, begins=begins)
        return _Running(self, pid)

    def look_at(self, present: Callable[[], tuple[int, object] | None]) -> None:
        """Also cancel what waits too long on a connection whose statements do not come here one by one.

        Args:
            present: Called by the watching thread: returns the server process of the statement that is running and an
                object that stands for this statement alone, or ``None`` if none is running.
        """
        self._others.append(present)

    def scene_of(self, pid: int) -> str | None:
        """Return who blocked the statement of that server process, if it has just been cancelled for that; once."""
        for number, (_, running) in list(self._others_seen.items()):
            if running.pid == pid and running.scene is not None:
                self._others_seen.pop(number, None)
                return running.scene
        return None

    def wake(self) -> None:
        """Statements may be running from now on that :meth:`look_at` was told of."""
        if self.limit:
            _watcher.look_after(self)

    def _begun(self, running: _Running) -> None:
        if self.limit:
            self._running[running.pid] = running
            _watcher.look_after(self)

    def _ended(self, running: _Running, error: BaseException | None) -> None:
        if running.pid in self._running:
            # Never before a cancellation that is on its way has been sent: it would hit the next statement.
            with self._lock:
                self._running.pop(running.pid, None)
        if not isinstance(error, Exception):
            return
        if running.was_stopped:
            error.add_note(messages.STOPPED.format(pid=running.pid))
        if running.scene is not None and sqlstate(error) == _CANCELED:
            raise LockWait(running.scene) from error
        if sqlstate(error) == _DEADLOCK:
            error.add_note(self._deadlock(error))

    # -- by the watcher's thread

    @property
    def is_busy(self) -> bool:
        """Whether a statement is running."""
        return bool(self._running) or any(present() is not None for present in self._others)

    @property
    def interval(self) -> float:
        """How often to look, in seconds."""
        return min(max(self.limit / 10, 0.02), 0.5)

    def look(self) -> None:
        """End the statements that have waited too long."""
        now = monotonic()
        for running in [*self._running.values(), *self._running_elsewhere()]:
            if now - running.started >= self.limit and running.scene is None:
                try:
                    self._examine(running)
                except psycopg2.Error:
                    continue  # the server has other worries; looked at again in the next round

    def _running_elsewhere(self) -> list[_Running]:
        """Return the statements of :meth:`look_at` that were running the last time already."""
        seen = {}
        for number, present in enumerate(self._others):
            found = present()
            if found is not None:
                pid, statement = found
                known = self._others_seen.get(number)
                seen[number] = (
                    known if known is not None and known[0] is statement else (statement, _Running(self, pid))
                )
        self._others_seen = seen
        return [running for _, running in seen.values()]

    def _is_still_elsewhere(self, running: _Running) -> bool:
        known = {id(each): (number, statement) for number, (statement, each) in self._others_seen.items()}
        if id(running) not in known:
            return False
        number, statement = known[id(running)]
        found = self._others[number]()
        return found is not None and found[1] is statement

    def _examine(self, running: _Running) -> None:
        if self._end_stopped(running.pid):
            running.was_stopped = True
            return
        url = self._url()
        waiting = ask_server(url, _WAITING, (running.pid,))
        if not waiting:
            return
        kind, mode, relation, waited = waiting[0]
        if waited is not None and waited < self.limit:
            return
        chain = self._chain(url, running.pid)
        if len(chain) < 2:
            return
        wanted = f"{mode} on {relation}" if relation else messages.WAITED_LOCKS.get(kind, f"a lock on a {kind}")
        scene = self._scene(running, wanted, chain, waited if waited is not None else monotonic() - running.started)
        with self._lock:
            if self._running.get(running.pid) is running or self._is_still_elsewhere(running):
                running.scene = scene
                try:
                    ask_server(url, "SELECT pg_cancel_backend(%s)", (running.pid,))
                except psycopg2.Error:
                    running.scene = None  # to be looked at again
                    raise

    def _chain(self, url: URL, pid: int) -> list[Activity]:
        """Return a process and those that block it, in order."""
        chain: list[Activity] = []
        wanted: list[int] = [pid]
        for _ in range(_DEPTH):
            found = activities(url, wanted)
            chain += sorted(found, key=lambda each: each.pid)
            known = {each.pid for each in chain}
            wanted = [blocker for each in found for blocker in each.blocked_by if blocker not in known]
            if not wanted:
                break
        return chain

    def _scene(self, running: _Running, wanted: str, chain: list[Activity], waited: float) -> str:
        waiter, *blockers = chain
        lines = [
            messages.LOCK_WAIT.format(owner=self._owner, waited=duration(waited)),
            "Waiting:",
            *_indented(self.backends.describe(waiter.pid, waiter)),
            f"    it needs {wanted}",
            "Blocked by:",
        ]
        for blocker in blockers:
            lines += _indented(self.backends.describe(blocker.pid, blocker))
        lines.append(self._remedy(running, waiter, blockers))
        lines.append(messages.LOCK_LIMIT.format(limit=self.limit, owner=self._owner))
        return "\n".join(lines)

    def _remedy(self, running: _Running, waiter: Activity, blockers: list[Activity]) -> str:
        idle = [each for each in blockers if each.state.startswith("idle in transaction")]
        if not idle:
            return messages.BLOCKER_RUNS
        holders = [known for each in idle if (known := self.backends.get(each.pid)) is not None]
        if not holders:
            remedy = messages.END_STRANGER
        elif all(known.kind == "session" for known in holders):
            remedy = messages.END_SESSION
        else:
            remedy = messages.END_TRANSACTION
        remedy = f"What to do: {remedy}."
        if any(known.thread_ident == running.thread_ident for known in holders):
            remedy += messages.SAME_THREAD
        known = self.backends.get(waiter.pid)
        sql = waiter.query if known is None or known.sql is None else text_of(known.sql)
        if _NEEDS_TABLE_ALONE.match(sql):
            remedy += messages.NEEDS_TABLE_ALONE.format(verb=sql.split()[0].upper())
        return remedy

    def _deadlock(self, error: BaseException) -> str:
        detail = str(getattr(getattr(error, "diag", None), "message_detail", None) or error)
        pids = list(dict.fromkeys(int(pid) for pid in re.findall(r"[Pp]rocess (\d+)", detail)))
        lines = [messages.DEADLOCK]
        for pid in pids:
            lines += _indented(self.backends.describe(pid))
        return "\n".join([*lines, messages.DEADLOCK_REMEDY])


class _Watcher:
    """The one thread that looks after all watches; the first statement starts it, and it rests when there are none."""

    _ROUNDS_BEFORE_REST = 20

    def __init__(self) -> None:
        self._reset()
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=self._reset)

    def _reset(self) -> None:
        self._watches: weakref.WeakSet[LockWatch] = weakref.WeakSet()
        self._wake = threading.Event()
        self._start = threading.Lock()
        self._thread: threading.Thread | None = None
        self._awake = False

    def look_after(self, watch: LockWatch) -> None:
        if self._awake and watch.watched_among is self._watches:
            return
        with self._start:
            self._watches.add(watch)
            watch.watched_among = self._watches
            self._awake = True
            self._wake.set()
            if self._thread is None:
                thread = threading.Thread(target=self._run, name="dbtestcase lock watch", daemon=True)
                with suppress(RuntimeError):  # where no more threads are allowed, nobody watches
                    thread.start()
                    self._thread = thread

    def _run(self) -> None:
        rounds = 0
        while True:
            busy = [watch for watch in list(self._watches) if watch.is_busy]
            rounds = 0 if busy else rounds + 1
            for watch in busy:
                watch.look()
            pause = min((watch.interval for watch in busy), default=0.25)
            del busy
            if rounds <= self._ROUNDS_BEFORE_REST:
                threading.Event().wait(pause)
                continue
            with self._start:
                self._wake.clear()
                self._awake = any(watch.is_busy for watch in self._watches)
            if not self._awake:
                self._wake.wait()
            rounds = 0


_watcher = _Watcher()


def _indented(lines: list[str]) -> list[str]:
    return [f"  {line}" for line in lines]
