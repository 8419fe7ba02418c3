"""Instances that were kept to be looked at later: packed, in the cache's folder ``kept``, until they are removed."""

from __future__ import annotations

import json
import os
import tempfile
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from dbtestcase.errors import DBTestCaseError
from dbtestcase.native import wall_clock
from dbtestcase.servers.cache import Pack, cache_folder, write_pack
from dbtestcase.servers.messages import print_once
from dbtestcase.servers.options import ThrowawayPostgres
from dbtestcase.servers.server import Server
from dbtestcase.servers.trust import distrust_of_folder, make_folder

__all__ = ["KeptInstance", "keep", "kept_instances", "open_kept", "remove_kept"]


@dataclass(frozen=True)
class KeptInstance:
    """An instance on disk.

    Args:
        name: What it is called; pass it to :func:`running_kept` and :func:`remove_kept`.
        owner: The test class, or the test, that it is from.
        kept_at: When it was kept, in seconds since 1970.
        size: Bytes on disk.
        server_version: The version of PostgreSQL that can start it.
    """

    name: str
    owner: str
    kept_at: float
    size: int
    server_version: str


def kept_folder() -> Path:
    """Return the folder of the kept instances, made or not."""
    folder = cache_folder()
    if folder is not None:
        return folder / "kept"
    return Path(tempfile.gettempdir()) / f"dbtestcase-kept-{os.getuid()}"


def keep(server: Server, label: str) -> str:
    """Pack a server that was stopped in order; return the name it is kept under.

    Raises:
        DBTestCaseError: It cannot be written, or others can write to the folder.
    """
    folder = kept_folder()
    now = wall_clock()
    name = f"{time.strftime('%Y%m%d-%H%M%S', time.localtime(now))}-{os.urandom(2).hex()}"
    about = {
        "owner": label,
        "kept_at": now,
        "bin_dir": str(server.launch.found.bin_dir),
        "settings": dict(server.options.settings),
        "server_version": server.version,
    }
    try:
        if folder.parent == cache_folder():
            make_folder(folder.parent)
        make_folder(folder)
        about["unpacked"] = write_pack(server.directory.data_dir, folder / f"{name}.pack")
        file = os.open(folder / f"{name}.json", os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with open(file, "w", encoding="utf-8") as out:
            os.fchmod(file, 0o600)  # whatever the umask
            out.write(json.dumps(about))
    except (OSError, ValueError) as exc:
        raise DBTestCaseError(
            f"the database of {label} cannot be kept in {str(folder)!r}: {getattr(exc, 'strerror', None) or exc}.\n"
            "Set DBTESTCASE_CACHE to a folder of your own that nobody else can write to."
        ) from exc
    return name


def kept_instances() -> list[KeptInstance]:
    """Return what is kept, oldest first; nothing from a folder that others can write to."""
    found = []
    for path in sorted(_trusted_folder().glob("*.json")):
        with suppress(OSError, ValueError, KeyError, TypeError, RecursionError):
            about = json.loads(path.read_text(encoding="utf-8"))
            size = path.with_suffix(".pack").stat().st_size
            found.append(KeptInstance(path.stem, about["owner"], about["kept_at"], size, about["server_version"]))
    return found


def _trusted_folder() -> Path:
    folder = kept_folder()
    for each in (folder.parent, folder) if folder.parent == cache_folder() else (folder,):
        why = distrust_of_folder(each)
        if why is not None:
            print_once(f"the folder {str(each)!r} is not used: {why}.")
            return Path("/nonexistent")
    return folder


def remove_kept(name: str | None = None) -> int:
    """Delete one kept instance, or all of them; return how many that were."""
    names = [kept.name for kept in kept_instances() if name in (None, kept.name)]
    folder = _trusted_folder()
    for one in names:
        for suffix in (".json", ".pack"):
            (folder / f"{one}{suffix}").unlink(missing_ok=True)
    with suppress(OSError):
        folder.rmdir()
    return len(names)


def open_kept(name: str) -> tuple[ThrowawayPostgres, Pack, str]:
    """Return the options, the pack and the owner of a kept instance.

    Raises:
        DBTestCaseError: There is none of that name, or what is there cannot be understood.
    """
    folder = _trusted_folder()
    try:
        about = json.loads((folder / f"{name}.json").read_text(encoding="utf-8"))
        options = ThrowawayPostgres(settings=about["settings"], bin_dir=about["bin_dir"])
        pack = Pack(folder / f"{name}.pack", about["server_version"], about["unpacked"])
        return options, pack, about["owner"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as exc:
        raise DBTestCaseError(f"no instance called {name!r} is kept in {str(kept_folder())!r}.") from exc
