"""The shared memory of an initdb that had to be killed: it leaves it behind, and nobody else deletes it.

PostgreSQL names a segment by a random number, so afterwards nothing tells whose it was. Before that, the processes that
have it mapped do. Linux only: other systems show neither. Our servers have none, and from PostgreSQL 16 on initdb
neither, since both are told to keep such memory in their data folder.
"""

from __future__ import annotations

import os

_PLACE, _PREFIX = "/dev/shm", "PostgreSQL."


def mapped_by(group: int) -> set[str]:
    """Return the names of the segments that the processes of a process group have mapped."""
    found: set[str] = set()
    for name in os.listdir("/proc") if os.path.isdir(_PLACE) and os.path.isdir("/proc") else ():
        if not name.isdigit():
            continue
        try:
            if os.getpgid(int(name)) != group:
                continue
            with open(f"/proc/{name}/maps") as maps:
                for line in maps:
                    path = line.rstrip("\n").rpartition(" ")[2]
                    if path.startswith(f"{_PLACE}/{_PREFIX}"):
                        found.add(os.path.basename(path))
        except OSError:
            continue  # it has just ended
    return found


def remove(names: set[str]) -> None:
    """Delete segments whose processes are dead; one that these have deleted themselves is no error."""
    for name in names:
        try:
            os.unlink(os.path.join(_PLACE, name))
        except OSError:
            continue
