"""Which frames are the user's, and where in the user's code something happened. No source file is read."""

from __future__ import annotations

import os
import sys
import sysconfig
from collections.abc import Hashable, Iterator
from types import CodeType, FrameType, TracebackType
from typing import Any, NamedTuple

_STDLIB = tuple({sysconfig.get_path("stdlib") + os.sep, sysconfig.get_path("platstdlib") + os.sep})
# Where pip installs, and where Debian's packages do.
_INSTALLED = tuple(f"{os.sep}{name}{os.sep}" for name in ("site-packages", "dist-packages"))
_OURSELVES = os.path.dirname(os.path.abspath(__file__)) + os.sep
# The layers between an application and its database. Any other installed package is the user's as well: applications
# are installed, too, and their maintainers test them where they are.
_LAYERS = frozenset(
    [
        "alembic", "asyncpg", "factory", "flask", "flask_migrate", "flask_sqlalchemy", "flask_sqlalchemy_lite",
        "greenlet", "psycopg", "psycopg2", "psycopg_pool", "sqlalchemy", "sqlalchemy_utils", "sqlmodel", "werkzeug",
    ]
)  # fmt: skip
# Where an event loop calls a task: what lies above has not called it.
_LOOPS = frozenset(os.path.join(stdlib, "asyncio", name) for stdlib in _STDLIB for name in ("events.py", "runners.py"))
_GENERATED = ("<frozen", "<string", "<attrs", "<sqlalchemy")


class _Known(dict[str, bool]):
    """Whether a file is not the user's, by name, decided once."""

    def __missing__(self, filename: str) -> bool:
        self[filename] = is_foreign = not is_users(filename)
        return is_foreign


_foreign = _Known()
# How many frames above usual_call() the user's was the last time, and what it had called, by key; 0 and below count
# the frames from the one that waits for the present greenlet to what the user's had called.
_depths: dict[Hashable, tuple[int, CodeType]] = {}
_MOST_KEYS = 1000


class Origin(NamedTuple):
    """A line of the user's code; ``str()`` gives ``shop/service.py:42 in rename``."""

    filename: str
    line: int
    function: str

    def __str__(self) -> str:
        return f"{_short(self.filename)}:{self.line} in {self.function}"


UNKNOWN = Origin("<unknown>", 0, "<unknown>")


def is_users(filename: str) -> bool:
    """Whether a file is the user's: neither ours, nor Python's, nor that of a layer between it and the database."""
    if filename.startswith(_GENERATED):
        return False
    path = _absolute(filename)
    if path.startswith(_OURSELVES):
        return False
    for folder in _INSTALLED:
        _, found, within = path.rpartition(folder)
        if found:
            return within.partition(os.sep)[0].removesuffix(".py") not in _LAYERS
    return not path.startswith(_STDLIB) and not path.startswith(tuple(_folders_of_layers()))


def _folders_of_layers() -> Iterator[str]:
    """Yield where the layers are loaded from: a folder on PYTHONPATH, a checkout."""
    for name in _LAYERS - {"factory"}:  # may also be a package of the user's
        file = getattr(sys.modules.get(name), "__file__", None) or ""
        if os.path.basename(file) == "__init__.py":
            yield os.path.dirname(_absolute(file)) + os.sep


def is_installed(filename: str) -> bool:
    """Whether a file belongs to an installed package."""
    path = _absolute(filename)
    return any(folder in path for folder in _INSTALLED)


def user_origin(frame: FrameType | None = None) -> Origin:
    """Return the nearest caller outside this library, SQLAlchemy, Flask, the drivers and the standard library."""
    origin = _users(frame if frame is not None else sys._getframe(1))
    if origin is None and frame is None:
        origin = _users(_frame_behind_greenlet())
    return origin or UNKNOWN


