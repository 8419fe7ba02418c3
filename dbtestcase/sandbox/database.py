"""One database of one running test class: its engines, and what their connections are at present.

Between tests and on copies they are real. During an attempt they share one transaction, which is made when the first
of them speaks, and undone by :meth:`SandboxedDatabase.finish`.
"""

from __future__ import annotations

import importlib.util
import threading
import weakref
from asyncio import CancelledError
from collections.abc import Callable, Hashable
from contextlib import suppress
from functools import partial
from typing import Any, NoReturn

import sqlalchemy as sa
from sqlalchemy import event
from sqlalchemy.orm import Session

from dbtestcase.errors import IsolationBroken, LockWait
from dbtestcase.frames import user_origin, usual_origin

from . import loops, registry
from .ahead import ConnectionsAhead, Habits
from .attempt import Attempt, Reason
from .connection import Engine, SandboxConnection
from .drivers import Physical, physical
from .observer import Observer
from .real import LeftOpen, Locks, RealConnections
from .rules import Rules
from .setup import Setup
from .takeover import TakenEngine, is_supported, root
from .transaction import SharedTransaction, Work

__all__ = ["SandboxedDatabase"]

_LAST_COMMIT = "SELECT pg_last_committed_xact()::text"


def _at_once(connect: Callable[[], Any]) -> Any:
    return connect()


