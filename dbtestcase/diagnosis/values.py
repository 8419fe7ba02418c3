"""The values in a statement: which column each belongs to, and whether it may be shown.

A value is hidden if the part of the statement in which it stands names a hidden column: ``lower(password) = 'x'`` as a
whole, but of ``name = 'a' AND password = 'x'`` only the second half. In an INSERT its position decides.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from dbtestcase.diagnosis.hidden import HiddenNames, is_hidden

VALUES = ("placeholder", "string", "number")

_TOKEN = re.compile(
    r"""
    (?P<comment>--[^\n]*|/\*.*?\*/)
  | (?P<string>[eE]'(?:[^'\\]|''|\\.)*(?:'|\Z)|'(?:[^']|'')*(?:'|\Z)|\$(?P<tag>\w*)\$.*?\$(?P=tag)\$)
  | (?P<placeholder>(?:%\((?P<name>[^)]*)\)[sbt]|%[sbt])  # with the cast that SQLAlchemy adds for psycopg 3
      (?:::[A-Z]+(?:\(\d+(?:,[ ]?\d+)?\))?(?:[ ]WITH(?:OUT)?[ ]TIME[ ]ZONE)?(?:\[\])*)?)
  | (?P<percent>%%)
  | (?P<number>(?<![\w$.])\d+(?:\.\d+)?(?:[eE][+-]?\d+)?)
  | (?P<word>"(?:[^"]|"")*"|[^\W\d][\w$]*)
  | (?P<space>\s+)
  | (?P<sign>::|<>|!=|<=|>=|.)
    """,
    re.VERBOSE | re.DOTALL,
)
# Words that begin another part of a statement.
_DIVIDING = frozenset(
    [
        "select",
        "where",
        "from",
        "set",
        "values",
        "having",
        "returning",
        "limit",
        "offset",
        "fetch",
        "order",
        "group",
        "join",
        "using",
        "union",
        "except",
        "intersect",
        "do",
        "with",
        "window",
        "on",
        "or",
        "and",
    ]
)


@dataclass(slots=True)
class Token:
    """A piece of SQL; of a value also whether it is hidden.

    Attributes:
        kind: "comment", "string", "placeholder", "percent", "number", "word", "space" or "sign".
        name: Of a placeholder: that of its parameter, ``None`` if they are told by position.
    """

    kind: str
    text: str
    name: str | None = None
    is_hidden: bool = False


def tokens(sql: str) -> Iterator[Token]:
    """Divide SQL into pieces, quickly and without looking at what belongs together."""
    for found in _TOKEN.finditer(sql):
        kind = "string" if found.lastgroup == "tag" else "placeholder" if found.lastgroup == "name" else found.lastgroup
        yield Token(kind or "sign", found[0], found["name"])


def marked(sql: str, hidden: Iterable[str]) -> list[Token]:
    """Divide SQL into pieces and mark the values that must not be shown."""
    names = hidden if isinstance(hidden, HiddenNames) else HiddenNames(hidden)
    return _Marking(list(tokens(sql)), names).tokens


@dataclass(slots=True, eq=False)
class _Group:
    """What stands in parentheses, or between CASE and END."""

    around: _Part | None
    is_query: bool = False


@dataclass(slots=True, eq=False)
class _Part:
    """A part of a group, up to the next comma, AND, WHERE or the like."""

    group: _Group
    names_hidden: bool = False
    hidden_within: list[_Group] = field(default_factory=list)  # its groups that name a hidden column
    is_between: bool = False

    def hides(self) -> bool:
        """Whether what stands directly in it is hidden."""
        if self.names_hidden or self.hidden_within:
            return True
        group, around = self.group, self.group.around
        while around is not None:
            if around.names_hidden or any(each is not group for each in around.hidden_within):
                return True
            group, around = around.group, around.group.around
        return False

    def found_hidden(self) -> None:
        """Note that it names a hidden column; so does what it stands in, but for a query around a subquery."""
        self.names_hidden = True
        group = self.group
        while group.around is not None and not group.is_query:
            group.around.hidden_within.append(group)
            group = group.around.group


@dataclass(slots=True)
class _Insert:
    """An INSERT that has not given all its rows.

    Attributes:
        columns: Their names in order; ``None`` if neither the statement nor anybody else gives them.
        depth: How many groups it stands in.
        within: How many groups its values stand in, while they do.
        position: Which of the columns is next.
    """

    columns: list[str] | None
    depth: int
    within: int | None = None
    position: int = 0

    def hides(self, names: HiddenNames) -> bool:
        if self.columns is None:
            return True
        return self.position < len(self.columns) and is_hidden(self.columns[self.position], names)


class _Marking:
    """Walks over the tokens of a statement once."""

    def __init__(self, found: list[Token], names: HiddenNames) -> None:
        self.tokens = found
        self._names = names
        self._group = _Group(None)
        self._part = _Part(self._group)
        self._stack: list[tuple[str, _Part]] = []
        self._insert: _Insert | None = None
        placed: list[tuple[Token, _Part]] = []
        for at, token in enumerate(found):
            if token.kind in VALUES:
                token.is_hidden = is_hidden(token.name, names) or (self._is_in_row() and self._row().hides(names))
                placed.append((token, self._part))
            elif token.kind == "word":
                self._word(at, token.text)
            elif token.kind == "sign":
                self._sign(at, token.text)
        for token, part in placed:
            token.is_hidden = token.is_hidden or part.hides()

    def _is_in_row(self) -> bool:
        return self._insert is not None and self._insert.within == len(self._stack)

    def _row(self) -> _Insert:
        assert self._insert is not None
        return self._insert

    def _word(self, at: int, text: str) -> None:
        word = text.lower()
        if word == "case":
            self._open("case")
        elif word == "end" and self._stack and self._stack[-1][0] == "case":
            self._close("case")
        elif word == "between":
            self._part.is_between = True
        elif word == "and" and self._part.is_between:
            self._part.is_between = False
        elif word == "insert":
            self._insert = _Insert(self._columns(at), len(self._stack))
        elif word in _DIVIDING:
            self._part = _Part(self._group)
            if self._insert is not None:
                self._divide_insert(self._insert, word, len(self._stack))
        elif is_hidden(text, self._names) and self._next(at).text != ".":
            self._part.found_hidden()

    def _divide_insert(self, insert: _Insert, word: str, depth: int) -> None:
        if word == "values":
            insert.within, insert.position = depth + 1, 0
        elif word == "select" and insert.within is None and depth == insert.depth:
            insert.within, insert.position = depth, 0
        elif word == "from" and insert.within == depth:
            insert.within = None
        elif word in ("returning", "on", "where") and depth <= insert.depth:
            self._insert = None

    def _sign(self, at: int, text: str) -> None:
        if text == "(":
            self._open("(")
            self._group.is_query = self._next(at).text.lower() in ("select", "values", "with")
            if self._is_in_row():
                self._row().position = 0
        elif text == ")":
            self._close("(")
        elif text == ",":
            if self._is_in_row():
                self._row().position += 1
            self._part = _Part(self._group)
        elif text == ";":
            self._insert, self._part = None, _Part(self._group)

    def _open(self, sign: str) -> None:
        self._stack.append((sign, self._part))
        self._group = _Group(self._part)
        self._part = _Part(self._group)

    def _close(self, sign: str) -> None:
        while self._stack:
            opened, self._part = self._stack.pop()
            self._group = self._part.group
            if opened == sign:
                return

    def _next(self, at: int) -> Token:
        for i in range(at + 1, len(self.tokens)):
            if self.tokens[i].kind not in ("space", "comment"):
                return self.tokens[i]
        return Token("sign", "")

    def _columns(self, at: int) -> list[str] | None:
        """Return the columns of the INSERT whose first word stands at ``at``."""
        rest = [each for each in self.tokens[at + 1 :] if each.kind not in ("space", "comment")]
        table, i = "", 0
        while i < len(rest) and (rest[i].kind == "word" or rest[i].text == "."):
            word = rest[i].text.lower()
            if word in ("values", "select", "default", "overriding", "with"):
                break
            if word == "as":
                i += 2
                continue
            table, i = rest[i].text.strip('"') if rest[i].kind == "word" else table, i + 1
        if i + 1 < len(rest) and rest[i].text == "(" and rest[i + 1].text.lower() != "select":
            closing = next((k for k in range(i, len(rest)) if rest[k].text == ")"), len(rest))
            return [each.text.strip('"') for each in rest[i:closing] if each.kind == "word"]
        known = self._names.columns_of(table)
        return list(known) if known is not None else None
