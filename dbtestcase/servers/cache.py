"""The folder where packed templates are kept from run to run, and the rules under which one is believed.

``<key>.pack`` is the template, ``<key>.json`` says that it is whole: written last, with the pack's size, time and
hash. A pack that does not fit what is said of it is not used. Both are written under a private name and renamed, by
the one who holds ``<key>.lock``, so a reader needs no lock: it sees the old, the new or nothing.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import os
import pwd
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from dbtestcase.servers.supervisor import tree

__all__ = ["NO_NOTES", "Cache", "CachedTemplate", "Pack", "cache_folder", "write_pack"]

KEEP_DAYS = 30
KEEP_BYTES = 2 * 1024**3
_USED_AFTER = 3600.0
_DAY = 86400.0
NO_NOTES = "{}"  # what was noted when a template was prepared: the text of a JSON object
_CLAIMED = {
    "size": int,
    "time": int,
    "hash": str,
    "unpacked": int,
    "server_version": str,
    "description": str,
    "notes": str,
}


@dataclass(frozen=True)
class Pack:
    """A packed template on disk, verified."""

    path: Path
    server_version: str
    unpacked: int
    notes: str = NO_NOTES


@dataclass(frozen=True)
class CachedTemplate:
    """What ``python -m dbtestcase doctor`` tells of one template in the cache."""

    path: Path
    description: str
    size: int
    last_used: float


def cache_folder() -> Path | None:
    """Return the folder for templates and programs, made or not; ``None`` if ``DBTESTCASE_CACHE`` is ``off``."""
    chosen = os.environ.get("DBTESTCASE_CACHE", "").strip()
    if chosen.lower() in ("off", "0", "no", "false", "none"):
        return None
    if chosen:
        return Path(chosen).expanduser().absolute()
    from platformdirs import user_cache_path

    # Under sudo, HOME may be that of somebody who could no longer write to a folder that root made there.
    if os.geteuid() == 0 and _owner(Path.home()) not in (0, None):
        return Path(pwd.getpwuid(0).pw_dir) / ".cache" / "dbtestcase"
    return user_cache_path("dbtestcase", appauthor=False)


def _owner(path: Path) -> int | None:
    try:
        return path.stat().st_uid
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
        found = self._claim(key)
        if found is None:
            return None
        path, claim = found
        try:
            about = path.stat()
            usable = os.access(path, os.R_OK)
        except OSError:
            return None
        if not usable or about.st_size != claim["size"] or about.st_mtime_ns != claim["time"]:
            return None
        self._note_use(key)
        return Pack(path, claim["server_version"], claim["unpacked"], claim["notes"])

    def examine(self, key: str) -> str | None:
        """Return what is wrong with the pack after reading all of it; ``None`` if it is right or not there.

        One that is right but was touched or copied is believed again afterwards.
        """
        path = self.pack_path(key)
        if not path.exists():
            return None
        found = self._claim(key)
        if found is None:
            return None  # never finished: nothing to tell
        _, claim = found
        try:
            if path.stat().st_size != claim["size"]:
                return "its size has changed"
            if _hash(path) != claim["hash"]:
                return "its content has changed"
            if path.stat().st_mtime_ns != claim["time"]:
                self._write_claim(key, {**claim, "time": path.stat().st_mtime_ns})
        except OSError as exc:
            return str(exc)
        return None

    def publish(self, key: str, private: Path, pack: Pack, description: str) -> Pack:
        """Move the finished file ``private``, in this folder, to its name.

        Raises:
            OSError: The folder cannot be written to.
        """
        target = self.pack_path(key)
        digest = _hash(private)
        with suppress(FileNotFoundError):
            self._claim_path(key).unlink()
        private.replace(target)
        about = target.stat()
        claim = {
            "size": about.st_size,
            "time": about.st_mtime_ns,
            "hash": digest,
            "unpacked": pack.unpacked,
            "server_version": pack.server_version,
            "description": description,
            "notes": pack.notes,
        }
        self._write_claim(key, claim)
        return replace(pack, path=target)

    def private_path(self, key: str) -> Path:
        """Return a name in this folder to write a pack under before it is published."""
        return self.folder / f"{key}.{os.getpid()}-{os.urandom(4).hex()}.part"

    @contextmanager
    def lock(self, key: str) -> Iterator[None]:
        """Hold the lock on one key, after making the folder if need be.

        Raises:
            OSError: The folder cannot be made or written to.
        """
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        file = os.open(self.folder / f"{key}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            try:
                fcntl.flock(file, fcntl.LOCK_EX)
            except OSError as exc:
                # A network folder without locks: at worst two processes do the same work.
                if exc.errno not in (errno.ENOLCK, errno.ENOTSUP, errno.EINVAL):
                    raise
            for left in self.folder.glob(f"{key}.*.part"):
                left.unlink(missing_ok=True)  # only the holder of the lock writes one, so its writer is dead
            yield
        finally:
            os.close(file)

    def drop(self, key: str) -> None:
        """Delete one template; whoever has it open may go on reading."""
        for path in (self._claim_path(key), self.pack_path(key)):
            path.unlink(missing_ok=True)

    def prune(self, used_key: str = "") -> None:
        """Delete what was not used for 30 days, and the longest unused above 2 GB; never ``used_key``."""
        total = 0
        for template in sorted(self.templates(), key=lambda template: -template.last_used):
            total += template.size
            too_old = time.time() - template.last_used > KEEP_DAYS * _DAY
            if (too_old or total > KEEP_BYTES) and template.path.stem != used_key:
                with suppress(OSError):
                    self.drop(template.path.stem)
        for left in (*self.folder.glob("*.part"), *self.folder.glob("*.lock")):
            with suppress(OSError):
                # An old lock may be taken by somebody just now; the worst that follows is work done twice.
                if time.time() - left.stat().st_mtime > KEEP_DAYS * _DAY:
                    left.unlink()

    def templates(self) -> list[CachedTemplate]:
        """Return what is in the cache, in no order."""
        found = []
        for path in self.folder.glob("*.pack"):
            with suppress(OSError):
                claim = self._claim(path.stem)
                description = claim[1]["description"] if claim is not None else "unfinished or damaged"
                used = path.stat() if claim is None else self._claim_path(path.stem).stat()
                found.append(CachedTemplate(path, description, path.stat().st_size, used.st_mtime))
        return found

    def clear(self) -> None:
        """Delete all templates."""
        for pattern in ("*.json", "*.pack", "*.part", "*.lock"):
            for path in self.folder.glob(pattern):
                path.unlink(missing_ok=True)

    def _claim_path(self, key: str) -> Path:
        return self.folder / f"{key}.json"

    def _claim(self, key: str) -> tuple[Path, dict[str, Any]] | None:
        try:
            claim = json.loads(self._claim_path(key).read_bytes())
        except (OSError, ValueError):
            return None
        if not isinstance(claim, dict) or any(type(claim.get(name)) is not kind for name, kind in _CLAIMED.items()):
            return None
        return self.pack_path(key), claim

    def _write_claim(self, key: str, claim: dict[str, Any]) -> None:
        private = self.private_path(key)
        private.write_text(json.dumps(claim))
        private.replace(self._claim_path(key))

    def _note_use(self, key: str) -> None:
        path = self._claim_path(key)
        with suppress(OSError):
            if time.time() - path.stat().st_mtime > _USED_AFTER:
                os.utime(path)


def _hash(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_pack(data_dir: Path, target: Path) -> int:
    """Pack a cluster that was shut down; return the bytes it unpacks to.

    Raises:
        OSError: It could not be written.
        ValueError: It holds something other than folders and files: a tablespace.
    """
    try:
        return tree.pack(str(data_dir), str(target), skip=_is_not_template)
    except BaseException:
        target.unlink(missing_ok=True)
        raise


_LEFT_OUT = ("postgresql.conf", "postmaster.opts", "postmaster.pid", "current_logfiles")


def _is_not_template(name: str) -> bool:
    folder, _, file = name.rpartition("/")
    return name in _LEFT_OUT or file == "pg_internal.init" or folder == "pg_stat_tmp"
