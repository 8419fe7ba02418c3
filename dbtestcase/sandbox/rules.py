"""What a statement may do that one undone transaction cannot carry faithfully: told by its words.

Pure and without state but for a cache. A test runs again on real connections as soon as a statement is met whose
:attr:`Effects.real` is set; the other effects decide together with what the other connections of the test have done
(:mod:`dbtestcase.sandbox.transaction`). When in doubt a statement *writes* or is *real*: to run again is always true.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

from dbtestcase.sql import Statement, statements

__all__ = ["CONSTRAINTS", "CURSOR", "NEED_A_BLOCK", "SET_LOCAL", "TEMPORARY", "Effects", "Rules"]


@dataclass(frozen=True, slots=True)
class Effects:
    """What one text does.

    Attributes:
        real: The word for which the text needs real connections; "" if none.
        private: The word by which it concerns state that stays with its connection (settings, temporary tables,
            prepared statements, advisory locks); "" if none.
        writes: It changes or locks rows.
        alters: It changes the schema or takes locks that even readers of a table wait for.
        excludes_readers: It waits for whoever has read what it concerns.
        never_waits: It is an error instead.
        savepoints: It opens or ends a savepoint.
        until_commit: What it concerns of its connection's state that ends with the transaction.
        numbers: It may take a number from a sequence of which connections keep some ready for themselves (CACHE).
        is_plain: It only reads, or only changes rows: the common case.
        is_query: It is one query that only reads, as a server-side cursor wants it.
    """

    real: str = ""
    private: str = ""
    writes: bool = False
    alters: bool = False
    excludes_readers: bool = False
    never_waits: bool = False
    savepoints: bool = False
    until_commit: tuple[str, ...] = ()
    numbers: bool = False
    is_plain: bool = False
    is_query: bool = False


# -- statements, by their first word

_QUERIES = frozenset({"select", "values", "table"})
_READS = _QUERIES | {"show", "explain", "fetch", "move", "close", ""}
_WRITES = frozenset({"insert", "update", "delete", "merge", "lock", "notify"})
_SAVEPOINTS = frozenset({"savepoint", "release"})
_PRIVATE = frozenset({"prepare", "execute", "deallocate", "set", "reset"})
# Transaction control, what cannot run inside a transaction, what only acts at a real COMMIT, what no rollback undoes,
# and code that may do anything.
_REAL = frozenset({
    "abort", "analyse", "analyze", "begin", "call", "checkpoint", "cluster", "commit", "discard", "do", "end", "listen",
    "load", "start", "unlisten", "vacuum",
})  # fmt: skip
_EXCLUSIVE = frozenset({"alter", "drop", "lock", "refresh", "reindex", "truncate"})
_SETTINGS = frozenset({"set", "reset"})
_ROLES = frozenset({"role", "user"})
# What no reader holds a lock on.
_SHARED_OBJECTS = frozenset({"role", "type", "function", "procedure", "user"})
# Two words: the second may stand anywhere behind the first.
_REAL_PAIRS = {
    "alter": {"system", "database", "subscription"},
    "create": {"database", "tablespace", "subscription", "function", "procedure", "extension", "aggregate", "rule",
               "trigger", "operator", "cast", "policy", "language"},
    "drop": {"database", "tablespace", "subscription"},
    "prepare": {"transaction"},
    "declare": {"hold"},
    "set": {"authorization", "role", "characteristics", "transaction", "default_transaction_isolation",
            "default_transaction_read_only", "default_transaction_deferrable", "transaction_isolation",
            "transaction_read_only"},
    "update": {"pg_settings"},
    "reset": {"authorization", "role"},
    "copy": {"stdin", "stdout"},
    "explain": {"create", "execute", "declare", "refresh"},
}  # fmt: skip
# Names of our own savepoints.
_OUR_SAVEPOINT = re.compile(r'"?dbt\d+"?')

# -- names anywhere outside literals and comments: system columns, views that show other server processes

_REAL_NAMES = frozenset({
    "concurrently", "xmin", "xmax", "cmin", "cmax", "pg_locks", "pg_stat_activity", "pg_cursors",
    "pg_prepared_statements", "pg_prepared_xacts",
})  # fmt: skip
_REAL_NAME_PREFIXES = ("pg_stat_", "pg_statio_")

# -- functions: what tells transactions and server processes apart, settings that end (or do not end) with a
# transaction, and what no rollback undoes

_REAL_CALLS = frozenset({
    "currval", "lastval", "loread", "lowrite", "pg_backend_pid", "pg_blocking_pids", "pg_cancel_backend",
    "pg_current_snapshot", "pg_current_xact_id", "pg_current_xact_id_if_assigned", "pg_export_snapshot",
    "pg_last_committed_xact", "pg_listening_channels", "pg_notification_queue_usage", "pg_terminate_backend",
    "pg_visible_in_snapshot", "pg_xact_commit_timestamp", "pg_xact_status", "set_config", "setval", "ts_stat",
})  # fmt: skip
_REAL_CALL_PREFIXES = (
    "dblink", "lo_", "pg_copy_", "pg_create_", "pg_drop_", "pg_logical_", "pg_replication_", "pg_snapshot_",
    "query_to_xml", "txid_",
)  # fmt: skip
_PRIVATE_NAMES = frozenset({"pg_temp", "pg_my_temp_schema", "setseed"})
_PRIVATE_PREFIXES = ("pg_advisory_", "pg_try_advisory_")
# What ends with a transaction, beside advisory locks; in autocommit most of it is an error or of no effect.
CURSOR, CONSTRAINTS, SET_LOCAL, TEMPORARY = "a cursor", "SET CONSTRAINTS", "SET LOCAL", "a temporary table"
_LOCK, _SAVEPOINT = "a table lock", "savepoints"
NEED_A_BLOCK = frozenset({CURSOR, SET_LOCAL, TEMPORARY, _LOCK, _SAVEPOINT})
_ON_COMMIT = frozenset({"drop", "rows"})

# Volatile as PostgreSQL sees it, because each call gives another answer; they change nothing that others see.
_HARMLESS = frozenset({
    "bernoulli", "clock_timestamp", "gen_random_bytes", "gen_random_uuid", "nextval", "pg_column_size",
    "pg_database_size", "pg_indexes_size", "pg_is_in_recovery", "pg_notify", "pg_relation_size", "pg_sleep",
    "pg_sleep_for", "pg_sleep_until", "pg_table_size", "pg_total_relation_size", "random", "random_normal", "system",
    "timeofday", "uuid_generate_v1", "uuid_generate_v1mc", "uuid_generate_v4", "uuidv4", "uuidv7",
})  # fmt: skip
# The one setting in which engines may differ that share a connection.
_ENGINES_OWN = "application_name"
# What a SELECT runs without naming it; what else is implicit belongs to statements that write anyway.
_RUN_BY_READS = ("view", "materialized view", "policy", "operator", "cast")
# EXECUTE of PL/pgSQL, not the privilege and not what a trigger does.
_EXECUTES_A_VARIABLE = re.compile(r"\bexecute\s+(?!format\b|on\b|function\b|procedure\b)[a-z_]", re.IGNORECASE)
# Languages whose bodies are made of SQL's words.
_READABLE = frozenset({"sql", "plpgsql", "c", "internal"})
_MOST_KNOWN = 5000
_RETURNS = frozenset({"insert", "update", "delete", "merge"})
# What a function does that changes tables or constraints: words that follow each other.
_CHANGES = frozenset({"alter", "create", "drop", "unlogged"})
_CHANGED = frozenset({"constraint", "schema", "table", "type", "view"})
# Before a statement in a body: SET and OPEN may also be a part of another one, or a column.
_BEFORE_VERB = frozenset({"", "begin", "then", "else", "loop", "execute", "format", "concat"})
_KEEPS_NUMBERS = re.compile(r"\bcache\s+(?!1\b)[0-9]", re.IGNORECASE)
# Where a cursor's method for COPY has its data, which no statement has.
_STREAM = re.compile(r"\b(?:stdin|stdout)\b", re.IGNORECASE)


class Rules:
    """The rules for the databases of one schema.

    Attributes:
        known: What is known of the texts that were asked about.
        always_real: What in the schema needs real connections whatever a test does, as a sentence's subject; or "".
        deferrable: The names of the schema's deferrable constraints, and of those of them that begin deferred; ``None``
            if they are not known.

    Args:
        facts: See :meth:`learn`.
    """

    def __init__(self, facts: Mapping[str, Any] | None = None) -> None:
        self.learn(facts or {})

    def learn(self, facts: Mapping[str, Any]) -> None:
        """Go by what :mod:`dbtestcase.schema.effects` has found in the schema; no function is known if it is empty."""
        self.known: dict[Any, Effects] = {}
        self._volatile = frozenset(facts.get("volatile", ())) - _HARMLESS
        self._functions: dict[str, Effects] = {}
        functions = facts.get("functions", {})
        for name, function in functions.items():
            bodies = (functions[each]["body"] or "" for each in (name, *function["calls"]))
            self._functions[name] = self._of_function({**function, "body": "\n".join(bodies)})
        # What a stable function calls may write nevertheless.
        self._volatile |= {name for name, effects in self._functions.items() if effects.writes} - _HARMLESS
        # What calls a function, though no parenthesis follows.
        self._bare = {word: name for name in facts.get("bare", ()) for word in (name, f'"{name}"')}
        self._caches = bool(facts.get("caches"))
        # Tables on other servers, which see nothing of a transaction that is not committed.
        self._foreign = frozenset(word for name in facts.get("foreign_tables", ()) for word in _names_of(name))
        self.always_real = self._needs_real(facts.get("implicit", ()))
        names = (facts.get("deferrable", ()), facts.get("initially_deferred", ()))
        self.deferrable = (", ".join(names[0]), ", ".join(names[1])) if facts else None

    def of(self, sql: str | bytes) -> Effects:
        """Return what a text does; asked again, it costs a look into a dictionary."""
        known = self.known.get(sql)
        if known is None:
            if len(self.known) >= _MOST_KNOWN:
                self.known.clear()
            text = sql if isinstance(sql, str) else sql.decode("utf-8", "replace")
            known = self.known[sql] = self._of_text(text)
        return known

    def failed(self, sql: str | bytes) -> None:
        """Take a text that has failed no longer for a query that leaves nothing to undo."""
        self.known[sql] = replace(self.of(sql), is_query=False)

    def of_copy(self, sql: str | bytes) -> Effects:
        """Return what a COPY does that a cursor's method for it sends, with its own data."""
        text = sql if isinstance(sql, str) else sql.decode("utf-8", "replace")
        return self.of(_STREAM.sub("''", text))

    def _of_text(self, text: str) -> Effects:
        return _together([self._of_statement(each) for each in statements(text)])

    def _of_statement(self, statement: Statement) -> Effects:
        verb, words = statement.verb, statement.words
        calls = statement.calls.union(self._bare[word] for word in self._bare.keys() & words)
        real = self._real_word(statement.text, verb, words, calls)
        if _ENGINES_OWN in statement.text.lower() and (verb == "show" or _reads_settings(words)):
            real = real or _ENGINES_OWN
        if real:
            return Effects(real=real)
        if verb in _SAVEPOINTS or (verb == "rollback" and "to" in words):
            if any(map(_OUR_SAVEPOINT.fullmatch, words)):
                return Effects(real="a savepoint called as one of ours")
            return Effects(savepoints=True, until_commit=(_SAVEPOINT,))
        until_commit = _until_commit(verb, words)
        # SET LOCAL makes a setting of an extension's, or of nobody's: no rollback takes the empty one back.
        keeps = not until_commit or (until_commit == (SET_LOCAL,) and "." in statement.text)
        private = verb if verb in _PRIVATE and keeps else _private_word(words)
        writes = self._writes(statement, calls)
        alters = not (verb in _READS or verb in _WRITES or verb in _PRIVATE or verb in ("declare", "copy"))
        if (verb == "select" and "into" in words) or (verb == "lock" and _keeps_readers_waiting(words)):
            alters = True
        alters = alters or any(self._functions[name].alters for name in calls if name in self._functions)
        numbers = self._caches and (writes or "nextval" in calls)
        return Effects(
            private=private,
            writes=writes or alters,
            alters=alters,
            excludes_readers=alters and _excludes_readers(verb, words),
            never_waits="nowait" in words,
            until_commit=until_commit,
            numbers=numbers,
            is_plain=not (private or until_commit or alters or numbers),
            is_query=verb in _QUERIES and not (private or until_commit or writes or alters or numbers),
        )

    def _real_word(self, text: str, verb: str, words: Iterable[str], calls: Iterable[str]) -> str:
        if verb in _REAL or (verb == "rollback" and "to" not in words):
            return verb.upper()
        seconds = _REAL_PAIRS.get(verb)
        if seconds is not None:
            for word in words:
                if word in seconds:
                    return f"{verb} {word}".upper()
        if verb == "alter" and not _SETTINGS.isdisjoint(words) and not _ROLES.isdisjoint(tuple(words)[1:2]):
            return "ALTER ROLE SET"
        if verb in ("alter", "create") and _KEEPS_NUMBERS.search(text):
            return "CACHE"
        if verb == "create" and "view" in words and not self._volatile.isdisjoint(calls):
            return "CREATE VIEW with a volatile function"
        if not self._foreign.isdisjoint(words):
            return f"the foreign table {next(iter(sorted(self._foreign.intersection(words))))}"
        if verb == "insert" and "conflict" in words:
            # RETURNING xmax = 0 tells whether the row was inserted or updated, in one transaction as in many.
            words = [word for word in words if word != "xmax"]
        return _real_name(words, calls) or next(filter(None, map(self._real_by_function, calls)), "")

    def _real_by_function(self, name: str) -> str:
        function = self._functions.get(name)
        word = "" if function is None else _first_word(function)
        return f"{name}(), which uses {word}" if word else ""

    def _writes(self, statement: Statement, calls: Iterable[str]) -> bool:
        verb, words = statement.verb, statement.words
        if verb in _WRITES or (verb == "copy" and "to" not in words):
            return True
        if statement.with_verbs or (verb in ("explain", "copy") and not _RETURNS.isdisjoint(words)):
            return True
        if "for" in words and _locks_rows(words):
            return True
        return not self._volatile.isdisjoint(calls)

    def _of_function(self, function: Mapping[str, Any]) -> Effects:
        """Return what calling a function of the schema may do, by the words of its body."""
        if function.get("language", "sql") not in _READABLE and function.get("body"):
            return Effects(real=f"the language {function['language']}")
        # Literals are read as well, since EXECUTE runs them. BEGIN and END are a body's own blocks, and COMMIT can be
        # only in a procedure, which CALL runs.
        text = function.get("body") or ""
        if _EXECUTES_A_VARIABLE.search(text):
            return Effects(real="EXECUTE of what nobody can read here")
        body = statements(text.replace("'", " "))
        words = [word for each in body for word in each.words]
        calls = {name for each in body for name in each.calls}
        real = _real_name(words, calls)
        if _ENGINES_OWN in words and _reads_settings(words):
            real = real or _ENGINES_OWN
        return Effects(
            real=real,
            private="SET" if any(_does("set", each.words) for each in body) else _private_word(words),
            writes=bool(function.get("volatile")) or not self._volatile.isdisjoint(calls),
            alters=any(before in _CHANGES and word in _CHANGED for before, word in pairwise(words)),
            until_commit=(CURSOR,) if _leaves_a_cursor(body) else _until_commit("", words),
        )

    def _needs_real(self, implicit: Iterable[Mapping[str, str]]) -> str:
        """Return what in the schema acts unasked and needs real connections, as a sentence's subject; "" if nothing."""
        for each in implicit:
            function = self._of_function({"body": each["text"]})
            word = _first_word(function)
            if not word and each["what"].startswith(_RUN_BY_READS):
                calls = {name for one in statements(each["text"]) for name in one.calls}
                word = next(iter(sorted(calls & self._volatile)), "")
            if word:
                return f"the {each['what']} uses {word}"
        return ""


