"""Instances that were kept to be looked at later: packed, in the cache's folder ``kept``, until they are removed."""

from __future__ import annotations

import os
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from dbtestcase.errors import DBTestCaseError
from dbtestcase.native import temporary_folder, wall_clock
from dbtestcase.servers.cache import UNUSABLE, Pack, cache_folder, write_pack
from dbtestcase.servers.messages import print_once
from dbtestcase.servers.options import ThrowawayPostgres
from dbtestcase.servers.server import Server
from dbtestcase.servers.trust import distrust_of_folder, make_folder

__all__ = ["KeptInstance", "find_kept", "keep", "kept_instances", "remove_kept"]


@dataclass(frozen=True)
class KeptInstance:
    """An instance on disk.

    Args:
        name: What it is called; pass it to :func:`running_kept`.
        owner: The test class, or the test, that it is from.
        size: Bytes on disk.
        options: Those that it starts with.
        pack: Its data.
    """

    name: str
    owner: str
    size: int
    options: ThrowawayPostgres
    pack: Pack


def kept_folder() -> Path:
    """Return the folder of the kept instances, made or not."""
    folder = cache_folder()
    if folder is not None:
        return folder / "kept"
    return Path(temporary_folder()) / f"dbtestcase-kept-{os.getuid()}"


def keep(server: Server, label: str) -> str:
    """Pack a server that was stopped in order; return the name it is kept under."""
    folder = kept_folder()
    name = f"{time.strftime('%Y%m%d-%H%M%S', time.localtime(wall_clock()))}-{os.urandom(2).hex()}"
    bin_dir, settings = str(server.launch.found.bin_dir), dict(server.options.settings)
    try:
        if folder.parent == cache_folder():
            make_folder(folder.parent)
        make_folder(folder)
        about = {"owner": label, "bin_dir": bin_dir, "settings": settings}
        write_pack(server.directory.data_dir, folder / f"{name}.pack", server.version, about)
    except (OSError, ValueError) as exc:
        raise DBTestCaseError(
            f"the database of {label} cannot be kept in {str(folder)!r}: {getattr(exc, 'strerror', None) or exc}.\n"
            "Set DBTESTCASE_CACHE to a folder of your own that nobody else can write to."
        ) from exc
    return name


def kept_instances() -> list[KeptInstance]:
    """Return what is kept, oldest first; nothing from a folder that others can write to."""
    found = []
    for path in sorted(_trusted_folder().glob("*.pack")):
        with suppress(*UNUSABLE, DBTestCaseError):
            pack = Pack.read(path)
            options = ThrowawayPostgres(settings=pack.about["settings"], bin_dir=pack.about["bin_dir"])
            found.append(KeptInstance(path.stem, pack.about["owner"], path.stat().st_size, options, pack))
    return found


def _trusted_folder() -> Path:
    folder = kept_folder()
    for each in (folder.parent, folder) if folder.parent == cache_folder() else (folder,):
        why = distrust_of_folder(each)
        if why is not None:
            print_once(f"the folder {str(each)!r} is not used: {why}.")
            return Path("/nonexistent")
    return folder


def remove_kept() -> int:
    """Delete all kept instances; return how many that were."""
    kept = kept_instances()
    for each in kept:
        each.pack.path.unlink(missing_ok=True)
    with suppress(OSError):
        _trusted_folder().rmdir()
    return len(kept)


def find_kept(name: str) -> KeptInstance:
    """Return the kept instance of that name."""
    for kept in kept_instances():
        if kept.name == name:
            return kept
    raise DBTestCaseError(
        f"no instance called {name!r} is kept in {str(kept_folder())!r}.\n"
        "'python -m dbtestcase doctor' lists those that are; a run with DBTESTCASE_KEEP=failed keeps more."
    )
