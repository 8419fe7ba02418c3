"""The folder where packed templates are kept from run to run, and the rules under which one is trusted.

``<key>.pack`` is the template, ``<key>.json`` its manifest, written last: a pack that does not match it is not used.
Both are written under a private name and renamed, by the one who holds ``<key>.lock``, so a reader needs no lock: it
sees the old, the new or nothing. A folder that others can write to is not used at all.
"""

from __future__ import annotations

import errno
import fcntl
import os
import pwd
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path

from dbtestcase.native import monotonic, sleep, wall_clock
from dbtestcase.servers.manifest import NO_NOTES, Manifest, hash_of
from dbtestcase.servers.supervisor import pack as packs
from dbtestcase.servers.trust import distrust_of_folder, make_folder

__all__ = ["Cache", "CachedTemplate", "Pack", "cache_folder", "write_pack"]

KEEP_DAYS = 30
KEEP_BYTES = 2 * 1024**3
_USED_AFTER = 3600.0
_DAY = 86400.0
# Somebody else who holds a lock so long makes no template; he was stopped.
_LONGEST_LOCK = 300.0
_LOCK_TICK = 0.005


@dataclass(frozen=True)
class Pack:
    """A packed template on disk, verified.

    Args:
        base: The pack that it builds on.
        notes: What was noted when it was prepared: the text of a JSON object.
    """

    path: Path
    server_version: str
    unpacked: int
    base: Path | None = None
    notes: str = NO_NOTES

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
        """Return the pack if it is there and is what was published; looks at its size and time only."""
        manifest = self._manifest(key)
        if manifest is None:
            return None
        path = self.pack_path(key)
        try:
            about = os.lstat(path)
        except OSError:
            return None
        if (about.st_size, about.st_mtime_ns, about.st_uid) != (manifest.size, manifest.time, os.geteuid()):
            return None
        base = None
        if manifest.base:
            below = self._manifest(manifest.base)
            base = self.pack_path(manifest.base)
            if below is None or below.hash != manifest.base_hash or not base.exists():
                return None
            self._note_use(manifest.base)
        self._note_use(key)
        return Pack(path, manifest.server_version, manifest.unpacked, base, manifest.notes)

    def examine(self, key: str) -> str | None:
        """Return what is wrong with the pack after reading all of it; ``None`` if it is right or not there.

        One that is right but was touched or copied is trusted again afterwards.
        """
        path = self.pack_path(key)
        manifest = self._manifest(key)
        if manifest is None or not path.exists():
            return None  # never finished: nothing to tell
        try:
            if path.stat().st_size != manifest.size:
                return "its size has changed"
            if hash_of(path) != manifest.hash:
                return "its content has changed"
            if path.stat().st_mtime_ns != manifest.time:
                self._write_manifest(key, replace(manifest, time=path.stat().st_mtime_ns))
        except OSError as exc:
            return str(exc)
        return None

    def publish(self, key: str, private: Path, pack: Pack, description: str) -> Pack:
        """Move the finished file ``private``, in this folder, to its name.

        Raises:
            OSError: The folder cannot be written to.
        """
        target = self.pack_path(key)
        digest = hash_of(private)
        base = pack.base.stem if pack.base is not None else ""
        below = self._manifest(base) if base else None
        with suppress(FileNotFoundError):
            self._manifest_path(key).unlink()
        private.replace(target)
        about = target.stat()
        manifest = Manifest(
            size=about.st_size,
            time=about.st_mtime_ns,
            hash=digest,
            unpacked=pack.unpacked,
            server_version=pack.server_version,
            description=description,
            notes=pack.notes,
            base=base,
            base_hash=below.hash if below is not None else "",
        )
        self._write_manifest(key, manifest)
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
        for path in (self._manifest_path(key), self.pack_path(key)):
            path.unlink(missing_ok=True)

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
                manifest = self._manifest(path.stem)
                description = manifest.description if manifest is not None else "unfinished or damaged"
                used = path.lstat() if manifest is None else self._manifest_path(path.stem).lstat()
                base = manifest.base if manifest is not None else ""
                found.append(CachedTemplate(path, description, path.lstat().st_size, used.st_mtime, base))
        return found

    def clear(self) -> None:
        """Delete all templates."""
        for pattern in ("*.json", "*.pack", "*.part", "*.lock"):
            for path in self.folder.glob(pattern):
                path.unlink(missing_ok=True)

    def _manifest_path(self, key: str) -> Path:
        return self.folder / f"{key}.json"

    def _manifest(self, key: str) -> Manifest | None:
        return Manifest.read(self._manifest_path(key)) if distrust_of_folder(self.folder) is None else None

    def _write_manifest(self, key: str, manifest: Manifest) -> None:
        private = self.private_path(key)
        file = os.open(private, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with open(file, "w", encoding="utf-8") as out:
            os.fchmod(file, 0o600)  # whatever the umask
            out.write(manifest.written())
        private.replace(self._manifest_path(key))

    def _note_use(self, key: str) -> None:
        path = self._manifest_path(key)
        with suppress(OSError):
            if wall_clock() - path.lstat().st_mtime > _USED_AFTER:
                os.utime(path)


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


def write_pack(data_dir: Path, target: Path, base: Path | None = None) -> int:
    """Pack a cluster that was shut down; return the bytes it unpacks to.

    Args:
        base: The pack that it was unpacked from.

    Raises:
        OSError: It could not be written.
        ValueError: It holds something other than folders and files: a tablespace.
    """
    try:
        built_on = packs.read(str(base))[0] if base is not None else None
        return packs.write(str(data_dir), str(target), base=built_on, skip=_is_not_template)
    except BaseException:
        target.unlink(missing_ok=True)
        raise


_LEFT_OUT = ("postgresql.conf", "postmaster.opts", "postmaster.pid", "current_logfiles")


def _is_not_template(name: str) -> bool:
    folder, _, file = name.rpartition("/")
    return name in _LEFT_OUT or file == "pg_internal.init" or folder == "pg_stat_tmp"