def _names_of(qualified: str) -> set[str]:
    """Return how a table that SQL writes so appears among a statement's words, quoted or not."""
    name = qualified.rpartition(".")[2].strip('"')
    return {name, f'"{name}"'}


def _together(effects: list[Effects]) -> Effects:
    if len(effects) == 1:
        return effects[0]
    return Effects(
        real=next((each.real for each in effects if each.real), ""),
        private=next((each.private for each in effects if each.private), ""),
        writes=any(each.writes for each in effects),
        alters=any(each.alters for each in effects),
        excludes_readers=any(each.excludes_readers for each in effects),
        never_waits=any(each.never_waits for each in effects),
        savepoints=any(each.savepoints for each in effects),
        until_commit=tuple(word for each in effects for word in each.until_commit),
        numbers=any(each.numbers for each in effects),
        is_plain=all(each.is_plain for each in effects),
    )


def _first_word(function: Effects) -> str:
    return function.real or function.private or next(iter(function.until_commit), "")


def _real_name(words: Iterable[str], calls: Iterable[str]) -> str:
    for word in words:
        if word in _REAL_NAMES or (word.startswith('"') and word[1:-1] in _REAL_NAMES - {"concurrently"}):
            return word
        if word.startswith(_REAL_NAME_PREFIXES):
            return word
    for name in calls:
        if name in _REAL_CALLS or name.startswith(_REAL_CALL_PREFIXES):
            return f"{name}()"
    return ""


