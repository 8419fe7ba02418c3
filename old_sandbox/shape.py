"""The simple forms of statements that can be compared row by row: one table, one condition.

Everything here works on literal SQL, with the parameters already in it. A form that is not simple gives None, and then
only tables are compared.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from .lexer import name_of, scan
from .quoting import quoted, string

Token = tuple[str, str, int]

_AFTER_TABLE = frozenset({"WHERE", "ORDER", "LIMIT", "OFFSET", "FOR", "RETURNING", "SET", "FETCH"})
_AFTER_WHERE = frozenset(
    (
        "GROUP",
        "ORDER",
        "LIMIT",
        "OFFSET",
        "FOR",
        "HAVING",
        "WINDOW",
        "UNION",
        "INTERSECT",
        "EXCEPT",
        "RETURNING",
        "FETCH",
    )
)
_NOT_SIMPLE = frozenset(
    ("JOIN", "UNION", "INTERSECT", "EXCEPT", "USING", "WITH", "GROUP", "HAVING", "WINDOW", "CURRENT")
)


@dataclass(frozen=True, slots=True)
class Shape:
    """A statement on one table.

    Attributes:
        kind: "select", "update", "delete", "insert", or "upsert" for an insert with ON CONFLICT.
        table: The table as written, with its alias.
        name: The last part of its name.
        where: The condition as written; None for all rows.
        columns: What is set, or inserted into.
        equal: The conditions of the form ``column = literal`` that hold for every row of the statement.
        mentioned: All names in the condition.
        assigned: For an update, the literal that a column is set to, where it is one.
        rows: For an insert, the literals of each row by column (None for NULL); None if they are no literals.
        arbiter: The columns of ``ON CONFLICT (...)``.
    """

    kind: str
    table: str
    name: str
    where: str | None = None
    columns: frozenset[str] = frozenset()
    equal: frozenset[tuple[str, str]] = frozenset()
    mentioned: frozenset[str] = frozenset()
    rows: tuple[dict[str, str | None], ...] | None = None
    arbiter: frozenset[str] = frozenset()
    assigned: frozenset[tuple[str, str]] = frozenset()

    @property
    def alias(self) -> str:
        """What the condition calls the table."""
        return self.table.split()[-1].rpartition(".")[2]

    @property
    def bare_table(self) -> str:
        """The table without its alias."""
        return self.table.split()[0]

    def changes_one_of(self, columns: frozenset[str]) -> str:
        """Return the condition under which an update changes one of the columns."""
        literals = dict(self.assigned)
        parts = [
            f"{self.alias}.{quoted(column)}::text IS DISTINCT FROM {string(literals[column])}"
            for column in sorted(columns & self.columns)
            if column in literals
        ]
        return "true" if len(parts) < len(columns & self.columns) else f"({' OR '.join(parts) or 'false'})"

    def cannot_meet(self, other: Shape, *, changed: frozenset[str] = frozenset()) -> bool:
        """Whether the two conditions name different values of one column that nothing changes."""
        mine = {column: value for column, value in self.equal if column not in changed}
        return any(column in mine and mine[column] != value for column, value in other.equal)


def shape_of(sql: str, columns: Mapping[str, list[str]] | None = None) -> Shape | None:
    """Return the simple form of a literal statement, None if it has none.

    Args:
        columns: Those of each table in order, for an INSERT that does not name them.
    """
    tokens = list(scan(sql))
    while tokens and tokens[-1][1] == ";":
        tokens.pop()
    if not tokens or any(text == ";" for _, text, _ in tokens):
        return None
    upper = [text.upper() if kind == "word" else "" for kind, text, _ in tokens]
    if upper[0] == "INSERT":
        return _insert(sql, tokens, upper, columns or {})
    if upper.count("SELECT") > (upper[0] == "SELECT") or set(upper) & _NOT_SIMPLE:
        return None
    if upper[0] == "SELECT" and "FROM" in upper:
        return _filtered(sql, tokens, upper, "select", _at_top(tokens, upper, "FROM"))
    if upper[0] == "UPDATE" and "FROM" not in upper:
        return _filtered(sql, tokens, upper, "update", 0)
    if upper[:2] == ["DELETE", "FROM"]:
        return _filtered(sql, tokens, upper, "delete", 1)
    return None


def without_lock(sql: str) -> str:
    """Return a SELECT without its FOR UPDATE, FOR SHARE and the like."""
    tokens = list(scan(sql))
    at = _at_top(tokens, [text.upper() if kind == "word" else "" for kind, text, _ in tokens], "FOR")
    return sql if at is None else sql[: tokens[at][2]]


@dataclass(frozen=True, slots=True)
class Joined:
    """An UPDATE that takes its values from other tables.

    Attributes:
        name: The last part of the target's name.
        alias: What it is called in the statement.
        source: Target and other tables, with the condition, from FROM on.
        values: What is assigned.
    """

    name: str
    alias: str
    source: str
    values: tuple[str, ...]


def joined_update(sql: str) -> Joined | None:
    """Return the parts of a literal ``UPDATE ... SET ... FROM ...``, None for anything else."""
    tokens = [token for token in scan(sql) if token[1] != ";"]
    upper = [text.upper() if kind == "word" else "" for kind, text, _ in tokens]
    if upper[:1] != ["UPDATE"] or "RETURNING" in upper or "CURRENT" in upper:
        return None
    index, name = _table(tokens, 2 if upper[1:2] == ["ONLY"] else 1)
    set_at, from_at = _at_top(tokens, upper, "SET", index), _at_top(tokens, upper, "FROM", index)
    if name is None or set_at is None or from_at is None or set_at > from_at:
        return None
    target = sql[tokens[1][2] : tokens[set_at][2]].strip()
    values, start = [], None
    for i in range(set_at + 1, from_at + 1):
        if _is_top(tokens, i) and (tokens[i][1] == "," or i == from_at):
            if start is None:
                return None
            values.append(sql[start : tokens[i][2]].strip())
            start = None
        elif start is None and tokens[i][1] == "=":
            start = tokens[i][2] + 1
    rest = sql[tokens[from_at][2] + 4 :].strip().rstrip(";")
    return Joined(name, target.split()[-1].rpartition(".")[2], f"{target}, {rest}", tuple(values))


def _filtered(sql: str, tokens: list[Token], upper: list[str], kind: str, before: int | None) -> Shape | None:
    if before is None:
        return None
    start = before + 2 if upper[before + 1 : before + 2] == ["ONLY"] else before + 1
    index, name = _table(tokens, start)
    if name is None:
        return None
    end = _skip_alias(tokens, upper, index)
    if end < len(tokens) and upper[end] not in _AFTER_TABLE:
        return None
    assigned = _assigned(tokens, upper, end + 1) if kind == "update" else {}
    where = _at_top(tokens, upper, "WHERE", end)
    condition: list[Token] = []
    text = None
    if where is not None:
        stop = next((i for i in range(where + 1, len(tokens)) if _is_top(tokens, i) and upper[i] in _AFTER_WHERE), None)
        condition = tokens[where + 1 : stop]
        text = sql[tokens[where][2] + 5 : tokens[stop][2] if stop is not None else len(sql)].strip().rstrip(";")
    return Shape(
        kind,
        sql[tokens[start][2] : tokens[end][2] if end < len(tokens) else len(sql)].strip().rstrip(";"),
        name,
        text,
        frozenset(assigned),
        _equalities(condition),
        frozenset(name_of(k, t) for k, t, _ in condition if k in ("word", "quoted")),
        assigned=frozenset((name, value) for name, value in assigned.items() if value is not None),
    )


def _insert(sql: str, tokens: list[Token], upper: list[str], known: Mapping[str, list[str]]) -> Shape | None:
    index, name = _table(tokens, 2)
    if upper[1:2] != ["INTO"] or name is None or "SELECT" in upper:
        return None
    table = sql[tokens[2][2] : tokens[index][2] if index < len(tokens) else len(sql)].strip()
    columns: list[str] = []
    if index < len(tokens) and tokens[index][1] == "(":
        index += 1
        while index < len(tokens) and tokens[index][1] != ")":
            if tokens[index][0] in ("word", "quoted"):
                columns.append(name_of(*tokens[index][:2]))
            index += 1
        index += 1
    elif upper[index : index + 1] == ["VALUES"]:
        columns = known.get(name, [])
    rows = _rows(tokens, upper, index, columns) if columns else None
    kind = "upsert" if "CONFLICT" in upper else "insert"
    return Shape(kind, table, name, columns=frozenset(columns), rows=rows, arbiter=_arbiter(tokens, upper))


def _arbiter(tokens: list[Token], upper: list[str]) -> frozenset[str]:
    if "CONFLICT" not in upper:
        return frozenset()
    columns = []
    for kind, text, _ in tokens[upper.index("CONFLICT") + 2 :]:
        if text == ")":
            break
        if kind in ("word", "quoted"):
            columns.append(name_of(kind, text))
    return frozenset(columns) if tokens[upper.index("CONFLICT") + 1][1] == "(" else frozenset()


def _rows(
    tokens: list[Token], upper: list[str], index: int, columns: list[str]
) -> tuple[dict[str, str | None], ...] | None:
    if upper[index : index + 1] != ["VALUES"]:
        return None
    rows: list[dict[str, str | None]] = []
    row: list[str | None] = []
    cell: list[Token] = []
    depth, is_literal = 0, True
    for kind, text, position in tokens[index + 1 :]:
        if depth == 0 and kind == "word":  # RETURNING, ON CONFLICT
            break
        depth += (text in "([") - (text in ")]") if kind == "other" else 0
        if (depth == 1 and text in "(,") or (depth == 0 and text == ")"):
            if text != "(":
                value = _literal(cell)
                is_null = [t.upper() for _, t, _ in cell] == ["NULL"]
                is_literal = is_literal and (is_null or value is not None)
                row.append(value)
            cell = []
            if text == ")":
                if len(row) > len(columns) or not is_literal:
                    return None
                rows.append(dict(zip(columns, row, strict=False)))
                row = []
        elif depth:
            cell.append((kind, text, position))
    return tuple(rows)


def _table(tokens: list[Token], index: int) -> tuple[int, str | None]:
    """Return the index after a table's name, and the last part of it."""
    if index >= len(tokens) or tokens[index][0] not in ("word", "quoted"):
        return index, None
    while index + 2 < len(tokens) and tokens[index + 1][1] == "." and tokens[index + 2][0] in ("word", "quoted"):
        index += 2
    return index + 1, name_of(*tokens[index][:2])


