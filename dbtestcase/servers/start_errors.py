"""Explains why a server did not start, or has ended by itself, with what its log says."""

from __future__ import annotations

import errno
import re

from dbtestcase.errors import PostgresNotReady
from dbtestcase.servers.options import ThrowawayPostgres
from dbtestcase.servers.programs import Programs
from dbtestcase.servers.supervisor_client import RequestFailed

__all__ = ["cause_of_end", "start_error"]

_LAST_LINES = 20
_LEVEL = re.compile(r"^(?:\S+ \S+ \S+ \[\d+\] )?(LOG|FATAL|ERROR|PANIC|WARNING|HINT|DETAIL):\s+(.*)$", re.MULTILINE)
_CRASH = re.compile(r"terminated by signal|exited with exit code|terminated by exception")


def cause_of_end(log: str) -> str:
    """Return what PostgreSQL's log says of why the server has ended, without any statement; ``""`` if nothing."""
    found = (text for level, text in _LEVEL.findall(log) if level == "PANIC" or _CRASH.search(text))
    return next(found, "")


def start_error(failure: RequestFailed, options: ThrowawayPostgres, programs: Programs, log: str) -> PostgresNotReady:
    """Return the error for a boot that failed."""
    if failure.number in (errno.ENOSPC, errno.EDQUOT):
        return PostgresNotReady(
            f"cannot start a test database: there is no room for it: {failure}\n"
            "Make room in the temporary folder, or set DBTESTCASE_DIR to a folder with room."
        )
    if failure.status is None and failure.kind:
        return PostgresNotReady(
            f"cannot start a test database: {programs.postgres!r} could not be started: {failure}"
            + ("\nIt has to run as an ordinary user, which could not be arranged." if failure.kind != "OSError" else "")
        )
    words = [(level, text) for level, text in _LEVEL.findall(log) if level in ("LOG", "FATAL", "PANIC", "ERROR")]
    for name, value in options.settings.items():
        about = [text for _, text in words if re.search(rf"(?<![\w.]){re.escape(name)}(?![\w.])", text, re.IGNORECASE)]
        if about:
            hints = [text for level, text in _LEVEL.findall(log) if level == "HINT"]
            return PostgresNotReady(
                f"ThrowawayPostgres(settings=...): PostgreSQL does not start with {name!r} set to {value!r}. It says:\n"
                + "\n".join(f"  {line}" for line in dict.fromkeys(about + hints))
            )
    reason = str(failure) or f"it ended at once with exit status {failure.status}"
    tail = "\n".join(f"  {line}" for line in log.strip().splitlines()[-_LAST_LINES:]) or "  (nothing)"
    return PostgresNotReady(
        f"cannot start a test database: {programs.postgres!r} did not become ready: {reason}.\n"
        + (f"The settings asked for were {dict(options.settings)!r}.\n" if options.settings else "")
        + f"The last lines of its log:\n{tail}"
    )
