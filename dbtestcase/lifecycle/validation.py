"""Validates the attributes of a test class before anything starts; errors name the attribute."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from sqlalchemy import URL, Engine

from dbtestcase.errors import DBTestCaseError
from dbtestcase.lifecycle import postmortem
from dbtestcase.lifecycle.isolation import check_isolation
from dbtestcase.lifecycle.names import check_names
from dbtestcase.servers import ExistingPostgres, ThrowawayPostgres, check_app_role, chosen

__all__ = ["check"]


def check(test_class: Any) -> None:
    """Look at the attributes of a class and the variables that concern it; raise for a value that cannot be."""
    postmortem.is_wanted()
    check_names(test_class)
    check_isolation(test_class)
    postgres = test_class.postgres
    if not isinstance(postgres, ThrowawayPostgres | ExistingPostgres):
        if isinstance(postgres, str | URL):  # not shown: there may be a password in it
            raise DBTestCaseError(
                f"{test_class.__qualname__}.postgres is a URL; write postgres = ExistingPostgres(url) for databases on "
                "the server that it names."
            )
        raise _wrong(test_class, "postgres", "an object such as ThrowawayPostgres() or ExistingPostgres(url)")
    chosen(postgres)
    check_app_role(test_class.app_role, test_class.__qualname__)
    # An engine of asyncio is refused later, in words of its own.
    if not _holds(test_class.app_engines, lambda each: isinstance(each, Engine) or hasattr(each, "sync_engine")):
        raise _wrong(test_class, "app_engines", "a list of SQLAlchemy engines, such as [engine]")
    if not _holds(test_class.hidden_columns, lambda name: isinstance(name, str)):
        raise _wrong(test_class, "hidden_columns", "a list of names of columns")
    lock_wait = test_class.lock_wait
    if isinstance(lock_wait, bool) or not isinstance(lock_wait, int | float) or not lock_wait >= 0:
        raise _wrong(test_class, "lock_wait", "a number of seconds, or 0 to wait for ever")
    # A text such as "no", from the environment say, would be true.
    if not isinstance(test_class.restart_identities, bool):
        raise _wrong(test_class, "restart_identities", "True or False")
    allowed = test_class.allow_other_databases
    if not isinstance(allowed, bool) and not _holds(allowed, lambda each: isinstance(each, str | URL)):
        raise _wrong(test_class, "allow_other_databases", "True, False or a list of hosts or URLs")


def _holds(value: object, fits: Any) -> bool:
    return isinstance(value, Collection) and not isinstance(value, str | bytes) and all(map(fits, value))


def _wrong(test_class: Any, attribute: str, wanted: str) -> DBTestCaseError:
    value = getattr(test_class, attribute)
    return DBTestCaseError(f"{test_class.__qualname__}.{attribute} is {value!r}; it has to be {wanted}.")
