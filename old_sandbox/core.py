"""The gate that every statement of a test passes.

It is the same for every driver. A driver module wraps its connection in a :class:`~.wire.Physical`, and hands each call
that would send something to :meth:`Core.execute`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace
from typing import Any, TypeVar

from dbtestcase.frames import user_origin, usual_origin

from . import words
from .belongings import name_in
from .channel import LEVELS, Channel
from .conflicts import MANY, Conflicts
from .effects import counts, effect, may_write_more, settle
from .endings import Sending
from .evidence import Evidence, Many
from .joined import points_into_text
from .lexer import Text, read
from .observer import Observer
from .ownership import Ownership
from .problems import IsolationBroken
from .run import Run
from .settings import setting_of
from .transactions import Change, Doomed, Failed, VirtualTransaction
from .wire import Turn

T = TypeVar("T")

_UNWATCHED: AbstractContextManager[None] = nullcontext()
NO_EFFECT = "SAVEPOINT dbtestcase_noop; RELEASE dbtestcase_noop"


class Observed:
    """Tells how a statement ended; a class, because each statement enters one."""

    __slots__ = ("_label", "_observer", "_rowcount")

    def __init__(self, observer: Observer, label: str, rowcount: Callable[[], int] | None) -> None:
        self._observer = observer
        self._label = label
        self._rowcount = rowcount

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        rowcount = self._rowcount() if error is None and self._rowcount is not None else -1
        self._observer.statement_finished(self._label, rowcount, error)


class Core(Ownership):
    """The gate of one sandbox."""

    # What the present statement really executes, and what it is about to replace, if anybody may want to know.
    _effect: tuple[Text, str, Any]
    _whole: Text | None = None
    # For a cursor: what is to be said once it is read from.
    _warnings: list[Callable[[], None]] | None = None
    _old_rows: str | None = None
    # How many rows had been written before it, by table, if it may write more than it says.
    _counts: dict[str, int] | None = None

    def execute(
        self,
        channel: Channel,
        sql: str,
        parameters: Any,
        call: Callable[[str | None], T],
        rowcount: Callable[[], int] | None,
        *,
        is_fresh: bool = False,
        each: Callable[[Any], int] | None = None,
        join: Callable[[str], T] | None = None,
    ) -> T | None:
        """Let one statement of the user's through.

        Args:
            join: Sends the statement behind something of ours, as one text; None if the driver cannot do that.
            each: For :class:`Many` parameters: sends the statement with one of them and returns how many rows were
                touched. Used where connections may meet, so that it is seen which of the rows did.
            call: Sends the statement, or the text that it is given instead.
            rowcount: Returns how many rows were touched; None where that cannot be told.
            is_fresh: The cursor has not executed anything, so nothing need be sent to make it look idle.
        """
        with Turn(self, channel) as run:
            text = read(sql)
            if not text.is_ordinary:
                if text.ending is not None or text.mixed_savepoints or text.verb == "LISTEN":
                    self._refuse(channel, run, text, sql)
                if text.savepoint is not None:
                    with self.observed(channel, sql, parameters):
                        send = self.savepoint(channel, run, *text.savepoint, sql)
                    return call(send or NO_EFFECT) if send or not is_fresh else None
                if self._sets_transaction(channel, text):
                    return None if is_fresh else call(NO_EFFECT)
            with self.observed(channel, sql, parameters, rowcount):
                if each is None or channel.commits_each or not run.transactions.open - {channel.transaction}:
                    return self._send_through(channel, run, text, sql, parameters, call, rowcount, join)
                for one in parameters:
                    self._send_one(channel, run, text, sql, one, each)
                return None

    def _sets_transaction(self, channel: Channel, text: Text) -> bool:
        """Handle SET TRANSACTION and SET SESSION CHARACTERISTICS, which are about a transaction of its own."""
        said = text.statements[0].words
        if len(text.statements) > 1 or not ({"transaction", "characteristics"} & set(said[1:3])):
            return False
        phrase = " ".join(said).upper()
        level = next((level for level in LEVELS if f"ISOLATION LEVEL {level}" in phrase), None)
        read_only = True if "READ ONLY" in phrase else False if "READ WRITE" in phrase else None
        if "CHARACTERISTICS" in phrase:
            channel.isolation = level or channel.isolation
            channel.read_only = channel.read_only if read_only is None else read_only
            return True
        transaction = channel.begin()
        transaction.isolation = level or transaction.isolation
        transaction.read_only = transaction.read_only if read_only is None else read_only
        return True

    def _send_through(
        self,
        channel: Channel,
        run: Run,
        text: Text,
        sql: str,
        parameters: Any,
        call: Callable[[str | None], T],
        rowcount: Callable[[], int] | None,
        join: Callable[[str], T] | None = None,
    ) -> T:
        with Sending(self, run):
            known = parameters if rowcount is not None or isinstance(parameters, Many) else MANY
            try:
                instead = self.before(channel, run, text, sql, known, may_hold=join is not None)
            except BaseException:
                self.send_held()
                raise
            if instead is not None:
                self.send_held()
            try:
                with self.watched(channel, sql, parameters):
                    result = self._send_joined(run, join, call) if self._held and join else call(instead)
            except BaseException as error:
                self.failed(channel, run, text, sql, error, known)
                raise
            if rowcount is None:
                self.succeeded(channel, run, text, sql, -1, known)
            else:
                self.succeeded(channel, run, text, sql, rowcount(), known)
            if join is not None:
                self.proven.note(text, sql, known)
        return result

    def _send_joined(self, run: Run, join: Callable[[str], T], call: Callable[[str | None], T]) -> T:
        """Send a statement with what was held back before it."""
        held, self._held = self._held, ""
        try:
            return join(held)
        except Exception as error:
            if self.is_lost(error):
                raise
            if self.driver.sqlstate(error) is None:
                self.send(run, held)  # the driver itself has refused it, and sent nothing
                raise
            physical = self.connected()
            if physical.status() == "idle":
                self.send(run, held)  # the server could not read it, so it did not even begin
            elif points_into_text(error):
                self.send(run, "; ".join(run.transactions.after_error()))
            else:
                raise
        # Its error says where it is in a text of which the user has written the end: now without the beginning.
        return call(None)

    def _send_one(
        self, channel: Channel, run: Run, text: Text, sql: str, parameters: Any, each: Callable[[Any], int]
    ) -> None:
        touched = -1

        def call(instead: str | None) -> None:
            nonlocal touched
            touched = each(parameters)

        self._send_through(channel, run, text, sql, parameters, call, lambda: touched)

    def watched(self, channel: Channel, sql: str, parameters: Any) -> AbstractContextManager[None]:
        """End a statement that waits too long for a lock: of somebody else's connection, since ours are all one."""
        if self.locks is None or self.physical is None:
            return _UNWATCHED
        begins = channel.transaction is None or not channel.transaction.statements
        origin = channel.sent_from or user_origin()
        kind = "session" if channel.serves_session else "connection"
        return self.locks.statement(self.physical.pid, sql, parameters, origin, begins=begins, kind=kind)

    def observed(
        self, channel: Channel, sql: str, parameters: Any, rowcount: Callable[[], int] | None = None
    ) -> AbstractContextManager[None]:
        """Tell the observer of a statement, but for those by which SQLAlchemy gets to know a new connection."""
        if self.observer is None or not channel.is_checked_out():
            return _UNWATCHED
        channel.sent_from = usual_origin(sql)
        channel.opened = channel.opened or channel.sent_from
        self.observer.statement_started(channel.label, channel.sent_from, sql, parameters)
        return Observed(self.observer, channel.label, rowcount)

    def before(
        self, channel: Channel, run: Run, text: Text, sql: str, parameters: Any = None, *, may_hold: bool = False
    ) -> str | None:
        """Make the physical connection ready for a statement; return the text to send instead, if any.

        Args:
            may_hold: What is to be sent for that may also be held back, to go along with the statement.
        """
        transaction = channel.transaction or channel.begin()
        try:
            prelude = run.transactions.before_statement(transaction)
        except Failed:
            raise self.in_failed_transaction() from None
        except Doomed as doomed:
            raise self.lost(run, doomed.loss) from None
        if run.settings.touched or channel.settings or transaction.settings:
            may_hold = False
            prelude.extend(run.settings.change_to(channel.wanted_settings(transaction)))
        if transaction.read_only and not text.pins:
            may_hold = False
            prelude.append("SAVEPOINT dbtestcase_ro; SET LOCAL transaction_read_only = on")
        if prelude:
            ours = "; ".join(prelude)
            if may_hold and self.proven.fits(text, sql, parameters, ours):
                self._held = ours
            else:
                self.send(run, ours)
        run.last_statements.append((channel.label, sql))
        transaction.last_statement = sql
        self._old_rows = self._counts = None
        self._tells_rows = True
        self._whole, self._effect = text, (text, sql, parameters)
        instead = None
        if text.is_private or run.belongings.tables:
            instead = self.check_ownership(channel, run, transaction, text, sql, parameters)
        if text.is_private or (text.verb == "WITH" and text.writes):
            self._effect = self.effect_of(run, text, sql, parameters)
        self._warnings = [] if text.verb == "DECLARE" else None
        if run.is_shared:
            self._look_for_conflicts(channel, run, transaction, *self._effect)
        return instead or self._instead(channel, text, sql)

    def _look_for_conflicts(
        self, channel: Channel, run: Run, transaction: VirtualTransaction, text: Text, sql: str, parameters: Any
    ) -> None:
        if text.is_about_handles:
            return
        if text.recalls_sequences and run.sequence_user not in (None, channel):
            self.say(run, words.recalls_sequence(self.owner, channel, run.sequence_user, sql))
        self._settle_effects(run, transaction)
        if (text.writes or text.may_do_anything) and may_write_more(self.known_catalog(), text):
            self._counts = counts(self.connected())
        if run.transactions.is_contested(transaction):
            Conflicts(self, run, transaction, later=self._warnings).before(text, sql, parameters)
        if transaction.missed and text.writes:
            Conflicts(self, run, transaction).serialization(sql, text.written)
        if len(run.transactions.open) > 1:
            Conflicts(self, run, transaction).table_locks(text, sql, parameters)
        if text.verb in ("UPDATE", "DELETE"):
            self._old_rows = Conflicts(self, run, transaction).note_old_rows(text, sql, parameters)

    def _settle_effects(self, run: Run, transaction: VirtualTransaction) -> None:
        """Find out what was written by triggers and the like before there was a second connection."""
        if not run.has_settled_effects:
            run.has_settled_effects = True
            if any(segment.changes for segment in run.transactions.stack):
                settle(Evidence(self, run, transaction), run.transactions)

    def succeeded(
        self, channel: Channel, run: Run, text: Text, sql: str, rowcount: int, parameters: Any = MANY
    ) -> None:
        """Note what a statement did."""
        transaction = channel.transaction or channel.begin()
        if text.moves_sequences:
            run.sequence_user = channel
        if text.is_private:
            self.note_ownership(channel, run, transaction, text, sql)
            if self._warnings:
                run.belongings.cursors[name_in(text.statements[0])].warnings = self._warnings
        if text is self._whole:
            text, sql, parameters = self._effect
        assert self.physical is not None
        if self.physical.status() not in ("intrans", "active"):
            raise self.break_off(run, words.ended(self.owner, run))
        for lock in text.table_locks:
            transaction.locks.setdefault(lock, transaction.level)
        change = None if text.setting is not None else self._change(run, text, sql, rowcount, parameters)
        if text.setting is not None:
            self._note_setting(run, transaction, text, sql, parameters)
        if transaction.read_only and not text.pins:
            self.send(run, "ROLLBACK TO dbtestcase_ro; RELEASE dbtestcase_ro")
            change = None
        run.transactions.after_statement(transaction, change=change, pinned=text.pins)
        if self._counts is not None and change is not None:
            more = effect(self._counts, counts(self.connected()), sql, change.tables)
            if more is not None:
                run.transactions.after_statement(transaction, change=more)
        if change is not None and run.transactions.is_contested(transaction):
            Conflicts(self, run, transaction).after(text, sql, parameters)
        if channel.commits_each:
            self.end_transaction(channel, run, commit=True)

    def _note_setting(self, run: Run, transaction: VirtualTransaction, text: Text, sql: str, parameters: Any) -> None:
        for statement in text.statements:
            setting = setting_of(statement, sql)
            if setting is None:
                continue
            if setting.sql is not None and parameters is not MANY:
                setting = replace(setting, sql=self.connected().literal(sql, parameters))
            names = set(run.settings.touched) if setting.name == "all" else {setting.name}
            for name in names:
                (transaction.local_settings if setting.is_local else transaction.settings)[name] = setting.sql
                run.settings.touched.add(name)
            # Whatever the text did, the next statement puts it in order.
            run.settings.is_certain = False

    def _change(self, run: Run, text: Text, sql: str, rowcount: int, parameters: Any) -> Change | None:
        """Return what a statement wrote or locked, None if nothing."""
        if text.locks_advisory:
            run.holds_session_locks = True
        if text.is_ddl:
            run.has_ddl = True
            run.altered |= text.tables
            self.forget_schema()
            return Change(sql, MANY, text.tables, is_certain=True, is_ddl=True)
        if text.writes:
            if text.verb == "LOCK" or (text.counts_rows and rowcount == 0 and self._tells_rows):
                return None
            is_certain = bool(text.written) and (rowcount != 0 or self._tells_rows)
            return Change(sql, parameters, text.written, is_certain, rowcount, old_rows=self._old_rows)
        if text.locks_rows and rowcount != 0:
            # Not certain: a row that is locked already needs no id of the server.
            return Change(sql, parameters, text.tables, is_certain=False, locked_only=True)
        if text.may_do_anything:
            return Change(sql, MANY, frozenset(), is_certain=False)
        return None

    def failed(
        self, channel: Channel, run: Run, text: Text, sql: str, error: BaseException, parameters: Any = MANY
    ) -> None:
        """Undo a failed statement on the physical connection; raise if the sandbox is to blame."""
        physical = self.physical
        if physical is None or self.is_lost(error):
            raise self.connection_lost(run, error) from error
        status = physical.status()
        if status == "idle":
            raise self.break_off(run, words.ended(self.owner, run)) from error
        transaction = channel.begin()
        in_the_way = self.cursor_in_the_way(channel, run, error) if run.belongings.cursors else None
        if text is self._whole:
            text, sql, parameters = self._effect
        if status == "inerror":
            self.send(run, "; ".join(run.transactions.after_error()))
            if in_the_way is None and run.transactions.is_contested(transaction):
                Conflicts(self, run, transaction).after_error(sql, error, text=text, parameters=parameters)
            self.fail_transaction(run, transaction)
        elif transaction.read_only and not text.pins:
            self.send(run, "ROLLBACK TO dbtestcase_ro; RELEASE dbtestcase_ro")
        if channel.commits_each:
            self.end_transaction(channel, run, commit=False)
        if in_the_way is not None:
            name, owner = in_the_way
            self.refuse_sharing(channel, run, sql, "cursor", name, owner)
        if channel.commits_each and self.driver.sqlstate(error) in ("25001", "2D000", "25P01"):
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

    @contextmanager
    def aside(self, channel: Channel, sql: str, *, parameters: Any = None, busy: bool = False) -> Iterator[None]:
        """Let something through that is not one call: the fetch of a server-side cursor, the block of a COPY.

        Args:
            busy: The wire is taken until the block ends, and whoever else wants it is told so.
        """
        with Turn(self, channel) as run, self.observed(channel, sql, parameters) if busy else nullcontext():
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
