"""What belongs to one connection of PostgreSQL alone, and here stands on the one that all share.

Temporary tables, statements of PREPARE, cursors and advisory locks: each is remembered with the virtual connection that
made it, so that another gets what it would get in production, or a sentence where that cannot be had.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from .functions import is_private
from .lexer import Statement, Text, arguments_at, closing_at, read, scan

if TYPE_CHECKING:
    from .channel import Channel
    from .transactions import VirtualTransaction


@dataclass(eq=False, slots=True)
class TempTable:
    """A temporary table, view or sequence; ``on_commit`` is "", "DROP" or "DELETE ROWS"."""

    name: str
    kind: str
    owner: Channel
    made_in: VirtualTransaction | None
    on_commit: str = ""


@dataclass(eq=False, slots=True)
class Plan:
    """A statement of PREPARE."""

    owner: Channel
    body: str


@dataclass(eq=False, slots=True)
class Cursor:
    """A cursor of DECLARE; ``transaction`` None: it outlived its own, by WITH HOLD."""

    owner: Channel
    transaction: VirtualTransaction | None
    is_held: bool
    # What is to be said once it is read from.
    warnings: list[Callable[[], None]] = field(default_factory=list)


@dataclass(eq=False, slots=True)
class AdvisoryLock:
    """``key`` None: it could not be told. ``transaction`` None: it lasts as long as the connection."""

    owner: Channel
    key: tuple[str, ...] | None
    is_shared: bool
    transaction: VirtualTransaction | None = None
    level: int = 0

    def excludes(self, other: AdvisoryLock) -> bool:
        """Whether two connections cannot have both."""
        is_same = self.key is None or other.key is None or self.key == other.key
        return is_same and not (self.is_shared and other.is_shared) and not self.owner.closed


@dataclass(frozen=True, slots=True)
class Call:
    """A call of one of the functions of advisory locks, or of ``pg_notify``."""

    name: str
    arguments: str
    is_alone: bool

    @property
    def is_shared(self) -> bool:
        return self.name.endswith("_shared")

    @property
    def is_try(self) -> bool:
        return "_try_" in self.name

    @property
    def is_of_transaction(self) -> bool:
        return "_xact_" in self.name

    @property
    def unlocks(self) -> bool:
        return "_unlock" in self.name


@dataclass(eq=False, slots=True)
class Belongings:
    """Those of one test."""

    tables: dict[str, TempTable] = field(default_factory=dict)
    plans: dict[str, Plan] = field(default_factory=dict)
    cursors: dict[str, Cursor] = field(default_factory=dict)
    locks: list[AdvisoryLock] = field(default_factory=list)
    notifications: list[tuple[VirtualTransaction, int, str]] = field(default_factory=list)

    def are_any(self) -> bool:
        """Whether there is anything to look after."""
        return bool(self.tables or self.plans or self.cursors or self.locks or self.notifications)

    # -- the moments

    def note(self, channel: Channel, transaction: VirtualTransaction, statement: Statement, sql: str) -> None:
        """Remember what a statement that went well has made or removed."""
        name = name_in(statement)
        if statement.temporary is not None:
            kind, table, on_commit = statement.temporary
            # IF NOT EXISTS leaves the one that is there as it was.
            if table not in self.tables or self.tables[table].owner is not channel:
                self.tables[table] = TempTable(table, kind, channel, transaction, on_commit)
        elif statement.verb == "PREPARE":
            self.plans[name] = Plan(channel, body_of(sql, "AS"))
        elif statement.verb == "DEALLOCATE":
            self.plans.pop(name, None)
        elif statement.verb == "DECLARE":
            self.cursors[name] = Cursor(channel, transaction, is_held="hold" in statement.words)
        elif statement.verb == "CLOSE":
            self.cursors.pop(name, None)

    def ended(self, transaction: VirtualTransaction, *, is_kept: bool) -> list[str]:
        """Let go what a transaction held until its end; return the cursors that a commit closes."""
        if not self.are_any():
            return []
        closed = []
        self.locks = [lock for lock in self.locks if lock.transaction is not transaction]
        self.notifications = [found for found in self.notifications if found[0] is not transaction]
        for name, cursor in list(self.cursors.items()):
            if cursor.transaction is transaction:
                if is_kept and cursor.is_held:
                    cursor.transaction = None
                    continue
                del self.cursors[name]
                if is_kept:
                    closed.append(name)
        return closed

    def undone(self, transaction: VirtualTransaction, level: int) -> None:
        """Let go what was taken in a level that was rolled back, or in those above it."""
        self.locks = [lock for lock in self.locks if lock.transaction is not transaction or lock.level < level]
        self.notifications = [f for f in self.notifications if f[0] is not transaction or f[1] < level]

    def released(self, transaction: VirtualTransaction) -> None:
        """Move what was taken in levels that were released to the one below."""
        level = transaction.level
        for lock in self.locks:
            if lock.transaction is transaction:
                lock.level = min(lock.level, level)
        self.notifications = [
            (sender, min(at, level) if sender is transaction else at, sql) for sender, at, sql in self.notifications
        ]

    # -- questions

    def others_tables(self, channel: Channel, text: Text) -> list[TempTable]:
        """Return the temporary tables of other connections that a text names."""
        if not self.tables:
            return []
        return [t for name, t in self.tables.items() if t.owner is not channel and name in text.tables]

    def due_at_commit(self, channel: Channel, transaction: VirtualTransaction) -> list[TempTable]:
        """Return the tables with which a commit does something."""
        return [
            table
            for table in self.tables.values()
            if table.owner is channel
            and table.on_commit
            and (table.on_commit != "DROP" or table.made_in is transaction)
        ]

    def cursors_of(self, transaction: VirtualTransaction) -> list[str]:
        """Return the names of the cursors that a transaction opened and that end with it."""
        return [name for name, cursor in self.cursors.items() if cursor.transaction is transaction]

    def notifications_of(self, transaction: VirtualTransaction) -> list[str]:
        """Return the statements that send what a transaction wants to be heard."""
        return [sql for sender, _, sql in self.notifications if sender is transaction]

    def sees_cursor(self, channel: Channel, name: str) -> bool:
        """Whether a connection may read a cursor, as far as is known here."""
        cursor = self.cursors.get(name)
        # One that nobody is known to have made is the server's to judge.
        return cursor is None or (cursor.owner is channel and cursor.transaction in (None, channel.transaction))

    def excluding(self, wanted: AdvisoryLock) -> AdvisoryLock | None:
        """Return a lock of another connection that would keep this one waiting."""
        return next((lock for lock in self.locks if lock.owner is not wanted.owner and lock.excludes(wanted)), None)

    def unlock(self, channel: Channel, key: tuple[str, ...] | None, *, is_shared: bool) -> bool:
        """Forget one lock of a connection; return whether it had it."""
        for lock in self.locks:
            if (
                lock.owner is channel
                and lock.transaction is None
                and lock.is_shared is is_shared
                and (key is None or lock.key is None or lock.key == key)
            ):
                self.locks.remove(lock)
                return True
        return False


def name_in(statement: Statement) -> str:
    """Return the name of the cursor or plan that a statement is about; "" if it names none."""
    if len(statement.words) < 2:
        return ""
    if statement.verb in ("FETCH", "MOVE", "CLOSE", "DEALLOCATE"):
        return statement.words[-1]
    return statement.words[1]


def body_of(sql: str, word: str) -> str:
    """Return what stands behind the first ``word`` outside of parentheses."""
    depth = 0
    for kind, text, position in scan(sql):
        depth += (text == "(") - (text == ")")
        if depth == 0 and kind == "word" and text.upper() == word:
            return sql[position + len(text) :].strip()
    return ""


def executed(plan: Plan, sql: str) -> str:
    """Return the statement that an EXECUTE stands for."""
    opening = sql.find("(")
    values = arguments_at(sql, opening) if opening >= 0 else []
    parts, last, after_dollar = [], 0, -1
    for kind, text, position in scan(plan.body):
        if kind == "other" and text == "$":
            after_dollar = position
        elif kind == "number" and after_dollar == position - 1 >= 0 and text.isdigit() and int(text) <= len(values):
            parts += [plan.body[last:after_dollar], values[int(text) - 1]]
            last = position + len(text)
    return "".join([*parts, plan.body[last:]])


def calls_in(sql: str) -> Iterator[Call]:
    """Yield the calls of functions that take or give back advisory locks, and those of ``pg_notify``."""
    tokens = list(scan(sql))
    for i, (kind, text, _) in enumerate(tokens[:-1]):
        name = text.lower()
        if kind != "word" or tokens[i + 1][1] != "(" or not is_private(name):
            continue
        arguments = arguments_at(sql, tokens[i + 1][2])
        before = [word.upper() for _, word, _ in tokens[:i]]
        is_alone = before == ["SELECT"] and read(sql).is_bare_call
        yield Call(name, ", ".join(arguments), is_alone)


def only_writer(sql: str) -> tuple[str, bool] | None:
    """Return the one INSERT, UPDATE or DELETE in a WITH whose result is all that the main query reads.

    Also whether the query gives a row for each that was written, so that their number is known.
    """
    text = read(sql)
    found, names = [], set()
    tokens = list(scan(sql))
    for i, (kind, word, _) in enumerate(tokens):
        if kind == "word" and word.upper() == "AS" and i + 1 < len(tokens) and tokens[i + 1][1] == "(":
            names.add(tokens[i - 1][1].lower())
            inner = sql[tokens[i + 1][2] + 1 : closing_at(sql, tokens[i + 1][2])].strip()
            if read(inner).verb in ("INSERT", "UPDATE", "DELETE"):
                found.append(inner)
    if len(found) != 1 or len(text.statements) != 1:
        return None
    if not text.tables - names <= read(found[0]).tables:
        return None
    main = [word for _, word, _ in tokens[max(i for i, token in enumerate(tokens) if token[1] == ")") + 1 :]]
    said = [word.upper() for word in main]
    is_plain = said[:1] == ["SELECT"] and said[-2:-1] == ["FROM"] and main[-1].lower() in names
    return found[0], is_plain and "DISTINCT" not in said
