"""When two virtual connections meet: would production show these rows, or wait for that lock?

One transaction shows every connection what any of them wrote. So when a statement touches a table in which *another*
transaction has uncommitted changes, the two are compared: a SELECT is evaluated on the table as production would show
it, the condition of an UPDATE or DELETE on the rows that the other replaced and wrote. What is too complicated for that
is compared by table. Nobody pays for this who uses one transaction at a time.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from dbtestcase.errors import UncommittedRead
from dbtestcase.frames import user_origin

from . import words
from .evidence import MANY, Evidence, note_old_rows
from .foreign import ForeignKeys
from .ghosts import Ghosts
from .keys import UniqueKeys
from .lexer import Text, name_of, read, scan
from .quoting import quoted, string
from .row_locks import lock_excludes
from .shape import Joined, Shape, joined_update, without_lock
from .table_locks import CHECKED, CREATED, WEAK, excludes
from .transactions import Change, VirtualTransaction

if TYPE_CHECKING:
    from .run import Run
    from .wire import Wire

__all__ = ["MANY", "Conflicts"]


class Conflicts:
    """Compares one statement with what others have not committed.

    Args:
        later: Gets the warnings of what is read only later; ``None`` has them said at once.
    """

    def __init__(
        self,
        core: Wire,
        run: Run,
        transaction: VirtualTransaction,
        *,
        later: list[Callable[[], None]] | None = None,
    ) -> None:
        self._core = core
        self._later = later
        self._run = run
        self._mine = transaction
        self._evidence = Evidence(core, run, transaction)
        self._keys = UniqueKeys(self._evidence, transaction)
        self._foreign = ForeignKeys(self._evidence, transaction)
        self._ghosts = Ghosts(self._evidence, transaction, self._foreign)

    # -- the moments

    def before(self, text: Text, sql: str, parameters: Any) -> None:
        """Compare before the statement is sent."""
        literal = shape = None
        is_read = False
        for other, all_changes in self._run.transactions.changes_of_others(self._mine).items():
            # DDL is a matter of locks on tables.
            changes = [change for change in all_changes if not change.is_ddl]
            touched = self._touched(text, changes)
            near = self._foreign.near(text, changes) if text.writes or text.locks_rows else []
            if not touched and not near:
                continue
            if not is_read:
                literal, is_read = self._evidence.literal(text, sql, parameters), True
                shape = None if literal is None else self._evidence.shape(literal)
            if touched and self._meets(text, literal, shape, other, touched):
                self._warn(other, sql, touched[0])
            elif near and self._foreign.waits_for_children(text, shape, other, near):
                self._warn(other, sql, near[0])
        if not text.is_plain_read and text.verb != "INSERT":
            self._meet_ghosts(text, sql, parameters, by_key=False)
        for other, change in self._mine.missed if not text.is_ddl or "select" in text.names else ():
            if self._touched(text, [change]):
                literal = self._evidence.literal(text, sql, parameters)
                if self._differs_from_snapshot(None if literal is None else self._evidence.shape(literal), change):
                    self._warn(other, sql, change, is_committed=True)

    def _meet_ghosts(self, text: Text, sql: str, parameters: Any, *, by_key: bool) -> None:
        """Compare with work that another connection's rollback took away, and production would still wait for."""
        for other in self._run.transactions.open:
            if other is self._mine or not other.ghosts:
                continue
            ghosts = self._touched(text, other.ghosts) + self._foreign.near(text, other.ghosts)
            literal = self._evidence.literal(text, sql, parameters)
            shape = None if literal is None else self._evidence.shape(literal)
            joined = joined_update(literal) if literal is not None and shape is None else None
            found = next((g for g in ghosts if self._waits_for_ghost(text, shape, g, by_key, joined)), None)
            if found is not None:
                self._warn(other, sql, found)

    def _refer_to_ghosts(self, sql: str, mine: list[Change], *, deferred: bool) -> None:
        for other in self._run.transactions.open:
            if other is not self._mine and other.ghosts:
                found = self._ghosts.refers(mine, other.ghosts, deferred=deferred)
                if found is not None:
                    self._warn(other, sql, found)

    def table_locks(self, text: Text, sql: str, parameters: Any) -> None:
        """Compare the locks on whole tables: ALTER, DROP and TRUNCATE wait for everybody who so much as read one."""
        wanted = text.table_locks
        is_strong = any(mode not in WEAK for _, mode in wanted)
        for other in self._run.transactions.open:
            if other is self._mine or not (is_strong or any(mode not in WEAK for _, mode in other.locks)):
                continue
            changes = self._run.transactions.changes_of(other)
            checked = self._foreign.looked_at(changes + other.ghosts)
            held = {*other.locks, *((table, CHECKED) for table in checked)}
            gone = _created_and_dropped(changes)
            if other.doomed is not None:
                gone |= {table for table, mode in held if mode == CREATED}
            for table, mode in wanted:
                same = self._evidence.catalog.same_rows(frozenset([table])) - gone
                if any(name in same and excludes(mode, theirs) for name, theirs in held):
                    self._say(other, table, words.would_wait, sql)
            closed = frozenset(table for table, theirs in held if excludes(CHECKED, theirs)) - gone
            if closed and text.writes:
                literal = self._evidence.literal(text, sql, parameters)
                shape = None if literal is None else self._evidence.shape(literal)
                for table in sorted(self._foreign.checked_by(text, shape, closed)):
                    self._say(other, table, words.would_wait, sql)

    def note_old_rows(self, text: Text, sql: str, parameters: Any) -> str | None:
        """Return what the statement is about to replace, so that others can be told what they would still see."""
        return note_old_rows(self._evidence, self._evidence.literal(text, sql, parameters))

    def after(self, text: Text, sql: str, parameters: Any) -> None:
        """Compare the keys that an INSERT or UPDATE used."""
        if not text.written:
            return
        if text.verb in ("INSERT", "UPDATE"):
            self._meet_ghosts(text, sql, parameters, by_key=True)
        self._refer_to_ghosts(sql, self._run.transactions.changes_of(self._mine)[-1:], deferred=False)
        literal = self._evidence.literal(text, sql, parameters)
        shape = None if literal is None else self._evidence.shape(literal)
        for other, changes in self._run.transactions.changes_of_others(self._mine).items():
            real = [change for change in changes if not change.locked_only]
            found = self._keys.waits(text, shape, other, real)
            mine = self._run.transactions.changes_of(self._mine)[-1:]
            found = found or self._foreign.refers(mine, other, changes, deferred=False)
            if found is not None:
                self._warn(other, sql, found)

    def serialization(self, sql: str, written: frozenset[str]) -> None:
        """Two SERIALIZABLE transactions that each read what the other wrote cannot both commit in production."""
        if self._mine.isolation != "SERIALIZABLE":
            return
        theirs: dict[VirtualTransaction, set[str]] = {}
        for other, change in self._mine.missed:
            if other.isolation == "SERIALIZABLE":
                theirs.setdefault(other, set()).update(change.tables)
        same_rows = self._evidence.catalog.same_rows
        for other, tables in theirs.items():
            read_by_me = tables & same_rows(frozenset(table for table, _ in self._mine.locks))
            read_by_them = written & same_rows(frozenset(table for table, _ in other.locks))
            if read_by_me and read_by_them:
                self._say(other, ", ".join(sorted(read_by_me)), words.committed_meanwhile, sql)

    def not_due_at_commit(self) -> frozenset[str]:
        """Return the deferred foreign keys that this transaction cannot have violated."""
        mine = self._run.transactions.changes_of(self._mine)
        keys = [key for key in self._evidence.catalog.foreign_keys if not self._foreign.may_violate(key, mine)]
        return frozenset(key.name for key in keys)

    def at_commit(self, error: BaseException | None = None) -> None:
        """Compare the foreign keys that are checked at COMMIT.

        Args:
            error: With which the check ended.
        """
        if error is not None:
            self._foreign.stop_at(error)
        mine = self._run.transactions.changes_of(self._mine)
        self._refer_to_ghosts("COMMIT", mine, deferred=True)
        for other, changes in self._run.transactions.changes_of_others(self._mine).items():
            found = self._foreign.refers(mine, other, changes, deferred=True)
            if found is not None:
                self._warn(other, "COMMIT", found)

    def after_error(
        self,
        sql: str,
        error: BaseException,
        *,
        text: Text | None = None,
        parameters: Any = MANY,
        at_commit: bool = False,
    ) -> None:
        """Say so if the error came of rows that the connection would not have met."""
        state = self._core.driver.sqlstate(error)
        if state not in ("23505", "23503", "23P01"):
            return
        if text is not None and text.verb in ("INSERT", "UPDATE"):
            self._meet_ghosts(text, sql, parameters, by_key=True)
        literal = self._evidence.literal(text, sql, parameters) if text is not None and state == "23505" else None
        shape = None if literal is None else self._evidence.shape(literal)
        for other, changes in self._run.transactions.changes_of_others(self._mine).items():
            if shape is not None and shape.kind == "insert":
                on_table = [change for change in changes if shape.name in change.tables]
                met = self._keys.meets_before_duplicate(shape, other, on_table) if on_table else False
                if met:
                    self._warn(other, sql, on_table[0])
                if met is not None:
                    continue
            for change in changes:
                if change.locked_only:
                    continue
                if (
                    self._foreign.may_have_broken_reference(error, other, change, at_commit)
                    if state == "23503"
                    else self._keys.may_have_caused(error, other, change)
                ):
                    self._warn(other, sql, change)
                    break

    # -- rules

    def _touched(self, text: Text, changes: list[Change]) -> list[Change]:
        same_rows, gone = self._evidence.catalog.same_rows, _created_and_dropped(changes)
        return [change for change in changes if same_rows(change.tables - gone) & text.tables]

    def _meets(
        self, text: Text, literal: str | None, shape: Shape | None, other: VirtualTransaction, changes: list[Change]
    ) -> bool:
        """Whether production would give the statement other rows, or have it wait."""
        if text.is_plain_read:
            real = [change for change in changes if not change.locked_only]
            if not real or literal is None:
                return bool(real)
            if shape is not None and self._is_disjoint(shape, real):
                return False
            differs = self._reads_otherwise(literal, text, other, real)
            if differs is None:
                differs = self._reads_otherwise_aside(literal, text)
            if differs is not None:
                return differs
            return self._meets_by_shape(shape, other, real)
        if shape is None:
            joined = joined_update(literal) if literal is not None else None
            return joined is None or self._meets_joined(joined, text, other, changes)
        if shape.kind == "insert":
            return False  # it reads nothing; its keys are looked at afterwards
        if shape.kind == "upsert":
            return self._keys.meets_rows(shape, other, changes)
        lock = self._row_lock(text, shape)
        for change in changes:
            if (
                change.locked_only
                and lock_excludes(lock, read(change.sql).row_lock)
                and self._meets_lock(shape, self._evidence.shape_of_change(change))
            ):
                return True
        real = [change for change in changes if not change.locked_only]
        if not real or self._is_disjoint(shape, real):
            return False
        if (
            shape.kind == "select"
            and literal is not None
            and not any(lock_excludes(lock, self._row_lock_of(change)) for change in real)
        ):
            # It would not wait, but read the rows as they were.
            return self._reads_otherwise(without_lock(literal), text, other, real) is not False
        if text.skips_locked:
            # Rows as they were are passed over in production; what the other wrote instead is not there yet.
            written = self._evidence.written_by(other, shape.alias)
            where = f"({shape.where})" if shape.where else "true"
            return written is None or self._evidence.finds(
                f"SELECT 1 FROM {shape.table} WHERE {where} AND {written} LIMIT 1"
            )
        return self._meets_by_shape(shape, other, real)

    def _row_lock_of(self, change: Change) -> str:
        """Return the lock that an uncommitted change holds on its rows."""
        shape = self._evidence.shape_of_change(change)
        return "UPDATE" if shape is None or shape.kind != "update" else self._row_lock(read(change.sql), shape)

    def _row_lock(self, text: Text, shape: Shape) -> str:
        """Return the lock that a statement takes on its rows."""
        if shape.kind == "select":
            return text.row_lock
        is_key = shape.kind == "delete" or shape.columns & self._evidence.catalog.unique_columns(shape.name)
        return "UPDATE" if is_key else "NO KEY UPDATE"

    def _meets_joined(self, joined: Joined, text: Text, other: VirtualTransaction, changes: list[Change]) -> bool:
        """Whether an UPDATE with FROM would change other rows, or otherwise, or have to wait for one of its rows."""
        target = self._evidence.catalog.same_rows(frozenset([joined.name]))
        for change in changes:
            theirs = self._evidence.shape_of_change(change)
            if change.locked_only and change.tables & target and lock_excludes("UPDATE", read(change.sql).row_lock):
                where = f" WHERE {theirs.where}" if theirs is not None and theirs.where else ""
                if theirs is None or self._evidence.finds(
                    f"SELECT 1 FROM {joined.source} AND {joined.alias}.ctid IN "
                    f"(SELECT {theirs.alias}.ctid FROM {theirs.table}{where}) LIMIT 1"
                ):
                    return True
        real = [change for change in changes if not change.locked_only]
        if not real:
            return False
        if any(change.tables & target for change in real):
            written = self._evidence.written_by(other, joined.alias)
            if written is None or self._evidence.finds(f"SELECT 1 FROM {joined.source} AND {written} LIMIT 1"):
                return True
        select = f"SELECT {', '.join((f'{joined.alias}.*', *joined.values))} FROM {joined.source}"
        return self._reads_otherwise(select, text, other, real) is not False

    def _waits_for_ghost(
        self, text: Text, shape: Shape | None, ghost: Change, by_key: bool, joined: Joined | None
    ) -> bool:
        """Whether the statement would wait for a transaction whose work the sandbox has lost."""
        theirs = self._evidence.shape_of_change(ghost)
        if any(statement.temporary for statement in read(ghost.sql).statements):
            return False  # nobody else has ever seen it
        if ghost.is_ddl and shape is not None and shape.name not in ghost.tables:
            return bool(self._foreign.checked_by(text, shape, ghost.tables))
        if shape is None and joined is not None and theirs is not None and theirs.name != joined.name:
            return not ghost.locked_only
        if shape is None or theirs is None:
            return True
        if theirs.name != shape.name:
            return not by_key and self._ghosts.meets_child(text, shape, theirs)
        if ghost.locked_only and (by_key or shape.kind == "insert"):
            return shape.kind == "upsert" and self._ghosts.meets(shape, theirs)
        if by_key:
            taken = self._ghosts.takes_key if shape.kind == "update" else self._ghosts.meets
            return taken(shape, theirs)
        if theirs.kind == "upsert":
            return _may_match_upsert(shape, theirs)
        return theirs.kind != "insert" and self._meets_lock(shape, theirs)

    def _is_disjoint(self, shape: Shape, changes: list[Change]) -> bool:
        if shape.kind in ("insert", "upsert"):
            return False
        for change in changes:
            theirs = self._evidence.shape_of_change(change)
            if theirs is None or theirs.name != shape.name:
                return False
            if theirs.kind == "insert":
                if theirs.rows is None or any(_may_match(shape, row) for row in theirs.rows):
                    return False
            elif theirs.kind == "upsert":
                if _may_match_upsert(shape, theirs):
                    return False
            elif not shape.cannot_meet(theirs, changed=theirs.columns):
                return False
        return True

    def _reads_otherwise(
        self, literal: str, text: Text, other: VirtualTransaction, changes: list[Change]
    ) -> bool | None:
        """Evaluate a SELECT on the tables as they are and as production would show them; None if it cannot be done."""
        views = self._views_of(text, frozenset().union(*(change.tables for change in changes)) - text.tables)
        if views is None:
            return None
        shadows = []
        for table in sorted(frozenset().union(*(change.tables for change in changes))):
            if _is_qualified(literal, table):
                return None
            on_table = [change for change in changes if table in change.tables]
            if any(
                not c.is_effect and not read(c.sql).counts_rows and self._evidence.shape_of_change(c) is None
                for c in on_table
            ):
                return None
            written = self._evidence.written_by(other, "x")
            old = self._evidence.old_rows(other, table, on_table) if written is not None else None
            if written is None or old is None:
                return None
            name = quoted(table)
            shadows.append(
                f"{name} AS MATERIALIZED (SELECT x.* FROM {name} x WHERE NOT {written} "
                f"UNION ALL SELECT * FROM jsonb_populate_recordset(NULL::{name}, {string(old)}))"
            )
        shadows += views
        select = literal.rstrip().rstrip(";")
        production = f"WITH {', '.join(shadows)} SELECT q::text FROM ({select}) q"
        here = f"SELECT q::text FROM ({select}) q"
        rows = self._evidence.probe(
            f"SELECT 1 FROM (({production}) EXCEPT ALL ({here})) a UNION ALL "
            f"SELECT 1 FROM (({here}) EXCEPT ALL ({production})) b LIMIT 1"
        )
        return None if rows is None else bool(rows)

    def _views_of(self, text: Text, tables: frozenset[str]) -> list[str] | None:
        """Return the views through which a statement reads tables, to stand beside those; None if it cannot be told."""
        views = []
        for view in sorted(text.tables) if tables else ():
            found = self._evidence.probe(
                f"SELECT pg_get_viewdef(c.oid, true) FROM pg_class c WHERE oid = to_regclass({string(quoted(view))}) "
                "AND relkind = 'v'"
            )
            if not found:
                continue
            definition = str(found[0][0]).rstrip().rstrip(";")
            if any(_is_qualified(definition, table) for table in tables):
                return None
            tables -= read(definition).tables
            views.append(f"{quoted(view)} AS ({definition})")
        return None if tables else views

    def _reads_otherwise_aside(self, literal: str, text: Text) -> bool | None:
        """Evaluate a SELECT on a connection that sees nothing of the test, if nobody else has changed its tables."""
        tables = self._evidence.catalog.same_rows(text.tables)
        mine = self._run.transactions.changes_of(self._mine)
        if tables & self._run.transactions.committed_tables() or tables & self._run.altered:
            return None
        if any(change.tables & tables or not change.tables for change in mine):
            return None
        select = f"SELECT q::text FROM ({literal.rstrip().rstrip(';')}) q"
        production, here = self._core.query_aside(select), self._evidence.probe(select)
        if production is None or here is None:
            return None
        return sorted(production) != sorted(here)

    def _meets_by_shape(self, shape: Shape | None, other: VirtualTransaction, changes: list[Change]) -> bool:
        """Whether the condition holds for a row that the other wrote, or for one that it replaced."""
        if shape is None:
            return True
        evidence = self._evidence
        for change in changes:
            theirs = evidence.shape_of_change(change)
            if theirs is None and not (read(change.sql).counts_rows and change.tables == {shape.name}):
                return True
            if theirs is not None and theirs.name != shape.name:
                return True
        written = evidence.written_by(other, shape.alias)
        if written is None:
            return True
        where = f"({shape.where})" if shape.where else "true"
        if evidence.finds(f"SELECT 1 FROM {shape.table} WHERE {where} AND {written} LIMIT 1"):
            return True
        old = evidence.old_rows(other, shape.name, changes)
        if old is not None:
            return evidence.finds(
                f"SELECT 1 FROM jsonb_populate_recordset(NULL::{shape.bare_table}, {string(old)}) AS {shape.alias} "
                f"WHERE {where} LIMIT 1"
            )
        for change in changes:
            theirs = evidence.shape_of_change(change)
            if theirs is None or (theirs.kind == "upsert" and _may_match_upsert(shape, theirs)):
                return True
            if theirs.kind == "delete" and not shape.cannot_meet(theirs):
                return True
            hidden = theirs.columns & shape.mentioned if theirs.kind == "update" else None
            if hidden and not shape.cannot_meet(theirs, changed=theirs.columns):
                return True
        return False

    def _meets_lock(self, shape: Shape, theirs: Shape | None) -> bool:
        if theirs is None:
            return True
        if shape.name != theirs.name or shape.cannot_meet(theirs):
            return False
        if shape.alias != theirs.alias:
            return True
        both = " AND ".join(f"({where})" for where in (shape.where, theirs.where) if where) or "true"
        return self._evidence.finds(f"SELECT 1 FROM {shape.table} WHERE {both} LIMIT 1")

    def _differs_from_snapshot(self, shape: Shape | None, change: Change) -> bool:
        theirs = self._evidence.shape_of_change(change)
        if shape is None or theirs is None or shape.name != theirs.name:
            return True
        return shape.kind != "insert" and not self._is_disjoint(shape, [change])

    # -- the warning

    def _warn(self, other: VirtualTransaction, sql: str, change: Change, *, is_committed: bool = False) -> None:
        table = ", ".join(sorted(change.tables)) or "a table"
        self._say(other, table, words.committed_meanwhile if is_committed else words.uncommitted_read, sql)

    def _say(self, other: VirtualTransaction, table: str, sentence_of: Callable[..., str], sql: str) -> None:
        """Warn, once per pair of connections and table."""
        key = (self._mine.label, other.label, table, sentence_of)
        sentence = sentence_of(self._core.owner, self._mine, other, sql, table)

        def say() -> None:
            if key not in self._run.warned:
                self._run.warned.add(key)
                origin = user_origin()
                warnings.warn_explicit(sentence, UncommittedRead, origin.filename, max(origin.line, 1))

        if self._later is None:
            say()
        else:
            self._later.append(say)


