"""The file beside a packed template that describes it, and says that it is whole.

One that cannot be read or understood, for whatever reason, counts as missing: the template is made anew.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import stat
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Self

__all__ = ["NO_NOTES", "Manifest", "hash_of"]

_FORMAT = 2
_LONGEST = 16 * 1024 * 1024
_VERSION = re.compile(r"\d{1,3}(\.\d{1,3})?")
NO_NOTES = "{}"  # what was noted when a template was prepared: the text of a JSON object


@dataclass(frozen=True)
class Manifest:
    """What is known of one pack.

    Args:
        size, time, hash: Of the pack's file; the time in nanoseconds.
        unpacked: Bytes that it unpacks to.
        server_version: Major version of the PostgreSQL that it is for.
        description: For a person.
        notes: What was noted when it was prepared: the text of a JSON object.
        base, base_hash: Key and hash of the pack that it builds on; both empty if none.
    """

    size: int
    time: int
    hash: str
    unpacked: int
    server_version: str
    description: str
    notes: str
    base: str
    base_hash: str

    @classmethod
    def read(cls, path: Path) -> Self | None:
        """Return the manifest in a file; ``None`` if it is missing, not one of ours, or cannot be understood."""
        try:
            said = json.loads(_content(path))
            if said.pop("format") != _FORMAT:
                return None
            manifest = cls(**said)
            return manifest if manifest._is_sound() else None
        except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError):
            return None

    def _is_sound(self) -> bool:
        for field in fields(self):
            kind = {"int": int, "str": str}[str(field.type)]
            if type(getattr(self, field.name)) is not kind:
                return False
        return (
            min(self.size, self.time, self.unpacked) >= 0
            and _VERSION.fullmatch(self.server_version) is not None
            and isinstance(json.loads(self.notes), dict)
        )

    def written(self) -> str:
        """Return the text that :meth:`read` understands."""
        return json.dumps({"format": _FORMAT, **asdict(self)})


def _content(path: Path) -> bytes:
    file = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        about = os.fstat(file)
        if not stat.S_ISREG(about.st_mode) or about.st_uid != os.geteuid() or about.st_size > _LONGEST:
            raise ValueError(f"{path} is not one of ours")
        return os.read(file, _LONGEST)
    finally:
        os.close(file)


def hash_of(path: Path) -> str:
    """Return a hash of all of a file."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