def _users(current: FrameType | None) -> Origin | None:
    while current is not None:
        code = current.f_code
        if not _foreign[code.co_filename]:
            return Origin(code.co_filename, current.f_lineno, code.co_name)
        if code.co_filename in _LOOPS:
            return None
        current = current.f_back
    return None


def _frame_behind_greenlet() -> FrameType | None:
    """Return the frame that waits for the present greenlet; SQLAlchemy runs what is awaited in one of its own."""
    greenlet: Any = sys.modules.get("greenlet")
    parent = greenlet.getcurrent().parent if greenlet is not None else None
    return None if parent is None else parent.gr_frame


def usual_origin(key: Hashable) -> Origin:
    """Return what :func:`user_origin` does, sooner if it lies as many frames up as it did the last time for ``key``.

    Args:
        key: What is mostly asked about from the same line: the text of a statement.
    """
    return usual_call(key)[1]


def usual_call(key: Hashable) -> tuple[FrameType, Origin]:
    """Return the frame that the nearest line of the user's has called, and that line; see :func:`usual_origin`.

    Walking up makes an object of each frame, a fifth of what a statement costs in all; a jump makes two. If a user's
    line calls the same function from as far up as the last time, but through another user's function in between, the
    outer line is returned.
    """
    known = _depths.get(key)
    if known is not None:
        depth, usual = known
        called: FrameType | None
        frame: FrameType | None
        if depth > 0:
            try:
                frame, called = sys._getframe(depth), sys._getframe(depth - 1)
            except ValueError:
                frame = called = None  # fewer frames than that
        else:
            called = _frame_behind_greenlet()
            for _ in range(-depth):
                called = called.f_back if called is not None else None
            frame = called.f_back if called is not None else None
        if frame is not None and called is not None:
            code = frame.f_code
            if called.f_code is usual and not _foreign[code.co_filename]:
                return called, Origin(code.co_filename, frame.f_lineno, code.co_name)
    return _found_call(key)


def _found_call(key: Hashable) -> tuple[FrameType, Origin]:
    called = sys._getframe(1)
    depth = 1
    current = called.f_back
    while current is not None:
        code = current.f_code
        if not _foreign[code.co_filename]:
            if len(_depths) >= _MOST_KEYS:
                _depths.clear()
            _depths[key] = depth, called.f_code
            return called, Origin(code.co_filename, current.f_lineno, code.co_name)
        if depth <= 0 and code.co_filename in _LOOPS:
            break
        called, current = current, current.f_back
        if current is None and depth > 0 and (behind := _frame_behind_greenlet()) is not None:
            called, current, depth = behind, behind.f_back, 0
        else:
            depth += 1 if depth > 0 else -1
    return called, UNKNOWN


def comes_from(filename: str) -> bool:
    """Whether a function of this file is among the callers up to the nearest line of the user's."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        passed = frame.f_code.co_filename
        if passed == filename:
            return True
        if not _foreign[passed]:
            break
        frame = frame.f_back
    return False


def is_called_from_library(beyond: str) -> bool:
    """Whether the nearest caller outside of the folder ``beyond`` is still one of this library."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None and frame.f_code.co_filename.startswith(beyond):
        frame = frame.f_back
    return frame is not None and frame.f_code.co_filename.startswith(_OURSELVES)


def user_origin_of(traceback: TracebackType | None) -> Origin | None:
    """Return the innermost line of the user's code in a traceback, ``None`` if there is none."""
    found = None
    while traceback is not None:
        code = traceback.tb_frame.f_code
        if not _foreign[code.co_filename]:
            found = Origin(code.co_filename, traceback.tb_lineno, code.co_name)
        traceback = traceback.tb_next
    return found


def _short(filename: str) -> str:
    try:
        relative = os.path.relpath(filename)
    except (ValueError, OSError):  # on another drive; the working directory has been deleted
        return filename
    return filename if relative.startswith(os.pardir) else relative


def _absolute(filename: str) -> str:
    try:
        return os.path.abspath(filename)
    except OSError:
        return filename  # a test has deleted the working directory
