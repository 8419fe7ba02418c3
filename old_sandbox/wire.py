"""The wire: one physical connection that all connections of a test share, one turn at a time."""

from __future__ import annotations

import os
import threading
from typing import Any, Protocol

from dbtestcase.diagnosis.locks import LockWatch
from dbtestcase.errors import DBTestCaseError
from dbtestcase.frames import user_origin

from . import words
from .catalog import Catalog
from .channel import Channel
from .deferred import DeferredConstraints
from .joined import Proven
from .observer import Observer
from .problems import IsolationBroken, LostCommit
from .quoting import quoted
from .run import Run
from .transactions import CLOSE_SQL, Loss, VirtualTransaction

# The transaction that the server committed last, as "(id,time,...)". Not in pieces: the server would plan a subquery.
# https://www.postgresql.org/docs/current/functions-info.html#FUNCTIONS-INFO-COMMIT-TIMESTAMP
LAST_COMMIT_SQL = "SELECT pg_last_committed_xact()::text"
# The same, and the id of the transaction that is being committed with this, because it sets sequences back.
LAST_AND_OWN_COMMIT_SQL = "SELECT concat_ws(' ', pg_last_committed_xact(), txid_current_if_assigned())"
# How long end_test() waits for a statement of another thread, first as it is, then once it was cancelled.
PATIENCE = 2.0


class Physical(Protocol):
    """The one real connection of a test; its methods are called by one thread at a time, but for the last two."""

    pid: int  # the server process

    def send(self, sql: str) -> None:
        """Send statements in one round trip; their results are dropped."""

    def last(self, sql: str) -> str | None:
        """Send statements in one round trip; return the only value of the last one's only row, a text."""

    def query(self, sql: str) -> list[tuple[Any, ...]]:
        """Send one statement and return its rows."""

    def status(self) -> str:
        """Return "idle", "active", "intrans", "inerror" or "unknown", without a round trip."""

    def literal(self, sql: str, parameters: Any) -> str | None:
        """Return a statement with its parameters in it, None if the driver cannot say."""

    def forget_plans(self) -> None:
        """Drop what the driver prepared; the tables may be others from now on."""

    def close(self) -> None: ...

    def cancel(self) -> None: ...

    def cut(self) -> None:
        """Shut the socket down, so that a thread that waits on it gets an error."""


class Driver(Protocol):
    """What the gate needs to know of a DBAPI module."""

    def virtual_connection(self, core: Any, channel: Channel, engine: Any) -> Any:
        """Make a connection for the code under test."""

    name: str
    Error: type[Exception]

    def connect(self) -> Physical: ...

    def error(self, sqlstate: str, message: str) -> Exception:
        """Make the exception that the driver would raise for this SQLSTATE."""

    def sqlstate(self, error: BaseException) -> str | None: ...


class Turn:
    """Holds the physical connection of a wire for one operation of a channel; gives the test that it takes part in.

    A class, because it is entered several times per statement.

    Raises:
        IsolationBroken: The connection belongs to a test that is over, or to another process.
    """

    __slots__ = ("_channel", "_lock", "_wire")

    def __init__(self, wire: Wire, channel: Channel) -> None:
        self._wire = wire
        self._channel = channel
        self._lock = wire._lock  # this one is given back, even if the wire has another by then

    def __enter__(self) -> Run:
        self._lock.acquire()
        try:
            return self._wire.check(self._channel)
        except BaseException:
            self._lock.release()
            raise

    def __exit__(self, *_: object) -> None:
        self._lock.release()


