"""Messages for a wrong number of queries, and for queries that are repeated."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from dbtestcase.diagnosis.listing import listing
from dbtestcase.diagnosis.sqltext import fingerprint
from dbtestcase.diagnosis.statement import Statement
from dbtestcase.diagnosis.statements import CapturedQueries

_SHOWN_LINES = 3


def wrong_count(queries: CapturedQueries, expected: int) -> str | None:
    """Return what is wrong with the number of queries, ``None`` if it is as expected."""
    if len(queries) == expected:
        return None
    sent = f"{len(queries)} {'query was' if len(queries) == 1 else 'queries were'} sent, {expected} expected"
    queries.mark_shown()
    return f"{sent}:\n{listing(queries)}" if queries else f"{sent}."


def repeated(queries: Sequence[Statement], at_most: int) -> str | None:
    """Return which queries were sent more than ``at_most`` times with other values, ``None`` if there are none."""
    groups: dict[str, list[Statement]] = {}
    for query in queries:
        groups.setdefault(fingerprint(query.sql), []).append(query)
    found = sorted((group for group in groups.values() if len(group) > at_most), key=len, reverse=True)
    if not found:
        return None
    allowed = "once" if at_most == 1 else f"{at_most} times"
    number = "1 query was" if len(found) == 1 else f"{len(found)} queries were"
    lines = [f"{number} sent more than {allowed}, out of {len(queries)}:"]
    for group in found:
        lines += _group(group)
    lines += _remedies(found)
    return "\n".join(lines)


def _group(group: list[Statement]) -> list[str]:
    lines = [f"  {len(group)} times: {group[0]}"]
    senders = Counter(f"{each.cause}, at {each.origin}" if each.cause else str(each.origin) for each in group)
    lines += [f"    {times} times by {sender}" for sender, times in senders.most_common(_SHOWN_LINES)]
    if len(senders) > _SHOWN_LINES:
        lines.append(f"    … and {len(senders) - _SHOWN_LINES} more lines")
    return lines


def _remedies(found: list[list[Statement]]) -> list[str]:
    lazy = sorted({
        query.cause.removeprefix("lazy loading of ")
        for group in found
        for query in group
        if query.cause and query.cause.startswith("lazy loading of ")
    })  # fmt: skip
    if not lazy:
        return []
    options = ", ".join(f"selectinload({name})" for name in lazy)
    return [f"Load it with the query that gets the objects: .options({options})."]
