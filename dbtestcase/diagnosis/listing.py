"""Statements as the numbered lines of a failure."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence

from dbtestcase.diagnosis.redaction import without_values
from dbtestcase.diagnosis.statement import Statement
from dbtestcase.frames import UNKNOWN

__all__ = ["duration", "listing", "sent"]

_SHOWN_FIRST, _SHOWN_LAST = 15, 35


def sent(statements: Sequence[Statement], *, since: str = "", dropped: tuple[int, int] | None = None) -> str:
    """Return how many statements there were and how long they took, and then list them."""
    counted = sum(not each.is_control for each in statements) + (dropped[1] if dropped else 0)
    took = sum(each.seconds or 0.0 for each in statements)
    head = f"SQL sent{since}: {counted} statement{'' if counted == 1 else 's'}, {duration(took)}"
    return f"{head}\n{listing(statements, dropped)}"


def listing(statements: Sequence[Statement], dropped: tuple[int, int] | None = None) -> str:
    """Return statements as numbered lines; repeated ones are folded, of very many the middle is left out.

    Args:
        dropped: After how many statements how many were not kept.
    """
    has_connections = len({each.connection for each in statements}) > 1
    number, last = 0, sum(not each.is_control for each in statements) + (dropped[1] if dropped else 0)
    width = len(str(last))
    indent = " " * (width + 4)
    blocks: list[str] = []
    for at, run in _runs(statements):
        if dropped and at <= dropped[0] < at + len(run):
            number += dropped[1]
            blocks.append(f"{indent}… {dropped[1]} statements were not kept …")
        first = run[0]
        if first.is_control:
            where = "" if first.origin is UNKNOWN else f"  ({first.origin})"
            blocks.append(f"{indent}{first}{where}")
            continue
        number += 1
        lines = [f"{number:{width + 2}}. {first}", f"{indent}{_facts(first, has_connections)}"]
        if len(run) > 1:
            number += len(run) - 1
            took = duration(sum(each.seconds or 0.0 for each in run[1:]))
            lines.append(f"{indent}… and {len(run) - 1} times more from the same line, {took}")
        lines += [f"{indent}failed: {_reason(each)}" for each in run if each.error is not None]
        blocks.append("\n".join(lines))
    if len(blocks) > _SHOWN_FIRST + _SHOWN_LAST + 1:
        left_out = f"{indent}… {len(blocks) - _SHOWN_FIRST - _SHOWN_LAST} more …"
        blocks = [*blocks[:_SHOWN_FIRST], left_out, *blocks[-_SHOWN_LAST:]]
    return "\n".join(blocks)


def duration(seconds: float) -> str:
    """Return a time as a person reads it."""
    return f"{seconds:.1f} s" if seconds >= 1 else f"{seconds * 1000:.1f} ms"


def _facts(statement: Statement, has_connections: bool) -> str:
    """Return rows, time and place of a statement in a line."""
    rows = statement.rows
    facts = [] if rows is None or rows < 0 else [f"{rows} row{'' if rows == 1 else 's'}"]
    facts.append("not finished" if statement.seconds is None else duration(statement.seconds))
    if statement.origin is not UNKNOWN:
        facts.append(str(statement.origin))
    if statement.cause:
        facts.append(statement.cause)
    if has_connections:
        facts.append(f"on {statement.connection}")
    if statement.thread is not None and has_connections:
        facts.append(f"in thread {statement.thread.name!r}")
    return ", ".join(facts)


def _runs(statements: Sequence[Statement]) -> Iterator[tuple[int, list[Statement]]]:
    """Divide into runs of the same statement from the same line; runs of two stay apart."""
    at = 0
    for _, group in itertools.groupby(statements, lambda each: (each.text, each.origin, each.connection)):
        run = list(group)
        if len(run) > 2:
            yield at, run
        else:
            yield from ((at + i, [each]) for i, each in enumerate(run))
        at += len(run)


def _reason(statement: Statement) -> str:
    error = statement.error
    if error is None:
        return ""
    if statement.hides_message:
        return f"{type(error).__name__}: {without_values(error)}"
    words = str(error).strip().splitlines()
    return f"{type(error).__name__}: {words[0]}" if words else type(error).__name__
