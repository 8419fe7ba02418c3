"""Where in the user's code something happened: one frame walk, no source file is read."""

from __future__ import annotations

import os
import sys
import sysconfig
from types import FrameType, TracebackType
from typing import Any, NamedTuple

_STDLIB = tuple({sysconfig.get_path("stdlib") + os.sep, sysconfig.get_path("platstdlib") + os.sep})
_SITE_PACKAGES = f"{os.sep}site-packages{os.sep}"
_OURSELVES = os.path.dirname(os.path.dirname(os.path.abspath(__file__))) + os.sep
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
    current: Any = frame if frame is not None else sys._getframe(1)
    foreign = _foreign
    # Over all frames of SQLAlchemy, several times in a test: as few operations as can be.
    try:
        while foreign[current.f_code.co_filename]:
            current = current.f_back
    except AttributeError:  # of None, above the outermost frame
        return UNKNOWN
    code = current.f_code
    return Origin(code.co_filename, current.f_lineno, code.co_name)


def call_of_user(frame: FrameType) -> tuple[FrameType, Origin]:
    """Return the frame that the nearest line of the user's code has called, and that line."""
    current: Any = frame
    called = frame
    foreign = _foreign
    try:
        while foreign[current.f_code.co_filename]:
            called = current
            current = current.f_back
    except AttributeError:
        return called, UNKNOWN
    code = current.f_code
    return called, Origin(code.co_filename, current.f_lineno, code.co_name)


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
