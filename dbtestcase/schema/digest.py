"""Digests of texts and files: what fingerprints are made of."""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Iterable, Iterator
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import NamedTuple

# Raised when the same content would be created differently: a fingerprint of before must not match one of after.
_FORMAT = "1"

# A file changed twice within one tick of the file system's clock looks unchanged the second time; an entry is trusted
# only if the file was already this old, in nanoseconds, when it was read.
_SETTLED = 2_000_000_000


class _Read(NamedTuple):
    state: tuple[int, int, int, int]
    settled: bool
    digest: str


_files_read: dict[str, _Read] = {}


def digest(kind: str, texts: Iterable[str]) -> str:
    """Return a digest of the texts in their order. Lengths are part of it: ("ab", "c") is not ("a", "bc")."""
    sha = hashlib.sha256(f"{_FORMAT} {kind}".encode())
    for text in texts:
        encoded = text.encode("utf-8", "surrogateescape")
        sha.update(b"%d:" % len(encoded))
        sha.update(encoded)
    return sha.hexdigest()


def file_digest(path: str | Path) -> str:
    """Return a digest of the file's bytes; reads it again only if it may have changed since the last time."""
    name = os.fspath(path)
    found = os.stat(name)
    state = (found.st_mtime_ns, found.st_ctime_ns, found.st_size, found.st_ino)
    known = _files_read.get(name)
    if known is not None and known.state == state and known.settled:
        return known.digest
    settled = time.time_ns() - max(found.st_mtime_ns, found.st_ctime_ns) > _SETTLED
    with open(name, "rb") as file:
        read = _Read(state, settled, hashlib.sha256(file.read()).hexdigest())
    _files_read[name] = read
    return read.digest


def files_below(folder: str | Path, *, suffixes: tuple[str, ...] = ()) -> Iterator[str]:
    """Yield the files below ``folder``, hidden ones and compiled Python left out, in an order that never varies."""
    with os.scandir(folder) as entries:
        for entry in sorted(entries, key=lambda entry: entry.name):
            if entry.name.startswith(".") or entry.name == "__pycache__" or entry.name.endswith((".pyc", ".pyo")):
                continue
            if entry.is_dir():
                yield from files_below(entry.path, suffixes=suffixes)
            elif not suffixes or entry.name.endswith(suffixes):
                yield entry.path


@cache
def version_of(distribution: str) -> str:
    """Return the installed version of ``distribution`` without importing it."""
    try:
        return version(distribution)
    except PackageNotFoundError:
        return "not installed"