class Wire:
    """The physical connection of one sandbox, and the test that uses it."""

    def __init__(
        self, driver: Driver, *, owner: str, observer: Observer | None = None, locks: LockWatch | None = None
    ) -> None:
        self.driver = driver
        self.locks = locks
        self.owner = owner
        self.observer = observer
        self.run: Run | None = None
        self.physical: Physical | None = None
        self.needs_fresh_database = False
        # Sent when a test's transaction is over, in the same round trip: what a rollback does not undo.
        self.restoring_sql = ""
        # Whether nobody but the tests, which never commit, has anything to commit: then the server's last commit tells
        # of those who go round us.
        self.watches_commits = False
        self._last_commit: str | None = None
        self.deferred = DeferredConstraints()
        self.proven = Proven()
        # What has to be sent before the statement that is under way and goes along with it, if nobody asks in between.
        self._held = ""
        self._catalog: Catalog | None = None
        self._lock = threading.RLock()
        self._busy_with: tuple[Channel, str] | None = None
        self._is_sending = False
        self._postponed: list[VirtualTransaction] = []
        self._aside: Physical | None = None
        self._pid = os.getpid()

    def check(self, channel: Channel) -> Run:
        """Return the test that ``channel`` takes part in.

        Raises:
            IsolationBroken: The connection belongs to a test that is over, or to another process.
        """
        if os.getpid() != self._pid:
            raise IsolationBroken(words.forked(self.owner))
        run = self.run
        if channel.stale or run is None or run.over:
            raise IsolationBroken(words.outlived(self.owner, channel))
        if channel.run is not run:
            channel.bind(run)
        if run.broken is not None:
            raise IsolationBroken(str(run.broken)) from run.broken
        if self._busy_with is not None and self._busy_with[0] is not channel:
            problem = IsolationBroken(words.busy(self.owner, self._busy_with[1], user_origin()))
            run.record(problem)
            raise problem
        return run

    # -- the physical connection

    def connected(self) -> Physical:
        """Return the physical connection, opened now if it is not yet."""
        if self.physical is None:
            self.physical = self.driver.connect()
            if self.watches_commits:
                self._last_commit = _ids_of_commits(self.physical.last(LAST_COMMIT_SQL))[0]
        if self._held:
            self.send_held()
        return self.physical

    def send_held(self) -> None:
        """Send what was held back, because something else comes first."""
        held, self._held = self._held, ""
        if held and self.run is not None:
            self.send(self.run, held)

    def expect_commit(self) -> None:
        """Somebody who may do so commits during the present test."""
        self._last_commit = None

    def known_catalog(self) -> Catalog:
        """Return what is to be known of the schema, asked for now if it is not known yet."""
        if self._catalog is None:
            self._catalog = Catalog.read(self.connected())
        return self._catalog

    def forget_schema(self) -> None:
        """The schema may be another one from now on."""
        self._catalog = None
        self.deferred.forget()

    def query_aside(self, sql: str) -> list[tuple[Any, ...]] | None:
        """Ask on a second connection, which sees the database as it was before the test; None if it has to wait."""
        try:
            if self._aside is None:
                self._aside = self.driver.connect()
                self._aside.send("SET lock_timeout = '100ms'; SET default_transaction_read_only = on")
            return self._aside.query(sql)
        except self.driver.Error:
            return None

    def send(self, run: Run, sql: str) -> None:
        """Send statements of ours.

        Raises:
            IsolationBroken: They failed, so the test's transaction is not what it should be.
        """
        if not sql:
            return
        if "ROLLBACK TO" in sql:
            run.settings.is_certain = False
        physical = self.connected()
        try:
            physical.send(sql)
        except Exception as error:
            if self.is_lost(error):
                raise self.connection_lost(run, error) from error
            raise self.break_off(run, words.ended(self.owner, run, error)) from error

    def is_lost(self, error: BaseException) -> bool:
        """Whether the connection died with an error. libpq may take one for alive that a crashing server has left."""
        physical = self.physical
        if physical is None or physical.status() == "unknown":
            return True
        if not isinstance(error, self.driver.Error) or self.driver.sqlstate(error) or physical.status() == "active":
            return False
        try:
            physical.query("SELECT 1")
        except self.driver.Error as answer:
            return self.driver.sqlstate(answer) is None
        return False

    def break_off(self, run: Run, sentence: str) -> DBTestCaseError:
        """Note that the test's transaction is gone; nothing more is sent in this test."""
        run.broken = IsolationBroken(sentence)
        run.record(run.broken)
        self.needs_fresh_database = True
        return run.broken

    def connection_lost(self, run: Run, error: BaseException) -> DBTestCaseError:
        """Note that the server ended the connection, which undid the test's transaction."""
        run.broken = IsolationBroken(words.connection_lost(self.owner, run, error))
        run.record(run.broken)
        return run.broken

    def in_failed_transaction(self) -> Exception:
        return self.driver.error(
            "25P02", "current transaction is aborted, commands ignored until end of transaction block"
        )

    def lost(self, run: Run, loss: Loss) -> LostCommit:
        problem = LostCommit(f"{self.owner}: {loss}")
        run.record(problem)
        return problem

    # -- tests

    def begin_test(self, name: str) -> Run:
        self._postponed.clear()
        self.needs_fresh_database = False
        self.run = Run(name)
        return self.run

    def keep_work(self) -> None:
        """Commit what the test has done so far, for real, and let it do nothing more."""
        run = self.run
        if run is None or run.broken is not None:
            return
        with self._lock:
            if run.transactions.is_open and self.physical is not None:
                self.physical.send("COMMIT")
            run.is_kept = True
            run.broken = IsolationBroken(words.kept(self.owner))
            self.needs_fresh_database = True

    def end_test(self) -> list[Exception]:
        """Undo the test; return its problems. Never raises, never hangs."""
        run = self.run
        if run is None:
            return []
        run.over = True
        held = self._take_lock(run)
        try:
            self._close_transaction(run)
        finally:
            if held:
                self._lock.release()
            self.run = None
        return run.problems

    def _take_lock(self, run: Run) -> bool:
        if self._lock.acquire(timeout=PATIENCE):
            return True
        physical = self.physical
        if physical is not None:
            physical.cancel()
        held = self._lock.acquire(timeout=PATIENCE)
        run.record(IsolationBroken(words.thread_outlived(self.owner, run)))
        if not held and physical is not None:
            physical.cut()
            # The thread keeps the old lock and the dead connection; nobody else meets it there.
            self.physical, self._lock = None, threading.RLock()
        return held

    def _close_transaction(self, run: Run) -> None:
        physical = self.physical
        if physical is None or not run.transactions.is_open or run.is_kept:
            return
        extra = ["SELECT pg_advisory_unlock_all()"] if run.holds_session_locks else []
        if self.restoring_sql:
            extra.append(self.restoring_sql)
        try:
            if self.watches_commits:
                asks = LAST_AND_OWN_COMMIT_SQL if self.restoring_sql else LAST_COMMIT_SQL
                self._look_for_commit(run, physical.last("; ".join([CLOSE_SQL, *extra, asks])))
            else:
                physical.send("; ".join([CLOSE_SQL, *extra]))
            if run.has_ddl:
                physical.forget_plans()
                self.forget_schema()
            if run.belongings.plans:
                left = physical.query("SELECT name FROM pg_prepared_statements WHERE from_sql")
                if left:
                    physical.send("; ".join(f"DEALLOCATE {quoted(name)}" for (name,) in left))
            if physical.status() == "idle":
                return
        except Exception as error:
            if self.is_lost(error):
                if run.broken is None:
                    run.record(IsolationBroken(words.connection_lost(self.owner, run, error)))
                self.close()
                self.needs_fresh_database = self.needs_fresh_database or not self._answers()
                return
            self.needs_fresh_database = True
            if run.broken is None:
                run.record(IsolationBroken(words.ended(self.owner, run, error)))
        self.close()

    def _look_for_commit(self, run: Run, last: str | None) -> None:
        before, (found, own) = self._last_commit, _ids_of_commits(last)
        self._last_commit = own or found
        if before is not None and found != before:
            self.needs_fresh_database = True
            run.record(IsolationBroken(words.committed_elsewhere(self.owner)))

    def _answers(self) -> bool:
        """Whether the server takes connections: it may have been stopped, or be starting again."""
        try:
            self.connected()
        except self.driver.Error:
            return False
        return True

    def close(self) -> None:
        """Close the physical connection; the next statement opens another."""
        physical, self.physical = self.physical, None
        self.forget_schema()
        if physical is not None:
            physical.close()
        aside, self._aside = self._aside, None
        if aside is not None:
            aside.close()


def _ids_of_commits(answer: str | None) -> tuple[str, str]:
    """Return the id of the server's last commit and of the one that is being made; "" for none."""
    assert answer is not None
    last, _, own = answer.rpartition(")")
    return last[1:].partition(",")[0], own.strip()
