"""Tracebacks without the frames of this library, which stand between the user's line and the driver's error."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator
from itertools import pairwise
from types import TracebackType

from dbtestcase.errors import DBTestCaseError

_OURSELVES = os.path.dirname(os.path.dirname(os.path.abspath(__file__))) + os.sep
_DRIVERS = ("psycopg", "psycopg2", "asyncpg")
_LIBRARIES = re.compile(rf"[/\\](?:{'|'.join((*_DRIVERS, 'sqlalchemy'))})[/\\]|^<sqlalchemy ")
_EXPECTED = ("dbtestcase", "sqlalchemy", *_DRIVERS)


def leave_out_ours(error: BaseException, *, values: bool = False) -> None:
    """Take our frames out of the tracebacks of an error and of those that it was raised from.

    An error that is a fault of ours keeps them.

    Args:
        values: Leave out those of SQLAlchemy and the drivers too, whose arguments pytest shows.
    """
    for each in chain(error):
        frames = list(_frames(each.__traceback__))
        pairs = zip(frames, [*frames[1:], None], strict=True) if frames else ()
        kept = [frame for frame, following in pairs if _is_shown(frame, following)]
        if values:
            kept = [frame for frame in kept if not _LIBRARIES.search(frame.tb_frame.f_code.co_filename)]
        if not frames or (_is_ours(frames[-1]) and not _is_expected(each)):
            continue
        if not kept:
            each.__traceback__ = None
            continue
        for frame, following in pairwise(kept):
            frame.tb_next = following
        kept[-1].tb_next = None
        each.__traceback__ = kept[0]


def database_of(error: BaseException) -> str | None:
    """Return the name of the database whose driver raised an error, ``None`` if its traceback does not tell."""
    for each in chain(error):
        for frame in _frames(each.__traceback__):
            connection = getattr(frame.tb_frame.f_locals.get("cursor"), "connection", None)
            with contextlib.suppress(Exception):  # it is closed, or the cursor of some other library
                return str(connection.info.dbname)  # type: ignore[union-attr]
    return None


def sqlstate(error: BaseException) -> str | None:
    """Return the SQLSTATE of an error of psycopg2, psycopg or asyncpg, ``None`` if it has none."""
    state = getattr(error, "sqlstate", None) or getattr(error, "pgcode", None)
    return state if isinstance(state, str) else None


def from_driver(error: BaseException) -> bool:
    """Whether a database driver raised an error."""
    return type(error).__module__.partition(".")[0] in _DRIVERS


def lost_connection(error: BaseException) -> bool:
    """Whether a driver says, or may say, that its connection has ended: class 08 or 57P0x, or no SQLSTATE at all."""
    return from_driver(error) and (sqlstate(error) or "08").startswith(("08", "57P0"))


def _is_shown(frame: TracebackType, following: TracebackType | None) -> bool:
    leads_to_ours = following is not None and _is_ours(following)
    is_context_manager = frame.tb_frame.f_code.co_filename == contextlib.__file__
    return not (_is_ours(frame) or (is_context_manager and leads_to_ours))


def chain(error: BaseException) -> Iterator[BaseException]:
    """Yield an error, those that it was raised from, or during, and those of a group, each once."""
    seen: set[int] = set()
    waiting: list[BaseException | None] = [error]
    while waiting:
        each = waiting.pop()
        if each is None or id(each) in seen:
            continue
        seen.add(id(each))
        yield each
        waiting += [each.__cause__, each.__context__]
        if isinstance(each, BaseExceptionGroup):
            waiting += each.exceptions


def _frames(traceback: TracebackType | None) -> Iterator[TracebackType]:
    while traceback is not None:
        yield traceback
        traceback = traceback.tb_next


def _is_ours(frame: TracebackType) -> bool:
    return frame.tb_frame.f_code.co_filename.startswith(_OURSELVES)


def _is_expected(error: BaseException) -> bool:
    return isinstance(error, (DBTestCaseError, AssertionError)) or (
        type(error).__module__.partition(".")[0] in _EXPECTED
    )
