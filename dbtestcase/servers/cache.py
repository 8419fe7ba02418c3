"""The folder where packed templates are kept from run to run, and the rules under which one is trusted.

``<key>.pack`` is the template, with all that is known of it. It is written under a private name and renamed, by the one
who holds ``<key>.lock``, so a reader needs no lock: it sees the old, the new or nothing. The lock's file tells when the
template was used last. A folder that others can write to is not used at all.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import pwd
import re
import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Self

from dbtestcase.native import monotonic, sleep, wall_clock
from dbtestcase.servers.supervisor import pack as packs
from dbtestcase.servers.trust import distrust_of_folder, make_folder

__all__ = ["NO_NOTES", "UNUSABLE", "Cache", "CachedTemplate", "Pack", "cache_folder", "write_pack"]

KEEP_DAYS = 30
KEEP_BYTES = 2 * 1024**3
NO_NOTES = "{}"  # what was noted when a template was prepared: the text of a JSON object
_USED_AFTER = 3600.0
_DAY = 86400.0
# Somebody else who holds a lock so long makes no template; he was stopped.
_LONGEST_LOCK = 300.0
_LOCK_TICK = 0.005
_VERSION = re.compile(r"\d{1,3}(\.\d{1,3})?")
# What reading a pack that is not whole, not one of ours or not of this version may raise.
UNUSABLE = (OSError, ValueError, TypeError, KeyError, RecursionError, packs.DamagedPack)


@dataclass(frozen=True)
class Pack:
    """A packed template on disk.

    Args:
        unpacked: Bytes that it unpacks to.
        base: The pack that it builds on.
        about: What else is known of it: ``notes``, the text of a JSON object with what was noted when it was prepared,
            and ``description``, for a person.
    """

    path: Path
    server_version: str
    unpacked: int
    base: Path | None = None
    about: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def read(cls, path: Path) -> Self:
        """Return the pack in a file.

        Raises:
            OSError, DamagedPack: It cannot be read, or is no pack.
            ValueError, TypeError, KeyError: It is not one of ours, or not as this version writes it.
        """
        found = os.lstat(path)
        if not stat.S_ISREG(found.st_mode) or found.st_uid != os.geteuid():
            raise ValueError(f"{path} is not one of ours")
        said = packs.about(str(path))
        about = json.loads(said.text)
        version = about["server_version"]
        if _VERSION.fullmatch(version) is None or not isinstance(json.loads(about["notes"]), dict):
            raise ValueError(f"{path} is not of this version")
        base = path.with_name(f"{about['base']}.pack") if about["base"] else None
        if base is not None and packs.about(str(base)).checksum != said.base:
            raise ValueError(f"{path} builds on another pack")
        return cls(path, version, said.unpacked, base, about)

    @property
    def notes(self) -> str:
        """What was noted when it was prepared: the text of a JSON object."""
        return str(self.about.get("notes", NO_NOTES))

    @property
    def is_there(self) -> bool:
        """Whether it can still be read, as far as can be seen from outside."""
        return all(os.access(path, os.R_OK) for path in (self.path, self.base) if path is not None)


@dataclass(frozen=True)
class CachedTemplate:
    """What ``python -m dbtestcase doctor`` tells of one template in the cache."""

    path: Path
    description: str
    size: int
    last_used: float
    base: str = ""  # key of the template that it builds on


def cache_folder() -> Path | None:
    """Return the folder for templates, made or not; ``None`` if ``DBTESTCASE_CACHE`` is ``off`` or there is no home."""
    chosen = os.environ.get("DBTESTCASE_CACHE", "").strip()
    if chosen.lower() in ("off", "0", "no", "false", "none"):
        return None
    if chosen:
        return Path(os.path.expanduser(chosen)).absolute()
    from platformdirs import user_cache_path

    # Under sudo, HOME may be that of somebody who could no longer write to a folder that root made there.
    if os.geteuid() == 0 and _owner(os.path.expanduser("~")) not in (0, None):
        return Path(pwd.getpwuid(0).pw_dir) / ".cache" / "dbtestcase"
    try:
        folder = user_cache_path("dbtestcase", appauthor=False)
    except RuntimeError:  # as newer versions of platformdirs have it
        return None
    # Without HOME, and without an entry in the list of users, it would be a folder called "~" where we happen to be.
    return folder if folder.is_absolute() and "~" not in folder.parts else None


def _owner(path: str) -> int | None:
    try:
        return os.stat(path).st_uid
    except OSError:
        return None


class Cache:
    """The templates in one folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def pack_path(self, key: str) -> Path:
        """Return where the pack of that key is or would be."""
        return self.folder / f"{key}.pack"

    def load(self, key: str) -> Pack | None:
        """Return the pack if it is there, in a folder that can be trusted, and whole as far as can be seen quickly."""
        if distrust_of_folder(self.folder) is not None:
            return None
        try:
            pack = Pack.read(self.pack_path(key))
        except UNUSABLE:
            return None
        for used in filter(None, (pack.path, pack.base)):
            self._note_use(used)
        return pack

    def examine(self, key: str) -> str | None:
        """Return what is damaged after reading all of the pack; ``None`` if nothing is, or if it is not there."""
        path = self.pack_path(key)
        try:
            base = Pack.read(path).base
            packs.check(str(path), str(base) if base is not None else None)
        except packs.DamagedPack as exc:
            return str(exc)
        except UNUSABLE:
            return None  # not there, or of another version: there is nothing to tell
        return None

    def publish(self, key: str, pack: Pack) -> Pack:
        """Move a finished pack, in this folder under a private name, to its own.

        Raises:
            OSError: The folder cannot be written to.
        """
        target = self.pack_path(key)
        pack.path.replace(target)
        return replace(pack, path=target)

    def private_path(self, key: str) -> Path:
        """Return a name in this folder to write a pack under before it is published."""
        return self.folder / f"{key}.{os.getpid()}-{os.urandom(4).hex()}.part"

    @contextmanager
    def lock(self, key: str) -> Iterator[None]:
        """Hold the lock on one key, after making the folder if need be.

        Raises:
            OSError: The folder cannot be made or written to, others can write to it, or the lock does not get free.
        """
        make_folder(self.folder)
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
        file = os.open(self.folder / f"{key}.lock", flags, 0o600)
        try:
            os.fchmod(file, 0o600)  # whatever the umask
            _wait_for(file)
            for left in self.folder.glob(f"{key}.*.part"):
                left.unlink(missing_ok=True)  # only the holder of the lock writes one, so its writer is dead
            yield
        finally:
            os.close(file)

    def drop(self, key: str) -> None:
        """Delete one template; whoever has it open may go on reading."""
        self.pack_path(key).unlink(missing_ok=True)

    def prune(self, used_key: str = "") -> None:
        """Delete what was not used for 30 days, and the longest unused above 2 GB; never ``used_key``, nor its base."""
        now = wall_clock()
        total = 0
        needed = {used_key}
        # Bases last: they are needed as long as one that builds on them stays.
        for template in sorted(self.templates(), key=lambda template: (not template.base, -template.last_used)):
            total += template.size
            too_old = now - template.last_used > KEEP_DAYS * _DAY
            if (too_old or total > KEEP_BYTES) and template.path.stem not in needed:
                with suppress(OSError):
                    self.drop(template.path.stem)
            else:
                needed.add(template.base)
        for left in (*self.folder.glob("*.part"), *self.folder.glob("*.lock")):
            with suppress(OSError):
                # An old lock may be taken by somebody just now; the worst that follows is work done twice.
                if now - left.lstat().st_mtime > KEEP_DAYS * _DAY:
                    left.unlink()

    def templates(self) -> list[CachedTemplate]:
        """Return what is in the cache, in no order; nothing of a folder that others can write to."""
        found: list[CachedTemplate] = []
        if distrust_of_folder(self.folder) is not None:
            return found
        for path in self.folder.glob("*.pack"):
            with suppress(OSError):
                size, used = path.lstat().st_size, self._last_use(path)
                try:
                    about = Pack.read(path).about
                    found.append(CachedTemplate(path, about["description"], size, used, about["base"]))
                except UNUSABLE:
                    found.append(CachedTemplate(path, "damaged, or of another version", size, used))
        return found

    def clear(self) -> None:
        """Delete all templates."""
        for pattern in ("*.pack", "*.part", "*.lock"):
            for path in self.folder.glob(pattern):
                path.unlink(missing_ok=True)

    def _last_use(self, path: Path) -> float:
        lock = path.with_suffix(".lock")
        return (lock if lock.exists() else path).lstat().st_mtime

    def _note_use(self, path: Path) -> None:
        with suppress(OSError):
            if wall_clock() - self._last_use(path) > _USED_AFTER:
                path.with_suffix(".lock").touch(0o600)


