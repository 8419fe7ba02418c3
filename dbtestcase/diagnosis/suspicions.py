"""What may have led to a wrong result, judged by the statements that were sent: there is no database error to go by.

Mostly what SQLite does otherwise, and so what a suite meets that ran on SQLite before.
"""

from __future__ import annotations

import linecache
import re
from collections.abc import Callable, Iterator, Mapping, Sequence

from dbtestcase.diagnosis.sqltext import text_of
from dbtestcase.diagnosis.statements import Statement
from dbtestcase.frames import UNKNOWN, Origin, user_origin_of

__all__ = ["suspicion"]

_TABLE = r'(?:\w+\.)?("[^"]+"|\w+)'
_WRITES = re.compile(r"\s*(INSERT\s+INTO|UPDATE)\s+", re.IGNORECASE)
_INSERT = re.compile(rf"\s*INSERT\s+INTO\s+{_TABLE}", re.IGNORECASE)
_DELETE = re.compile(rf"\s*DELETE\s+FROM\s+{_TABLE}", re.IGNORECASE)
_BY_ID = re.compile(rf"\s*SELECT\b.*\bFROM\s+{_TABLE}\s+WHERE\s+(?:[\w\".]+\.)?id\s*=\s", re.IGNORECASE | re.DOTALL)
_LIKE = re.compile(r"\bLIKE\b")
_UNORDERED = re.compile(r"\s*SELECT\b(?!.*\bORDER\s+BY\b)", re.IGNORECASE | re.DOTALL)
# "user.id == 1", "assertEqual(user.id, 1)", "json['id'], 1", {"id": 1}, and the other way round
_NUMBER_FOR_ID = re.compile(r"(?:\b|_)id\b[\"']?\]?\s*(?:==|,|:)\s*\d+\b|\b\d+\s*(?:==|,)\s*[\w.]*(?:\b|_)id\b")


def suspicion(error: BaseException, statements: Sequence[Statement]) -> str | None:
    """Return what to look at first, ``None`` if nothing stands out.

    Args:
        error: What failed; raised by no database.
        statements: What the test has sent.
    """
    sent = [each for each in statements if not each.is_control]
    found = _bytes_in_text(sent)
    if found is None and isinstance(error, AssertionError):
        place = user_origin_of(error.__traceback__)
        checks: tuple[Callable[[], str | None], ...] = (
            lambda: _like_without_rows(sent),
            lambda: _number_for_id(sent, place),
            lambda: _order_by_chance(sent, place, str(error)),
            lambda: _rolled_back(statements),
        )
        found = next(filter(None, (check() for check in checks)), None)
    return found


def _bytes_in_text(sent: Sequence[Statement]) -> str | None:
    for statement in sent:
        if not _WRITES.match(text_of(statement.sql)):
            continue
        for name, value in _named_values(statement):
            # What goes to a bytea column is wrapped by SQLAlchemy, so this is for a column of text.
            if type(value) is bytes:
                return (
                    f"bytes were written to the text column {name!r} ({statement.origin}). PostgreSQL keeps them there "
                    "as '\\x...', the digits of the bytes, where SQLite gives the bytes back: decode() them before, "
                    "or declare the column as LargeBinary."
                )
    return None


def _named_values(statement: Statement) -> Iterator[tuple[str, object]]:
    sets = statement.parameters if statement.sets else [statement.parameters]
    for values in sets or ():
        if isinstance(values, Mapping):
            yield from values.items()


def _like_without_rows(sent: Sequence[Statement]) -> str | None:
    for statement in sent:
        if statement.rows == 0 and statement.error is None and _LIKE.search(text_of(statement.sql)):
            return (
                f"a LIKE found no row ({statement.origin}). In PostgreSQL it minds upper and lower case, in SQLite it "
                "does not; ilike() or func.lower() on both sides do as SQLite."
            )
    return None


def _number_for_id(sent: Sequence[Statement], place: Origin | None) -> str | None:
    filled = {match[1] for match in map(_INSERT.match, _texts(sent)) if match}
    emptied = {match[1] for match in map(_DELETE.match, _texts(sent)) if match}
    advice = (
        "Generated keys go on counting from test to test, because no rollback takes a sequence back: use the key that "
        "the object has, or set restart_identities = True on the class."
    )
    for statement in sent:
        wanted = _BY_ID.match(text_of(statement.sql))
        if wanted and statement.rows == 0 and wanted[1] in filled - emptied:
            return f"no row of {wanted[1]} has the key that was asked for ({statement.origin}). {advice}"
    if filled and place is not None and _NUMBER_FOR_ID.search(linecache.getline(place.filename, place.line)):
        return f"a key is compared with a number ({place}). {advice}"
    return None


def _order_by_chance(sent: Sequence[Statement], place: Origin | None, message: str) -> str | None:
    last = sent[-1] if sent else None
    if last is None or last.rows is None or last.rows < 2 or not _UNORDERED.match(text_of(last.sql)):
        return None
    of_test = place is not None and (last.origin.filename, last.origin.function) == (place.filename, place.function)
    if not of_test and " differ" not in message:
        return None
    return (
        f"the last SELECT ({last.origin}) returned {last.rows} rows and has no ORDER BY. PostgreSQL gives them in any "
        "order, where SQLite mostly gives them as they were inserted: if the order matters, say order_by()."
    )


def _rolled_back(statements: Sequence[Statement]) -> str | None:
    """Say which rows a rollback took along, since an assertion that misses them cannot know."""
    written: dict[str, list[Statement]] = {}
    found: tuple[Statement, Statement] | None = None
    for statement in statements:
        text = text_of(statement.sql)
        on_connection = written.setdefault(statement.connection, [])
        if text in ("COMMIT", "ROLLBACK"):
            if text == "ROLLBACK" and on_connection and not any(each.error for each in on_connection):
                found = on_connection[0], statement
            on_connection.clear()
        elif re.match(r"\s*(insert|update|delete|merge)\b", text, re.I) or statement.error is not None:
            on_connection.append(statement)
    if found is None:
        return None
    first, rollback = found
    verb, place = text_of(first.sql).split(None, 1)[0].upper(), rollback.origin
    where = f" at {place}" if place is not UNKNOWN else ""
    return (
        f"the {verb} at {first.origin} was rolled back{where}, because nothing had committed it. If it was to stay, "
        "commit() it where it is sent: flush() only sends."
    )


def _texts(sent: Sequence[Statement]) -> Iterator[str]:
    return (text_of(statement.sql) for statement in sent)
