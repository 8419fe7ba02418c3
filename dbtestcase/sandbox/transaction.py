"""One transaction that stands for all connections of a test to one database, and when it can do so no longer.

What a connection has committed is held by a savepoint of ours that it cannot undo any more; what it has not lies above
the newest one:

    BEGIN               the test begins
    INSERT ...          a connection writes: it owns what comes after BEGIN
    (commit)            sends nothing: that is committed work now
    SELECT ...          a query leaves nothing that would have to be undone
    SAVEPOINT dbt1      what was committed is out of reach for whatever may have to be
    UPDATE ...
    (rollback)          ROLLBACK TO dbt1; without a savepoint yet, ROLLBACK AND CHAIN
    RELEASE dbt1; SAVEPOINT dbt2   where more was committed in between

The first savepoint is dbt0, if the code under test has one of its own before there is one of ours: releasing ours
releases theirs.

Connections that only read, under READ COMMITTED, conflict with nobody. Two that would have to see different things,
wait for each other or keep state of their own end the attempt (:meth:`SharedTransaction.check` is the whole decision).
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from types import MappingProxyType
from typing import Any

from dbtestcase.diagnosis.tracebacks import sqlstate
from dbtestcase.errors import IsolationWarning
from dbtestcase.frames import UNKNOWN, Origin, user_origin

from .attempt import Attempt, Reason
from .drivers import BEGIN, FAILED, IDLE, IN_TRANSACTION, Physical
from .rules import CONSTRAINTS, CURSOR, NEED_A_BLOCK, SET_LOCAL, TEMPORARY, Effects

__all__ = ["SharedTransaction", "Work"]

# Errors by which a statement tells about itself alone: bad data, violated constraints, unknown names (also those of
# savepoints, cursors and prepared statements), RAISE. What else the server refuses may be refused only because many
# transactions are one here.
_OWN_ERRORS = ("20", "21", "22", "23", "25P02", "26", "28", "2B", "34", "3B", "3F", "42", "44", "P0")

# One statement, which the server answers once: the next transaction begins with its time.
_UNDO_AND_BEGIN = "ROLLBACK AND CHAIN"

# Insufficient privilege, for the constraint's schema; undefined object.
_NO_SUCH_NAME = ("42501", "42704")


class Work:
    """What one connection does in a test's transaction, from its first statement there.

    Attributes:
        is_open: It is in a transaction of its own, as far as the code under test knows.
        wrote: The statement by which it first wrote in that transaction, with its line; ``None`` if it only read.
        until_commit: What it has on its connection that ends with that transaction, and the statements for it.
        cursors: Close what stands for server-side cursors, which end with their transaction.
    """

    # One is made in every test: what most of them never change stands here.
    is_open = False
    wrote: tuple[str, Origin] | None = None
    until_commit: Mapping[str, tuple[str, Origin]] = MappingProxyType({})
    failed = False
    cursors: tuple[Callable[[], None], ...] = ()
    last: tuple[str, Origin] = ("", UNKNOWN)

    def __init__(self, shared: SharedTransaction, label: str) -> None:
        self.shared = shared
        self.label = label

    def ended(self) -> None:
        """Its transaction is over, and with it the server-side cursors that were opened in it."""
        self.is_open = False
        self.wrote = None
        if self.until_commit or self.failed or self.cursors:
            self.until_commit, self.failed = Work.until_commit, False
            for close in self.cursors:
                close()
            self.cursors = ()


class SharedTransaction:
    """The one transaction of a test to one database.

    Attributes:
        owner: Whose work lies above the newest savepoint.
        sole: The connection's work if there is only one, whose plain statements need not be checked.
        busy: Whose statement is being carried out.
        wants_savepoint: What lies above the newest savepoint is committed: another one is needed before anything that
            may have to be undone.

    Args:
        error: Makes the driver's ``OperationalError``.
        deferrable: Names of the schema's deferrable constraints, and of those of them that begin deferred; ``None``
            if they are to be looked up.
    """

    owner: Work | None = None
    sole: Work | None = None
    busy: Work | None = None
    private: Work | None = None
    wants_savepoint = False
    _numbered: Work | None = None  # whose connection keeps numbers of sequences ready
    has_begun = False
    has_altered = False
    ended_for_real = False
    # What a COMMIT has ended that goes on in this transaction.
    _ended = ""
    _savepoint = 0
    _is_held = False  # whether that savepoint is there; number 0 is there only on demand
    _is_dirty = False
    _has_altered_since = False  # the newest savepoint
    _count = 0

    def __init__(
        self,
        attempt: Attempt,
        physical: Physical,
        *,
        owner: str,
        error: Callable[[str], Exception],
        deferrable: tuple[str, str] | None,
    ) -> None:
        self.attempt = attempt
        self.physical = physical
        self._class_name = owner
        self._error = error
        self._deferrable = deferrable
        self._open: set[Work] = set()

    @property
    def is_reusable(self) -> bool:
        """Whether the physical connection may serve another test: no state of its own was left on it."""
        if self.private is not None or self.ended_for_real:
            return False
        if self.physical.status() not in (IDLE, IN_TRANSACTION, FAILED):
            return False  # it was lost
        return self.physical.loop is None and not (self.has_altered and self.physical.caches_plans)

    def join(self) -> Work:
        """Let one more connection take part."""
        self._count += 1
        work = Work(self, _LABELS[self._count] if self._count < len(_LABELS) else f"connection {self._count}")
        self.sole = work if self._count == 1 else None
        return work

    def stop(self, rule: str, sql: str, origin: Origin, other: tuple[str, Origin] | None = None) -> Any:
        """End the attempt; see :meth:`Attempt.stop`."""
        self.attempt.stop(Reason(rule, sql, origin, other), self._error)

    # -- the decision

    def check(self, work: Work, effects: Effects, sql: str, origin: Origin, autocommits: bool) -> None:
        """Let a statement pass that one transaction carries faithfully; end the attempt at any other.

        Raises:
            RunAgain: See :meth:`Attempt.stop`.
        """
        attempt = self.attempt
        if attempt.reason is not None:
            attempt.stop(attempt.reason, self._error)
        if effects.real:
            self.stop(f"needs real connections ({effects.real})", sql, origin)
        if self.busy is not None:
            self.stop("came while another statement was running", sql, origin, self.busy.last)
        # That of SET CONSTRAINTS ALL goes on only for constraints that are made later.
        if self._ended and (effects.alters or self._ended != CONSTRAINTS):
            self.stop(f"came after a COMMIT that ends {self._ended}", sql, origin)
        if autocommits and not NEED_A_BLOCK.isdisjoint(effects.until_commit):
            self.stop("in autocommit would be an error, or have no effect", sql, origin)
        if work.failed and work is not self.owner:
            self.stop("came in a failed transaction, after another connection's statement", sql, origin)
        if effects.private or self.private is not None:
            if self.private is None and effects.private.startswith(("pg_", "set")):
                self.private = work  # even if it fails: what holds an advisory lock may fail later
            if self.private not in (None, work):
                self.stop("came after another connection had set state of its own", sql, origin, self.private.last)
            if effects.private and self._count > 1:
                self.stop(f"concerns state of one connection ({effects.private}), and the test uses two", sql, origin)
        if effects.numbers:
            kept, self._numbered = self._numbered or work, work
            if kept is not work:
                self.stop("came after another connection had kept numbers of sequences", sql, origin, kept.last)
        if self._open and (len(self._open) > 1 or work not in self._open):
            for other in self._open:
                if other is not work:
                    self._check_beside(other, effects, sql, origin)

    def _check_beside(self, other: Work, effects: Effects, sql: str, origin: Origin) -> None:
        if other.wrote is not None:
            self.stop("met uncommitted work of another connection", sql, origin, other.wrote)
        for word, statement in other.until_commit.items():
            self.stop(f"came while another connection has {word}", sql, origin, statement)
        if effects.excludes_readers and effects.never_waits:
            self.stop("does not wait for a transaction that has read", sql, origin, other.last)
        if effects.excludes_readers:
            rule = "needs its tables alone, and a transaction that has only read is still open"
            warnings.warn_explicit(
                f"{self._class_name}: {Reason(rule, sql, origin, other.last)}.\n"
                "Real connections would have waited for that transaction to end; here the statement went on.\n"
                "What to do: end that transaction first: close(), commit() or rollback() of its session or connection.",
                IsolationWarning,
                origin.filename,
                origin.line,
                registry=_seen,
            )

    # -- around a statement

    def ready(self, work: Work, effects: Effects) -> None:
        """Let the next statement be one of this connection: send the savepoint that it needs."""
        if self.owner is not work:
            if not work.is_open:
                work.is_open = True
                self._open.add(work)
            if not self.has_begun:
                self._send(self.physical.begin)
                self.physical.begin = BEGIN
                self.has_begun = True
            elif self.owner is not None and self.owner.failed:
                self._undo()
            elif self._is_dirty:
                self._is_dirty, self.wants_savepoint = False, True
            self.owner = work
        if self.wants_savepoint and not (effects.is_query and self.attempt.may_run_again):
            release = f"RELEASE dbt{self._savepoint}; " if self._is_held else ""
            self._savepoint += 1
            self._send(f"{release}SAVEPOINT dbt{self._savepoint}")
            self._is_held = True
            self.wants_savepoint = self._has_altered_since = False

    def hold(self, work: Work) -> None:
        """Let a savepoint of the code under test lie above one of ours, which takes it along when it is released."""
        if not (self._is_held or work.failed):
            self._send(f"SAVEPOINT dbt{self._savepoint}")
            self._is_held = True

    def sent(self, work: Work, effects: Effects, sql: str, origin: Origin, autocommits: bool) -> None:
        """Note what a statement did that the server has carried out."""
        if self.physical.status() == IDLE:
            self.ended_for_real = True
            self.stop("ended the transaction", sql, origin)
        if effects.is_plain:
            if effects.writes:
                self._is_dirty = True
                if work.wrote is None:
                    work.wrote = work.last
        else:
            self._note(work, effects)
        if autocommits:
            self.end(work, keep=True)

    def _note(self, work: Work, effects: Effects) -> None:
        self._is_dirty = True
        if effects.writes and work.wrote is None:
            work.wrote = work.last
        if effects.alters:
            self.has_altered = self._has_altered_since = True
            self._deferrable = None
        if effects.savepoints:
            work.failed = False
        if effects.private:
            self.private = work
        if effects.until_commit:
            work.until_commit = {**dict.fromkeys(effects.until_commit, work.last), **work.until_commit}

    def refused(self, work: Work, effects: Effects, error: Exception, autocommits: bool) -> None:
        """Note that a statement has failed.

        Raises:
            RunAgain: It may not have failed on real connections, or nobody knows what it has done.
        """
        sql, origin = work.last
        if self.physical.status() not in (IN_TRANSACTION, FAILED):
            self.stop(f"lost the connection ({type(error).__name__})", sql, origin)
        state = sqlstate(error)
        if state is not None and not state.startswith(_OWN_ERRORS):
            self.stop(f"was refused with SQLSTATE {state}, which one transaction may have caused", sql, origin)
        if state is None:
            # The driver's own, such as a wrong number of parameters, which may not be of the first row; or one that a
            # signal's handler has raised. The statement, or a part of it, may have been carried out.
            if autocommits:
                self.stop(f"failed with {type(error).__name__}, in autocommit", sql, origin)
            self._note(work, effects)
            work.failed = work.failed or self.physical.status() == FAILED
        elif autocommits:
            self._undo()
            self._leave(work)
        else:
            work.failed = True

    @contextmanager
    def copying(self, work: Work) -> Iterator[None]:
        """Let a COPY go on after its statement: until it has ended, no other one passes."""
        self.busy = work
        try:
            yield
        except Exception as error:
            if sqlstate(error) is not None:
                self.refused(work, Effects(), error, False)
            raise
        finally:
            self.busy = None
            work.failed = work.failed or self.physical.status() == FAILED
            if not work.is_open:
                self.stop("ended in the middle of a COPY", *work.last)

    def block(self) -> None:
        """The statement that is being carried out was cancelled: real connections would have waited as well."""
        if self.busy is not None:
            self.busy.failed = True

    # -- the end of a connection's transaction

    def end(self, work: Work, *, keep: bool) -> None:
        """Commit or roll back what one connection has done since its last commit or rollback."""
        if not work.is_open or self.attempt.reason is not None:
            return
        if self.busy is not None and self.busy is not work:
            self.stop("ended during another connection's statement", *work.last)
        owns = self.owner is work
        self.busy = work
        try:
            if keep and not work.failed:
                if owns and self._is_dirty:
                    self._check_deferred(work)
                    if work.until_commit:
                        self._end_state(work.until_commit)
            elif owns:
                if self._is_dirty or work.failed:
                    self._undo()
                if not keep and self._count == 1 and self.physical.rolled_back is not None:
                    self.physical.rolled_back()
            elif work.wrote is not None:
                self.stop("was rolled back after another connection's statement", *work.wrote)
        finally:
            self.busy = None
            self._leave(work)

    def abandon(self, work: Work) -> None:
        """Note that a connection was thrown away where nothing can be sent: by a finalizer in an event loop."""
        if self._is_dirty or work.failed:
            self.attempt.spoil(Reason("was rolled back when its connection was thrown away", *work.last))
        self._leave(work)

    def _undo(self) -> None:
        """Undo what was done since something was committed last."""
        if self.wants_savepoint:
            self.stop("failed, and to undo it would undo a COMMIT before it", *self._owners_last())
        if self._has_altered_since and self.physical.caches_plans and self._count > 1:
            self.stop("has changed the schema and was rolled back, under statements that the driver has prepared",
                      *self._owners_last())  # fmt: skip
        if self._savepoint:
            self._send(f"ROLLBACK TO dbt{self._savepoint}")
        else:
            self._send(_UNDO_AND_BEGIN)
            self._is_held = False
        self._is_dirty = self._has_altered_since = False

    def _owners_last(self) -> tuple[str, Origin]:
        return self.owner.last if self.owner is not None else ("", UNKNOWN)

    def _send(self, sql: str) -> None:
        """Send a text of ours.

        Raises:
            RunAgain: It was refused. The server may have hung up, because of a timeout say, which is the business of
                the code under test's next statement on real connections.
        """
        try:
            self.physical.send(sql)
        except Exception as error:
            self.stop(f"the transaction could not go on: {error}".partition("\n")[0], "", user_origin())

    def _leave(self, work: Work) -> None:
        self._open.discard(work)
        if self.owner is work:
            self.owner = None
        work.ended()

    def _end_state(self, ended: Mapping[str, Any]) -> None:
        """Let end what a COMMIT ends, as far as there is a statement for it; locks are seen by no other connection."""
        if CURSOR in ended:
            self._send("CLOSE ALL")
        self._ended = next((word for word in (SET_LOCAL, TEMPORARY, CONSTRAINTS) if word in ended), self._ended)
        if self._ended and self._ended != CONSTRAINTS:
            self.sole = None

    def _check_deferred(self, work: Work) -> None:
        """Check what PostgreSQL checks at COMMIT."""
        if self._deferrable is None:
            names, _, deferred = self.physical.ask(_DEFERRABLE).partition(_BETWEEN)
            self._deferrable = names, deferred
        names, deferred = self._deferrable
        if not names:
            return
        cursor = self.physical.connection.cursor()
        try:
            # ALL would be for constraints, too, that are made later.
            cursor.execute(f"SET CONSTRAINTS {names} IMMEDIATE")
        except Exception as error:
            if sqlstate(error) in _NO_SUCH_NAME:
                self.stop("has deferred constraints that it may not name", *work.last)
            self._undo()
            raise
        finally:
            cursor.close()
        if deferred:
            self._send(f"SET CONSTRAINTS {deferred} DEFERRED")

    # -- the end of the test

    def finish(self, ask: str = "") -> Any:
        """Undo it all, or raise; return what ``ask``, sent in the same round trip, tells, ``None`` without it."""
        if not self.has_begun:
            return None
        if not self.physical.is_intact:
            raise ConnectionError("the descriptor of the tests' connection is somebody else's by now")
        if self.physical.loop is not None and not (self.owner is not None and self.owner.failed):
            # This connection is closed now, which undoes it all.
            return self.physical.ask(ask) if ask else None
        if ask:
            return self.physical.ask(f"ROLLBACK; {ask}")
        self.physical.send("ROLLBACK")
        return None

    def finish_later(self) -> bool:
        """Let the next transaction undo this one as it begins; return whether that is all the same to everybody."""
        if not self.has_begun or not self.is_reusable or self.has_altered:
            return False
        self.physical.begin = _UNDO_AND_BEGIN
        return True

    def keep(self) -> None:
        """Commit what the test has done, for somebody to look at."""
        if self.has_begun and self.physical.status() == IN_TRANSACTION:
            self.physical.send("COMMIT")
            self.has_begun = False


_seen: dict[Any, Any] = {}
_LABELS = tuple(f"connection {number}" for number in range(10))

_BETWEEN = "\x01"
_DEFERRABLE = """SELECT concat(string_agg(name, ', '), E'\\x01', string_agg(name, ', ') FILTER (WHERE condeferred))
FROM (SELECT DISTINCT format('%I.%I', n.nspname, conname) AS name, condeferred FROM pg_constraint
JOIN pg_namespace n ON n.oid = connamespace WHERE condeferrable) AS found"""
