"""Read just enough SQL: which statements a text holds, what each begins with, which names it mentions.

It knows quotes, dollar quotes, comments and the placeholders of the drivers; it is no parser. What it says about a text
is remembered, so that a statement which is sent often is read once.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

from .functions import HARMLESS_FUNCTIONS, is_private
from .table_locks import locks_of

_TOKEN = re.compile(
    r"""
      (?P<space>\s+|--[^\n]*)
    | (?P<comment>/\*)
    | (?P<placeholder>%\([^)]*\)[sbt]|%[sbt%])
    | (?P<string>[eE]'(?:[^'\\]|''|\\.)*(?:'|\Z)|(?:[nNbBxX]|[uU]&)?'(?:[^']|'')*(?:'|\Z))
    | (?P<dollar>\$(?:[^\W\d]\w*)?\$)
    | (?P<quoted>(?:[uU]&)?"(?:[^"]|"")*(?:"|\Z))
    | (?P<word>[^\W\d][\w$]*)
    | (?P<number>\d[\w.]*)
    | (?P<other>.)
    """,
    re.VERBOSE | re.DOTALL,
)
_COMMENT_EDGE = re.compile(r"/\*|\*/")

# fmt: off
READING_VERBS = frozenset({
    "SELECT", "WITH", "VALUES", "TABLE", "SHOW", "EXPLAIN", "FETCH", "MOVE", "CLOSE", "DECLARE", "PREPARE", "EXECUTE",
    "DEALLOCATE", "LISTEN", "UNLISTEN",
})
# fmt: on
# One undone transaction cannot carry these: they end it, or they hand it to another session.
ENDING = {
    "BEGIN": "begins",
    "START": "begins",
    "COMMIT": "ends",
    "END": "ends",
    "ROLLBACK": "ends",
    "ABORT": "ends",
    "PREPARE TRANSACTION": "ends",
}
_BEFORE_TABLE = frozenset({"FROM", "JOIN", "USING", "ONLY", "TABLE", "REFERENCES", "INTO", "LIKE", "INHERITS"})
_NOT_A_TABLE = frozenset({"select", "values", "set", "only", "default", "of", "nowait", "skip", "lateral", "unnest"})


@dataclass(frozen=True, slots=True)
class Statement:
    """One statement of a text."""

    verb: str
    words: tuple[str, ...]
    names: frozenset[str]
    tables: frozenset[str]
    written: frozenset[str]
    functions: frozenset[str]
    writes: bool
    locks_rows: bool
    temporary: tuple[str, str, str] | None
    is_private: bool

    @property
    def is_ddl(self) -> bool:
        return self.verb in _DDL


# What these make or use belongs to one connection alone.
# fmt: off
_PRIVATE = frozenset({
    "PREPARE", "EXECUTE", "DEALLOCATE", "DECLARE", "FETCH", "MOVE", "CLOSE", "DISCARD", "NOTIFY", "LOCK",
})
# fmt: on
_DDL = frozenset(
    {"CREATE", "ALTER", "DROP", "TRUNCATE", "COMMENT", "GRANT", "REVOKE", "DO", "CALL", "IMPORT", "SECURITY"}
)


@dataclass(frozen=True, slots=True)
class Text:
    """What a text of one or more statements does."""

    statements: tuple[Statement, ...]
    writes: bool
    written: frozenset[str]
    names: frozenset[str]
    tables: frozenset[str]
    functions: frozenset[str]
    ending: Statement | None
    savepoint: tuple[str, str] | None
    mixed_savepoints: bool
    pins: bool
    is_ddl: bool
    locks_rows: bool
    setting: Statement | None
    is_private: bool
    is_bare_call: bool
    moves_sequences: bool
    recalls_sequences: bool
    locks_advisory: bool
    table_locks: frozenset[tuple[str, str]]
    may_do_anything: bool
    verb: str
    # Whether it goes to the server as it is, neither ending nor dividing a transaction nor setting anything.
    is_ordinary: bool

    @property
    def row_lock(self) -> str:
        """Return the strongest lock that it takes on rows: "UPDATE", "NO KEY UPDATE", "SHARE", "KEY SHARE" or ""."""
        if not self.locks_rows:
            return ""
        words = " ".join(word for statement in self.statements for word in statement.words).upper()
        return next(lock for lock in ("UPDATE", "NO KEY UPDATE", "SHARE", "KEY SHARE") if f"FOR {lock}" in words)

    @property
    def skips_locked(self) -> bool:
        """Whether it passes over rows that are locked."""
        return self.locks_rows and any("skip" in statement.words for statement in self.statements)

    @property
    def locks_for_update(self) -> bool:
        """Whether it locks rows against rows that refer to them, too."""
        return self.row_lock == "UPDATE"

    @property
    def is_about_handles(self) -> bool:
        """Whether it only makes or uses something that has read its rows before, or will read them later."""
        return self.verb in ("PREPARE", "DEALLOCATE", "FETCH", "MOVE", "CLOSE", "NOTIFY")

    @property
    def needs_block(self) -> str:
        """The name of a statement that makes no sense as a transaction of its own; "" if it does."""
        for statement in self.statements if len(self.statements) == 1 else ():
            if statement.verb == "LOCK":
                return "LOCK TABLE"
            if statement.verb == "DECLARE" and "hold" not in statement.words:
                return "DECLARE CURSOR"
        return ""

    @property
    def is_plain_read(self) -> bool:
        """Whether it reads rows and does nothing else."""
        return (
            len(self.statements) == 1
            and self.verb in ("SELECT", "WITH", "TABLE")
            and not (self.writes or self.locks_rows)
        )

    @property
    def counts_rows(self) -> bool:
        """Whether a row count of 0 proves that nothing was written."""
        return len(self.statements) == 1 and self.verb in ("INSERT", "UPDATE", "DELETE", "MERGE")


@lru_cache(maxsize=2048)
def read(sql: str) -> Text:
    """Read a text."""
    statements = tuple(_statement(tokens) for tokens in _split(sql))
    savepoints = [found for found in map(_savepoint, statements) if found is not None]
    single = savepoints[0] if savepoints and len(statements) == 1 else None
    ending = next((statement for statement in statements if _ends(statement)), None)
    setting = next((statement for statement in statements if statement.verb in ("SET", "RESET", "DISCARD")), None)
    verb = statements[0].verb if statements else ""
    return Text(
        statements=statements,
        writes=any(statement.writes for statement in statements),
        written=frozenset().union(*(statement.written for statement in statements)),
        names=frozenset().union(*(statement.names for statement in statements)),
        tables=frozenset().union(*(statement.tables for statement in statements)),
        functions=frozenset().union(*(statement.functions for statement in statements)),
        ending=ending,
        savepoint=single,
        mixed_savepoints=bool(savepoints) and single is None,
        pins=any(statement.verb == "DECLARE" for statement in statements),
        is_ddl=any(statement.is_ddl for statement in statements),
        locks_rows=any(statement.locks_rows for statement in statements),
        setting=setting,
        is_private=any(statement.is_private for statement in statements),
        is_bare_call=_is_bare_call(sql),
        moves_sequences=any(
            statement.verb in ("INSERT", "COPY", "MERGE", "WITH") or "nextval" in statement.functions
            for statement in statements
        ),
        locks_advisory=any("advisory" in name for statement in statements for name in statement.functions),
        recalls_sequences=any(statement.functions & {"currval", "lastval"} for statement in statements),
        table_locks=frozenset(lock for statement in statements for lock in locks_of(statement)),
        may_do_anything=not all(
            name in HARMLESS_FUNCTIONS or is_private(name) for statement in statements for name in statement.functions
        ),
        verb=verb,
        is_ordinary=not (ending or savepoints or setting or verb == "LISTEN"),
    )


def _is_bare_call(sql: str) -> bool:
    """Whether a text is ``SELECT function(...)`` and nothing else, but for a name of the result."""
    tokens = [(kind, text) for kind, text, _ in scan(sql) if text != ";"]
    depth, ended = 0, 0
    for i, (_, text) in enumerate(tokens):
        depth += (text == "(") - (text == ")")
        if text == ")" and depth == 0:
            ended = i
            break
    rest = [text.upper() for _, text in tokens[ended + 1 :]]
    return (
        len(tokens) > 3
        and tokens[0][1].upper() == "SELECT"
        and tokens[2][1] == "("
        and bool(ended)
        and (not rest or (rest[0] == "AS" and len(rest) == 2))
    )


def closing_at(sql: str, position: int) -> int:
    """Return where the parenthesis that opens at ``position`` is closed."""
    depth = 0
    for kind, text, offset in scan(sql[position:]):
        depth += (text == "(") - (text == ")") if kind == "other" else 0
        if depth == 0:
            return position + offset
    return len(sql)


def arguments_at(sql: str, position: int) -> list[str]:
    """Return what stands in the parentheses that open at ``position``, cut at the commas."""
    parts, depth, start = [], 0, position + 1
    for kind, text, offset in scan(sql[position:]):
        at = position + offset
        depth += (text in "([") - (text in ")]") if kind == "other" else 0
        if depth == 0 or (depth == 1 and text == "," and kind == "other"):
            if sql[start:at].strip():
                parts.append(sql[start:at].strip())
            start = at + 1
            if depth == 0:
                break
    return parts


def scan(sql: str) -> Iterator[tuple[str, str, int]]:
    """Yield kind, text and position of each token; space and comments are left out."""
    position = 0
    while position < len(sql):
        match = _TOKEN.match(sql, position)
        assert match is not None
        assert match.lastgroup is not None
        start = position
        kind, text, position = match.lastgroup, match.group(), match.end()
        if kind == "space":
            continue
        if kind == "comment":
            position = _after_comment(sql, position)
        elif kind == "dollar":
            end = sql.find(text, position)
            position = len(sql) if end < 0 else end + len(text)
            yield "string", sql[start:position], start
        else:
            yield kind, text, start


def _split(sql: str) -> list[list[tuple[str, str]]]:
    """Return the statements as lists of (kind, text) without space and comments."""
    result: list[list[tuple[str, str]]] = [[]]
    depth = 0
    for kind, text, _ in scan(sql):
        if text == ";" and depth <= 0:
            result.append([])
        else:
            if kind == "word" and len(result[-1]) and result[-1][0][1].upper() == "CREATE":
                # A function body in SQL syntax holds semicolons: BEGIN ATOMIC ... END.
                depth += {"ATOMIC": 1, "CASE": 1 if depth else 0, "END": -1 if depth else 0}.get(text.upper(), 0)
            result[-1].append((kind, text))
    return [tokens for tokens in result if tokens]


def _after_comment(sql: str, position: int) -> int:
    depth = 1
    while depth:
        edge = _COMMENT_EDGE.search(sql, position)
        if edge is None:
            return len(sql)
        depth += 1 if edge.group() == "/*" else -1
        position = edge.end()
    return position


def _statement(tokens: list[tuple[str, str]]) -> Statement:
    while tokens and tokens[0] == ("other", "("):
        tokens = tokens[1:]
    words = tuple(name_of(kind, text) for kind, text in tokens if kind in ("word", "quoted"))
    upper = [text.upper() if kind == "word" else "" for kind, text in tokens]
    verb = upper[0] if upper else ""
    if verb == "PREPARE" and "TRANSACTION" in upper[1:2]:
        verb = "PREPARE TRANSACTION"
    written = frozenset(_written(tokens, upper, verb))
    tables = frozenset(_tables(tokens, upper)) | written
    changes = verb in ("WITH", "EXPLAIN", "DECLARE") and bool(written)
    into = verb in ("SELECT", "WITH") and "INTO" in upper
    copies_out = verb == "COPY" and "TO" in upper and "FROM" not in upper[: upper.index("TO")]
    reads = verb in READING_VERBS or copies_out or not verb
    functions = frozenset(_functions(tokens)) - tables if verb != "PREPARE" else frozenset()
    temporary = _temporary(tokens, upper, verb)
    return Statement(
        verb=verb,
        words=words,
        names=frozenset(words),
        tables=tables,
        written=written,
        functions=functions,
        writes=not reads or into or (changes and (verb != "EXPLAIN" or "ANALYZE" in upper)) or verb == "EXECUTE",
        locks_rows=verb in ("SELECT", "WITH", "TABLE") and "FOR" in upper and _locks(upper),
        temporary=temporary,
        is_private=temporary is not None or verb in _PRIVATE or any(map(is_private, functions)),
    )


def _temporary(tokens: list[tuple[str, str]], upper: list[str], verb: str) -> tuple[str, str, str] | None:
    """Return kind, name and what a commit does with it of the temporary table, view or sequence that is made."""
    if verb == "CREATE":
        at = next((i for i, word in enumerate(upper[:6]) if word in ("TABLE", "VIEW", "SEQUENCE")), None)
        is_temporary = at is not None and bool({"TEMP", "TEMPORARY"} & set(upper[:at]))
    elif verb in ("SELECT", "WITH") and "INTO" in upper:
        at = upper.index("INTO") + 1
        is_temporary = upper[at : at + 1] in (["TEMP"], ["TEMPORARY"])
    else:
        return None
    if at is None:
        return None
    kind = upper[at] if verb == "CREATE" else "TABLE"
    names = _names_at(tokens, upper, at + 1, many=False)
    is_temporary = is_temporary or any(name_of(*token) == "pg_temp" for token in tokens[at + 1 : at + 5])
    if not names or not is_temporary:
        return None
    text = " ".join(upper)
    on_commit = "DROP" if "ON COMMIT DROP" in text else "DELETE ROWS" if "ON COMMIT DELETE ROWS" in text else ""
    return kind, names[0], on_commit


def _locks(upper: list[str]) -> bool:
    return any(word == "FOR" and (set(upper[i + 1 : i + 4]) & {"UPDATE", "SHARE"}) for i, word in enumerate(upper))


def name_of(kind: str, text: str) -> str:
    return text.lower() if kind == "word" else text.strip('"').replace('""', '"')


def _functions(tokens: list[tuple[str, str]]) -> list[str]:
    return [
        name_of(*tokens[i])
        for i in range(len(tokens) - 1)
        if tokens[i][0] in ("word", "quoted") and tokens[i + 1] == ("other", "(")
    ]


def _written(tokens: list[tuple[str, str]], upper: list[str], verb: str) -> list[str]:
    """Return the last part of the name of each table that the statement names as its target."""
    found = []
    for i, word in enumerate(upper):
        before = upper[i - 1] if i else ""
        if (
            (word == "INTO" and (before in ("INSERT", "MERGE") or verb == "SELECT"))
            or (word == "UPDATE" and before not in ("FOR", "KEY", "DO", "ON", "THEN", "BEFORE", "AFTER", "OR"))
            or (word == "FROM" and before == "DELETE")
            or (word == "COPY" and i == 0 and "FROM" in upper)
            or (word == "TABLE" and verb in ("TRUNCATE", "ALTER", "DROP", "CREATE", "LOCK"))
            or (word == "TRUNCATE" and i == 0)
            or (word == "TO" and before == "RENAME" and verb == "ALTER")
            or (word in ("VIEW", "SEQUENCE", "TYPE", "INDEX") and verb in ("REFRESH", "CREATE", "ALTER", "DROP"))
        ):
            found.extend(_names_at(tokens, upper, i + 1, many=verb in ("TRUNCATE", "DROP")))
    return found


def _tables(tokens: list[tuple[str, str]], upper: list[str]) -> list[str]:
    """Return the last part of each name that stands where a table may stand."""
    found = []
    for i, word in enumerate(upper):
        if word in _BEFORE_TABLE or (word == "ON" and upper[0] in ("CREATE", "DROP", "COMMENT", "GRANT", "REVOKE")):
            start = i + 1
            while start < len(tokens):
                names = _names_at(tokens, upper, start, many=False)
                found.extend(names)
                start = _after_reference(tokens, upper, start)
                if not names or word != "FROM" or start >= len(tokens) or tokens[start] != ("other", ","):
                    break
                start += 1
    return found


def _after_reference(tokens: list[tuple[str, str]], upper: list[str], i: int) -> int:
    """Return the index after a name, its parts and its alias."""
    while i + 2 < len(tokens) and tokens[i + 1] == ("other", "."):
        i += 2
    i += 1
    if i < len(tokens) and upper[i] == "AS":
        return i + 2
    return i + 1 if i + 1 < len(tokens) and tokens[i][0] in ("word", "quoted") and tokens[i + 1][1] == "," else i


def _names_at(tokens: list[tuple[str, str]], upper: list[str], i: int, *, many: bool) -> list[str]:
    names = []
    while i < len(tokens) and upper[i] in ("ONLY", "TABLE", "IF", "NOT", "EXISTS", "CONCURRENTLY"):
        i += 1
    if upper[i - 1 : i + 1] in (["INTO", "TEMP"], ["INTO", "TEMPORARY"], ["INTO", "UNLOGGED"]) and (
        i + 1 < len(tokens) and tokens[i + 1][0] in ("word", "quoted") and upper[i + 1] not in ("SELECT", "VALUES")
    ):
        i += 1
    while i < len(tokens) and tokens[i][0] in ("word", "quoted"):
        if upper[i].lower() in _NOT_A_TABLE:
            break
        while i + 2 < len(tokens) and tokens[i + 1] == ("other", ".") and tokens[i + 2][0] in ("word", "quoted"):
            i += 2
        names.append(name_of(*tokens[i]))
        if not (many and i + 1 < len(tokens) and tokens[i + 1] == ("other", ",")):
            break
        i += 2
    return names


def _savepoint(statement: Statement) -> tuple[str, str] | None:
    """Return ("SAVEPOINT" | "RELEASE" | "ROLLBACK TO", name) if the statement is about a savepoint."""
    words = [word for word in statement.words if word not in ("work", "transaction")]
    if statement.verb == "SAVEPOINT" and len(words) == 2:
        return "SAVEPOINT", words[1]
    if statement.verb == "RELEASE" and len(words) in (2, 3):
        return "RELEASE", words[-1]
    if statement.verb in ("ROLLBACK", "ABORT") and "to" in words[1:2] and len(words) in (3, 4):
        return "ROLLBACK TO", words[-1]
    return None


def _ends(statement: Statement) -> bool:
    return statement.verb in ENDING and _savepoint(statement) is None
