"""The gate that every statement of a test passes: one physical connection, one turn at a time.

It is the same for every driver. A driver module wraps its connection in a :class:`Physical`, and hands each call that
would send something to :meth:`Core.execute`.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any, Protocol, TypeVar

from dbtestcase.diagnosis.locks import LockWatch
from dbtestcase.diagnosis.origin import user_origin
from dbtestcase.errors import DBTestCaseError

from . import words
from .channel import Channel
from .conflicts import MANY, Conflicts
from .deferred import DeferredConstraints
from .lexer import Text, read
from .observer import Observer
from .problems import IsolationBroken, LostCommit
from .run import Run, shorten
from .transactions import CLOSE_SQL, Change, Doomed, Failed, Loss, NoSuchSavepoint, VirtualTransaction

T = TypeVar("T")

# How long end_test() waits for a statement of another thread, first as it is, then once it was cancelled.
PATIENCE = 2.0
_UNWATCHED = nullcontext()
NO_EFFECT = "SAVEPOINT dbtestcase_noop; RELEASE dbtestcase_noop"


class Physical(Protocol):
    """The one real connection of a test; its methods are called by one thread at a time, but for the last two."""

    pid: int  # the server process

    def send(self, sql: str) -> None:
        """Send statements in one round trip; their results are dropped."""

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

    name: str
    Error: type[Exception]

    def connect(self) -> Physical: ...

    def error(self, sqlstate: str, message: str) -> Exception:
        """Make the exception that the driver would raise for this SQLSTATE."""

    def sqlstate(self, error: BaseException) -> str | None: ...


class Core:
    """The gate of one sandbox."""

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
        self.deferred = DeferredConstraints()
        self._lock = threading.RLock()
        self._busy_with: tuple[Channel, str] | None = None
        self._old_rows: str | None = None
        self._aside: Physical | None = None
        self._pid = os.getpid()

    # -- a turn on the connection

    @contextmanager
    def turn(self, channel: Channel) -> Iterator[Run]:
        """Hold the physical connection for one operation of ``channel``."""
        lock = self._lock
        lock.acquire()
        try:
            yield self.check(channel)
        finally:
            lock.release()

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

    # -- statements

    def execute(
        self,
        channel: Channel,
        sql: str,
        parameters: Any,
        call: Callable[[str | None], T],
        rowcount: Callable[[], int] | None,
        *,
        is_fresh: bool = False,
    ) -> T | None:
        """Let one statement of the user's through.

        Args:
            call: Sends the statement, or the text that it is given instead.
            rowcount: Returns how many rows were touched; None where that cannot be told.
            is_fresh: The cursor has not executed anything, so nothing need be sent to make it look idle.
        """
        with self.turn(channel) as run:
            text = read(sql)
            if text.ending is not None or text.mixed_savepoints or text.verb == "LISTEN":
                self._refuse(channel, run, text, sql)
            if text.savepoint is not None:
                with self.observed(channel, sql, parameters):
                    send = self.savepoint(channel, run, *text.savepoint, sql)
                return call(send or NO_EFFECT) if send or not is_fresh else None
            if self.observer is None:
                return self._send_through(channel, run, text, sql, parameters, call, rowcount)
            with self.observed(channel, sql, parameters, rowcount):
                return self._send_through(channel, run, text, sql, parameters, call, rowcount)

    def _send_through(
        self,
        channel: Channel,
        run: Run,
        text: Text,
        sql: str,
        parameters: Any,
        call: Callable[[str | None], T],
        rowcount: Callable[[], int] | None,
    ) -> T:
        instead = self.before(channel, run, text, sql, parameters)
        try:
            with self.watched(channel, sql, parameters):
                result = call(instead)
        except BaseException as error:
            self.failed(channel, run, text, sql, error, parameters if rowcount is not None else MANY)
            raise
        if rowcount is None:
            self.succeeded(channel, run, text, sql, -1)
        else:
            self.succeeded(channel, run, text, sql, rowcount(), parameters)
        return result

    def watched(self, channel: Channel, sql: str, parameters: Any) -> AbstractContextManager[None]:
        """End a statement that waits too long for a lock: of somebody else's connection, since ours are all one."""
        if self.locks is None or self.physical is None:
            return _UNWATCHED
        begins = channel.transaction is None or not channel.transaction.statements
        origin = channel.sent_from or user_origin()
        return self.locks.statement(self.physical.pid, sql, parameters, origin, begins=begins)

    @contextmanager
    def observed(
        self, channel: Channel, sql: str, parameters: Any, rowcount: Callable[[], int] | None = None
    ) -> Iterator[None]:
        """Tell the observer of a statement, but for those by which SQLAlchemy gets to know a new connection."""
        observer = self.observer
        if observer is None or not channel.is_checked_out():
            yield
            return
        channel.sent_from = user_origin()
        observer.statement_started(channel.label, channel.sent_from, sql, parameters)
        try:
            yield
        except BaseException as error:
            observer.statement_finished(channel.label, -1, error)
            raise
        observer.statement_finished(channel.label, rowcount() if rowcount is not None else -1, None)

    def before(self, channel: Channel, run: Run, text: Text, sql: str, parameters: Any = None) -> str | None:
        """Make the physical connection ready for a statement; return the text to send instead, if any."""
        transaction = channel.begin()
        try:
            prelude = run.transactions.before_statement(transaction)
        except Failed:
            raise self.in_failed_transaction() from None
        except Doomed as doomed:
            raise self.lost(run, doomed.loss) from None
        if channel.read_only and not text.pins:
            prelude.append("SAVEPOINT dbtestcase_ro; SET LOCAL transaction_read_only = on")
        if prelude:
            self.send(run, "; ".join(prelude))
        run.last_statements.append((channel.label, sql))
        transaction.last_statement = sql
        self._old_rows = None
        if run.is_shared:
            self._look_for_conflicts(run, transaction, text, sql, parameters)
        return self._instead(channel, text, sql)

    def _look_for_conflicts(
        self, run: Run, transaction: VirtualTransaction, text: Text, sql: str, parameters: Any
    ) -> None:
        if run.transactions.is_contested(transaction):
            Conflicts(self, run, transaction).before(text, sql, parameters)
        if text.is_exclusive:
            Conflicts(self, run, transaction).before_exclusive(text, sql)
        if text.verb in ("UPDATE", "DELETE"):
            self._old_rows = Conflicts(self, run, transaction).note_old_rows(text, sql, parameters)

    def succeeded(
        self, channel: Channel, run: Run, text: Text, sql: str, rowcount: int, parameters: Any = MANY
    ) -> None:
        """Note what a statement did."""
        transaction = channel.begin()
        assert self.physical is not None
        if self.physical.status() not in ("intrans", "active"):
            raise self.break_off(run, words.ended(self.owner, run))
        for table in text.tables:
            transaction.tables.setdefault(table, transaction.level)
        change = self._change(run, text, sql, rowcount, parameters)
        if channel.read_only and not text.pins:
            self.send(run, "ROLLBACK TO dbtestcase_ro; RELEASE dbtestcase_ro")
            change = None
        run.transactions.after_statement(transaction, change=change, pinned=text.pins)
        if change is not None and run.transactions.is_contested(transaction):
            Conflicts(self, run, transaction).after(text, sql, parameters)
        if channel.commits_each:
            self.end_transaction(channel, run, commit=True)

    def _change(self, run: Run, text: Text, sql: str, rowcount: int, parameters: Any) -> Change | None:
        """Return what a statement wrote or locked, None if nothing."""
        if text.functions and any("advisory" in name for name in text.functions):
            run.holds_session_locks = True
        if text.is_ddl:
            run.has_ddl, run.catalog = True, None
            run.altered |= text.tables
            self.deferred.forget()
            return Change(sql, MANY, text.tables, is_certain=True, is_ddl=True)
        if text.writes:
            if text.counts_rows and rowcount == 0:
                return None
            is_certain = bool(text.written) and text.verb != "LOCK"
            return Change(sql, parameters, text.written, is_certain, rowcount, old_rows=self._old_rows)
        if text.locks_rows and rowcount != 0:
            return Change(sql, parameters, text.tables, is_certain=rowcount > 0, locked_only=True)
        if text.functions and not text.functions <= words.HARMLESS_FUNCTIONS:
            return Change(sql, MANY, frozenset(), is_certain=False)
        return None

    def failed(
        self, channel: Channel, run: Run, text: Text, sql: str, error: BaseException, parameters: Any = MANY
    ) -> None:
        """Undo a failed statement on the physical connection; raise if the sandbox is to blame."""
        physical = self.physical
        status = physical.status() if physical is not None else "unknown"
        if status == "unknown":
            raise self.connection_lost(run, error) from error
        if status == "idle":
            raise self.break_off(run, words.ended(self.owner, run)) from error
        transaction = channel.begin()
        if status == "inerror":
            self.send(run, "; ".join(run.transactions.after_error()))
            if run.transactions.is_contested(transaction):
                Conflicts(self, run, transaction).after_error(sql, error, text=text, parameters=parameters)
            self._undo(run, *run.transactions.fail(transaction))
        elif channel.read_only and not text.pins:
            self.send(run, "ROLLBACK TO dbtestcase_ro; RELEASE dbtestcase_ro")
        if channel.commits_each:
            self.end_transaction(channel, run, commit=False)
            if self.driver.sqlstate(error) in ("25001", "2D000", "25P01"):
                problem = IsolationBroken(words.needs_own_transaction(self.owner, sql, str(error)))
                run.record(problem)
                raise problem from error

    def _instead(self, channel: Channel, text: Text, sql: str) -> str | None:
        if text.verb == "SHOW" and len(text.statements) == 1:
            level = channel.isolation_in_force
            words_ = text.statements[0].words
            if level and words_ in (("show", "transaction", "isolation", "level"), ("show", "transaction_isolation")):
                return f"SELECT '{level.lower()}' AS transaction_isolation"
        return None

    def _refuse(self, channel: Channel, run: Run, text: Text, sql: str) -> None:
        """Refuse what would end the test's transaction, before it is sent."""
        problem = IsolationBroken(words.refused(self.owner, text, sql, user_origin()))
        run.record(problem)
        raise problem

    # -- the end of a virtual transaction

    def commit(self, channel: Channel) -> None:
        """Commit as COMMIT would: a failed transaction is rolled back silently, deferred constraints are checked."""
        if self._is_over(channel):
            return
        with self.turn(channel) as run:
            if channel.transaction is not None:
                ended, keeps = channel.transaction, not channel.transaction.failed
                self.end_transaction(channel, run, commit=keeps)
                self._tell_end(channel, ended, "COMMIT" if keeps else "ROLLBACK")

    def rollback(self, channel: Channel) -> None:
        """Roll the virtual transaction back."""
        if channel.transaction is None or self._is_over(channel):
            return
        with self._lock:
            run = self.run
            if run is None or run.over or run.broken is not None or channel.run is not run:
                channel.transaction = None
                return
            self.check(channel)
            ended = channel.transaction
            self.end_transaction(channel, run, commit=False)
            self._tell_end(channel, ended, "ROLLBACK")

    def _tell_end(self, channel: Channel, transaction: VirtualTransaction, outcome: str) -> None:
        if self.observer is not None and transaction.statements and channel.is_checked_out():
            self.observer.transaction_ended(channel.label, user_origin(), outcome)

    def _is_over(self, channel: Channel) -> bool:
        run = self.run
        if channel.stale or run is None or run.over:
            channel.transaction = None
            return True
        return False

    def end_transaction(self, channel: Channel, run: Run, *, commit: bool) -> None:
        """End the open virtual transaction of ``channel``."""
        transaction = channel.transaction
        assert transaction is not None
        channel.explicit = False
        if commit:
            try:
                self._check_deferred(channel, run)
                run.transactions.commit(transaction)
            except Doomed as doomed:
                channel.transaction = None
                run.transactions.rollback(transaction)
                raise self.lost(run, doomed.loss) from None
            channel.transaction = None
            return
        channel.transaction = None
        sql, losses = run.transactions.rollback(transaction)
        self._undo(run, sql, losses)

    def _undo(self, run: Run, sql: list[str], losses: list[Loss]) -> None:
        for loss in losses:
            run.record(LostCommit(f"{self.owner}: {loss}"))
        if sql:
            self.send(run, "; ".join(sql))
            if run.has_ddl and self.physical is not None:
                self.physical.forget_plans()

    def _check_deferred(self, channel: Channel, run: Run) -> None:
        transaction = channel.transaction
        assert transaction is not None
        if transaction.doomed is not None or not run.transactions.has_work_of(transaction):
            return
        physical = self.connected()
        if not self.deferred.are_any(physical):
            return
        run.transactions.flatten(transaction)
        if run.transactions.is_on_top(transaction) and not run.transactions.is_contested(transaction):
            self._check_all_deferred(channel, run, physical)
        else:
            self._check_own_deferred(channel, run, physical)

    def _check_all_deferred(self, channel: Channel, run: Run, physical: Physical) -> None:
        try:
            physical.send(self.deferred.check_sql())
        except self.driver.Error:
            self.send(run, "; ".join(run.transactions.after_error()))
            self.end_transaction(channel, run, commit=False)
            raise

    def _check_own_deferred(self, channel: Channel, run: Run, physical: Physical) -> None:
        """Check while others have work of their own that is not due yet: the check itself is undone."""
        transaction = channel.transaction
        assert transaction is not None
        conflicts = Conflicts(self, run, transaction)
        sql = self.deferred.look_sql(conflicts.not_due_at_commit())
        if not sql:
            return
        conflicts.at_commit()
        self.send(run, "SAVEPOINT dbtestcase_check")
        try:
            physical.send(sql)
        except self.driver.Error as error:
            self.send(run, "ROLLBACK TO dbtestcase_check; RELEASE dbtestcase_check")
            conflicts.after_check()
            conflicts.after_error("COMMIT", error, at_commit=True)
            self.end_transaction(channel, run, commit=False)
            raise
        self.send(run, "ROLLBACK TO dbtestcase_check; RELEASE dbtestcase_check")
        conflicts.after_check()

    def savepoint(self, channel: Channel, run: Run, verb: str, name: str, sql: str) -> str | None:
        """Handle a savepoint of the user's; return text to send in its place, None if nothing is to be sent."""
        transaction = channel.transaction
        if channel.commits_each:
            raise self.driver.error("25P01", f"{verb} can only be used in transaction blocks")
        transaction = channel.begin()
        transaction.last_statement = sql
        try:
            if verb == "SAVEPOINT":
                run.transactions.savepoint(transaction, name)
            elif verb == "RELEASE":
                run.transactions.release(transaction, name)
            else:
                self._undo(run, *run.transactions.rollback_to(transaction, name))
        except Failed:
            raise self.in_failed_transaction() from None
        except Doomed as doomed:
            raise self.lost(run, doomed.loss) from None
        except NoSuchSavepoint:
            self._undo(run, *run.transactions.fail(transaction))
            raise self.driver.error("3B001", f'savepoint "{name}" does not exist') from None
        return None

    @contextmanager
    def aside(self, channel: Channel, sql: str, *, parameters: Any = None, busy: bool = False) -> Iterator[None]:
        """Let something through that is not one call: the fetch of a server-side cursor, the block of a COPY.

        Args:
            busy: The wire is taken until the block ends, and whoever else wants it is told so.
        """
        with self.turn(channel) as run, self.observed(channel, sql, parameters) if busy else nullcontext():
            text = read(sql)
            self.before(channel, run, text, sql)
            try:
                with self.occupied(channel, sql) if busy else nullcontext():
                    yield
            except StopIteration:
                self.succeeded(channel, run, text, sql, -1)
                raise
            except BaseException as error:
                self.failed(channel, run, text, sql, error)
                raise
            self.succeeded(channel, run, text, sql, -1)

    @contextmanager
    def occupied(self, channel: Channel, sql: str) -> Iterator[None]:
        """Refuse every other statement for a while."""
        self._busy_with = (channel, sql)
        try:
            yield
        finally:
            self._busy_with = None

    # -- two-phase transactions: a prepared one is a virtual transaction that no connection holds

    def tpc_begin(self, channel: Channel, xid: str) -> None:
        with self.turn(channel):
            channel.begin()
            channel.two_phase = (xid, False)

    def tpc_prepare(self, channel: Channel) -> None:
        with self.turn(channel) as run:
            assert channel.two_phase is not None
            xid, transaction = channel.two_phase[0], channel.transaction
            if transaction is None or transaction.failed:
                channel.two_phase = None
                self.rollback(channel)
                return
            self._check_deferred(channel, run)
            channel.two_phase = (xid, True)
            run.prepared[xid] = transaction
            channel.transaction = None

    def tpc_finish(self, channel: Channel, xid: str | None, *, commit: bool) -> None:
        with self.turn(channel) as run:
            if xid is None:
                assert channel.two_phase is not None
                (xid, is_prepared), channel.two_phase = channel.two_phase, None
                if not is_prepared:
                    if channel.transaction is not None:
                        self.end_transaction(channel, run, commit=commit and not channel.transaction.failed)
                    return
            assert xid is not None
            transaction = run.prepared.pop(xid, None)
            if transaction is None:
                raise self.driver.error("42704", f'prepared transaction with identifier "{xid}" does not exist')
            open_one, channel.transaction = channel.transaction, transaction
            try:
                self.end_transaction(channel, run, commit=commit)
            finally:
                channel.transaction = open_one

    def prepared_transactions(self, channel: Channel) -> list[str]:
        with self.turn(channel) as run:
            return list(run.prepared)

    # -- the physical connection

    def connected(self) -> Physical:
        """Return the physical connection, opened now if it is not yet."""
        if self.physical is None:
            self.physical = self.driver.connect()
        return self.physical

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
        physical = self.connected()
        try:
            physical.send(sql)
        except Exception as error:
            if physical.status() == "unknown":
                raise self.connection_lost(run, error) from error
            raise self.break_off(run, words.ended(self.owner, run, error)) from error

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
            physical.send("; ".join([CLOSE_SQL, *extra]))
            if run.has_ddl:
                physical.forget_plans()
                self.deferred.forget()
            if physical.status() == "idle":
                return
        except Exception as error:
            if physical.status() == "unknown":
                if run.broken is None:
                    run.record(IsolationBroken(words.connection_lost(self.owner, run, error)))
            else:
                self.needs_fresh_database = True
                if run.broken is None:
                    run.record(IsolationBroken(words.ended(self.owner, run, error)))
        self.close()

    def close(self) -> None:
        """Close the physical connection; the next statement opens another."""
        physical, self.physical = self.physical, None
        self.deferred.forget()
        if physical is not None:
            physical.close()
        aside, self._aside = self._aside, None
        if aside is not None:
            aside.close()


__all__ = ["Core", "Driver", "Physical", "shorten"]
