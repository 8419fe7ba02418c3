"""Whose is it? What belongs to one connection is shown to no other: the gate's part of :mod:`.belongings`."""

from __future__ import annotations

import warnings
from dataclasses import replace
from typing import Any

from dbtestcase.errors import UncommittedRead
from dbtestcase.frames import user_origin

from . import words
from .belongings import AdvisoryLock, Call, TempTable, body_of, calls_in, executed, name_in, only_writer
from .channel import Channel
from .conflicts import Conflicts
from .endings import Endings
from .evidence import Evidence
from .functions import is_private
from .lexer import Statement, Text, read
from .problems import IsolationBroken
from .quoting import quoted
from .run import Run
from .transactions import VirtualTransaction


class Ownership(Endings):
    """Looks after temporary tables, plans, cursors, advisory locks and notifications."""

    # The advisory locks that the present statement takes.
    _wanted: tuple[AdvisoryLock, ...] = ()
    # Whether the row count of the present statement is the number of rows that it wrote.
    _tells_rows: bool = True

    def check_ownership(
        self, channel: Channel, run: Run, transaction: VirtualTransaction, text: Text, sql: str, parameters: Any
    ) -> str | None:
        """Let a statement see only what is its connection's; return the text to send instead, if any.

        Raises:
            IsolationBroken: Production would let it pass, and the one connection of the test cannot.
            Exception: The driver's error that production would give.
        """
        self._wanted = ()
        for table in run.belongings.others_tables(channel, text):
            self._meet_table(channel, run, transaction, table, sql)
        if not text.is_private:
            return None
        instead = None
        if channel.commits_each and text.needs_block:
            if text.verb == "DECLARE":
                # The query is looked at, and its tables locked, before that.
                Conflicts(self, run, transaction).table_locks(text, sql, parameters)
            raise self.fail_as(channel, run, "25P01", f"{text.needs_block} can only be used in transaction blocks")
        for statement in text.statements:
            instead = self._meet(channel, run, statement, sql) or instead
            if statement.verb == "NOTIFY":
                literal = self.connected().literal(sql, parameters) or sql
                run.belongings.notifications.append((transaction, transaction.level, literal))
        if any(map(is_private, text.functions)):
            literal = self.connected().literal(sql, parameters) or sql
            for call in calls_in(literal):
                instead = self._called(channel, run, transaction, call, sql) or instead
        return instead

    def effect_of(self, run: Run, text: Text, sql: str, parameters: Any) -> tuple[Text, str, Any]:
        """Return the statement that is really executed: for EXECUTE what was prepared, for DECLARE the query."""
        if text.verb == "DECLARE" and len(text.statements) == 1:
            body = body_of(sql, "FOR")
            return replace(read(body), pins=True), body, parameters
        if text.verb == "WITH" and text.writes:
            found = only_writer(self.connected().literal(sql, parameters) or sql)
            if found is None:
                return text, sql, parameters
            self._tells_rows = found[1]
            return read(found[0]), found[0], None
        if text.verb == "EXECUTE" and len(text.statements) == 1:
            plan = run.belongings.plans.get(name_in(text.statements[0]))
            literal = self.connected().literal(sql, parameters) if plan is not None else None
            if plan is not None and literal is not None:
                body = executed(plan, literal)
                return read(body), body, None
        return text, sql, parameters

    def cursor_in_the_way(self, channel: Channel, run: Run, error: BaseException) -> tuple[str, Channel] | None:
        """Return name and owner of the cursor of somebody else, or of an earlier transaction, that stood in the way."""
        if self.driver.sqlstate(error) != "55006":
            return None
        for name, cursor in run.belongings.cursors.items():
            if cursor.owner is not channel or cursor.transaction is not channel.transaction:
                return name, cursor.owner
        return None

    def note_ownership(self, channel: Channel, run: Run, transaction: VirtualTransaction, text: Text, sql: str) -> None:
        """Remember what a statement that went well has made or taken."""
        for statement in text.statements:
            run.belongings.note(channel, transaction, statement, sql)
        run.belongings.locks.extend(self._wanted)

    # -- tables, plans, cursors

    def _meet_table(
        self, channel: Channel, run: Run, transaction: VirtualTransaction, table: TempTable, sql: str
    ) -> None:
        if not self.has_temporary(run, transaction, table):
            del run.belongings.tables[table.name]
        elif table.owner.closed:
            # It went with its connection.
            self.send(run, f"DROP {table.kind} pg_temp.{quoted(table.name)} CASCADE")
        else:
            self.refuse_sharing(channel, run, sql, "temporary table", table.name, table.owner)

    def _meet(self, channel: Channel, run: Run, statement: Statement, sql: str) -> str | None:
        """Deal with one statement about plans and cursors."""
        name, mine = name_in(statement), run.belongings
        if statement.verb in ("PREPARE", "EXECUTE", "DEALLOCATE"):
            return self._meet_plan(channel, run, statement, name, sql)
        if statement.verb == "DECLARE":
            known = mine.cursors.get(name)
            if known is not None and not mine.sees_cursor(channel, name) and self.has_cursor(name):
                if not known.owner.closed:
                    self.refuse_sharing(channel, run, sql, "cursor", name, known.owner)
                self.send(run, f"CLOSE {quoted(name)}")
        elif statement.verb in ("FETCH", "MOVE", "CLOSE") and not mine.sees_cursor(channel, name):
            raise self.fail_as(channel, run, "34000", f'cursor "{name}" does not exist')
        elif statement.verb in ("FETCH", "MOVE") and name in mine.cursors:
            pending, mine.cursors[name].warnings = mine.cursors[name].warnings, []
            for warn in pending:
                warn()
        elif statement.verb == "CLOSE" and statement.words[1:] == ("all",):
            theirs = [name for name in mine.cursors if not mine.sees_cursor(channel, name)]
            if theirs:
                self.refuse_sharing(channel, run, sql, "cursor", theirs[0], mine.cursors[theirs[0]].owner)
            mine.cursors.clear()
        elif statement.verb == "DISCARD" and statement.words[1:] != ("plans",):
            for table in mine.tables.values():
                if table.owner is not channel:
                    self.refuse_sharing(channel, run, sql, "temporary table", table.name, table.owner)
            mine.tables.clear()
        return None

    def _meet_plan(self, channel: Channel, run: Run, statement: Statement, name: str, sql: str) -> str | None:
        plans = run.belongings.plans
        if statement.verb == "DEALLOCATE" and statement.words[-1] == "all":
            own = [name for name, plan in plans.items() if plan.owner is channel]
            for name in own:
                del plans[name]
            return "; ".join(f"DEALLOCATE {quoted(name)}" for name in own) or "SELECT 1 WHERE false"
        plan = plans.get(name)
        if plan is None or plan.owner is channel:
            return None
        if statement.verb != "PREPARE":
            raise self.fail_as(channel, run, "26000", f'prepared statement "{name}" does not exist')
        if not plan.owner.closed:
            self.refuse_sharing(channel, run, sql, "prepared statement", name, plan.owner)
        self.send(run, f"DEALLOCATE {quoted(name)}")
        return None

    def refuse_sharing(self, channel: Channel, run: Run, sql: str, what: str, name: str, owner: Channel) -> None:
        problem = IsolationBroken(words.not_shared(self.owner, channel, owner, sql, f"{what} {name!r}", user_origin()))
        run.record(problem)
        raise problem

    # -- functions

    def _called(self, channel: Channel, run: Run, transaction: VirtualTransaction, call: Call, sql: str) -> str | None:
        values = Evidence(self, run, transaction).probe(f"SELECT {call.arguments}") if call.arguments else []
        key = tuple(map(str, values[0])) if values else None
        if call.name == "pg_notify":
            if values is None:
                self._refuse_notify(run, sql)
            run.belongings.notifications.append((transaction, transaction.level, f"SELECT pg_notify({call.arguments})"))
            return None
        if call.unlocks:
            return self._unlock(channel, run, call, key, sql)
        held = AdvisoryLock(channel, key, call.is_shared)
        if call.is_of_transaction:
            held.transaction, held.level = transaction, transaction.level
        other = run.belongings.excluding(held)
        if other is not None:
            if call.is_try and call.is_alone and key is not None and other.key is not None:
                return f"SELECT false AS {call.name}"
            self._would_wait(run, channel, other, sql)
        self._wanted = (*self._wanted, held)
        return None

    def _unlock(self, channel: Channel, run: Run, call: Call, key: tuple[str, ...] | None, sql: str) -> str | None:
        locks = run.belongings.locks
        if call.name.endswith("_all"):
            own = [lock for lock in locks if lock.owner is channel and lock.transaction is None]
            run.belongings.locks = [lock for lock in locks if lock not in own]
            others = len(own) < sum(lock.transaction is None for lock in locks)
            return f"SELECT ''::void AS {call.name}" if others and call.is_alone else None
        if run.belongings.unlock(channel, key, is_shared=call.is_shared):
            return None
        other = run.belongings.excluding(AdvisoryLock(channel, key, is_shared=False))
        if other is None:
            return None
        if call.is_alone:
            return f"SELECT false AS {call.name}"
        self.refuse_sharing(channel, run, sql, "advisory lock", str(key), other.owner)
        return None

    def _would_wait(self, run: Run, channel: Channel, other: AdvisoryLock, sql: str) -> None:
        self.say(run, words.advisory_lock(self.owner, channel, other.owner, sql))

    def say(self, run: Run, sentence: str) -> None:
        """Warn, once."""
        if (sentence,) not in run.warned:
            run.warned.add((sentence,))
            origin = user_origin()
            warnings.warn_explicit(sentence, UncommittedRead, origin.filename, max(origin.line, 1))

    def _refuse_notify(self, run: Run, sql: str) -> None:
        problem = IsolationBroken(words.notify(self.owner, sql, user_origin()))
        run.record(problem)
        raise problem
