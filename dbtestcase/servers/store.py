"""The templates that this process knows: in the cache, or else in a folder that is deleted when the process ends."""

from __future__ import annotations

import _thread
import os
from collections.abc import Callable, Hashable
from contextlib import ExitStack
from pathlib import Path

from dbtestcase.errors import PostgresNotReady
from dbtestcase.native import new_lock
from dbtestcase.schema import extensions
from dbtestcase.servers.cache import Cache, Pack, cache_folder, write_pack
from dbtestcase.servers.locations import instance_locations
from dbtestcase.servers.messages import print_once
from dbtestcase.servers.server import Server
from dbtestcase.servers.supervisor_client import RequestFailed, current_supervisor

__all__ = ["Store"]

# A template that the process keeps to itself lives where an instance lives, and is about as large.
_UNPACKED_GUESS = 48 * 1024 * 1024
# Of contents that nothing identifies beyond this process the last few are kept: a run of many classes may have many.
_ANONYMOUS = 4


class Store:
    """Finds templates by their key, and makes each only once. A key that is no text means something here only."""

    def __init__(self) -> None:
        self._lock = new_lock()
        self._known: dict[Hashable, Pack] = {}
        self._folder: Path | None = None
        self._being_made: dict[Hashable, _thread.LockType] = {}

    def find(self, key: Hashable) -> Pack | None:
        """Return the template of that key if it is there, and none of its extensions was upgraded since it was made."""
        with self._lock:
            found = self._known.pop(key, None)
            if (found is None or not found.is_there) and isinstance(key, str):
                cache = _cache()
                found = cache.load(key) if cache is not None else None
            if found is None or not found.is_there:
                return None
            self._known[key] = found  # as the last one
            return found if extensions.are_current(found.notes) else None

    def make(self, key: Hashable, description: str, build: Callable[[], Server]) -> Pack:
        """Return a template, in the cache if that can be; ``build`` returns a stopped server with the content."""
        with self._lock:
            being_made = self._being_made.setdefault(key, new_lock())
        with being_made, ExitStack() as stack:
            cache = _locked_cache(key, stack) if isinstance(key, str) else None
            found = self.find(key)
            if found is None:
                if cache is not None:
                    _drop_if_damaged(cache, str(key))
                server = build()
                try:
                    if cache is not None:
                        found = _published(cache, str(key), server, description)
                    if found is None:
                        found = self._private(server, description)
                finally:
                    server.directory.end()
            with self._lock:
                self._known[key] = found
                own = [each for each in self._known if not isinstance(each, str)]
                for old in own[:-_ANONYMOUS]:
                    self._known.pop(old).path.unlink(missing_ok=True)
                    self._being_made.pop(old, None)
            return found

    def distrust(self, key: Hashable) -> bool:
        """Read all of a template that did not serve, and its base; return whether one was at fault, and is gone now."""
        with self._lock:
            known = self._known.pop(key, None)
            base = known.base.stem if known is not None and known.base is not None else None
            self._known.pop(base, None)
        cache = _cache()
        if cache is None:
            return False
        gone = [_drop_if_damaged(cache, each) for each in (key, base) if isinstance(each, str)]
        return any(gone)

    def _private(self, server: Server, description: str) -> Pack:
        try:
            return _packed(server, self._private_folder() / f"{os.urandom(6).hex()}.pack", description)
        except OSError as exc:
            raise PostgresNotReady(
                f"cannot prepare a test database: its template cannot be written: {exc}\n"
                "Make room in the temporary folder, or set DBTESTCASE_DIR to a folder with room."
            ) from exc

    def _private_folder(self) -> Path:
        with self._lock:
            if self._folder is None or not self._folder.exists():
                reply = current_supervisor().request(
                    "folder", locations=instance_locations(_UNPACKED_GUESS, None), mode=0o700
                )
                try:
                    self._folder = Path(reply.wait()["path"])
                except RequestFailed as exc:
                    raise PostgresNotReady(
                        f"cannot prepare a test database: no folder can take its template: {exc}\n"
                        "Set DBTESTCASE_DIR to a folder that can be written to."
                    ) from exc
            return self._folder


def _cache() -> Cache | None:
    folder = cache_folder()
    return Cache(folder) if folder is not None else None


def _locked_cache(key: str, stack: ExitStack) -> Cache | None:
    cache = _cache()
    if cache is None:
        return None
    try:
        stack.enter_context(cache.lock(key))
    except OSError as exc:
        _print_unusable(cache, exc)
        return None
    return cache


def _drop_if_damaged(cache: Cache, key: str) -> bool:
    """Delete a template if it is damaged; return whether it is of no use any more."""
    damage = cache.examine(key)
    if damage is None:
        return cache.load(key) is None
    print_once(f"the template {str(cache.pack_path(key))!r} is damaged ({damage}); it is made anew.")
    try:
        cache.drop(key)
    except OSError:
        return False
    return True


def _published(cache: Cache, key: str, server: Server, description: str) -> Pack | None:
    private = cache.private_path(key)
    try:
        pack = cache.publish(key, _packed(server, private, description))
        cache.prune(key)
    except OSError as exc:
        _print_unusable(cache, exc)
        return None
    finally:
        private.unlink(missing_ok=True)
    return pack


def _packed(server: Server, target: Path, description: str) -> Pack:
    # What two packs share can be told from their files only where they stay together.
    base = server.pack.path if server.pack is not None and server.pack.path.parent == target.parent else None
    try:
        about = {"notes": server.notes, "description": f"PostgreSQL {server.version}, {description}"}
        return write_pack(server.directory.data_dir, target, server.version, about, base)
    except ValueError as exc:
        raise PostgresNotReady(
            f"cannot prepare a test database: in its data folder {exc}. Tablespaces cannot be part of a schema."
        ) from exc


def _print_unusable(cache: Cache, problem: OSError) -> None:
    print_once(
        f"the cache folder {str(cache.folder)!r} cannot be used ({problem.strerror or problem}), so each run makes its "
        "templates anew. Set DBTESTCASE_CACHE to a folder of your own, or to 'off'."
    )
