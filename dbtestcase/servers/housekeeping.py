"""Lists and deletes what this library keeps on disk, for ``python -m dbtestcase doctor`` and ``clean``."""

from __future__ import annotations

import os
import shutil
from contextlib import suppress
from pathlib import Path

from dbtestcase.servers.cache import Cache, CachedTemplate, cache_folder
from dbtestcase.servers.locations import sweep_locations
from dbtestcase.servers.supervisor import folder
from dbtestcase.servers.user import copies_of_programs

__all__ = ["cached_templates", "clear_cache", "leftovers"]


def cached_templates() -> list[CachedTemplate]:
    """Return the templates in the cache, the last used first."""
    path = cache_folder()
    found = Cache(path).templates() if path is not None and path.is_dir() else []
    return sorted(found, key=lambda template: -template.last_used)


def clear_cache() -> list[Path]:
    """Delete all templates and copies of programs, but nothing that was kept; return what was there.

    Raises:
        OSError: Something cannot be deleted.
    """
    gone = [template.path for template in cached_templates()]
    path = cache_folder()
    if path is not None and path.is_dir():
        Cache(path).clear()
    for copy in copies_of_programs():
        shutil.rmtree(copy)
        gone.append(copy)
    if path is not None:
        with suppress(OSError):
            path.rmdir()  # unless something is kept there
    return gone


def leftovers() -> list[str]:
    """Return folders of instances whose owners are dead; the next run deletes them."""
    found = []
    for location in sweep_locations():
        for path, lock in folder.dead(location):
            os.close(lock)
            found.append(path)
    return found
