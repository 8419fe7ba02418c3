"""Divides an SQL script into statements as psql does: with the data of COPY, without psql's own commands."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

from dbtestcase import sql
from dbtestcase.errors import SchemaError


@dataclass(frozen=True)
class Statement:
    """One statement of a script.

    Attributes:
        text: The statement as written, without the semicolon.
        start: Where in the script it begins, counted in characters.
        copy_data: The lines that follow a ``COPY ... FROM stdin``, else None.
    """

    text: str
    start: int
    copy_data: str | None = None


class UnreadableScript(SchemaError):
    """A script that cannot be divided into statements; ``offset`` is where in it."""

    def __init__(self, problem: str, offset: int) -> None:
        super().__init__(problem)
        self.problem = problem
        self.offset = offset


_COPY_END = re.compile(r"^\\\.[ \t\r]*$", re.MULTILINE)
# They change nothing here. pg_dump puts the first two around its output since August 2025, so that a dump cannot carry
# commands to psql; an error ends a script in any case.
_HARMLESS_COMMAND = re.compile(
    r"\\(?:(?:un)?restrict|q?echo|warn|timing|pset|set\s+(?:ON_ERROR_STOP|ECHO|QUIET|VERBOSITY))(?:\s[^\\]*)?"
)
_WITHOUT_END = {
    "'": "the string that begins with ' has no end",
    '"': 'the quoted name that begins with " has no end',
    "/": "the comment that begins with /* has no end",
}


def statements(script: str) -> Iterator[Statement]:
    """Yield the statements of ``script`` in their order.

    Raises:
        UnreadableScript: It holds a command to psql, a string or comment without end, or data without end.
    """
    position = 0
    while position < len(script):
        tokens, position = sql.statement_at(script, position)
        while tokens and tokens[0].kind == "command" and _HARMLESS_COMMAND.fullmatch(tokens[0].text):
            del tokens[0]
        if not tokens:
            continue
        _check(tokens)
        start = tokens[0].start
        data = None
        if _is_copy_from_stdin(tokens):
            begin, end, position = _data(script, position, start)
            data = script[begin:end]
        yield Statement(script[start : tokens[-1].end], start, data)


def _check(tokens: list[sql.Token]) -> None:
    for token in tokens:
        if token.kind == "command":
            raise UnreadableScript(f"{token.text.strip()!r} is a command to psql, not SQL", token.start)
    last = tokens[-1]
    if last.kind == "unclosed":
        problem = _WITHOUT_END.get(last.text.lstrip("eEnNbBxXuU&")[0])
        quote = "$".join(last.text.split("$", 2)[:2]) + "$"
        raise UnreadableScript(problem or f"the string that begins with {quote} has no end", last.start)


def _is_copy_from_stdin(tokens: list[sql.Token]) -> bool:
    words = [token.text.lower() for token in tokens if token.kind == "name"]
    return words[0:1] == ["copy"] and ("from", "stdin") in pairwise(words)


def _data(script: str, position: int, copy: int) -> tuple[int, int, int]:
    """Return where the data after a COPY begin and end, and where the script goes on."""
    newline = script.find("\n", position)
    begin = len(script) if newline < 0 else newline + 1
    end = _COPY_END.search(script, begin)
    if end is None:
        raise UnreadableScript(r"the data of COPY ... FROM stdin has no end: a line with \. alone", copy)
    return begin, end.start(), end.end()