def _skip_alias(tokens: list[Token], upper: list[str], index: int) -> int:
    if index < len(tokens) and upper[index] == "AS":
        return index + 2
    if index < len(tokens) and tokens[index][0] in ("word", "quoted") and upper[index] not in _AFTER_TABLE:
        return index + 1
    return index


def _assigned(tokens: list[Token], upper: list[str], index: int) -> dict[str, str | None]:
    """Return the columns of SET with the literal that each gets, None where it is no literal."""
    assigned: dict[str, str | None] = {}
    name: str | None = None
    value: list[Token] = []
    for i in range(index, len(tokens)):
        is_top = _is_top(tokens, i)
        if is_top and upper[i] in ("WHERE", "RETURNING"):
            break
        if is_top and tokens[i][1] == ",":
            name, value = None, []
        elif name is None and tokens[i][0] in ("word", "quoted"):
            name = name_of(*tokens[i][:2])
            assigned[name] = None
        elif name is not None and tokens[i][1] != "=":
            value.append(tokens[i])
            assigned[name] = _literal(value)
    return assigned


def _equalities(condition: list[Token]) -> frozenset[tuple[str, str]]:
    """Return (column, literal) of each ``column = literal`` in a plain chain of ANDs."""
    if any(kind == "word" and text.upper() in ("OR", "NOT", "CASE") for kind, text, _ in condition):
        return frozenset()
    parts: list[list[Token]] = [[]]
    for token in condition:
        if token[0] == "word" and token[1].upper() == "AND":
            parts.append([])
        else:
            parts[-1].append(token)
    found = []
    for part in parts:
        equals = [i for i, token in enumerate(part) if token[1] == "="]
        if len(equals) == 1:
            _, name = _table(part, 0)
            literal = _literal(part[equals[0] + 1 :])
            if name is not None and literal and _table(part, 0)[0] == equals[0]:
                found.append((name, literal))
    return frozenset(found)


def _literal(tokens: list[Token]) -> str | None:
    """Return a number or string as text, without its cast; None for anything else."""
    texts = [text for _, text, _ in tokens]
    if "::" in "".join(texts):
        cut = next((i for i in range(len(texts) - 1) if texts[i] == texts[i + 1] == ":"), len(texts))
        tokens = tokens[:cut]
    sign = ""
    if tokens and tokens[0][1] == "-":
        sign, tokens = "-", tokens[1:]
    if len(tokens) != 1 or tokens[0][0] not in ("number", "string"):
        return None
    return sign + tokens[0][1].strip("'")


def _is_top(tokens: list[Token], index: int) -> bool:
    depth = 0
    for _, text, _ in tokens[:index]:
        depth += (text == "(") - (text == ")")
    return depth == 0


def _at_top(tokens: list[Token], upper: list[str], word: str, start: int = 0) -> int | None:
    return next((i for i in range(start, len(tokens)) if upper[i] == word and _is_top(tokens, i)), None)
