"""Look for what a finished test run must not leave: servers and supervisors of ours, and their directories.

Run as ``python -m tests.leftovers [FILE]``; exits with 1 and lists what it found. With a file, only what is younger
than that counts, and nothing that belongs to a run that goes on elsewhere: whose supervisor is alive and is not run by
an interpreter from the file's folder.
"""

from __future__ import annotations

import fcntl
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path

import psutil


def processes(since: float = 0.0, ours: str = "/") -> list[str]:
    """Return a line for each running supervisor of ours, and each PostgreSQL server that has one or has lost its own.

    Args:
        ours: Where the interpreters are whose supervisors count.
    """
    found = []
    for process in psutil.process_iter(["pid", "name", "cmdline", "create_time"]):
        command = process.info["cmdline"] or []
        is_server = process.info["name"] in ("postgres", "postmaster") and any("dbtestcase" in word for word in command)
        if process.info["create_time"] < since or not (is_server or _is_supervisor(command)):
            continue
        with suppress(psutil.NoSuchProcess):
            commands = [command] if not is_server else [each.cmdline() for each in process.parents()]
            supervisors = [each[0] for each in commands if _is_supervisor(each)]
            if not supervisors or supervisors[0].startswith(ours):
                found.append(f"process {process.info['pid']}: {' '.join(command)}")
    return found


def _is_supervisor(command: list[str]) -> bool:
    return any("supervisor.process" in word for word in command)


def directories(since: float = 0.0) -> list[str]:
    """Return the directories in the usual temporary locations that are of ours and in use by nobody."""
    locations = {Path("/dev/shm"), Path(tempfile.gettempdir())}
    found = (each for location in locations if location.is_dir() for each in location.glob("*dbtestcase*"))
    return [str(each) for each in found if _changed(each) >= since and not _is_locked(each)]


def _changed(path: Path) -> float:
    try:
        return path.stat().st_ctime
    except FileNotFoundError:
        return 0.0  # it has just been deleted


def _is_locked(directory: Path) -> bool:
    try:
        with (directory / "lock").open() as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False


def main() -> int:
    """Wait briefly for servers that are on their way out, then report."""
    since, ours = 0.0, "/"
    if len(sys.argv) > 1:
        begun = Path(sys.argv[1]).absolute()
        since, ours = begun.stat().st_mtime, f"{begun.parent}/"
    deadline = time.monotonic() + 15  # folders are deleted by processes of low priority
    while (left := processes(since, ours) + directories(since)) and time.monotonic() < deadline:
        time.sleep(0.05)
    for line in left:
        print(line, file=sys.stderr)
    return 1 if left else 0


if __name__ == "__main__":
    sys.exit(main())
