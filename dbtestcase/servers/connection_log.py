"""How long the log of a server is that notes each connection: if it has not grown, nobody has connected."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from dbtestcase.servers.naming import APPLICATION, PREFIX

__all__ = ["ConnectionLog"]

_CONNECTION = b"connection authorized: "
_OURS = (f" database={PREFIX}".encode(), f" application_name={APPLICATION}".encode())
_CHANGED_SETTINGS = "postgresql.auto.conf"  # what ALTER SYSTEM writes


class ConnectionLog:
    """The log of a server that has just been started.

    Args:
        log: The server's log.
        data_dir: The server's data folder.
    """

    def __init__(self, log: Path, data_dir: Path) -> None:
        # Texts: this is asked in every test.
        self._log = str(log)
        self._settings = str(data_dir / _CHANGED_SETTINGS)
        self._identity: tuple[int, ...] | None = None
        try:
            if not _has_settings(self._settings):
                self._identity = self._identify()[1:]
        except OSError:
            return  # it cannot be read, and so is of no use

    def size(self, checked: bool) -> int | None:
        """Return its size in bytes.

        Args:
            checked: ``None`` if it may not have grown with a connection: somebody may have changed what is logged, or
                taken the log away, or there is no room for more. The server notes that it reads its settings again,
                so this is worth asking once it has grown, and not in every test.
        """
        try:
            if not checked:
                return os.stat(self._log).st_size
            size, *identity = self._identify()
            return size if tuple(identity) == self._identity and os.statvfs(self._log).f_bavail else None
        except OSError:
            return None

    def has_stranger(self, since: int, databases: Iterable[str] = ()) -> bool:
        """Return whether somebody other than this library, and not to a copy, has connected since it had that size.

        Args:
            databases: To one of these; to any if none is named.
        """
        wanted = tuple(f" database={name} ".encode() for name in databases) or (b"",)
        try:
            with open(self._log, "rb") as file:
                file.seek(since)
                lines = file.read().splitlines()
        except OSError:
            return True
        others = (line + b" " for line in lines if _CONNECTION in line and not any(each in line for each in _OURS))
        return any(each in line for line in others for each in wanted)

    def _identify(self) -> tuple[int, ...]:
        log, settings = os.stat(self._log), os.stat(self._settings)
        return log.st_size, log.st_ino, settings.st_ino, settings.st_mtime_ns


def _has_settings(path: str) -> bool:
    with open(path, encoding="utf-8", errors="replace") as file:
        return any(line.strip() and not line.startswith("#") for line in file)
