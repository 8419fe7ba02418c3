"""Checks that a file can only come from a user who may decide what runs here.

These are the present user, root, and whoever owns this library, whose code runs already.
"""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

__all__ = ["UntrustedFolder", "distrust_of_folder", "distrust_of_program", "make_folder"]


class UntrustedFolder(OSError):
    """A folder may hold what somebody else has put there; its text says why."""

    def __init__(self, path: Path, why: str) -> None:
        super().__init__(errno.EPERM, why, str(path))


def distrust_of_folder(path: Path) -> str | None:
    """Return why others may have written into a folder; ``None`` if they cannot, or if it does not exist."""
    try:
        about = os.lstat(path)
    except OSError:
        return None
    if stat.S_ISLNK(about.st_mode):
        return "it is a link; name the folder itself"
    if not stat.S_ISDIR(about.st_mode):
        return "it is not a folder"
    if about.st_uid != os.geteuid():
        return f"it belongs to another user (user id {about.st_uid})"
    if about.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        return f"others can write to it (mode {stat.S_IMODE(about.st_mode):04o}); chmod go-w would change that"
    return None


def make_folder(path: Path, mode: int = 0o700) -> None:
    """Make a folder, and those above it that are missing, with this mode, whatever the umask."""
    missing = []
    folder = path
    while not folder.exists() and folder != folder.parent:
        missing.append(folder)
        folder = folder.parent
    for each in reversed(missing):
        try:
            each.mkdir(mode)
        except FileExistsError:
            continue  # somebody else was faster, or it is a link to nowhere
        each.chmod(mode)
    why = distrust_of_folder(path)
    if why is not None:
        raise UntrustedFolder(path, why)


def distrust_of_program(path: str) -> str | None:
    """Return why somebody else may have written a program; ``None`` if nobody can have."""
    users, groups = _trusted()
    for each in (path, os.path.dirname(path)):
        try:
            about = os.stat(each)
        except OSError as exc:
            return exc.strerror
        if about.st_uid not in users:
            return f"{each!r} belongs to another user (user id {about.st_uid})"
        sticky = each != path and about.st_mode & stat.S_ISVTX
        if about.st_mode & stat.S_IWOTH and not sticky:
            return f"everybody can write to {each!r}"
        if about.st_mode & stat.S_IWGRP and about.st_gid not in groups and not sticky:
            return f"a group (id {about.st_gid}) can write to {each!r}"
    return None


def _trusted() -> tuple[set[int], set[int]]:
    own = os.stat(__file__)
    return {0, os.geteuid(), own.st_uid}, {0, os.getegid(), own.st_gid}