def _may_match(shape: Shape, row: dict[str, str | None]) -> bool:
    return not any(column in row and row[column] != value for column, value in shape.equal)


def _may_match_upsert(shape: Shape, theirs: Shape) -> bool:
    """Whether a condition may hold for a row that ON CONFLICT found."""
    if not theirs.arbiter or theirs.rows is None:
        return True
    keys = [{column: row[column] for column in theirs.arbiter if column in row} for row in theirs.rows]
    return any(_may_match(shape, key) for key in keys)


def _is_qualified(literal: str, table: str) -> bool:
    """Whether a table may be named with its schema, so that nothing else can stand in for it."""
    tokens = list(scan(literal))
    names = [name_of(*token[:2]) if token[0] in ("word", "quoted") else token[1] for token in tokens]
    # What also stands alone is a table or an alias, and the name behind its dot a column.
    alone = {name for name, after in zip(names, [*names[1:], ""], strict=True) if after != "."}
    return any(names[i] == table and names[i - 1] == "." and names[i - 2] not in alone for i in range(2, len(names)))


def _created_and_dropped(changes: list[Change]) -> frozenset[str]:
    """Return the tables that a transaction made and removed again: nobody else has ever heard of them."""
    verbs: dict[str, list[str]] = {}
    for change in changes:
        if change.is_ddl:
            for table in change.tables:
                verbs.setdefault(table, []).append(change.sql.split(None, 1)[0].upper())
    return frozenset(table for table, said in verbs.items() if (said[0], said[-1]) == ("CREATE", "DROP"))
