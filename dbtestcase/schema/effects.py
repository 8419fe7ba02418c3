"""What the code in a database does: functions, and whatever runs although no statement of the application names it.

Only facts are read here, once, when a template is made; what they mean for a test in one transaction is decided
by whoever reads them.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from dbtestcase import sql
from dbtestcase.schema.sequences import states

__all__ = ["read", "read_code"]

_MOST_SHOWN = 3
# Also within literals: a function may build its statements as text. What is called by mistake costs some bytes.
_CALLED = re.compile(r'(?:"((?:[^"]|"")+)"|([^\W\d][\w$]*))\s*\(')
_NUMBER_OF_SEQUENCE = re.compile(r"nextval\('[^']*'::regclass\)")
_TRIGGER_CONDITION = re.compile(r" WHEN (\(.*\)) EXECUTE (?:FUNCTION|PROCEDURE) ", re.DOTALL)
_READABLE_LANGUAGES = ("sql", "plpgsql")

_OURS = "n.nspname NOT IN ('pg_catalog', 'information_schema', 'pg_toast')"

# An aggregate is called immutable whatever its parts are.
_VOLATILE = """
SELECT DISTINCT p.proname::text FROM pg_proc p
WHERE p.provolatile = 'v' OR EXISTS (
    SELECT FROM pg_aggregate a JOIN pg_proc part ON part.oid IN (
        a.aggtransfn, a.aggfinalfn, a.aggcombinefn, a.aggmtransfn, a.aggminvtransfn, a.aggmfinalfn
    )
    WHERE a.aggfnoid = p.oid AND part.provolatile = 'v'
)
ORDER BY 1
"""
_FUNCTIONS = f"""
SELECT p.proname::text, p.provolatile = 'v', l.lanname::text, {{body}}
FROM pg_proc p
JOIN pg_namespace n ON n.oid = p.pronamespace
JOIN pg_language l ON l.oid = p.prolang
WHERE {_OURS} AND p.prokind <> 'a'
ORDER BY 1, p.oid
"""
# A domain's name runs what its constraints call, and those of the domains below it.
_DOMAINS = f"""
WITH RECURSIVE domain (name, part) AS (
    SELECT t.typname::text, t.oid FROM pg_type t JOIN pg_namespace n ON n.oid = t.typnamespace
    WHERE {_OURS} AND t.typtype = 'd'
    UNION ALL
    SELECT name, t.typbasetype FROM domain JOIN pg_type t ON t.oid = part WHERE t.typtype = 'd'
)
SELECT name, string_agg(pg_get_constraintdef(k.oid), E'\\n' ORDER BY k.oid)
FROM domain JOIN pg_constraint k ON k.contypid = part GROUP BY 1 ORDER BY 1
"""
# SELECT item.total FROM item calls total(item).
_OF_ROWS = f"""
SELECT DISTINCT p.proname::text
FROM pg_proc p
JOIN pg_namespace n ON n.oid = p.pronamespace
JOIN pg_type t ON t.oid = p.proargtypes[0]
WHERE {_OURS} AND p.prokind = 'f' AND p.pronargs - p.pronargdefaults <= 1 AND t.typtype IN ('c', 'd', 'p') ORDER BY 1
"""
_AGGREGATES = f"""
SELECT p.proname::text, part.proname::text
FROM pg_aggregate a
JOIN pg_proc p ON p.oid = a.aggfnoid
JOIN pg_namespace n ON n.oid = p.pronamespace
JOIN pg_proc part ON part.oid IN (
    a.aggtransfn, a.aggfinalfn, a.aggcombinefn, a.aggmtransfn, a.aggminvtransfn, a.aggmfinalfn
)
WHERE {_OURS}
ORDER BY 1, 2
"""
# Each gives what has an expression, and the expression.
_EXPRESSIONS = (
    # Defaults and generated columns.
    f"""
    SELECT CASE WHEN a.attgenerated <> '' THEN 'generated column ' ELSE 'default of ' END
        || format('%s.%s', c.relname, a.attname), pg_get_expr(d.adbin, d.adrelid)
    FROM pg_attrdef d
    JOIN pg_attribute a ON a.attrelid = d.adrelid AND a.attnum = d.adnum
    JOIN pg_class c ON c.oid = d.adrelid
    JOIN pg_namespace n ON n.oid = c.relnamespace
    WHERE {_OURS} ORDER BY 1
    """,
    f"""
    SELECT format('default of domain %s', t.typname), t.typdefault
    FROM pg_type t JOIN pg_namespace n ON n.oid = t.typnamespace
    WHERE {_OURS} AND t.typtype = 'd' AND t.typdefault IS NOT NULL ORDER BY 1
    """,
    f"""
    SELECT format('constraint %s of %s', k.conname, coalesce(c.relname, t.typname)), pg_get_constraintdef(k.oid)
    FROM pg_constraint k
    JOIN pg_namespace n ON n.oid = k.connamespace
    LEFT JOIN pg_class c ON c.oid = k.conrelid
    LEFT JOIN pg_type t ON t.oid = k.contypid
    WHERE {_OURS} AND k.contype = 'c' ORDER BY 1
    """,
    f"""
    SELECT format('index %s', c.relname),
        concat_ws(E'\\n', pg_get_expr(i.indexprs, i.indrelid), pg_get_expr(i.indpred, i.indrelid))
    FROM pg_index i
    JOIN pg_class c ON c.oid = i.indexrelid
    JOIN pg_namespace n ON n.oid = c.relnamespace
    WHERE {_OURS} AND (i.indexprs IS NOT NULL OR i.indpred IS NOT NULL) ORDER BY 1
    """,
    f"""
    SELECT format('partition key of %s', c.relname), pg_get_partkeydef(c.oid)
    FROM pg_partitioned_table p
    JOIN pg_class c ON c.oid = p.partrelid
    JOIN pg_namespace n ON n.oid = c.relnamespace
    WHERE {_OURS} AND p.partexprs IS NOT NULL ORDER BY 1
    """,
    f"""
    SELECT format('policy %s of %s', p.polname, c.relname),
        concat_ws(E'\\n', pg_get_expr(p.polqual, p.polrelid), pg_get_expr(p.polwithcheck, p.polrelid))
    FROM pg_policy p
    JOIN pg_class c ON c.oid = p.polrelid
    JOIN pg_namespace n ON n.oid = c.relnamespace
    WHERE {_OURS} ORDER BY 1
    """,
)
_QUERIES = (
    f"""
    SELECT CASE c.relkind WHEN 'v' THEN 'view ' ELSE 'materialized view ' END || c.relname, pg_get_viewdef(c.oid)
    FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
    WHERE {_OURS} AND c.relkind IN ('v', 'm') ORDER BY 1
    """,
    f"""
    SELECT format('rule %s of %s', r.rulename, c.relname), pg_get_ruledef(r.oid)
    FROM pg_rewrite r
    JOIN pg_class c ON c.oid = r.ev_class
    JOIN pg_namespace n ON n.oid = c.relnamespace
    WHERE {_OURS} AND r.rulename <> '_RETURN' ORDER BY 1
    """,
)
_TRIGGERS = f"""
SELECT format('trigger %s of %s', t.tgname, c.relname), pg_get_triggerdef(t.oid), p.proname::text
FROM pg_trigger t
JOIN pg_proc p ON p.oid = t.tgfoid
JOIN pg_class c ON c.oid = t.tgrelid
JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE {_OURS} AND NOT t.tgisinternal AND t.tgparentid = 0
UNION ALL
SELECT format('event trigger %s', e.evtname), '', p.proname::text
FROM pg_event_trigger e JOIN pg_proc p ON p.oid = e.evtfoid
ORDER BY 1
"""
# Operators and casts run functions that nobody names.
_OPERATORS_AND_CASTS = f"""
SELECT format('operator %s', o.oprname), p.proname::text
FROM pg_operator o
JOIN pg_proc p ON p.oid = o.oprcode
JOIN pg_namespace n ON n.oid = p.pronamespace
WHERE {_OURS}
UNION ALL
SELECT format('cast from %s to %s', format_type(k.castsource, NULL), format_type(k.casttarget, NULL)), p.proname::text
FROM pg_cast k
JOIN pg_proc p ON p.oid = k.castfunc
JOIN pg_namespace n ON n.oid = p.pronamespace
WHERE {_OURS}
ORDER BY 1
"""
_DEFERRABLE = f"""
SELECT DISTINCT format('%I.%I', n.nspname, k.conname), k.condeferred
FROM pg_constraint k JOIN pg_namespace n ON n.oid = k.connamespace
WHERE {_OURS} AND k.condeferrable ORDER BY 1
"""
_CACHES = f"""
SELECT EXISTS (
    SELECT FROM pg_sequence s JOIN pg_class c ON c.oid = s.seqrelid JOIN pg_namespace n ON n.oid = c.relnamespace
    WHERE {_OURS} AND s.seqcache > 1
)
"""
_POLICIES = "SELECT EXISTS (SELECT FROM pg_class WHERE relrowsecurity)"
_FOREIGN_TABLES = """
SELECT format('%I.%I', n.nspname, c.relname)
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE c.relkind = 'f' ORDER BY 1
"""


def read(connection: Any) -> dict[str, Any]:
    """Return what the code in a database does, as JSON can hold it.

    Args:
        connection: A connection of psycopg2's to the database.

    Returns:
        A dictionary with these keys:

        * ``volatile``: names of all functions and procedures, the server's own included, that are volatile in one of
          their overloads; of aggregates, that call a volatile one.
        * ``functions``: of the functions that are not the server's own, by name: ``{"volatile": bool, "language": str,
          "body": str | None, "calls": [...]}``: the functions of the database that it calls, and that these call. Of
          several overloads, all bodies, and the language that is neither SQL nor PL/pgSQL, if there is one. Functions
          without a readable body (C) are in it only if they are volatile.
        * ``implicit``: what runs without being named, ``[{"what": "default of outbox.tx", "text": ...}, ...]``:
          defaults, generated columns, constraints, index expressions, partition keys and policies that call functions;
          triggers, rules, views, operators and casts. The text includes the bodies of the functions that it calls, and
          of those that these call.
        * ``bare``: names among ``functions`` that call where no parenthesis follows: of functions of one row, as in
          ``SELECT item.total FROM item``, and of domains whose constraints call functions, as in ``CAST(1 AS price)``.
        * ``deferrable``, ``initially_deferred``: qualified names of constraints, as SQL writes them.
        * ``policies``: whether a table has row level security.
        * ``foreign_tables``: qualified names of tables that live on another server, as SQL writes them.
        * ``caches``: whether connections keep numbers of a sequence ready for themselves (CACHE).
        * ``sequences``: where they stand; see :mod:`dbtestcase.schema.sequences`.
    """
    return {**read_code(connection), "sequences": states(connection)}


def read_code(connection: Any) -> dict[str, Any]:
    """Return the same without ``sequences``; waits for no lock."""
    with connection.cursor() as cursor:
        return _Reader(cursor).facts()


class _Reader:
    def __init__(self, cursor: Any) -> None:
        self._cursor = cursor
        self._functions = self._read_functions()
        self._bare = [name for (name,) in self._rows(_OF_ROWS) if name in self._functions]
        self._read_domains()
        self._implicit: dict[str, list[str]] = {}  # what has a text, by text

    def facts(self) -> dict[str, Any]:
        for query in _EXPRESSIONS:
            for what, text in self._rows(query):
                if _calls_something(text):
                    self._add(what, text)
        for query in _QUERIES:
            for what, text in self._rows(query):
                self._add(what, text)
        for what, definition, function in self._rows(_TRIGGERS):
            condition = _TRIGGER_CONDITION.search(definition)
            self._add(what, f"WHEN {condition[1]}" if condition else "", [function])
        for what, function in self._rows(_OPERATORS_AND_CASTS):
            if function in self._functions:
                self._add(what, "", [function])
        deferrable = self._rows(_DEFERRABLE)
        return {
            "volatile": [name for (name,) in self._rows(_VOLATILE)],
            "functions": {
                name: {**function, "calls": self._reached(self._called(self._body(name)))}
                for name, function in self._functions.items()
            },
            "implicit": [{"what": _listed(several), "text": text} for text, several in self._implicit.items()],
            "bare": self._bare,
            "deferrable": [name for name, _ in deferrable],
            "initially_deferred": [name for name, is_deferred in deferrable if is_deferred],
            "policies": self._rows(_POLICIES)[0][0],
            "foreign_tables": [name for (name,) in self._rows(_FOREIGN_TABLES)],
            "caches": self._rows(_CACHES)[0][0],
        }

    def _rows(self, query: str) -> list[tuple[Any, ...]]:
        self._cursor.execute(query)
        return list(self._cursor.fetchall())

    def _read_functions(self) -> dict[str, dict[str, Any]]:
        found: dict[str, dict[str, Any]] = {}
        has_sql_bodies = self._cursor.connection.server_version >= 140000
        body = "coalesce(pg_get_function_sqlbody(p.oid), p.prosrc)" if has_sql_bodies else "p.prosrc"
        for name, is_volatile, language, source in self._rows(_FUNCTIONS.format(body=body)):
            readable = None if language in ("c", "internal") else source
            if is_volatile or readable is not None:
                _merge(found, name, is_volatile, language, readable)
        for name, part in self._rows(_AGGREGATES):
            if part in found:
                _merge(found, name, found[part]["volatile"], found[part]["language"], found[part]["body"])
        return found

    def _read_domains(self) -> None:
        for name, constraints in self._rows(_DOMAINS):
            if self._reached(self._called(constraints)):
                _merge(self._functions, name, False, "sql", constraints)
                self._bare.append(name)

    def _add(self, what: str, text: str, called: Sequence[str] = ()) -> None:
        """Note a text with the bodies of all that it calls."""
        whole = [text] if text else []
        # A trigger may run a function of the server's own, or one without a readable body: then its name must do.
        whole += [f"{sql.quoted_identifier(name)}()" for name in called if not self._body(name)]
        whole += filter(None, map(self._body, self._reached([*called, *self._called(text)])))
        self._implicit.setdefault("\n".join(whole), []).append(what)

    def _reached(self, called: Sequence[str]) -> list[str]:
        """Return those of the names that are functions of the database, and the functions that these call."""
        waiting, reached = list(called), list[str]()
        while waiting:
            name = waiting.pop(0)
            if name in self._functions and name not in reached:
                reached.append(name)
                waiting += self._called(self._body(name))
        return reached

    def _called(self, text: str) -> list[str]:
        called = [quoted.replace('""', '"') if quoted else plain.lower() for quoted, plain in _CALLED.findall(text)]
        return called + [name for name in self._bare if re.search(rf"\b{re.escape(name)}\b", text, re.IGNORECASE)]

    def _body(self, name: str) -> str:
        return (self._functions[name]["body"] or "") if name in self._functions else ""


def _merge(found: dict[str, dict[str, Any]], name: str, is_volatile: bool, language: str, body: str | None) -> None:
    known = found.setdefault(name, {"volatile": False, "language": language, "body": None})
    known["volatile"] = known["volatile"] or is_volatile
    if known["language"] in _READABLE_LANGUAGES:
        known["language"] = language
    if body is not None:
        known["body"] = body if known["body"] is None else f"{known['body']}\n{body}"


def _calls_something(text: str) -> bool:
    return not _NUMBER_OF_SEQUENCE.fullmatch(text) and any(each.calls for each in sql.statements(text))


def _listed(several: list[str]) -> str:
    more = len(several) - _MOST_SHOWN
    return ", ".join(several[:_MOST_SHOWN]) + (f" and {more} more" if more > 0 else "")