def _wait_for(lock: int) -> None:
    deadline = monotonic() + _LONGEST_LOCK
    while True:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as exc:
            if exc.errno in (errno.ENOLCK, errno.ENOTSUP, errno.EINVAL):
                return  # A network folder without locks: at worst two processes do the same work.
            if exc.errno not in (errno.EWOULDBLOCK, errno.EACCES):
                raise
            if monotonic() > deadline:
                why = f"another process has held a lock in it for {_LONGEST_LOCK:g} seconds"
                raise OSError(errno.ETIMEDOUT, why) from None
            sleep(_LOCK_TICK)
        else:
            return


def write_pack(
    data_dir: Path, target: Path, server_version: str, about: Mapping[str, Any], base: Path | None = None
) -> Pack:
    """Pack a cluster that was shut down.

    Args:
        about: What :func:`Pack.read` is to find, as JSON can hold it.
        base: The pack that it was unpacked from.

    Raises:
        OSError: It could not be written.
        ValueError: It holds something other than folders and files: a tablespace.
    """
    try:
        built_on = packs.read(str(base))[0] if base is not None else None
        said = {"notes": NO_NOTES, **about, "server_version": server_version, "base": base.stem if base else ""}
        text = json.dumps(said)
        unpacked = packs.write(str(data_dir), str(target), text, base=built_on, skip=_is_not_template)
        return Pack(target, server_version, unpacked, base, said)
    except BaseException:
        target.unlink(missing_ok=True)
        raise


_LEFT_OUT = ("postgresql.conf", "postmaster.opts", "postmaster.pid", "current_logfiles")


def _is_not_template(name: str) -> bool:
    folder, _, file = name.rpartition("/")
    return name in _LEFT_OUT or file == "pg_internal.init" or folder == "pg_stat_tmp"
