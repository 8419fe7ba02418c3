"""Cuts an SQL script into statements the way psql does, without understanding more of SQL than that needs."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

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
    """A script that cannot be cut into statements; ``offset`` is where in it."""

    def __init__(self, problem: str, offset: int) -> None:
        super().__init__(problem)
        self.problem = problem
        self.offset = offset


# Whatever matters when looking for the end of a statement. Identifiers are tokens of their own so that neither the
# dollar in a$b nor the e before a quote in nice'' is taken for the beginning of a string.
_TOKEN = re.compile(
    r"""
      (?P<comment> --[^\n]* )
    | (?P<block> /\* )
    | (?P<escaped> \b[eE]'(?: [^'\\] | \\. | '' )*+' )
    | (?P<string> '(?: [^'] | '' )*+' )
    | (?P<quoted> "(?: [^"] | "" )*+" )
    | (?P<unclosed> \b[eE]' | ['"] )
    | (?P<word> [^\W\d][\w$]* )
    | (?P<number> \d[\w.]* )
    | (?P<dollar> \$(?P<tag>(?:[^\W\d]\w*)?)\$ )
    | (?P<open> [(\[] )
    | (?P<close> [)\]] )
    | (?P<end> ; )
    | (?P<command> \\ )
    """,
    re.VERBOSE | re.DOTALL,
)
_BLOCK = re.compile(r"/\*|\*/")
_COPY = re.compile(r"copy\b.*\bfrom\s+stdin\b", re.IGNORECASE | re.DOTALL)
_COPY_END = re.compile(r"^\\\.[ \t\r]*$", re.MULTILINE)
_ROUTINE = re.compile(r"create(?:\s+or\s+replace)?\s+(?:function|procedure)$", re.IGNORECASE)
# pg_dump brackets its output with these since August 2025, so that a dump cannot carry commands to psql.
_HARMLESS_COMMANDS = {"restrict", "unrestrict"}


def statements(script: str) -> Iterator[Statement]:
    """Yield the statements of ``script`` in their order.

    Raises:
        UnreadableScript: It holds a command to psql, a string or comment without end, or data without end.
    """
    return _Reader(script).read()


class _Reader:
    def __init__(self, script: str) -> None:
        self._script = script
        self._begin()

    def _begin(self) -> None:
        self._start: int | None = None  # of the statement's first token
        self._depth = 0  # of parentheses
        self._bodies = 0  # of BEGIN ATOMIC ... END and the CASE ... END within
        self._opening: list[str] = []  # the first words, to recognise CREATE FUNCTION
        self._opening_over = False

    def read(self) -> Iterator[Statement]:
        position = 0
        while found := _TOKEN.search(self._script, position):
            # Operators and digits are no tokens, but they belong to a statement.
            self._note_start(position, found.start())
            kind = found.lastgroup
            position = found.end()
            if kind == "comment":
                continue
            if kind == "block":
                position = self._end_of_comment(found.start())
                continue
            if kind == "command":
                position = self._command(found.start())
                continue
            if kind == "unclosed":
                raise UnreadableScript(f"the string that begins with {found[0]} has no end", found.start())
            if kind == "end" and self._depth <= 0 and self._bodies == 0:
                if self._start is not None:
                    statement, position = self._finished(found.start(), position)
                    yield statement
                self._begin()
                continue
            if self._start is None:
                self._start = found.start()
            if kind in ("dollar", "tag"):
                position = self._end_of_dollar_quote(found)
            elif kind == "word":
                self._word(found[0])
            elif kind == "open":
                self._depth += 1
                self._opening_over = True
            elif kind == "close":
                self._depth -= 1
        self._note_start(position, len(self._script))
        if self._start is not None:
            statement, _ = self._finished(len(self._script), len(self._script))
            yield statement

    def _note_start(self, start: int, end: int) -> None:
        if self._start is None:
            rest = self._script[start:end].lstrip()
            if rest:
                self._start = end - len(rest)

    def _finished(self, end: int, position: int) -> tuple[Statement, int]:
        assert self._start is not None
        text = self._script[self._start : end].rstrip()
        if not _COPY.match(text):
            return Statement(text, self._start), position
        newline = self._script.find("\n", position)
        data_start = len(self._script) if newline < 0 else newline + 1
        data_end = _COPY_END.search(self._script, data_start)
        if data_end is None:
            raise UnreadableScript(r"the data of COPY ... FROM stdin has no end: a line with \. alone", self._start)
        return Statement(text, self._start, self._script[data_start : data_end.start()]), data_end.end()

    def _word(self, word: str) -> None:
        # As psql does it: only the body of a function written as BEGIN ATOMIC ... END has semicolons of its own.
        lowered = word.lower()
        if not self._opening_over:
            self._opening.append(lowered)
            if len(self._opening) >= 4 or _ROUTINE.match(" ".join(self._opening)):
                self._opening_over = True
            return
        if not _ROUTINE.match(" ".join(self._opening)):
            return
        if lowered == "atomic" or (lowered == "case" and self._bodies):
            self._bodies += 1
        elif lowered == "end" and self._bodies:
            self._bodies -= 1

    def _end_of_comment(self, start: int) -> int:
        depth = 0
        for found in _BLOCK.finditer(self._script, start):
            depth += 1 if found[0] == "/*" else -1
            if depth == 0:
                return found.end()
        raise UnreadableScript("the comment that begins with /* has no end", start)

    def _end_of_dollar_quote(self, found: re.Match[str]) -> int:
        quote = f"${found['tag']}$"
        end = self._script.find(quote, found.end())
        if end < 0:
            raise UnreadableScript(f"the string that begins with {quote} has no end", found.start())
        return end + len(quote)

    def _command(self, start: int) -> int:
        end = self._script.find("\n", start)
        line = self._script[start : end if end >= 0 else len(self._script)].strip()
        name = line[1:].split(None, 1)[0] if len(line) > 1 else ""
        if name not in _HARMLESS_COMMANDS:
            raise UnreadableScript(f"{line!r} is a command to psql, not SQL", start)
        return end if end >= 0 else len(self._script)