class SandboxedDatabase:
    """A database in which the work of tests is undone.

    Args:
        url: The database; its drivername says which driver engines without one of their own use.
        owner: The name of the test class, for messages.
        rules: What its schema's functions do.
        observer: Is told of each statement of the code under test.
        locks: Ends statements on real connections that wait too long for a lock.
        kind: Equal for databases that are copies of one template; ``None`` if that is not known.
        before_use: Called when a connection is used outside an attempt: whoever runs the tests may begin one only now.
            Returns the attempt to take part in, ``None`` where connections are real.
        deferrable: Whether the schema has deferrable constraints, and the names of those that begin deferred.
        own_commits: Find out at the end of an attempt whether anybody has committed for real; the server must have
            ``track_commit_timestamp`` on. Returns how many statements this library has begun to send there itself,
            and how many of these have ended.
    """

    def __init__(
        self,
        url: sa.URL,
        *,
        owner: str,
        rules: Rules,
        before_use: Callable[[], Attempt | None],
        observer: Observer | None = None,
        locks: Locks | None = None,
        kind: Hashable = None,
        deferrable: tuple[bool, str] | None = None,
        own_commits: Callable[[], tuple[int, int]] | None = None,
    ) -> None:
        self.owner = owner
        self.rules = rules
        self.observer = observer
        self.real_url = url.difference_update_query(["plugin"])
        self.physical: Physical | None = None
        self.shared: SharedTransaction | None = None
        self.real = RealConnections(rules, lambda: self.observer, locks)
        self.habits = Habits()
        self.needs_fresh_database = False
        # Whether a test has worked here in the one transaction.
        self.has_attempted = False
        # A sentence for whoever connects, if nothing more may be sent.
        self.refuses = ""
        # Opens a connection with what it is given; may wait for a server that has no room for it yet.
        self.connects: Callable[[Callable[[], Any]], Any] = _at_once
        self._before_use = before_use
        self._kind = kind
        self._deferrable = deferrable
        self._own_commits = own_commits
        self._own_ended = -1
        self._last_commit: str | None = None
        self._restoring_sql = ""
        self._setup: Setup | None = None  # of the physical connection
        self._same_state: set[int] = set()
        self._is_shared = False
        self._is_closed = False
        self._is_opening = False
        self._ahead: ConnectionsAhead | None = None
        self._ready: Any = None
        self._lock = threading.RLock()
        self._joined: list[weakref.ref[SandboxConnection]] = []
        self._sessions: list[Session] = []
        self.is_copy = False  # of a class's database, for one test
        self._taken: dict[sa.Engine, TakenEngine] = {}
        self._registered: list[sa.URL] = []
        self.register()
        _listen_to_sessions()
        self._locks = locks
        if locks is not None:
            locks.look_at(self._present_statement)
        self.engine = sa.create_engine(self.url)

    # -- engines

    @property
    def url(self) -> sa.URL:
        """The database's URL; an engine that anybody makes from it is isolated too."""
        return self.real_url.update_query_dict({"plugin": registry.PLUGIN})

    @property
    def taken(self) -> list[TakenEngine]:
        return list(self._taken.values())

    def register(self) -> None:
        """Let engines be made from the present URL."""
        registry.enter(self, self.real_url)

    def redirect(self, engine: Any) -> None:
        """Take an engine over, whatever URL it was made for; that one is never connected to."""
        engine = root(engine)
        if engine in self._taken:
            return
        if is_supported(engine.dialect) and not engine.dialect.is_async and not registry.is_late(engine):
            self._adopt(f"{engine.dialect.name}+{engine.dialect.driver}")
        self._taken[engine] = taken = TakenEngine(engine, self, self._drivername_for(engine), self._kind)
        _by_engine[engine] = weakref.ref(self)
        if self._is_shared:
            taken.use_shared()

    def restore(self, engine: Any) -> None:
        """Give an engine back exactly as it was."""
        taken = self._taken.pop(root(engine), None)
        if taken is not None:
            taken.give_back()

    def _drivername_for(self, engine: sa.Engine) -> str:
        if not engine.dialect.is_async:
            return self.real_url.drivername
        return "postgresql+psycopg" if importlib.util.find_spec("asyncpg") is None else "postgresql+asyncpg"

    def _adopt(self, drivername: str) -> None:
        """Let the class's own engine use the driver of the code under test, if that is the only one there is."""
        own = getattr(self, "engine", None)
        if own is None or drivername == self.real_url.drivername or own not in self._taken:
            return
        others = [each for each in self._taken if each is not own and not registry.is_late(each)]
        if any(not each.dialect.is_async for each in others) or self.physical is not None or self.real.are_any:
            return
        self._drop_ready_connection()
        self.real_url = self.real_url.set(drivername=drivername)
        late = [each for each in self._taken if registry.is_late(each)]
        for each in (own, *late):
            self.restore(each)
        fresh = sa.create_engine(self.url)
        self.restore(fresh)
        own.dialect, own.pool, own.url = fresh.dialect, fresh.pool, fresh.url
        for each in (own, *late):
            self.redirect(each)

    # -- real connections

    def use_real(self, url: sa.URL | None = None, ahead: ConnectionsAhead | None = None) -> None:
        """Give real connections from now on, to another database if ``url`` names one.

        Args:
            ahead: Connections that are open to it already.
        """
        self._is_shared = False
        if url is not None:
            self.hang_up()
            self.real_url = url.set(drivername=self.real_url.drivername)
            self.register()
            self.engine.url = self.url
        self._ahead = ahead
        self.real.made = 0 if ahead is None else len(ahead)
        self.real.have_written = False
        self.refuses = ""
        for taken in self._taken.values():
            taken.use_real()

    def real_connection(self, taken: TakenEngine, record: Any) -> Any:
        """Open a real connection for a pool.

        Raises:
            IsolationBroken: The class is over, or nothing more may be sent.
        """
        attempt = self._before_use()
        if attempt is not None:
            raise sa.exc.DisconnectionError("a connection of another phase")
        if self._is_closed:
            raise IsolationBroken(
                f"{self.owner}: the class is over, and its database is gone. Engines are given back when a class "
                "ends; make connections from the engine itself, not from a pool that was kept."
            )
        if self.refuses:
            raise IsolationBroken(self.refuses)
        self.habits.connects(taken.setup)
        connection = None if self._ahead is None else self._ahead.take(taken.setup)
        if connection is None:
            connection = self.connects(partial(taken.setup.connect, self.real_url))
            self.real.made += 1
        self.real.add(connection, taken.dialect, taken.engine.pool, record)
        return connection

    def open_ahead(self, url: sa.URL) -> ConnectionsAhead:
        """Open the connections to another database that the next test will probably ask for; in any thread."""
        return ConnectionsAhead(url, self.habits.expected())

    def execute_real(
        self, connection: Any, cursor: Any, sql: Any, parameters: Any, send: Callable[[], Any], is_many: bool = False
    ) -> Any:
        """Send a statement on a real connection."""
        return self.real.execute(connection, cursor, sql, parameters, send, is_many)

    def leave_real(self, *, checks_changes: bool = False) -> list[LeftOpen]:
        """Close all real connections; return those that somebody still held."""
        if self._ahead is not None:
            self._ahead.close()
            self._ahead = None
        self.habits.next_test()
        return self.real.close_all(checks_changes=checks_changes)

    # -- the one transaction

    def use_shared(self) -> None:
        """Give connections that share one transaction from now on."""
        if not self._is_shared:
            self._is_shared = True
            for taken in self._taken.values():
                taken.use_shared()

    def use_ready_connection(self, connection: Any) -> None:
        """Begin the first test on a psycopg2 connection to the database that is open already."""
        if self.real_url.drivername == "postgresql+psycopg2":
            self._ready = connection
        else:
            connection.close()

    def _drop_ready_connection(self) -> None:
        ready, self._ready = self._ready, None
        if ready is not None:
            ready.close()

    def physical_for(self, connection: SandboxConnection) -> Physical:
        """Return the physical connection for one that shares it, opened if there is none."""
        known = self.physical
        taken = connection.engine
        if known is not None and id(taken.setup) in self._same_state and (known.loop is None or known.serves_here):
            return known
        with self._lock:
            if self.attempt_of(connection) is None:
                raise IsolationBroken(_STALE.format(owner=self.owner))
            if self._is_opening:
                # Another task of this thread, while the connection was waited for.
                self.stop(connection, "came while another connection was being opened")
            self._is_opening = True
            try:
                if self.physical is None:
                    self._open_physical(taken)
                elif id(taken.setup) not in self._same_state:
                    self._share_or_stop(connection)
                elif not self.physical.serves_here:
                    self._open_here_or_stop(connection)
            finally:
                self._is_opening = False
        assert self.physical is not None
        return self.physical

    def meet_server(self, connection: SandboxConnection) -> None:
        """Let a dialect ask what it wants to know, such as the version, on which the SQL that it makes depends."""
        if self.attempt_of(connection) is not None:
            self.physical_for(connection)

    def _open_physical(self, taken: Engine) -> None:
        """Open the physical connection as this engine would."""
        setup = taken.setup
        ready, self._ready = self._ready, None
        if ready is not None and taken.dialect.driver == "psycopg2" and not setup.may_have_own_state:
            connection = ready
        else:
            if ready is not None:
                ready.close()
            connection = self.connects(partial(setup.connect, self.real_url))
        setup.prepare(connection, self.rules)
        opened = physical(connection, taken.dialect)
        if setup.may_have_own_state:
            self._check_modes(opened)
        self.physical, self._setup = opened, setup
        self._same_state = {id(setup)}
        for other in self._taken.values():
            if other.setup is not setup and other.setup.state is not None and other.setup.state == setup.state:
                other.setup.register(connection)
                self._same_state.add(id(other.setup))

    def _check_modes(self, opened: Physical) -> None:
        """Let go of a connection whose transactions are of a kind that one transaction cannot stand for."""
        level, read_only = opened.ask(_MODES).split()
        if level != "read-committed" or read_only != "off":
            opened.hang_up()
            words = f"the engine's connections begin {_MODE_WORDS[read_only != 'off']} transactions"
            self._stop_attempt(Reason(words, "", user_origin()))

    def _share_or_stop(self, connection: SandboxConnection) -> None:
        """Let an engine share the physical connection of another one if it leaves its connections in the same state."""
        setup, present = connection.engine.setup, self._setup
        assert self.physical is not None
        assert present is not None
        if setup.driver != present.driver:
            if self.shared is None or not self.shared.has_begun:
                self._replace_physical(connection)
                return
            rule = f"came over {setup.driver}, which cannot share a connection of {present.driver}"
            self.stop(connection, rule, of_class=True)
        if setup.state is None or not setup.has_met_server:
            # What its listeners set, and what its dialect asks, is found out on a connection of its own.
            own = self.connects(partial(setup.connect, self.real_url))
            try:
                setup.prepare(own, self.rules)
            finally:
                own.close()
        if setup.state == present.state:
            setup.register(self.physical.connection)
            self._same_state.add(id(setup))
        elif self.shared is None or not self.shared.has_begun:
            self._replace_physical(connection)
        else:
            self.stop(connection, "an engine whose connections are set up otherwise than those in use needs its own")

    def _open_here_or_stop(self, connection: SandboxConnection) -> None:
        """Let the present event loop have the physical connection if the other one has not used it in this test."""
        if self.shared is None or not self.shared.has_begun:
            self._replace_physical(connection)
        else:
            rule = f"was used in a second event loop ({connection.engine.dialect.driver})"
            self.stop(connection, rule, of_class=True)

    def _replace_physical(self, connection: SandboxConnection) -> None:
        """Let a connection of another kind take the place of the present one; nobody has spoken in this test yet."""
        self.hang_up()
        self.shared = None
        self._open_physical(connection.engine)

    def work_of(self, connection: SandboxConnection) -> Work:
        """Return what a connection does in the present attempt; it takes part from now on."""
        shared = self.shared
        work = connection.work
        if shared is not None and work is not None and work.shared is shared and not shared.attempt.is_over:
            return work
        attempt = self.attempt_of(connection)
        if attempt is None:
            raise IsolationBroken(_STALE.format(owner=self.owner))
        if self.shared is None or self.shared.attempt is not attempt:
            opened = self.physical_for(connection)
            error = connection.engine.dialect.loaded_dbapi.OperationalError
            if self._locks is not None:
                self._locks.wake()
            self.shared = SharedTransaction(attempt, opened, owner=self.owner, error=error, deferrable=self._deferrable)
        work = self.shared.join()
        connection.join(work)
        self._joined.append(weakref.ref(connection))
        return work

    def attempt_of(self, connection: SandboxConnection) -> Attempt | None:
        """Return the attempt that a connection would take part in now."""
        return self._before_use() if self._is_shared else None

    def execute(
        self,
        connection: SandboxConnection,
        cursor: Any,
        sql: Any,
        parameters: Any,
        send: Callable[[], Any],
        is_many: bool = False,
        copies: bool = False,
    ) -> Any:
        """Send a statement of the user's in the one transaction.

        Raises:
            RunAgain: One transaction cannot carry it faithfully.
        """
        if connection.is_closed:
            connection.check_open()
        # Each statement of every test comes through here: what the common one does not need is not called.
        effects = self.rules.of_copy(sql) if copies else self.rules.known.get(sql) or self.rules.of(sql)
        origin = usual_origin(sql)
        observer = self.observer
        with self._lock:
            work = connection.work
            if work is None or work.shared is not self.shared or work.shared.attempt.is_over:
                work = self.work_of(connection)
            shared = work.shared
            autocommits = connection.autocommits
            if autocommits and is_many:
                self.stop(connection, "many statements at once in autocommit are many transactions")
            if shared.sole is not work or not effects.is_plain or shared.attempt.reason is not None:
                shared.check(work, effects, sql, origin, autocommits)
            # Until all is done: in an event loop other tasks run whenever something is waited for.
            shared.busy = work
            work.last = (sql, origin)
            try:
                if shared.owner is not work:
                    shared.ready(work)
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
                        self._raise_lock_wait(shared, work, error)
                        shared.refused(work, error, sql, origin, autocommits)
                    elif not (isinstance(error, CancelledError) or shared.physical.in_transaction()):
                        shared.stop("was interrupted", sql, origin)
                    raise
                if observer is not None:
                    observer.statement_finished(work.label, cursor.rowcount, None)
                shared.sent(work, effects, sql, origin, autocommits)
            except CancelledError:
                # It goes on its way: who cancelled the task, a timeout say, waits for it.
                shared.attempt.spoil(Reason("was cancelled", sql, origin))
                raise
            finally:
                shared.busy = None
            return result

    def _raise_lock_wait(self, shared: SharedTransaction, work: Work, error: Exception) -> None:
        """Raise if a statement was cancelled because somebody outside holds a lock that it needs.

        Raises:
            LockWait: It was; real connections would have waited as well.
        """
        scene = self._locks.scene_of(shared.physical.pid) if self._locks is not None else None
        if scene is not None:
            work.failed, shared.sole = True, None
            raise LockWait(scene) from error

    def _present_statement(self) -> tuple[int, object] | None:
        """Return the server process of the statement that is being carried out, and what stands for it alone."""
        shared = self.shared
        busy = shared.busy if shared is not None else None
        return None if shared is None or busy is None else (shared.physical.pid, busy.last)

    def end(self, connection: SandboxConnection, *, keep: bool) -> None:
        """Commit or roll back what a connection has done in the present attempt."""
        work = connection.work
        if work is None or not work.is_open or work.shared is not self.shared or work.shared.attempt.is_over:
            return
        with self._lock:
            has_written = work.wrote is not None
            if keep or connection.engine.dialect.is_async is False or loops.can_wait():
                work.shared.end(work, keep=keep)
            else:
                work.shared.abandon(work)
            if has_written and self.observer is not None:
                outcome = "COMMIT" if keep else "ROLLBACK"
                self.observer.transaction_ended(work.label, usual_origin((outcome, work.last[0])), outcome)

    def stop(self, connection: SandboxConnection, rule: str, *, of_class: bool = False) -> NoReturn:
        """End the attempt because of something other than a statement.

        Args:
            of_class: See :class:`Reason`.

        Raises:
            RunAgain: Always, if there is an attempt; see :meth:`Attempt.stop`.
        """
        error = connection.engine.dialect.loaded_dbapi.OperationalError
        self._stop_attempt(Reason(rule, "", user_origin(), of_class=of_class), error)

    def _stop_attempt(self, reason: Reason, error: Callable[[str], Exception] | None = None) -> NoReturn:
        attempt = self._before_use() if self._is_shared else None
        if attempt is None:
            raise IsolationBroken(_STALE.format(owner=self.owner))
        attempt.stop(reason, error)

    # -- the end of a test

    def finish(self) -> list[LeftOpen]:
        """Undo the attempt; return the connections that were still checked out.

        Raises:
            IsolationBroken: Somebody committed for real while the test ran.
        """
        shared, self.shared = self.shared, None
        if shared is None:
            if self.physical is not None and self.physical.loop is not None:
                self.hang_up()
            return []
        self.has_attempted = True
        left: list[LeftOpen] = []
        for taken in self._taken.values():
            if taken.may_be_checked_out:
                left = left or self.held_connections()
                for each in self._held():
                    each.give_up()
                taken.renew_pool()
            elif taken.may_have_been_waited_for:
                taken.renew_pool()
        self._joined.clear()
        self._sessions.clear()
        committed = False
        try:
            if shared.busy is None:
                committed = self._finish(shared)
            else:
                self.hang_up()  # the server undoes what is open
        except Exception:
            self.hang_up()
        if shared.ended_for_real:
            self.needs_fresh_database = True
        if self._restoring_sql and self.physical is not None:
            self.physical.send(self._restoring_sql)
            self._last_commit = None  # setting a sequence back commits
        if not shared.is_reusable:
            self.hang_up()
        if committed:
            self._raise_foreign_commit()
        return left

    def _finish(self, shared: SharedTransaction) -> bool:
        """Undo the attempt; return whether somebody else has committed since the one before was undone."""
        if self._own_commits is None:
            shared.finish()
            return False
        ended = self._own_commits()[1]
        committed = shared.finish(_LAST_COMMIT)
        if committed is None:
            return False  # nothing was sent, and so nothing was asked
        known, self._last_commit = self._last_commit, committed
        own_ended, self._own_ended = self._own_ended, ended
        if committed == known or known is None:
            return False
        # What we have begun to send since then may be what was committed.
        return self._own_commits()[0] == own_ended

    def close_sessions(self) -> None:
        """Close the ORM sessions that the test has used; whoever made them, they end with the test."""
        for session in self._sessions:
            with suppress(Exception):  # its transaction is undone anyway
                session.close()
        self._sessions.clear()

    def note_session(self, session: Session) -> None:
        """Note an ORM session that the test uses."""
        self._sessions.append(session)

    def held_connections(self) -> list[LeftOpen]:
        """Return the connections that somebody holds now."""
        if not self._is_shared:
            return self.real.held()
        return [LeftOpen(each.work.label, each.work.last[1]) for each in self._held() if each.work]

    def _held(self) -> list[SandboxConnection]:
        joined = [connection for reference in self._joined if (connection := reference()) is not None]
        return [each for each in joined if each.work is not None and each.is_checked_out]

    def _raise_foreign_commit(self) -> None:
        self.needs_fresh_database = True
        raise IsolationBroken(
            f"{self.owner}: somebody has committed into this class's server for real since its last test, past the "
            "engines that are isolated: another process, or a driver that was called by itself, with an address taken "
            "before the test. What it wrote would be there in the next test; that one gets a fresh instance.\n"
            'What to do: ask for the address within the test (self.external_url), or mark it @isolate("clone").'
        )

    def expect_commits(self) -> None:
        """Something of ours commits, or has committed, into the server."""
        self._last_commit = None

    def keep_work(self, sentence: str) -> None:
        """Commit what the present test has done, for somebody to look at; refuse everything afterwards."""
        if self.shared is not None:
            self.shared.keep()
            self.needs_fresh_database = True
        self.real.commit_all()
        self.refuses = sentence

    def restore_sequences(self, sql: str) -> None:
        """Let each attempt leave the sequences as they were: this is sent once it is undone."""
        self._restoring_sql = sql

    def send(self, sql: str) -> bool:
        """Send a text of ours on the connection of the attempts, between two; return whether there is one."""
        if self.physical is None or self._setup is None or self._setup.is_async:
            return False
        self.physical.send(sql)
        return True

    def hang_up(self) -> None:
        """Close the physical connection."""
        self._drop_ready_connection()
        opened, self.physical = self.physical, None
        self._setup, self._same_state = None, set()
        if opened is not None:
            opened.hang_up()

    def close(self) -> None:
        """Give all engines back; nobody connects any more."""
        self._is_closed = True
        self.shared = None
        self.hang_up()
        self.leave_real()
        registry.leave(self)
        for engine in list(self._taken):
            self.restore(engine)


_STALE = (
    "{owner}: a connection of an earlier test, or of an attempt that is over, was used; its work is undone. Let the "
    "code under test get its connection from the engine each time, and end its threads before the test ends."
)
_MODES = (
    "SELECT replace(current_setting('transaction_isolation'), ' ', '-') || ' '"
    " || current_setting('transaction_read_only')"
)
_MODE_WORDS = {False: "SERIALIZABLE or REPEATABLE READ", True: "READ ONLY"}

_is_listening = False
_by_engine: weakref.WeakKeyDictionary[sa.Engine, weakref.ref[SandboxedDatabase]] = weakref.WeakKeyDictionary()


def _listen_to_sessions() -> None:
    global _is_listening
    if not _is_listening:
        _is_listening = True
        event.listen(Session, "after_begin", _session_began)


def _session_began(session: Session, transaction: Any, connection: sa.Connection) -> None:
    """Note an ORM session that a test uses."""
    dbapi_connection = connection.connection.dbapi_connection
    if type(dbapi_connection) is SandboxConnection:
        dbapi_connection.database.note_session(session)
        return
    known = _by_engine.get(root(connection.engine))
    database = known() if known is not None else None
    if database is not None and database.is_copy:
        database.note_session(session)
