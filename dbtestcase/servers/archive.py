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
from dbtestcase.servers.cache import Pack, cache_folder, write_pack
from dbtestcase.servers.options import ThrowawayPostgres
from dbtestcase.servers.server import Server

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
    """Pack a server that was stopped in order; return the name it is kept under."""
    folder = kept_folder()
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    name = f"{time.strftime('%Y%m%d-%H%M%S')}-{os.urandom(2).hex()}"
    unpacked = write_pack(server.directory.data_dir, folder / f"{name}.pack")
    about = {
        "owner": label,
        "kept_at": time.time(),
        "unpacked": unpacked,
        "bin_dir": str(server.launch.found.bin_dir),
        "settings": dict(server.options.settings),
        "server_version": (server.directory.data_dir / "PG_VERSION").read_text().strip(),
    }
    (folder / f"{name}.json").write_text(json.dumps(about))
    return name


def kept_instances() -> list[KeptInstance]:
    """Return what is kept, oldest first."""
    found = []
    for path in sorted(kept_folder().glob("*.json")):
        with suppress(OSError, ValueError, KeyError):
            about = json.loads(path.read_text())
            size = path.with_suffix(".pack").stat().st_size
            found.append(KeptInstance(path.stem, about["owner"], about["kept_at"], size, about["server_version"]))
    return found


def remove_kept(name: str | None = None) -> int:
    """Delete one kept instance, or all of them; return how many that were."""
    names = [kept.name for kept in kept_instances() if name in (None, kept.name)]
    for one in names:
        for suffix in (".json", ".pack"):
            (kept_folder() / f"{one}{suffix}").unlink(missing_ok=True)
    with suppress(OSError):
        kept_folder().rmdir()
    return len(names)


def open_kept(name: str) -> tuple[ThrowawayPostgres, Pack, str]:
    """Return the options, the pack and the owner of a kept instance.

    Raises:
        DBTestCaseError: There is none of that name.
    """
    try:
        about = json.loads((kept_folder() / f"{name}.json").read_text())
    except (OSError, ValueError) as exc:
        raise DBTestCaseError(f"no instance called {name!r} is kept in {str(kept_folder())!r}.") from exc
    options = ThrowawayPostgres(settings=about["settings"], bin_dir=about["bin_dir"])
    return options, Pack(kept_folder() / f"{name}.pack", about["server_version"], about["unpacked"]), about["owner"]
