"""How a test is isolated: the class says it, and a single test may say otherwise."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, TypeVar

from dbtestcase.errors import DBTestCaseError

__all__ = ["Isolation", "isolation", "isolation_of", "may_clone"]

Isolation = Literal["savepoint", "clone"]
Test = TypeVar("Test", bound=Callable[..., Any])

_KINDS = ("savepoint", "clone")
_MARK = "__dbtestcase_isolation__"


def isolation(kind: Isolation) -> Callable[[Test], Test]:
    """Isolate one test in another way than its class does.

    Args:
        kind: ``"savepoint"``, or ``"clone"`` for a private copy of the class's database with real commits.

    Raises:
        DBTestCaseError: ``kind`` is neither.
    """
    _check(kind, "isolation()")

    def mark(test: Test) -> Test:
        setattr(test, _MARK, kind)
        return test

    return mark


def isolation_of(test: Any) -> Isolation:
    """Return how a test (an object of a test class) is to be isolated.

    Raises:
        DBTestCaseError: The class names a kind that does not exist.
    """
    kind = getattr(getattr(test, test._testMethodName, None), _MARK, None) or type(test).isolation
    return _check(kind, f"{type(test).__qualname__}.isolation")


def may_clone(test_class: type) -> bool:
    """Return whether any test of the class is not isolated by savepoints, or wrongly declared."""
    return getattr(test_class, "isolation", None) != "savepoint" or any(
        _is_marked(member) for base in test_class.__mro__ for member in vars(base).values()
    )


def _is_marked(member: object) -> bool:
    # Not hasattr(): a proxy, such as Flask's current_app, would look for what it stands for.
    try:
        return _MARK in object.__getattribute__(member, "__dict__")
    except AttributeError:
        return False


def _check(kind: Any, where: str) -> Isolation:
    if kind not in _KINDS:
        raise DBTestCaseError(f"{where} is {kind!r}; it can be 'savepoint' or 'clone'.")
    return kind  # type: ignore[no-any-return]
