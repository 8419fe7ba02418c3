"""The rules: many virtual transactions on one savepoint stack. No I/O, standard library only.

PostgreSQL gives a test one transaction. Inside it stands a stack of savepoints, and the stretch of work above a
savepoint, up to the next one, is a :class:`Segment`. Each segment holds the work of exactly one virtual transaction, or
of finished ones, so a rollback can tell what it would take with it:

* A transaction gets a segment at its first statement, a SELECT too, so that an SQL error never dooms the test. One in
  which nothing has been written is passed on instead of stacked upon.
* A commit sends nothing: the segment is marked as kept, and is merged into what lies below when the next one is opened.
* A rollback returns to the lowest segment in which the transaction wrote. What others wrote above it goes too, and that
  is what one connection cannot give: :class:`Loss` names both sides. Others that only read get a new segment, silently.
* An SQL error undoes what PostgreSQL would undo; the transaction is failed until it is rolled back, the others go on.
* Savepoints of the user are levels of a transaction; their names never reach the server.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from time import monotonic

GUARD = "dbtestcase_guard"
OPEN_SQL = f"BEGIN; SAVEPOINT {GUARD}"
CLOSE_SQL = f"ROLLBACK TO {GUARD}; ROLLBACK"


class VirtualTransaction:
    """What one connection did since its last commit or rollback. No dataclass: its factories cost each test."""

    __slots__ = ("begun", "doomed", "failed", "ghosts", "isolation", "label", "last_statement", "levels",
                 "local_settings", "locks", "missed", "origin", "read_only", "settings", "statements")  # fmt: skip

    def __init__(self, label: str, origin: object = "", *, isolation: str = "", read_only: bool = False) -> None:
        self.label = label
        self.origin = origin
        self.isolation = isolation
        self.read_only = read_only
        self.begun = monotonic()
        self.levels: list[str] = []
        self.failed = False
        self.doomed: Loss | None = None
        self.statements = 0
        self.last_statement = ""
        self.locks: dict[tuple[str, str], int] = {}
        self.ghosts: list[Change] = []
        self.settings: dict[str, str | None] = {}
        self.local_settings: dict[str, str | None] = {}
        self.missed: list[tuple[VirtualTransaction, Change]] = []

    @property
    def level(self) -> int:
        return len(self.levels)

    @property
    def snapshot_stands(self) -> bool:
        """Whether production would go on showing it what was there at its first statement."""
        return self.isolation in ("REPEATABLE READ", "SERIALIZABLE") and self.statements > 0


@dataclass(frozen=True, eq=False, slots=True)
class Change:
    """A statement that wrote, or that locked rows (then ``locked_only``).

    ``is_effect``: what it wrote besides, by triggers and the like; then ``tables`` are those.
    """

    sql: str
    parameters: object
    tables: frozenset[str]
    is_certain: bool
    rowcount: int = -1
    locked_only: bool = False
    is_ddl: bool = False
    is_effect: bool = False
    old_rows: str | None = None


@dataclass(eq=False, slots=True)
class Segment:
    """The work above one savepoint. ``owner`` None: finished (kept if ``dirty``, free for the next if not)."""

    name: str
    owner: VirtualTransaction | None
    level: int = 0
    dirty: bool = False
    pinned: bool = False
    changes: list[Change] = field(default_factory=list)
    authors: list[VirtualTransaction] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Loss:
    """A rollback of ``culprit`` took the work of ``victim`` with it."""

    victim: VirtualTransaction
    culprit: VirtualTransaction
    committed: bool

    def __str__(self) -> str:
        state = "had already committed" if self.committed else "had not finished yet"
        return (
            f"the rollback of {describe(self.culprit)} took with it what {describe(self.victim)} {state}. "
            "Both run on the one connection of the test, and a rollback there undoes all that came later; two real "
            "connections would have kept it.\nEnd the first transaction before the second one writes, or set "
            'isolation = "clone" on the test class: then every connection is a real one.'
        )


class Doomed(Exception):
    """Raised for anything but a rollback in a transaction whose work was taken away."""

    def __init__(self, loss: Loss) -> None:
        super().__init__(str(loss))
        self.loss = loss


class Failed(Exception):
    """Raised for anything but a rollback after an SQL error."""


class NoSuchSavepoint(Exception):
    """The transaction has no savepoint of this name."""


# How messages quote a statement; whoever knows which values must not be shown puts another function here.
shown: Callable[[str], str] = str


def describe(transaction: VirtualTransaction) -> str:
    """Return a transaction as a person would name it."""
    opened = f", begun at {transaction.origin}" if transaction.origin else ""
    last = f", last statement {shown(transaction.last_statement)!r}" if transaction.last_statement else ""
    return f"{transaction.label}{opened}{last}"


class Transactions:
    """The savepoint stack of one test. Methods return the SQL to send, in order; the caller sends it in one go."""

    def __init__(self) -> None:
        self.stack: list[Segment] = []
        self.is_open = False
        self.base_tables: set[str] = set()
        self.open: set[VirtualTransaction] = set()
        self._count = 0

    # -- statements

    def before_statement(self, transaction: VirtualTransaction) -> list[str]:
        """Make the top segment one that ``transaction`` may work in.

        Raises:
            Doomed: Another rollback took its work away.
            Failed: An SQL error came before, and nothing was rolled back since.
        """
        if transaction.doomed is not None:
            raise Doomed(transaction.doomed)
        if transaction.failed:
            raise Failed
        self.open.add(transaction)
        top = self.stack[-1] if self.stack else None
        if top is not None:
            level = len(transaction.levels)
            if top.owner is transaction and top.level == level:
                return []
            if not (top.dirty or top.pinned or top.changes):
                top.owner, top.level = transaction, level
                return []
        return self._push(transaction)

    def flatten(self, transaction: VirtualTransaction) -> None:
        """End all levels, as a commit does first."""
        transaction.levels.clear()
        for segment in self._segments_of(transaction):
            segment.level = 0

    def after_statement(
        self, transaction: VirtualTransaction, *, change: Change | None = None, pinned: bool = False
    ) -> None:
        """Note what a statement did that went well; ``pinned``: it left a cursor that lives in the segment."""
        transaction.statements += 1
        top = self.stack[-1]
        if pinned:
            top.pinned = True
        if change is None:
            return
        top.changes.append(change)
        if not change.locked_only:
            if not top.authors or top.authors[-1] is not transaction:
                top.authors.append(transaction)
            top.dirty = True

    def after_error(self) -> list[str]:
        """Undo the top segment, in which a statement failed, so that the server listens again."""
        return self._return_to(len(self.stack) - 1, keep_owner=True)

    def fail(self, transaction: VirtualTransaction) -> tuple[list[str], list[Loss]]:
        """Undo what an SQL error undoes: all since the newest savepoint of the user, or else all of the transaction."""
        transaction.failed = True
        if not transaction.level:
            transaction.ghosts.clear()
        return self._undo(transaction, transaction.level)

    # -- the end of a transaction

    def commit(self, transaction: VirtualTransaction) -> None:
        """Keep what the transaction wrote.

        Raises:
            Doomed: There is nothing left to keep.
        """
        if transaction.doomed is not None:
            raise Doomed(transaction.doomed)
        self.open.discard(transaction)
        unaware = [other for other in self.open if other.snapshot_stands]
        for segment in self.stack:
            if segment.owner is transaction:
                segment.owner, segment.level = None, 0
                for other in unaware:
                    other.missed += [(transaction, change) for change in segment.changes if not change.locked_only]

    def rollback(self, transaction: VirtualTransaction) -> tuple[list[str], list[Loss]]:
        """Undo what the transaction wrote; also say what others lost by it."""
        self.open.discard(transaction)
        sql, losses = self._undo(transaction, 0)
        transaction.levels.clear()
        transaction.failed, transaction.doomed = False, None
        transaction.ghosts.clear()
        return sql, losses

    # -- savepoints of the user

    def savepoint(self, transaction: VirtualTransaction, name: str) -> None:
        """Begin a level; its segment comes with its first statement."""
        if transaction.doomed is not None:
            raise Doomed(transaction.doomed)
        if transaction.failed:
            raise Failed
        transaction.levels.append(name)

    def release(self, transaction: VirtualTransaction, name: str) -> None:
        """End the newest level of this name and all above it; their work joins the level below."""
        if transaction.doomed is not None:
            raise Doomed(transaction.doomed)
        if transaction.failed:
            raise Failed
        depth = self._level_of(transaction, name)
        for segment in self._segments_of(transaction):
            segment.level = min(segment.level, depth)
        transaction.locks = {lock: min(at, depth) for lock, at in transaction.locks.items()}
        del transaction.levels[depth:]

    def rollback_to(self, transaction: VirtualTransaction, name: str) -> tuple[list[str], list[Loss]]:
        """Undo the newest level of this name and all above it; the level itself stays."""
        if transaction.doomed is not None:
            raise Doomed(transaction.doomed)
        depth = self._level_of(transaction, name)
        sql, losses = self._undo(transaction, depth + 1)
        del transaction.levels[depth + 1 :]
        transaction.failed = False
        return sql, losses

    # -- questions

    def is_contested(self, transaction: VirtualTransaction) -> bool:
        """Whether another open transaction wrote or locked rows, so that a statement may see what it should not."""
        if transaction.missed or any(other.ghosts and other is not transaction for other in self.open):
            return True
        return any(s.changes and s.owner is not None and s.owner is not transaction for s in self.stack)

    def committed_tables(self) -> frozenset[str]:
        """Return the tables with changes that were committed earlier in this test, or by what was merged downwards."""
        kept = set(self.base_tables)
        for segment in self.stack:
            if segment.owner is None:
                kept.update(*(change.tables for change in segment.changes if not change.locked_only))
        return frozenset(kept)

    def changes_of_others(self, transaction: VirtualTransaction) -> dict[VirtualTransaction, list[Change]]:
        """Return what the other open transactions wrote or locked."""
        found: dict[VirtualTransaction, list[Change]] = {}
        for segment in self.stack:
            if segment.owner is not None and segment.owner is not transaction and segment.changes:
                found.setdefault(segment.owner, []).extend(segment.changes)
        return found

    def owners_of_ids(self, count: int) -> list[VirtualTransaction | None] | None:
        """Return who owns so many newest transaction ids of the server, oldest first; None if that cannot be told.

        The server gives one to each savepoint in which something is written, after those below it, so they belong to
        the lower end of the stack. Rows of what was merged into a segment have ids between its own and the next.
        """
        certain = [i for i, s in enumerate(self.stack) if any(change.is_certain for change in s.changes)]
        if count > len(self.stack) or (certain and certain[-1] >= count):
            return None
        return [segment.owner for segment in self.stack[:count]]

    def has_work_of(self, transaction: VirtualTransaction) -> bool:
        """Whether a commit would have something to keep."""
        return any(segment.dirty and segment.owner is transaction for segment in self.stack)

    def only_reads_below_others(self, transaction: VirtualTransaction) -> bool:
        """Whether it wrote nothing, and another has worked since it began."""
        mine = [index for index, segment in enumerate(self.stack) if segment.owner is transaction]
        return (
            bool(mine)
            and not any(self.stack[index].dirty for index in mine)
            and any(segment.owner is not transaction for segment in self.stack[mine[0] :])
        )

    def unpin(self, transaction: VirtualTransaction) -> None:
        """Note that the cursors in its segments have been closed."""
        for segment in self._segments_of(transaction):
            segment.pinned = False

    def is_on_top(self, transaction: VirtualTransaction) -> bool:
        """Whether the top segment is the transaction's, so that nothing more is needed to work in it."""
        return bool(self.stack) and self.stack[-1].owner is transaction

    def changes_of(self, transaction: VirtualTransaction) -> list[Change]:
        """Return what the transaction wrote."""
        changes = [change for segment in self._segments_of(transaction) for change in segment.changes]
        return [change for change in changes if not change.locked_only]

    # -- the stack itself

    def _segments_of(self, transaction: VirtualTransaction) -> Iterator[Segment]:
        return (segment for segment in self.stack if segment.owner is transaction)

    @staticmethod
    def _level_of(transaction: VirtualTransaction, name: str) -> int:
        for depth in range(transaction.level - 1, -1, -1):
            if transaction.levels[depth] == name:
                return depth
        raise NoSuchSavepoint(name)

    def _push(self, transaction: VirtualTransaction) -> list[str]:
        if not self.is_open:
            self.is_open = True
            # The guard serves as the first segment: it is returned to, and never released.
            self.stack.append(Segment(GUARD, transaction, transaction.level))
            return [OPEN_SQL]
        sql = []
        mergeable = self._mergeable_from()
        if mergeable < len(self.stack):
            sql.append(f"RELEASE {self.stack[mergeable].name}")
            self._merge(mergeable)
        self._count += 1
        segment = Segment(f"dbtestcase_{self._count}", transaction, transaction.level)
        self.stack.append(segment)
        sql.append(f"SAVEPOINT {segment.name}")
        return sql

    def _mergeable_from(self) -> int:
        """Return the index from which on all segments may be released into the one below."""
        index = len(self.stack)
        while index > 1:
            upper, below = self.stack[index - 1], self.stack[index - 2]
            if upper.owner is not below.owner or upper.level != below.level:
                break
            index -= 1
        return index

    def _merge(self, index: int) -> None:
        upper = self.stack[index:]
        del self.stack[index:]
        below = self.stack[-1]
        for segment in upper:
            below.dirty = below.dirty or segment.dirty
            below.pinned = below.pinned or segment.pinned
            if index == 1 and below.owner is None:
                # Nothing can take it away any more.
                self.base_tables.update(*(change.tables for change in segment.changes))
                continue
            below.changes.extend(segment.changes)
            below.authors.extend(author for author in segment.authors if author not in below.authors)

    def _undo(self, transaction: VirtualTransaction, level: int) -> tuple[list[str], list[Loss]]:
        # What it had locked in the meantime is free again.
        transaction.locks = {lock: at for lock, at in transaction.locks.items() if at < level}
        losses: list[Loss] = []
        sql: list[str] = []
        for index, segment in enumerate(self.stack):
            if segment.owner is transaction and segment.level >= level:
                if segment.dirty or segment.pinned:
                    losses = self._losses_above(index, transaction)
                    sql = self._return_to(index)
                    break
                segment.owner, segment.level = None, 0
        return sql, losses

    def _losses_above(self, index: int, culprit: VirtualTransaction) -> list[Loss]:
        losses: list[Loss] = []
        for segment in self.stack[index:]:
            if segment.owner is culprit:
                continue
            if segment.owner is None and segment.dirty:
                losses.extend(Loss(author, culprit, True) for author in segment.authors)
            elif segment.owner is not None and (segment.dirty or segment.pinned) and segment.owner.doomed is None:
                segment.owner.doomed = Loss(segment.owner, culprit, False)
            if segment.owner is not None:
                segment.owner.ghosts.extend(segment.changes)
        return losses

    def _return_to(self, index: int, *, keep_owner: bool = False) -> list[str]:
        segment = self.stack[index]
        del self.stack[index + 1 :]
        if not keep_owner:
            segment.owner, segment.level = None, 0
        segment.dirty = segment.pinned = False
        segment.changes, segment.authors = [], []
        return [f"ROLLBACK TO {segment.name}"]
