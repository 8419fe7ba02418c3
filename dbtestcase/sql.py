"""PostgreSQL's lexical rules: tokens, statements, the words and possible calls of a statement, quoting.

This is no parser: it knows where a literal, a comment, a name and a statement begin and end, and what a statement
begins with. It presumes ``standard_conforming_strings = on``, PostgreSQL's default.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

__all__ = [
    "LONGEST_NAME",
    "Statement",
    "Token",
    "quoted_identifier",
    "quoted_literal",
    "statement_at",
    "statements",
    "tokens",
]

# Identifiers hold ASCII letters, digits, "_", "$" and whatever lies beyond ASCII, a no-break space included; so \w and
# \s would be wrong. They are told by what they do not hold: a set that reaches to the end of Unicode takes milliseconds
# to compile. A string continues on the next line; only an E'' string must know, its backslashes go on there.
# A group that holds a lookahead or another group is repeated by "*" and "+", never by "*+" and "++": until CPython
# 3.11.4 these go on behind what a failed repetition has read.
_START = r"[^\x00-@\x5b-\x5e\x60\x7b-\x7f]"
_PART = r"[^\x00-\x23\x25-/:-@\x5b-\x5e\x60\x7b-\x7f]"
_PART_OF_TAG = r"[^\x00-/:-@\x5b-\x5e\x60\x7b-\x7f]"
_TOKEN = re.compile(
    rf"""
      (?P<space> [ \t\n\r\f\v]+ )
    | (?P<name> (?! [eEnNbBxX]' | [uU]&['"] ) {_START} {_PART}*+ )
    | (?P<parameter> %\([^)]*\)[sbt] | %[sbt] | \$[0-9]+ | \?(?![|&\#\-])
        | :[A-Za-z_][A-Za-z0-9_]*+ (?! [ \t\n\r\f\v]* [(.] ) )
    | (?P<punctuation> [(),;\[\]] | \.(?![0-9]) )
    | (?P<comment> --[^\n\r]*+ | /\*(?: [^*/]++ | \*(?!/) | /(?!\*) )*\*/ )
    | (?P<nested> /\* )
    | (?P<string> '(?: [^']++ | '' )*+'
        | [eE]'(?: [^'\\]++ | \\. | '' )*+'
          (?: (?: [ \t\f\v] | --[^\n\r]*+ )*+ [\n\r] (?: [ \t\n\r\f\v] | --[^\n\r]*+[\n\r] )*+
              '(?: [^'\\]++ | \\. | '' )*+' )*
        | (?: [nNbBxX] | [uU]& )'(?: [^']++ | '' )*+'
        | \$(?P<tag>(?: {_START}{_PART_OF_TAG}*+ )?)\$ .*? \$(?P=tag)\$ )
    | (?P<quoted> "(?: [^"]++ | "" )*+"
        | [uU]&"(?: [^"]++ | "" )*+" (?: [ \t\n\r\f\v]+ [uU][eE][sS][cC][aA][pP][eE] [ \t\n\r\f\v]* '[^']' )? )
    | (?P<number> 0[xX][0-9a-fA-F_]++ | 0[oO][0-7_]++ | 0[bB][01_]++
        | (?: [0-9][0-9_]*+ (?: \.(?!\.)[0-9_]*+ )? | \.[0-9][0-9_]*+ ) (?: [eE][+\-]?[0-9][0-9_]*+ )? )
    | (?P<unclosed> (?: [eEnNbBxX] | [uU]& )? ['"]
        | \$(?: {_START}{_PART_OF_TAG}*+ )?\$ )
    | (?P<command> \\[^\n\r]*+ )
    | (?P<operator> :: | := | %% | @\? | \?[|&\#\-]++ | (?: (?! -- | /\* ) [+\-*/<>=~!@\#^&|`] )+ | . )
    """,
    re.VERBOSE | re.DOTALL,
)
_COMMENT_EDGE = re.compile(r"/\*|\*/")
_UNICODE_NAME = re.compile(r"""[uU]&"(.*)"(?:[^'"]*'(.)')?""", re.DOTALL)
LONGEST_NAME = 63  # bytes; the server cuts longer ones

_WRITING = frozenset({"insert", "update", "delete", "merge"})
_MAIN_VERBS = _WRITING | {"select", "values", "table"}
# After these, or a comma, a WITH clause has a name, which may read like a verb: "insert" is no reserved word.
_BEFORE_NAME = frozenset({"with", "recursive", ",", "by", "set", "using", "cycle"})

# Before a parenthesis these are no calls: the reserved words and those that cannot name a function, in PostgreSQL 13
# to 18 alike, and a few that only grammar puts there. left(), overlaps() and the like are calls, but only read.
_KEYWORD_LIST = """
    all analyse analyze and any array as asc asymmetric authorization between bigint binary bit boolean both by case
    cast char character check coalesce collate collation column concurrently conflict constraint create cross
    current_catalog current_date current_role current_schema current_time current_timestamp current_user dec decimal
    default deferrable desc distinct do else end except exists extract false fetch float for foreign freeze from
    full grant greatest group grouping having ilike in initially inner inout int integer intersect interval into is
    isnull join lateral leading least left like limit localtime localtimestamp materialized national natural nchar
    none normalize not notnull null nullif numeric offset on only operator or order out outer overlaps overlay
    placing position precision primary real references returning right rollup row select session_user set setof sets
    similar smallint some substring symmetric table tablesample then time timestamp to trailing treat trim true
    union unique user using values varchar variadic varying verbose when where window with xmlattributes xmlconcat
    xmlelement xmlexists xmlforest xmlnamespaces xmlparse xmlpi xmlroot xmlserialize xmltable
"""
_KEYWORDS = frozenset(_KEYWORD_LIST.split())
# A name after one of these is that of a table, an alias, a common table expression or a type.
_BEFORE_OTHER_NAMES = frozenset({"as", "into", "with", "recursive", "ordinality", "copy", "references", "table", "::"})


class Token(NamedTuple):
    """A piece of SQL.

    Attributes:
        kind: "space", "comment", "name", "quoted" (a quoted name), "string", "number", "parameter", "punctuation" (one
            of ``( ) [ ] , ; .``), "operator", "command" (psql's: a backslash and the rest of the line) or "unclosed"
            (the rest of a text whose last string, quoted name or comment has no end). A ``?`` by itself is a
            "parameter", though it may be the operator of jsonb.
        text: As written.
        start: Where in the text it begins, counted in characters.
    """

    kind: str
    text: str
    start: int

    @property
    def end(self) -> int:
        """Where in the text it ends."""
        return self.start + len(self.text)

    @property
    def identifier(self) -> str:
        """What the server makes of a name: folded to lower case unless quoted, cut to 63 bytes."""
        if self.kind == "name":
            # The server folds A to Z only.
            text = self.text
            name = text.lower() if text.isascii() else re.sub("[A-Z]+", lambda found: found[0].lower(), text)
        else:
            name = _unquoted(self.text)
        if len(name) * 4 > LONGEST_NAME and len(name.encode("utf-8", "replace")) > LONGEST_NAME:
            return name.encode("utf-8", "replace")[:LONGEST_NAME].decode("utf-8", "ignore")
        return name


@dataclass(frozen=True, slots=True)
class Statement:
    """One statement of a text.

    Attributes:
        text: As written, without the semicolon and what surrounds it.
        start: Where in the whole text it begins, counted in characters.
        verb: Its first keyword in lower case, "" if it has none; of ``WITH ...`` the verb of the main query.
        with_verbs: "insert", "update", "delete", "merge", where such a statement stands within this one, as in
            ``WITH gone AS (DELETE ...) SELECT ...`` and ``COPY (DELETE ... RETURNING *) TO STDOUT``.
        words: All names and keywords outside of literals and comments, in order: lower case, quoted ones as written
            within double quotes, so that a column ``"commit"`` is not the keyword.
        calls: Names directly before a parenthesis, without their schemas, that may be calls of functions; quoted ones
            without their quotes. Neither keywords nor what cannot be a call in its place: the table of an INSERT, an
            alias with columns, a common table expression, a type after ``::``.
    """

    text: str
    start: int
    verb: str
    with_verbs: tuple[str, ...]
    words: tuple[str, ...]
    calls: frozenset[str]


def tokens(text: str, start: int = 0) -> Iterator[Token]:
    """Divide a text from ``start`` on into tokens, without a gap."""
    position = start
    while position < len(text):
        for found in _TOKEN.finditer(text, position):
            kind = found.lastgroup or ""
            if kind == "nested" or kind == "unclosed":
                # No regular expression finds where a comment ends that has others within.
                start = found.start()
                end = _end_of_comment(text, start) if kind == "nested" else 0
                position = end or len(text)
                yield Token("comment" if end else "unclosed", text[start:position], start)
                break
            yield Token("string" if kind == "tag" else kind, found[0], found.start())
        else:
            return


def statement_at(text: str, start: int = 0) -> tuple[list[Token], int]:
    """Return the tokens of the statement that begins at ``start``, and where the next one may begin.

    Without spaces, comments and the semicolon. Semicolons within parentheses (CREATE RULE) and within the body of a
    routine (BEGIN ATOMIC ... END) do not end a statement.
    """
    found: list[Token] = []
    depth = 0
    bodies = 0  # of BEGIN ATOMIC ... END, and the CASE ... END in it
    is_routine = False
    for token in tokens(text, start):
        kind = token.kind
        if kind == "space" or kind == "comment":
            continue
        if kind == "punctuation":
            sign = token.text
            if sign == "(" or sign == "[":
                depth += 1
            elif sign == ")" or sign == "]":
                depth = max(depth - 1, 0)
            elif sign == ";" and not depth and not bodies:
                return found, token.end
        elif kind == "name" and not depth:
            if len(found) < 4:
                is_routine = is_routine or _begins_routine([*found, token])
            elif is_routine:
                word = token.text.lower()
                if (word == "atomic" and found[-1].text.lower() == "begin") or (word == "case" and bodies):
                    bodies += 1
                elif word == "end" and bodies:
                    bodies -= 1
        found.append(token)
    return found, len(text)


def statements(text: str) -> list[Statement]:
    """Return the statements of a text. Nothing is remembered: who sends the same text often keeps the answer."""
    found = []
    position = 0
    while position < len(text):
        of_one, position = statement_at(text, position)
        if of_one:
            found.append(_read(text, of_one))
    return found


def quoted_identifier(name: str) -> str:
    """Return a name in double quotes."""
    return '"' + name.replace('"', '""') + '"'


def quoted_literal(text: str) -> str:
    """Return a string as a literal that means the same whatever ``standard_conforming_strings`` is."""
    literal = "'" + text.replace("'", "''") + "'"
    return "E" + literal.replace("\\", "\\\\") if "\\" in text else literal


def _end_of_comment(text: str, start: int) -> int:
    """Return where the comment ends, in which others may stand; 0 if it does not."""
    depth = 0
    for edge in _COMMENT_EDGE.finditer(text, start):
        depth += 1 if edge[0] == "/*" else -1
        if depth == 0:
            return edge.end()
    return 0


def _unquoted(text: str) -> str:
    if text[0] == '"':
        return text[1:-1].replace('""', '"')
    found = _UNICODE_NAME.fullmatch(text)
    assert found is not None
    escape = re.escape(found[2] or "\\")
    return re.sub(
        rf"{escape}(?:({escape})|\+([0-9a-fA-F]{{6}})|([0-9a-fA-F]{{4}}))",
        lambda each: each[1] or chr(min(int(each[2] or each[3], 16), 0x10FFFF)),
        found[1].replace('""', '"'),
    )


def _begins_routine(found: list[Token]) -> bool:
    words = [token.text.lower() for token in found]
    return words in (
        ["create", "function"],
        ["create", "procedure"],
        ["create", "or", "replace", "function"],
        ["create", "or", "replace", "procedure"],
    )


def _read(text: str, found: list[Token]) -> Statement:
    # What a token says to its neighbours: names and keywords, with quotes if quoted, and signs; "" are values.
    signs = [_sign(token) for token in found]
    is_word = [token.kind == "name" or token.kind == "quoted" for token in found]
    return Statement(
        text=text[found[0].start : found[-1].end],
        start=found[0].start,
        verb=_verb(signs, is_word),
        with_verbs=tuple(_verbs_within(signs)),
        words=tuple(sign for sign, is_one in zip(signs, is_word, strict=True) if is_one),
        calls=frozenset(_calls(signs, is_word)),
    )


def _sign(token: Token) -> str:
    if token.kind == "name":
        return token.identifier
    if token.kind == "quoted":
        return f'"{token.identifier}"'
    return token.text if token.kind in ("punctuation", "operator") else ""


def _verb(signs: list[str], is_word: list[bool]) -> str:
    first = 0
    while first < len(signs) and signs[first] == "(":
        first += 1
    if first == len(signs) or not is_word[first]:
        return ""
    if signs[first] != "with":
        return signs[first]
    depth = 0
    for i in range(first + 1, len(signs)):
        if signs[i] == "(":
            depth += 1
        elif signs[i] == ")":
            depth -= 1
            if depth < 0:
                break
        elif depth == 0 and signs[i] in _MAIN_VERBS and signs[i - 1] not in _BEFORE_NAME:
            return signs[i]
    return "select"  # in parentheses, as nothing else can be


def _verbs_within(signs: list[str]) -> Iterator[str]:
    """Yield the writing verbs with which a query in parentheses begins."""
    depth = 0
    for i, sign in enumerate(signs):
        if sign == "(":
            depth += 1
        elif sign == ")":
            depth -= 1
        elif sign in _WRITING and depth > 0 and i + 1 < len(signs):
            after = signs[i + 1]
            # Behind ")" or the SET and USING of a recursive query: (WITH ... INSERT INTO ...).
            begins = signs[i - 1] in ("(", ")") or signs[i - 2] in ("set", "using")
            if sign == "update":
                goes_on = after == "only" or (after not in _KEYWORDS and (after[:1] == '"' or after.isidentifier()))
            else:
                goes_on = after == ("from" if sign == "delete" else "into")
            if begins and goes_on:
                yield sign


def _calls(signs: list[str], is_word: list[bool]) -> Iterator[str]:
    opened: list[int] = []
    before_expression: set[int] = set()  # where a parenthesis is closed behind which a call may stand
    for i, sign in enumerate(signs):
        if sign == "(":
            opened.append(i)
        elif sign == ")" and opened:
            start = opened.pop()
            # SELECT DISTINCT ON (a) f(b), a OPERATOR(pg_catalog.=) f(b); elsewhere it is an alias, OVER or FILTER.
            if start and signs[start - 1] in ("on", "operator"):
                before_expression.add(i)
        elif is_word[i] and signs[i + 1 : i + 2] == ["("]:
            first = i
            while first >= 2 and signs[first - 1] == "." and is_word[first - 2]:
                first -= 2
            before = signs[first - 1] if first else ""
            if (
                (first < i or sign not in _KEYWORDS)
                and before not in _BEFORE_OTHER_NAMES
                and (before != ")" or first - 1 in before_expression)
                and not (signs[0] == "with" and before == "," and _names_columns_of_query(signs, i + 1))
            ):
                yield sign[1:-1] if sign[0] == '"' else sign


def _names_columns_of_query(signs: list[str], opening: int) -> bool:
    """Whether what the parenthesis closes goes on as a common table expression does: AS [MATERIALIZED] (SELECT."""
    depth = 0
    for i in range(opening, len(signs)):
        depth += (signs[i] == "(") - (signs[i] == ")")
        if depth == 0:
            rest = [sign for sign in signs[i + 1 : i + 7] if sign not in ("not", "materialized")]
            return rest[:2] == ["as", "("] and bool({"with", "(", *_MAIN_VERBS} & set(rest[2:3]))
    return False
