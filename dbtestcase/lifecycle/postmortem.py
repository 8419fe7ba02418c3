"""``DBTESTCASE_KEEP=failed``: the database of a failed test, kept as it was when the test failed.

What the test had written is committed into its instance; that instance is kept when it stops, and the class goes on
with a fresh one. The run ends with the commands that open what was kept.
"""

from __future__ import annotations

import atexit
import multiprocessing
import os
import sys

from dbtestcase.diagnosis.tracebacks import chain
from dbtestcase.errors import DBTestCaseError

__all__ = ["is_aftermath", "is_wanted", "note"]

VARIABLE = "DBTESTCASE_KEEP"

NOTHING_MORE = (
    "the test had failed before, and its database was kept as it was then (DBTESTCASE_KEEP). "
    "Nothing more is sent to it."
)
_DATABASE = ("psycopg", "psycopg2", "sqlalchemy")
_commands: list[str] = []


def is_wanted() -> bool:
    """Whether the databases of failed tests are to be kept."""
    wanted = os.environ.get(VARIABLE, "").strip().lower()
    if wanted in ("", "0", "no", "off"):
        return False
    if wanted == "failed":
        return True
    raise DBTestCaseError(f"{VARIABLE} is {wanted!r}; it can be 'failed', or be left unset.")


def is_aftermath(error: BaseException) -> bool:
    """Whether an error may come from what a test sent after its database was kept: its clean-up, say."""
    return any(
        isinstance(each, DBTestCaseError) or type(each).__module__.partition(".")[0] in _DATABASE
        for each in chain(error)
    )


def note(test: str, command: str) -> None:
    """Have the run end with the command that opens the databases of a failed test; ``""`` if they were not kept."""
    if not command:
        return
    _commands.append(f"{test}: {command}")
    if multiprocessing.parent_process() is not None:
        _print_commands()  # a worker may be ended without warning
    elif len(_commands) == 1:
        atexit.register(_print_commands)


def _print_commands() -> None:
    are_served = any(" --psql" in line for line in _commands)  # those of a server that is there are reached anyway
    how = "without --psql: prints the database's URL and serves it until Ctrl-C;\n" if are_served else ""
    print(f"\nKept as they were at the failure ({how}'python -m dbtestcase clean' deletes them):", file=sys.stderr)
    for line in _commands:
        print(f"  {line}", file=sys.stderr, flush=True)
    _commands.clear()
