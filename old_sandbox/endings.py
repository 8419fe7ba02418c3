"""How virtual transactions end: what a commit checks, what a rollback takes along."""

from __future__ import annotations

from dbtestcase.frames import usual_origin

from .belongings import TempTable
from .channel import Channel
from .conflicts import Conflicts
from .problems import LostCommit
from .quoting import quoted, string
from .run import Run
from .transactions import Change, Doomed, Failed, Loss, NoSuchSavepoint, VirtualTransaction
from .wire import Physical, Turn, Wire


class Sending:
    """Keeps rollbacks that come out of the blue for later.

    The garbage collector may return a connection at any moment, in any thread. A class, because each statement enters
    one.
    """

    __slots__ = ("_endings", "_outer", "_run")

    def __init__(self, endings: Endings, run: Run) -> None:
        self._endings = endings
        self._run = run

    def __enter__(self) -> None:
        self._outer, self._endings._is_sending = self._endings._is_sending, True

    def __exit__(self, *_: object) -> None:
        self._endings._is_sending = self._outer
        if self._endings._postponed and not self._outer:
            self._endings._settle(self._run)


class Endings(Wire):
    """Commit, rollback and savepoints of virtual connections."""

    def commit(self, channel: Channel) -> None:
        """Commit as COMMIT would: a failed transaction is rolled back silently, deferred constraints are checked."""
        if self._is_over(channel):
            return
        with Turn(self, channel) as run:
            if channel.transaction is not None:
                ended, keeps = channel.transaction, not channel.transaction.failed
                with Sending(self, run):
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
            if self._is_sending or self._busy_with is not None:
                # The garbage collector returns forgotten connections in the middle of whatever happens.
                self._postponed.append(channel.transaction)
                channel.transaction = None
                return
            self.check(channel)
            ended = channel.transaction
            with Sending(self, run):
                self.end_transaction(channel, run, commit=False)
            self._tell_end(channel, ended, "ROLLBACK")

    def _settle(self, run: Run) -> None:
        """Roll back what was given up while something else was being sent."""
        while self._postponed and run.broken is None:
            self._undo(run, *run.transactions.rollback(self._postponed.pop()))

    def _tell_end(self, channel: Channel, transaction: VirtualTransaction, outcome: str) -> None:
        if self.observer is not None and transaction.statements and channel.is_checked_out():
            self.observer.transaction_ended(channel.label, usual_origin(outcome), outcome)

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
                self._act_at_commit(channel, run, transaction)
                if transaction.missed:
                    # What it wrote before the other committed.
                    written = frozenset().union(*(change.tables for change in run.transactions.changes_of(transaction)))
                    Conflicts(self, run, transaction).serialization("COMMIT", written)
                self._check_deferred(channel, run)
                run.transactions.commit(transaction)
                channel.keep_settings(transaction)
            except Doomed as doomed:
                channel.transaction = None
                run.transactions.rollback(transaction)
                raise self.lost(run, doomed.loss) from None
            channel.transaction = None
            for notification in run.belongings.notifications_of(transaction):
                # The test's own connection never commits, so whoever listens hears it from another one.
                self.expect_commit()
                self.query_aside(notification)
            self._close(run, run.belongings.ended(transaction, is_kept=True))
            return
        channel.transaction = None
        cursors = run.belongings.cursors_of(transaction)
        run.belongings.ended(transaction, is_kept=False)
        if cursors and run.transactions.only_reads_below_others(transaction):
            # Nothing has to be undone but the cursors, and to undo these would take along what others did meanwhile.
            self._close(run, cursors)
            run.transactions.unpin(transaction)
        sql, losses = run.transactions.rollback(transaction)
        self._undo(run, sql, losses)

    def _undo(self, run: Run, sql: list[str], losses: list[Loss]) -> None:
        for loss in losses:
            run.record(LostCommit(f"{self.owner}: {loss}"))
        if sql:
            self.send(run, "; ".join(sql))
            if run.has_ddl and self.physical is not None:
                self.physical.forget_plans()
                self.forget_schema()

    def _close(self, run: Run, cursors: list[str]) -> None:
        self.send(run, "; ".join(f"CLOSE {quoted(name)}" for name in cursors if self.has_cursor(name)))

    def fail_as(self, channel: Channel, run: Run, sqlstate: str, message: str) -> Exception:
        """Fail the transaction as an error of the server does; return the error."""
        self.fail_transaction(run, channel.begin())
        if channel.commits_each:
            self.end_transaction(channel, run, commit=False)
        return self.driver.error(sqlstate, message)

    def fail_transaction(self, run: Run, transaction: VirtualTransaction) -> None:
        """Undo what an error of the server undoes; the locks go with it."""
        self._undo(run, *run.transactions.fail(transaction))
        run.belongings.undone(transaction, transaction.level)

    def has_temporary(self, run: Run, transaction: VirtualTransaction, table: TempTable) -> bool:
        """Whether a temporary table is still there."""
        found = self.connected().query(
            f"SELECT 1 FROM pg_class WHERE relnamespace = pg_my_temp_schema() AND relname = {string(table.name)}"
        )
        return bool(found)

    def has_cursor(self, name: str) -> bool:
        """Whether a cursor is still there."""
        return bool(self.connected().query(f"SELECT 1 FROM pg_cursors WHERE name = {string(name)}"))

    def _act_at_commit(self, channel: Channel, run: Run, transaction: VirtualTransaction) -> None:
        """Do with temporary tables what a COMMIT does, as the transaction's last statements."""
        if transaction.doomed is not None or not run.belongings.are_any():
            return
        for table in run.belongings.due_at_commit(channel, transaction):
            prelude = run.transactions.before_statement(transaction)
            self.send(run, "; ".join(prelude))
            if not self.has_temporary(run, transaction, table):
                continue
            name = f"pg_temp.{quoted(table.name)}"
            sql = f"DROP {table.kind} {name}" if table.on_commit == "DROP" else f"TRUNCATE {name}"
            self.send(run, sql)
            change = Change(sql, None, frozenset([table.name]), is_certain=True, is_ddl=True)
            run.transactions.after_statement(transaction, change=change)

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
        self.send(run, "SAVEPOINT dbtestcase_check")
        try:
            physical.send(sql)
        except self.driver.Error as error:
            self.send(run, "ROLLBACK TO dbtestcase_check; RELEASE dbtestcase_check")
            conflicts.at_commit(error)
            conflicts.after_error("COMMIT", error, at_commit=True)
            self.end_transaction(channel, run, commit=False)
            raise
        self.send(run, "ROLLBACK TO dbtestcase_check; RELEASE dbtestcase_check")
        conflicts.at_commit()

    # -- savepoints of the user

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
                run.belongings.released(transaction)
            else:
                self._undo(run, *run.transactions.rollback_to(transaction, name))
                run.belongings.undone(transaction, transaction.level)
        except Failed:
            raise self.in_failed_transaction() from None
        except Doomed as doomed:
            raise self.lost(run, doomed.loss) from None
        except NoSuchSavepoint:
            self.fail_transaction(run, transaction)
            raise self.driver.error("3B001", f'savepoint "{name}" does not exist') from None
        return None

    # -- two-phase transactions: a prepared one is a virtual transaction that no connection holds

    def tpc_begin(self, channel: Channel, xid: str) -> None:
        with Turn(self, channel):
            channel.begin()
            channel.two_phase = (xid, False)

    def tpc_prepare(self, channel: Channel) -> None:
        with Turn(self, channel) as run:
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
        with Turn(self, channel) as run:
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
        with Turn(self, channel) as run:
            return list(run.prepared)
