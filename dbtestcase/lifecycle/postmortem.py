"""``DBTESTCASE_KEEP=failed``: the database of a failed test, kept as it was when the test failed.

What the test had written is committed into its instance; that instance is kept when it stops, and the class goes on
with a fresh one. The run ends with the commands that open what was kept.
"""

from __future__ import annotations

import atexit
import multiprocessing
import os
import sys
from typing import TYPE_CHECKING

from dbtestcase.diagnosis.tracebacks import chain
from dbtestcase.errors import DBTestCaseError

if TYPE_CHECKING:
    from dbtestcase.servers import BaseInstance

__all__ = ["PostMortem", "is_aftermath", "is_wanted"]

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


class PostMortem:
    """One instance that is to be kept.

    Args:
        instance: Still running; it is kept when it stops.
        test: The id of the failed test.
        database: Name of the database in which the test worked.
    """

    def __init__(self, instance: BaseInstance, test: str, database: str) -> None:
        self._instance = instance
        self._test = test
        self._database = database
        instance.keep(test, database)

    def done(self) -> None:
        """Take note of the name under which it was kept, once the instance has stopped."""
        command = self._instance.open_command(self._database)
        if not command:
            return
        _commands.append(f"{self._test}: {command}")
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
