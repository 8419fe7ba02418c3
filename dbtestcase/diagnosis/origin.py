"""Where in the user's code something happened: one frame walk, no source file is read."""

from __future__ import annotations

import os
import sys
import sysconfig
from types import FrameType, TracebackType
from typing import NamedTuple

_STDLIB = tuple({sysconfig.get_path("stdlib") + os.sep, sysconfig.get_path("platstdlib") + os.sep})
_SITE_PACKAGES = f"{os.sep}site-packages{os.sep}"
_OURSELVES = os.path.dirname(os.path.dirname(os.path.abspath(__file__))) + os.sep
_LIBRARIES = (
    "alembic", "flask", "flask_migrate", "flask_sqlalchemy", "flask_sqlalchemy_lite", "factory", "psycopg",
    "psycopg2", "sqlalchemy", "sqlalchemy_utils", "werkzeug", "greenlet",
)  # fmt: skip
_FOREIGN = tuple(f"{_SITE_PACKAGES}{name}{os.sep}" for name in _LIBRARIES)
_known: dict[str, bool] = {}


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
    known = _known
    while current is not None:
        code = current.f_code
        filename = code.co_filename
        is_users = known.get(filename)
        if is_users is None:
            is_users = known[filename] = not _is_foreign(filename)
        if is_users:
            return Origin(filename, current.f_lineno, code.co_name)
        current = current.f_back
    return UNKNOWN


def origin_of_caller(depth: int = 1) -> Origin | None:
    """Return the line that called our caller if it is the user's, ``None`` if a library stands between.

    Args:
        depth: How many callers up to look.
    """
    frame = sys._getframe(depth + 1)
    code = frame.f_code
    return Origin(code.co_filename, frame.f_lineno, code.co_name) if _is_users(code.co_filename) else None


def comes_from(filename: str) -> bool:
    """Whether a file is at work between the user's line and our caller."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        passed = frame.f_code.co_filename
        if passed == filename:
            return True
        if _is_users(passed):
            break
        frame = frame.f_back
    return False


def user_origin_of(traceback: TracebackType | None) -> Origin | None:
    """Return the innermost line of the user's code in a traceback, ``None`` if there is none."""
    found = None
    while traceback is not None:
        code = traceback.tb_frame.f_code
        if _is_users(code.co_filename):
            found = Origin(code.co_filename, traceback.tb_lineno, code.co_name)
        traceback = traceback.tb_next
    return found


def _is_users(filename: str) -> bool:
    known = _known.get(filename)
    if known is None:
        known = _known[filename] = not _is_foreign(filename)
    return known


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
