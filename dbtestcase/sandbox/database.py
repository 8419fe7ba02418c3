"""One database of one running test class: its engines, and what their connections are at present.

Between tests and on copies they are real. During an attempt they share one transaction, which is made when the first
of them speaks, and undone by :meth:`SandboxedDatabase.finish`.
"""

from __future__ import annotations

import threading
import weakref
from asyncio import CancelledError
from collections.abc import Callable, Hashable
from functools import partial
from typing import Any, NoReturn

import sqlalchemy as sa

from dbtestcase.errors import IsolationBroken, LockWait
from dbtestcase.frames import user_origin, usual_origin

from . import forks, loops, registry, sessions
from .ahead import ConnectionsAhead, Habits
from .attempt import Attempt, Reason
from .connection import How, SandboxConnection
from .context import ClassContext
from .drivers import PATIENCE, Physical
from .foreign_commits import CommitWatch
from .messages import class_is_over, foreign_commit, stale_connection
from .observer import Observer
from .real import LeftOpen, RealConnections
from .redirection import RedirectedEngines
from .rules import Rules
from .sessions import SessionsOfTest
from .sharing import SharedConnection
from .takeover import TakenEngine
from .transaction import SharedTransaction, Work

__all__ = ["SandboxedDatabase"]


class SandboxedDatabase:
    """A database in which the work of tests is undone.

    Args:
        url: The database; its drivername says which driver engines without one of their own use.
        rules: What its schema's functions do.
        kind: Equal for databases that are copies of one template; ``None`` if that is not known.
    """

    def __init__(
        self,
        url: sa.URL,
        about: ClassContext,
        *,
        rules: Rules,
        kind: Hashable = None,
    ) -> None:
        self.owner = about.owner
        self.rules = rules
        self.observer = about.observer
        self.real_url = url.difference_update_query(["plugin"])
        self.connection = SharedConnection(self, kind)
        self.sessions = SessionsOfTest()
        self.shared: SharedTransaction | None = None
        self.real = RealConnections(rules, self.listening, about.locks)
        self.execute_real = self.real.execute
        self.habits = Habits()
        self.needs_fresh_database = False
        self.has_attempted = False  # whether a test has worked here in the one transaction
        self.refuses = ""  # a sentence for whoever connects, if nothing more may be sent
        # Opens a connection with what it is given; may wait for a server that has no room for it yet.
        self.connects: Callable[[Callable[[], Any]], Any] = lambda connect: connect()
        self.before_use = about.before_use
        own = about.own_commits
        self.commits = None if own is None else CommitWatch(own, about.server_log)
        self.restoring_sql = ""  # sent once an attempt is undone, to leave the sequences as they were
        self._undone: SharedTransaction | None = None  # whose end is being waited for
        self.is_shared = self._is_closed = False
        self.ahead: ConnectionsAhead | None = None
        self.lock = threading.RLock()
        self._joined: list[weakref.ref[SandboxConnection]] = []
        self.is_copy = False  # of a class's database, for one test
        self.engines = RedirectedEngines(self, kind, about.as_role)
        self.register()
        sessions.listen()
        forks.watch(self)
        self._locks = about.locks
        if about.locks is not None:
            about.locks.look_at(self._present_statement)
        self.engine = sa.create_engine(self.url)

    # -- engines

    @property
    def url(self) -> sa.URL:
        """The database's URL; an engine that anybody makes from it is isolated too."""
        return self.real_url.update_query_dict({"plugin": registry.PLUGIN})

    def listening(self) -> Observer | None:
        """Return who is to be told of statements at present."""
        observer = self.observer
        return observer if observer is not None and observer.is_listening else None

    @property
    def physical(self) -> Physical | None:
        """The connection that all share during an attempt, if it is open."""
        return self.connection.physical

    @property
    def taken(self) -> list[TakenEngine]:
        """The engines that are redirected here now."""
        return self.engines.taken

    def register(self) -> None:
        """Let engines be made from the present URL."""
        registry.enter(self, self.real_url)

    def redirect(self, engine: Any, *, is_own: bool = False) -> None:
        """Take an engine over, whatever URL it was made for; that one is never connected to.

        Args:
            is_own: It is the class's, and not one of the code under test.
        """
        self.engines.redirect(engine, is_shared=self.is_shared, is_own=is_own)

    def restore(self, engine: Any) -> None:
        """Give an engine back exactly as it was."""
        self.engines.restore(engine)

    def adopt_driver(self, drivername: str) -> bool:
        """Use another driver from now on, unless one is in use already; return whether that is so."""
        if self.physical is not None or self.real.are_any:
            return False
        self.hang_up()
        self.real_url = self.real_url.set(drivername=drivername)
        return True

    # -- real connections

    def use_real(self, url: sa.URL | None = None, ahead: ConnectionsAhead | None = None) -> None:
        """Give real connections from now on, to another database if ``url`` names one.

        Args:
            ahead: Connections that are open to it already.
        """
        self.is_shared = False
        if url is not None:
            self.hang_up()
            self.real_url = url.set(drivername=self.real_url.drivername)
            self.register()
            self.engine.url = self.url
        self.ahead = ahead
        self.real.made = 0 if ahead is None else len(ahead)
        self.real.have_written = self.real.have_altered = False
        self.refuses = ""
        for taken in self.taken:
            taken.use_real()

    def real_connection(self, taken: TakenEngine, record: Any) -> Any:
        """Open a real connection for a pool.

        Raises:
            IsolationBroken: The class is over, or nothing more may be sent.
        """
        if self.before_use() is not None:
            raise sa.exc.DisconnectionError("a connection of another phase")
        if self._is_closed:
            raise class_is_over(self.owner)
        if self.refuses:
            raise IsolationBroken(self.refuses)
        self.habits.connects(taken.setup)
        connection = None if self.ahead is None else self.ahead.take(taken.setup)
        if connection is None:
            connection = self.connects(partial(taken.setup.connect, self.real_url))
            self.real.made += 1
        self.real.add(connection, taken.dialect, taken.engine.pool, record)
        return connection

    def leave_real(self, *, checks_changes: bool = False) -> list[LeftOpen]:
        """Close all real connections; return those that somebody still held."""
        if self.ahead is not None:
            self.ahead.close()
            self.ahead = None
        self.habits.next_test()
        return self.real.close_all(checks_changes=checks_changes)

    # -- the one transaction

    def use_shared(self) -> None:
        """Give connections that share one transaction from now on."""
        if not self.is_shared:
            self.is_shared = True
            for taken in self.taken:
                taken.use_shared()

    def physical_for(self, connection: SandboxConnection) -> Physical:
        """Return the physical connection for one that shares it, opened if there is none."""
        return self.connection.serve(connection)

    def check_attempt(self, connection: SandboxConnection) -> None:
        """Raise ``IsolationBroken`` if there is no attempt in which a connection could take part."""
        if self.present_attempt() is None:
            raise stale_connection(self.owner)

    def meet_server(self, connection: SandboxConnection) -> None:
        """Let a dialect ask what it wants to know, such as the version, on which the SQL that it makes depends."""
        if self.present_attempt() is not None:
            self.physical_for(connection)

    def work_of(self, connection: SandboxConnection) -> Work:
        """Return what a connection does in the present attempt; it takes part from now on."""
        shared = self.shared
        work = connection.work
        if shared is not None and work is not None and work.shared is shared and not shared.attempt.is_over:
            return work
        if (attempt := self.present_attempt()) is None:
            raise stale_connection(self.owner)
        if self.shared is None or self.shared.attempt is not attempt:
            opened = self.physical_for(connection)
            error = connection.engine.dialect.loaded_dbapi.OperationalError
            if self._locks is not None:
                self._locks.wake()
            if self.commits is not None:
                self.commits.begin(opened.ask)
            known = self.rules.deferrable
            self.shared = SharedTransaction(attempt, opened, owner=self.owner, error=error, deferrable=known)
        work = self.shared.join()
        connection.join(work)
        self._joined.append(weakref.ref(connection))
        return work

    def present_attempt(self) -> Attempt | None:
        """Return the attempt that a connection would take part in now."""
        return self.before_use() if self.is_shared else None

    def execute(
        self,
        connection: SandboxConnection,
        cursor: Any,
        sql: Any,
        parameters: Any,
        send: Callable[[], Any],
        how: How = "one",
    ) -> Any:
        """Send a statement of the user's in the one transaction.

        Args:
            send: Sends it.
            how: "many" for ``executemany()``, "copy" for a cursor's own method for COPY.

        Raises:
            RunAgain: One transaction cannot carry it faithfully.
        """
        if connection.is_closed:
            connection.check_open()
        # Each statement of every test comes through here: what the common one does not need is not called.
        effects = self.rules.of_copy(sql) if how == "copy" else self.rules.known.get(sql) or self.rules.of(sql)
        origin = usual_origin(sql)
        with self.lock:
            work = connection.work
            if work is None or work.shared is not self.shared or work.shared.attempt.is_over:
                work = self.work_of(connection)
            shared = work.shared
            observer = self.listening()  # a test that has begun just now may not be listened to
            autocommits = connection.autocommits
            if autocommits and how == "many":
                self.stop(connection, "many statements at once in autocommit are many transactions")
            if shared.sole is not work or not effects.is_plain or shared.attempt.reason is not None:
                shared.check(work, effects, sql, origin, autocommits)
            # Until all is done: in an event loop other tasks run whenever something is waited for.
            shared.busy = work
            work.last = (sql, origin)
            try:
                if shared.owner is not work or shared.wants_savepoint:
                    shared.ready(work, effects)
                if effects.savepoints:
                    shared.hold(work)
                if observer is not None:
                    observer.statement_started(work.label, origin, sql, parameters)
                try:
                    result = send()
                except BaseException as error:
                    if observer is not None:
                        observer.statement_finished(work.label, -1, error)
                    if isinstance(error, Exception):
                        self._raise_if_blocked(shared, error)
                        self.rules.failed(sql)
                        shared.refused(work, effects, error, autocommits)
                    elif not isinstance(error, CancelledError):
                        # By Ctrl-C, say, which goes on its way; nobody knows whether it was carried out.
                        shared.attempt.spoil(Reason("was interrupted", sql, origin))
                    raise
                if observer is not None:
                    observer.statement_finished(work.label, cursor.rowcount, None)
                elif effects.writes and self.observer is not None:
                    self.observer.rows_changed(sql)
                shared.sent(work, effects, sql, origin, autocommits)
            except CancelledError:
                # It goes on its way: who cancelled the task, a timeout say, waits for it.
                self.connection.give_up(shared, Reason("was cancelled", sql, origin))
                raise
            finally:
                shared.busy = None
            return result

    def _raise_if_blocked(self, shared: SharedTransaction, error: Exception) -> None:
        """Raise :class:`LockWait` if a statement was cancelled because somebody outside holds a lock that it needs."""
        scene = self._locks.scene_of(shared.physical.pid) if self._locks is not None else None
        if scene is not None:
            shared.block()
            raise LockWait(scene) from error

    def _present_statement(self) -> tuple[int, object] | None:
        """Return the server process of the statement that is being carried out, and what stands for it alone."""
        if (undone := self._undone) is not None:
            return undone.physical.pid, undone
        busy = None if (shared := self.shared) is None else shared.busy
        return None if shared is None or busy is None else (shared.physical.pid, busy.last)

    def end(self, connection: SandboxConnection, *, keep: bool) -> None:
        """Commit or roll back what a connection has done in the present attempt."""
        work = connection.work
        if work is None or not work.is_open or work.shared is not self.shared or work.shared.attempt.is_over:
            return
        # In a finalizer nobody may be there to wait for an answer, and whoever has the lock may wait for this thread.
        is_ours = self.lock.acquire(timeout=PATIENCE)
        try:
            has_written = work.wrote is not None
            if is_ours and (keep or connection.engine.dialect.is_async is False or loops.can_wait()):
                work.shared.end(work, keep=keep)
            else:
                work.shared.abandon(work)
            if has_written and (observer := self.listening()) is not None:
                outcome = "COMMIT" if keep else "ROLLBACK"
                observer.transaction_ended(work.label, usual_origin((outcome, work.last[0])), outcome)
        finally:
            if is_ours:
                self.lock.release()

    def need_real(self, rule: str) -> None:
        """End the attempt, if there is one, because of something that no connection has to do with.

        Raises:
            RunAgain: There is one; see :meth:`Attempt.stop`.
        """
        if (attempt := self.present_attempt()) is not None:
            attempt.stop(Reason(rule, "", user_origin()))

    def stop(self, connection: SandboxConnection, rule: str, *, of_class: bool = False) -> NoReturn:
        """End the attempt because of something other than a statement.

        Args:
            of_class: See :class:`Reason`.

        Raises:
            RunAgain: Always, if there is an attempt; see :meth:`Attempt.stop`.
        """
        if (attempt := self.present_attempt()) is None:
            raise stale_connection(self.owner)
        self._joined.append(weakref.ref(connection))  # it may have sent nothing yet, and is to be given up as well
        error = connection.engine.dialect.loaded_dbapi.OperationalError
        attempt.stop(Reason(rule, "", user_origin(), of_class=of_class), error)

    # -- the end of a test

    def finish(self) -> list[LeftOpen]:
        """Undo the attempt; return the connections that were still checked out.

        Raises:
            IsolationBroken: Somebody committed for real while the test ran.
        """
        shared, self.shared = self.shared, None
        left: list[LeftOpen] = []
        for taken in self.engines.taken:
            if taken.may_be_checked_out:
                left = left or self.held_connections()
                for each in self._held():
                    each.give_up()
                taken.renew_pool()
            elif taken.setup.is_async and taken.may_have_been_waited_for:
                taken.renew_pool()
        self._joined.clear()
        if shared is None:
            if self.physical is not None and self.physical.loop is not None:
                self.hang_up()
            return left
        self.has_attempted = True
        committed: bool | None = False
        self._undone = shared
        if self._locks is not None:
            self._locks.wake()
        try:
            if shared.busy is not None:
                self.hang_up()  # the server undoes what is open
            elif self.commits is not None:
                committed = self.commits.undo(shared, may_wait=not self.restoring_sql)
            else:
                shared.finish()
        except Exception:
            self.hang_up()
        self._undone = None
        self.needs_fresh_database |= shared.ended_for_real or committed is None
        if self.restoring_sql and self.physical is not None:
            self.physical.send(self.restoring_sql)
        if not shared.is_reusable:
            self.hang_up()
        if committed and not shared.ended_for_real:
            self.needs_fresh_database = True
            raise foreign_commit(self.owner)
        return left

    def held_connections(self) -> list[LeftOpen]:
        """Return the connections that somebody holds now."""
        if not self.is_shared:
            return self.real.held()
        return [LeftOpen(each.work.label, each.work.last[1]) for each in self._held() if each.work]

    def _held(self) -> list[SandboxConnection]:
        return [each for known in self._joined if (each := known()) is not None and each.is_checked_out]

    def expect_commits(self) -> None:
        """Something of ours commits, or has committed, into the server."""
        if self.commits is not None:
            self.commits.expect()

    def keep_work(self, sentence: str) -> None:
        """Commit what the test has done, for somebody to look at; refuse what comes later."""
        if self.shared is not None:
            self.shared.keep()
            self.needs_fresh_database = True
        self.real.commit_all()
        self.refuses = sentence

    def hang_up(self) -> None:
        """Close the physical connection."""
        self.connection.hang_up()

    def close(self) -> None:
        """Give all engines back; nobody connects any more."""
        self._is_closed = True
        self.shared = None
        self.hang_up()
        self.leave_real()
        registry.leave(self)
        self.engines.restore_all()
