"""``DBTESTCASE_KEEP=failed``: the database of a failed test, kept as it was when the test failed.

What the test had written is committed into its instance; that instance is kept when it stops, and the class goes on
with a fresh one. The run ends with the commands that open what was kept.
"""

from __future__ import annotations

import atexit
import os
import sys
from typing import TYPE_CHECKING

from dbtestcase.errors import DBTestCaseError

if TYPE_CHECKING:
    from dbtestcase.postgres import Instance

__all__ = ["PostMortem", "is_wanted"]

VARIABLE = "DBTESTCASE_KEEP"

_commands: list[str] = []


def is_wanted() -> bool:
    """Whether the databases of failed tests are to be kept.

    Raises:
        DBTestCaseError: The variable has a value that means nothing.
    """
    wanted = os.environ.get(VARIABLE, "").strip().lower()
    if wanted in ("", "0", "no", "off"):
        return False
    if wanted == "failed":
        return True
    raise DBTestCaseError(f"{VARIABLE} is {wanted!r}; it can be 'failed', or be left unset.")


class PostMortem:
    """One instance that is to be kept.

    Args:
        instance: Still running; it is kept when it stops.
        test: The id of the failed test.
        database: Name of the database in which the test worked.
    """

    def __init__(self, instance: Instance, test: str, database: str) -> None:
        self._instance = instance
        self._test = test
        self._database = database
        instance.keep(test)

    def done(self) -> None:
        """Take note of the name under which it was kept, once the instance has stopped."""
        name = self._instance.kept_name
        if name is None:
            return
        if not _commands:
            atexit.register(_tell)
        database = "" if self._database == "test" else f" --database {self._database}"
        _commands.append(f"{self._test}: python -m dbtestcase start --psql --kept {name}{database}")


def _tell() -> None:
    print("\nKept as they were at the failure ('python -m dbtestcase clean' deletes them):", file=sys.stderr)
    for line in _commands:
        print(f"  {line}", file=sys.stderr)
