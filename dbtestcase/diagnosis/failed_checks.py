"""Guesses, from the statements that were sent, what led to a wrong result that no database error explains."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence

from dbtestcase.diagnosis import messages, states
from dbtestcase.diagnosis.statement import Statement
from dbtestcase.frames import UNKNOWN

__all__ = ["hint_for_check"]

_TABLE = r'(?:(?:"[^"]+"|\w+)\.)?("[^"]+"|\w+)'
_WRITE = re.compile(
    rf"\s*(INSERT)\s+INTO\s+{_TABLE}|\s*(UPDATE)\s+(?:ONLY\s+)?{_TABLE}|\s*(DELETE)\s+FROM\s+(?:ONLY\s+)?{_TABLE}", re.I
)
_SELECT = re.compile(r"\s*(SELECT|WITH)\b", re.I)
_FROM = re.compile(rf"\b(?:FROM|JOIN)\s+{_TABLE}", re.I)
_COUNT = re.compile(r"\s*SELECT\s+count\s*\(", re.I)
_SKIPS_LOCKED = re.compile(r"\bSKIP\s+LOCKED\b", re.I)
_NOW = re.compile(r"\b(?:now|transaction_timestamp)\s*\(|\bCURRENT_(?:TIMESTAMP|TIME)\b|\bLOCALTIME(?:STAMP)?\b", re.I)
_TIMES = re.compile(r"datetime\.datetime\([^)]*\)|\d{4}-\d\d-\d\d[ T]\d\d:[\d:.+]*")


def hint_for_check(
    error: BaseException, statements: Sequence[Statement], earlier_inserts: Mapping[str, str]
) -> str | None:
    """Return what to look at first after an error that no database raised, ``None`` if nothing stands out."""
    # Without SQLAlchemy's own questions about tables.
    sent = [each for each in statements if not (each.is_control or each.error or "pg_catalog." in each.text)]
    # That an expected error was not raised has nothing to do with rows that were not seen.
    is_check = isinstance(error, AssertionError) and not str(error).endswith("not raised")
    found = None
    if is_check or _misses_something(error):
        found = _flushed_only(statements) or _rolled_back(statements) or states.never_sent()
        found = found or _rows_of_earlier_test(sent, earlier_inserts)
    return found or (_time_stands_still(sent, str(error)) if is_check else None)


def _misses_something(error: BaseException) -> bool:
    return (
        isinstance(error, (LookupError, StopIteration))
        or "NoneType" in str(error)
        or type(error).__name__ in ("NoResultFound", "NotFound")
    )


def written_table(sql: str) -> tuple[str, str] | None:
    """Return verb and table of a statement that writes, ``None`` for others."""
    found = _WRITE.match(sql)
    if found is None:
        return None
    verb, table = (each for each in found.groups() if each is not None)
    return verb.upper(), table.strip('"')


def _flushed_only(statements: Sequence[Statement]) -> str | None:
    """Say which read met rows that another connection had only flushed."""
    open_writes: dict[str, list[Statement]] = {}
    for statement in statements:
        text = statement.text
        if text in ("COMMIT", "ROLLBACK"):
            open_writes.pop(statement.connection, None)
        elif statement.error is not None or _SKIPS_LOCKED.search(text):
            continue
        elif written_table(text) is not None:
            open_writes.setdefault(statement.connection, []).append(statement)
        elif _SELECT.match(text):
            tables = _tables_read(text)
            others = (
                each for connection, own in open_writes.items() if connection != statement.connection for each in own
            )
            for write in others:
                verb, table = written_table(write.text) or ("", "")
                if table in tables:
                    return messages.FLUSHED_ONLY.format(
                        verb=verb, written=write.origin, read=statement.origin, table=table
                    )
    return None


def _rolled_back(statements: Sequence[Statement]) -> str | None:
    """Say which rows a rollback took along, since an assertion that misses them cannot know."""
    written: dict[str, list[Statement]] = {}
    found: tuple[Statement, Statement] | None = None
    for statement in statements:
        own = written.setdefault(statement.connection, [])
        if statement.text in ("COMMIT", "ROLLBACK"):
            if statement.text == "ROLLBACK" and own and not any(each.error for each in own):
                found = own[0], statement
            own.clear()
        elif written_table(statement.text) is not None or statement.error is not None:
            own.append(statement)
    if found is None:
        return None
    first, rollback = found
    verb, _ = written_table(first.text) or ("", "")
    where = f" at {rollback.origin}" if rollback.origin is not UNKNOWN else ""
    return messages.ROLLED_BACK.format(verb=verb, written=first.origin, where=where)


def _rows_of_earlier_test(sent: Sequence[Statement], earlier_inserts: Mapping[str, str]) -> str | None:
    own = {write[1] for each in sent if (write := written_table(each.text)) is not None}
    earlier = {write[1]: test for sql, test in earlier_inserts.items() if (write := written_table(sql)) is not None}
    for statement in _found_nothing(sent):
        for table in _tables_read(statement.text):
            if table in earlier and table not in own:
                test = earlier[table].rpartition(".")[2]
                return messages.ROWS_OF_EARLIER_TEST.format(read=statement.origin, table=table, test=test)
    return None


def _found_nothing(sent: Sequence[Statement]) -> Iterator[Statement]:
    """Yield the queries that found no row, and those that only counted."""
    for statement in sent:
        if _SELECT.match(statement.text) and (statement.rows == 0 or _COUNT.match(statement.text)):
            yield statement


def _tables_read(sql: str) -> list[str]:
    return [table.strip('"') for table in _FROM.findall(sql)]


def _time_stands_still(sent: Sequence[Statement], message: str) -> str | None:
    times = _TIMES.findall(message)
    asked = sum(_NOW.search(each.text) is not None for each in sent)
    # A column may have it as its default, of which no statement tells; but equal times do.
    is_equal = len(times) > 1 and times[0] == times[1] and any(written_table(each.text) for each in sent)
    return messages.TIME_STANDS_STILL if times and (asked > 1 or is_equal) else None