def _reads_settings(words: Iterable[str]) -> bool:
    return any(word in ("current_setting", "pg_settings") for word in words)


def _private_word(words: Iterable[str]) -> str:
    before = ""
    for word in words:
        if word in _PRIVATE_NAMES or (word.startswith(_PRIVATE_PREFIXES) and "xact" not in word):
            return word
        if word in ("temp", "temporary") and before in ("create", "into", "local", "global", "replace"):
            return TEMPORARY
        before = word
    return ""


def _does(verb: str, words: Iterable[str]) -> bool:
    """Whether such a statement is among the words of a function's body; SET is part of an UPDATE as well."""
    return any(
        (word == verb and before in _BEFORE_VERB) or (before == verb and word == "local")
        for before, word in pairwise(("", *words))
    )


def _leaves_a_cursor(body: Iterable[Statement]) -> bool:
    """Whether a function's body opens a cursor and does not close it."""
    return any(_does("open", each.words) for each in body) and not any(_does("close", each.words) for each in body)


def _until_commit(verb: str, words: Iterable[str]) -> tuple[str, ...]:
    """Return what a statement concerns of its connection's state that ends with the transaction."""
    found = tuple(word for word in words if word.startswith(_PRIVATE_PREFIXES) and "xact" in word)
    if verb == "declare":
        return (CURSOR, *found)
    if verb == "set" and "constraints" in words:
        return (CONSTRAINTS,)
    if verb == "set" and "local" in words:
        return (SET_LOCAL,)
    if verb == "lock":
        return (_LOCK,)
    if verb == "create" and not _ON_COMMIT.isdisjoint(words) and _private_word(words) == TEMPORARY:
        return (TEMPORARY, *found)
    return found


def _excludes_readers(verb: str, words: Iterable[str]) -> bool:
    """Whether a change of the schema takes an ACCESS EXCLUSIVE lock on what somebody may have read."""
    words = tuple(words)
    first = words[:4]
    if verb == "create":
        return ("replace" in first and "view" in first) or ("partition", "of") in pairwise(words)
    return verb in _EXCLUSIVE and _SHARED_OBJECTS.isdisjoint(first[1:2])


def _keeps_readers_waiting(words: Iterable[str]) -> bool:
    """Whether LOCK TABLE takes the one lock that readers wait for: ACCESS EXCLUSIVE, which is its default."""
    found = tuple(words)
    return "mode" not in found or ("access" in found[:-1] and found[found.index("access") + 1] == "exclusive")


def _locks_rows(words: Iterable[str]) -> bool:
    """Whether FOR UPDATE, FOR NO KEY UPDATE, FOR SHARE or FOR KEY SHARE is among the words."""
    before = ""
    for word in words:
        if before == "for" and word in ("update", "no", "share", "key"):
            return True
        before = word
    return False
