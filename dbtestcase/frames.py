"""Where in the user's code something happened: told by the frames, no source file is read."""

from __future__ import annotations

import os
import sys
import sysconfig
from collections.abc import Hashable
from types import CodeType, FrameType, TracebackType
from typing import NamedTuple

_STDLIB = tuple({sysconfig.get_path("stdlib") + os.sep, sysconfig.get_path("platstdlib") + os.sep})
_SITE_PACKAGES = f"{os.sep}site-packages{os.sep}"
_OURSELVES = os.path.dirname(os.path.abspath(__file__)) + os.sep
_LIBRARIES = (
    "alembic", "flask", "flask_migrate", "flask_sqlalchemy", "flask_sqlalchemy_lite", "factory", "psycopg",
    "psycopg2", "sqlalchemy", "sqlalchemy_utils", "werkzeug", "greenlet",
)  # fmt: skip
_FOREIGN = tuple(f"{_SITE_PACKAGES}{name}{os.sep}" for name in _LIBRARIES)


class _Foreign(dict[str, bool]):
    """Whether a file is foreign, by name, found out once: whoever asks needs no call for what is known."""

    def __missing__(self, filename: str) -> bool:
        self[filename] = is_foreign = _is_foreign(filename)
        return is_foreign


_foreign = _Foreign()
# How many frames above usual_call() the user's was the last time, and what it had called, by way.
_depths: dict[Hashable, tuple[int, CodeType]] = {}
_MOST_WAYS = 1000


class Origin(NamedTuple):
    """A line of the user's code; ``str()`` gives ``shop/service.py:42 in rename``."""

    filename: str
    line: int
    function: str

    def __str__(self) -> str:
        return f"{_short(self.filename)}:{self.line} in {self.function}"


UNKNOWN = Origin("<unknown>", 0, "<unknown>")


def user_origin(frame: FrameType | None = None) -> Origin:
    """Return the nearest caller outside this library, SQLAlchemy, Flask, the drivers and the standard library."""
    current: FrameType | None = frame if frame is not None else sys._getframe(1)
    while current is not None:
        code = current.f_code
        if not _foreign[code.co_filename]:
            return Origin(code.co_filename, current.f_lineno, code.co_name)
        current = current.f_back
    return UNKNOWN


def usual_origin(way: Hashable) -> Origin:
    """Return what :func:`user_origin` does, sooner if it lies as far up as the last time.

    Args:
        way: Something that comes to be asked about in the same way each time: the text of a statement.
    """
    return usual_call(way)[1]


def usual_call(way: Hashable) -> tuple[FrameType, Origin]:
    """Return the frame that the nearest line of the user's has called, and that line; see :func:`usual_origin`.

    To go up frame by frame makes an object of each, a fifth of what a statement costs in all; to jump makes two. Should
    a line of the user's call the same function from as far up, and another of his stand in between, the outer is named.
    """
    known = _depths.get(way)
    if known is not None:
        depth, usual = known
        try:
            frame, called = sys._getframe(depth), sys._getframe(depth - 1)
        except ValueError:
            pass  # fewer frames than that
        else:
            code = frame.f_code
            if called.f_code is usual and not _foreign[code.co_filename]:
                return called, Origin(code.co_filename, frame.f_lineno, code.co_name)
    return _found_call(way)


def _found_call(way: Hashable) -> tuple[FrameType, Origin]:
    called = sys._getframe(1)
    depth = 1
    current = called.f_back
    while current is not None:
        code = current.f_code
        if not _foreign[code.co_filename]:
            if len(_depths) >= _MOST_WAYS:
                _depths.clear()
            _depths[way] = depth, called.f_code
            return called, Origin(code.co_filename, current.f_lineno, code.co_name)
        called, current, depth = current, current.f_back, depth + 1
    return called, UNKNOWN


def origin_of_caller(depth: int = 1) -> Origin | None:
    """Return the line that called our caller if it is the user's, ``None`` if a library stands between.

    Args:
        depth: How many callers up to look.
    """
    frame = sys._getframe(depth + 1)
    code = frame.f_code
    return None if _foreign[code.co_filename] else Origin(code.co_filename, frame.f_lineno, code.co_name)


def comes_from(filename: str) -> bool:
    """Whether a file is at work between the user's line and our caller."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        passed = frame.f_code.co_filename
        if passed == filename:
            return True
        if not _foreign[passed]:
            break
        frame = frame.f_back
    return False


def user_origin_of(traceback: TracebackType | None) -> Origin | None:
    """Return the innermost line of the user's code in a traceback, ``None`` if there is none."""
    found = None
    while traceback is not None:
        code = traceback.tb_frame.f_code
        if not _foreign[code.co_filename]:
            found = Origin(code.co_filename, traceback.tb_lineno, code.co_name)
        traceback = traceback.tb_next
    return found


def _is_foreign(filename: str) -> bool:
    if filename.startswith(("<frozen", "<string", "<attrs", "<sqlalchemy")):
        return True
    path = os.path.abspath(filename)
    if path.startswith(_OURSELVES):
        return True
    if _SITE_PACKAGES in path:
        # An installed application is a user's as well; only the layers between it and the database are not.
        return path.startswith(_FOREIGN, path.rindex(_SITE_PACKAGES))
    return path.startswith(_STDLIB)


def _short(filename: str) -> str:
    try:
        relative = os.path.relpath(filename)
    except ValueError:
        return filename
    return filename if relative.startswith(os.pardir) else relative
