"""Folders of ours in locations that others use too: made with a lock, and swept once nobody holds it.

The lock is a file in the folder, locked with flock. A server inherits it, so it is free only when the supervisor, the
server and every process of the server are dead, however they died. Whoever makes the lock file first, the maker of
the folder or a sweep that met it a moment too early, owns the folder; the other one leaves it alone.
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat

from . import tree

PREFIX = "dbtestcase-"
LOCK = "lock"
MARK = b"This folder belongs to a run of dbtestcase and is deleted when it ends.\n"
_RANDOM_BYTES = 5


def make(location: str, mode: int) -> tuple[str, int]:
    """Make a folder in ``location``; return its path and the descriptor that holds its lock."""
    while True:
        path = _new_path(location)
        os.mkdir(path, 0o700)
        try:
            lock = _take_new_lock(path)
        except OSError:
            tree.remove(path)
            raise
        if lock is None:
            continue  # a sweep took it for a dead one and removes it
        os.chmod(path, mode)
        return path, lock


def rename_away(path: str) -> str:
    """Give a folder of ours another name, so that the old one is free before all is deleted; return the name it has."""
    other = _new_path(os.path.dirname(path))
    try:
        os.rename(path, other)
    except OSError:
        return path
    return other


def _new_path(location: str) -> str:
    return os.path.join(location, f"{PREFIX}{os.getuid()}-{os.urandom(_RANDOM_BYTES).hex()}")


def _take_new_lock(path: str) -> int | None:
    try:
        lock = os.open(os.path.join(path, LOCK), os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    except (FileExistsError, FileNotFoundError):
        return None
    if not _lock(lock) or not os.fstat(lock).st_nlink:
        os.close(lock)
        return None
    try:
        os.write(lock, MARK)
    except OSError:
        os.close(lock)
        raise
    return lock


def _lock(file: int) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as exc:
        if exc.errno in (errno.EWOULDBLOCK, errno.EACCES):
            return False
        raise
    return True


def dead(location: str) -> list[tuple[str, int]]:
    """Return the folders of ours in ``location`` whose owners are all dead, each with its lock, now held by us."""
    found: list[tuple[str, int]] = []
    prefix = f"{PREFIX}{os.getuid()}-"
    try:
        names = os.listdir(location)
    except OSError:
        return found
    for name in names:
        if not name.startswith(prefix) or len(name) != len(prefix) + 2 * _RANDOM_BYTES:
            continue
        path = os.path.join(location, name)
        try:
            lock = _take_dead(path)
        except OSError:
            continue  # gone meanwhile, or not ours to judge
        if lock is not None:
            found.append((path, lock))
    return found


def _take_dead(path: str) -> int | None:
    folder = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        if os.fstat(folder).st_uid != os.getuid():
            return None
        content = os.listdir(folder)
        if content and LOCK not in content:
            return None  # a folder with our kind of name, but not made by us
        lock = os.open(LOCK, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600, dir_fd=folder)
        about = os.fstat(lock)
        ours = stat.S_ISREG(about.st_mode) and about.st_uid == os.getuid() and about.st_nlink == 1
        if ours and _lock(lock) and MARK.startswith(os.read(lock, len(MARK))):
            return lock
        os.close(lock)
        return None
    finally:
        os.close(folder)
