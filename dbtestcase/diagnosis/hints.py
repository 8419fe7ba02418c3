"""What to do about the usual mistakes: a sentence to add to the error of a failing test.

Most come from tests that ran on SQLite before, which lets through what PostgreSQL refuses.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from dbtestcase.diagnosis.sqltext import text_of
from dbtestcase.diagnosis.statements import Statement
from dbtestcase.diagnosis.suspicions import suspicion

Names = Callable[[], Iterable[str]]


@dataclass(frozen=True, slots=True)
class Facts:
    """A database error, whatever raised it."""

    sqlstate: str
    message: str
    detail: str
    sql: str
    table: str
    column: str
    constraint: str
    tables: Names


def hint_for(error: BaseException, *, tables: Names = tuple, statements: Sequence[Statement] = ()) -> str | None:
    """Return what to do about an error, ``None`` if there is nothing to say that the error does not.

    Args:
        tables: Gives the names of the tables in the database; called only if a table was not found.
        statements: What the test has sent.
    """
    for each in _chain(error):
        found = _orm_hint(each)
        if found is not None:
            return found
        facts = _facts(each, tables)
        if facts is not None:
            hint = _BY_STATE.get(facts.sqlstate)
            return hint(facts) if hint is not None else None
    return suspicion(error, statements)


def _chain(error: BaseException) -> list[BaseException]:
    """Return an error and the errors that it was raised from."""
    chain: list[BaseException] = []
    current: BaseException | None = error
    while current is not None and current not in chain:
        chain.append(current)
        current = current.__cause__ or (None if current.__suppress_context__ else current.__context__)
    return chain


def _facts(error: BaseException, tables: Names) -> Facts | None:
    original = getattr(error, "orig", None) or error
    state = getattr(original, "sqlstate", None) or getattr(original, "pgcode", None)
    if not isinstance(state, str):
        return None
    diag: Any = getattr(original, "diag", None)

    def field(name: str) -> str:
        return str(getattr(diag, name, None) or "")

    return Facts(
        sqlstate=state,
        message=field("message_primary") or str(original),
        detail=field("message_detail"),
        sql=text_of(getattr(error, "statement", None) or ""),
        table=field("table_name"),
        column=field("column_name"),
        constraint=field("constraint_name"),
        tables=tables,
    )


# -- what the database refuses


def _undefined_table(facts: Facts) -> str:
    wanted = _quoted(facts.message).rpartition(".")[2]
    there = sorted(facts.tables())
    if not there:
        return (
            f"the database has no tables. Does the class's 'schema' name what creates {wanted!r}, and was the module "
            "with the models imported before? A model is in its MetaData only once its module has been imported."
        )
    if wanted in there:
        return (
            f"there is a table {wanted!r}, but its schema is not in search_path, where names are looked for. "
            "Name the schema, as in MetaData(schema=...), or set the search_path."
        )
    same = [name for name in there if name.lower() == wanted.lower()]
    if same:
        return (
            f"there is a table {same[0]!r}: PostgreSQL folds names without quotes to lower case. "
            f'Write "{same[0]}" with double quotes.'
        )
    near = difflib.get_close_matches(wanted, there, 3)
    guess = f"Is one of these meant: {', '.join(near)}? " if near else f"There are: {_some(there)}. "
    return (
        f"{guess}If {wanted!r} is right, import the module of its model before the schema is created, "
        "or add the migration that makes it."
    )


def _undefined_column(facts: Facts) -> str | None:
    name = _quoted(facts.message)
    if name and f'"{name}"' in facts.sql and "." not in name:
        return (
            f"double quotes hold names in PostgreSQL, never text. If {name!r} is a value, write '{name}' in single "
            "quotes, or better give it as a parameter. (SQLite takes it for text.)"
        )
    return None


def _foreign_key(facts: Facts) -> str:
    if "still referenced" in facts.detail:
        return (
            "rows of another table still point to this one; delete them first, or declare cascade='all, delete-orphan' "
            "on the relationship or ondelete='CASCADE' on the foreign key. (SQLite does not check foreign keys.)"
        )
    return (
        f"{facts.detail or 'the row that the key points to does not exist'} Add and flush that row first; with the "
        "ORM, set the relationship to the object instead of the key to a number. (SQLite does not check foreign keys.)"
    )


def _not_null(facts: Facts) -> str:
    name = f"{facts.table}.{facts.column}" if facts.table else repr(facts.column)
    if facts.column.endswith("_id"):
        return (
            f"{name} got no value: set the relationship before the flush, or add the object it refers to to the same "
            "session. A parent that loses a child sets this to NULL too; cascade='all, delete-orphan' deletes it."
        )
    return (
        f"{name} got no value. Give it one where the object is made, or a default in the model (default=..., or "
        "server_default=... if rows are inserted without the ORM)."
    )


def _unique(facts: Facts) -> str:
    if facts.constraint.endswith("_pkey"):
        return (
            f"a row with this key is there already ({facts.detail.rstrip('.')}). If the key is a generated number: "
            "rows that were inserted with numbers of their own do not move the sequence on. Leave the key out, or set "
            "the sequence with setval()."
        )
    return (
        f"a row with this value is there already ({facts.detail.rstrip('.')}), made by this test or by setUpTestData. "
        "Give each row its own value, a counter say."
    )


def _wrong_text(facts: Facts) -> str:
    return (
        f"{facts.message}: PostgreSQL stores in a column only what fits its type, where SQLite stores anything. "
        "Convert the value first, with int() or the like."
    )


def _wrong_type(facts: Facts) -> str:
    if "boolean" in facts.message:
        return (
            "a boolean is no number in PostgreSQL: use true and false, or the Python values as parameters. "
            "(In SQLite 1 and 0 do.)"
        )
    return f"{facts.message}: convert the value to the type of the column, PostgreSQL does not do it by itself."


_FUNCTIONS = {
    "ifnull": "coalesce()",
    "datetime": "now(), or datetime values as parameters",
    "date": "CAST(... AS date)",
    "strftime": "to_char() or extract()",
    "julianday": "extract(epoch FROM ...) / 86400",
    "group_concat": "string_agg(column, ',')",
    "last_insert_rowid": "INSERT ... RETURNING id",
    "instr": "position() or strpos()",
    "total": "coalesce(sum(...), 0)",
    "printf": "format()",
    "randomblob": "gen_random_bytes() of the extension pgcrypto",
    "nvl": "coalesce()",
    "json_extract": "the operators -> and ->>",
}


def _undefined_function(facts: Facts) -> str | None:
    if "operator does not exist" in facts.message:
        if "boolean = integer" in facts.message or "integer = boolean" in facts.message:
            return _wrong_type(facts)
        return (
            f"{facts.message}: the two sides have different types, and PostgreSQL does not convert them by itself. "
            "Give the value the type of the column (int(...), str(...)), or cast(column, Type)."
        )
    name = re.search(r"function (?:\w+\.)?(\w+)\(", facts.message)
    known = _FUNCTIONS.get(name[1].lower()) if name else None
    if name and known:
        return f"PostgreSQL has no {name[1]}(); use {known}."
    if name and name[1].startswith(("uuid_generate", "gen_random_bytes", "crypt", "digest", "unaccent", "similarity")):
        return _EXTENSION
    return None


def _grouping(facts: Facts) -> str:
    return (
        "each selected column must be in GROUP BY or inside an aggregate such as max() or count(); SQLite takes any "
        "row's value instead. Add it to group_by(), or group by the primary key of its table."
    )


def _too_long(facts: Facts) -> str:
    return f"{facts.message}: PostgreSQL enforces the length of String(n); shorten the text, or use Text."


def _out_of_range(facts: Facts) -> str:
    return f"{facts.message}: Integer has 32 bits in PostgreSQL; use BigInteger."


def _syntax(facts: Facts) -> str | None:
    habits = (
        (r"\bautoincrement\b", "AUTOINCREMENT is SQLite's; use an Identity() or SERIAL column"),
        (r"\binsert\s+or\s+(replace|ignore)\b", "INSERT OR REPLACE is SQLite's; use INSERT ... ON CONFLICT"),
        (r"\breplace\s+into\b", "REPLACE INTO is not PostgreSQL's; use INSERT ... ON CONFLICT ... DO UPDATE"),
        (r"\bpragma\b", "PRAGMA is SQLite's; leave it out"),
        (r"`", "names are quoted with double quotes in PostgreSQL, not with backticks"),
        (r"(=|\(|,|\s)\?", "placeholders are %s or %(name)s with this driver, and :name within text()"),
        (r"==", "equality is = in SQL, not =="),
    )
    for pattern, hint in habits:
        if re.search(pattern, facts.sql, re.IGNORECASE):
            return f"{hint}."
    return None


def _failed_transaction(facts: Facts) -> str:
    return (
        "an earlier statement of this transaction failed, and PostgreSQL refuses all others until rollback(). The "
        "first failure is the one to look at; code that goes on after an error needs session.rollback(), or a "
        "'with session.begin_nested():' around the statement that may fail."
    )


def _not_in_transaction(facts: Facts) -> str:
    return (
        f"{facts.message}. In this test class all runs inside one transaction: set isolation = 'clone', and send it on "
        "a connection with execution_options(isolation_level='AUTOCOMMIT')."
    )


def _duplicate_table(facts: Facts) -> str:
    return (
        "the class's 'schema' has created it already; leave create_all() out of the test, or let the migration and "
        "'schema' not both create it."
    )


_EXTENSION = (
    "this belongs to an extension of PostgreSQL. Name it: postgres = ThrowawayPostgres(extensions=('pgcrypto',)), or "
    "'citext', 'uuid-ossp', 'pg_trgm' ..., as the name demands."
)


def _undefined_object(facts: Facts) -> str | None:
    if re.search(r'type "(citext|hstore|ltree|vector|geometry|geography|cube)"', facts.message):
        return _EXTENSION
    return None


def _undefined_schema(facts: Facts) -> str:
    return (
        f"PostgreSQL schemas must be created. If the models name {_quoted(facts.message)!r} (MetaData(schema=...), "
        "__table_args__), 'schema' of the test class creates it; in SQL text, CREATE SCHEMA first."
    )


_BY_STATE: dict[str, Callable[[Facts], str | None]] = {
    "42P01": _undefined_table,
    "42703": _undefined_column,
    "23503": _foreign_key,
    "23502": _not_null,
    "23505": _unique,
    "22P02": _wrong_text,
    "22007": _wrong_text,
    "42804": _wrong_type,
    "42883": _undefined_function,
    "42803": _grouping,
    "22001": _too_long,
    "22003": _out_of_range,
    "42601": _syntax,
    "25P02": _failed_transaction,
    "25001": _not_in_transaction,
    "42P07": _duplicate_table,
    "42704": _undefined_object,
    "3F000": _undefined_schema,
}


# -- what the ORM refuses; recognized by name, so that SQLAlchemy's modules need not be imported for it


def _orm_hint(error: BaseException) -> str | None:
    if not type(error).__module__.startswith("sqlalchemy."):
        return None
    hint = _BY_CLASS.get(type(error).__name__)
    return hint(str(error)) if hint is not None else None


def _detached(message: str) -> str:
    lazy = re.search(r"<(\w+)[^>]*>.*lazy load operation of attribute '(\w+)'", message)
    if lazy:
        return (
            f"{lazy[1]}.{lazy[2]} was to be loaded after the session had been closed. Load it with the object: "
            f".options(selectinload({lazy[1]}.{lazy[2]})); or read it before the session closes. An object that a "
            "request or another session made: get it again through self.session."
        )
    return (
        "the object's values expired with a commit, and its session is closed. Read what you need before the session "
        "closes, use a session with expire_on_commit=False, or get the object again through self.session."
    )


def _pending_rollback(message: str) -> str:
    first = re.search(r"Original exception was: (.+)", message)
    cause = f" It began with: {first[1].strip()}" if first else ""
    return (
        "a flush of this session failed before, and the session waits for session.rollback(). What was added since the "
        f"last commit is gone with it, fixtures that were only flushed too: commit() those.{cause}"
    )


def _stale(message: str) -> str:
    return (
        "a row that the session knows is not there any more: it was deleted, or the transaction that made it was "
        "rolled back, elsewhere. Get the object again, or commit() what the other side relies on."
    )


_BY_CLASS: dict[str, Callable[[str], str]] = {
    "DetachedInstanceError": _detached,
    "PendingRollbackError": _pending_rollback,
    "StaleDataError": _stale,
    "ObjectDeletedError": _stale,
}


def _quoted(message: str) -> str:
    found = re.search(r'"([^"]+)"', message)
    return found[1] if found else ""


def _some(names: list[str]) -> str:
    return ", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "")
