"""Look for what a finished test run must not leave: servers of ours, and their directories.

Run as ``python -m tests.leftovers [FILE]``; exits with 1 and lists what it found. With a file, only what is younger
than that counts, so that somebody else's run is not taken for ours.
"""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path

import psutil


def servers(since: float = 0.0) -> list[str]:
    """Return a line for each running PostgreSQL server whose data directory is one of ours."""
    found = []
    for process in psutil.process_iter(["pid", "name", "cmdline", "create_time"]):
        command = process.info["cmdline"] or []
        if process.info["create_time"] < since:
            continue
        if process.info["name"] in ("postgres", "postmaster") and any("dbtestcase" in word for word in command):
            found.append(f"process {process.info['pid']}: {' '.join(command)}")
    return found


def directories(since: float = 0.0) -> list[str]:
    """Return the directories of instances that lie in the usual temporary places."""
    places = {Path("/dev/shm"), Path(tempfile.gettempdir()), Path("/tmp")}
    found = (each for place in places if place.is_dir() for each in place.glob("*dbtestcase*"))
    return [str(each) for each in found if _changed(each) >= since]


def _changed(path: Path) -> float:
    try:
        return path.stat().st_ctime
    except FileNotFoundError:
        return 0.0  # it has just been deleted


def main() -> int:
    """Wait briefly for servers that are on their way out, then report."""
    since = Path(sys.argv[1]).stat().st_mtime if len(sys.argv) > 1 else 0.0
    deadline = time.monotonic() + 2
    while (left := servers(since) + directories(since)) and time.monotonic() < deadline:
        time.sleep(0.05)
    for line in left:
        print(line, file=sys.stderr)
    return 1 if left else 0


if __name__ == "__main__":
    sys.exit(main())
