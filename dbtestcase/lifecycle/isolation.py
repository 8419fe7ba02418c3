"""How a test is isolated: the class says it, and a single test may say otherwise."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, TypeVar

from dbtestcase.errors import DBTestCaseError

__all__ = ["Isolation", "isolate", "isolation_of", "isolation_of_method"]

Isolation = Literal["auto", "savepoint", "clone", "class"]
Test = TypeVar("Test", bound=Callable[..., Any])

_VALUES = ("auto", "savepoint", "clone", "class")
_MARK = "__dbtestcase_isolation__"


def isolate(value: Isolation) -> Callable[[Test], Test]:
    """Isolate one test, or all of a class, in another way than its class or base class says.

    Args:
        value: ``"auto"``, ``"savepoint"``, ``"clone"`` or ``"class"``, as ``DatabaseTestCase.isolation``.

    Raises:
        DBTestCaseError: ``value`` is none of these.
    """
    _check(value, "isolate()")

    def mark(test: Test) -> Test:
        if isinstance(test, type):
            test.isolation = value  # type: ignore[attr-defined]
        else:
            setattr(test, _MARK, value)
        return test

    return mark


def isolation_of(test: Any) -> Isolation:
    """Return how a test (an object of a test class) is to be isolated."""
    # Asked before each test, and most have no mark: no bound method is made to find that.
    method = getattr(type(test), test._testMethodName, None)
    kind: Isolation = getattr(method, _MARK, None) or type(test).isolation
    return kind


def isolation_of_method(test_class: Any, method: Any) -> Isolation:
    """Return how a test is to be isolated that is this method of a class, and no object yet."""
    kind: Isolation = getattr(method, _MARK, None) or test_class.isolation
    return kind


def check_isolation(test_class: type) -> None:
    """Raise if the class's attribute says nothing that is known."""
    _check(getattr(test_class, "isolation", None), f"{test_class.__qualname__}.isolation")


def check_not_set_by(test: Any) -> None:
    """Raise if a test, or its ``setUp``, has set how it is isolated: it runs already."""
    value = test.__dict__.get("isolation")
    if is_isolation(value):
        where = f"{type(test).__qualname__}.{test._testMethodName}"
        raise DBTestCaseError(
            f"{where}: self.isolation = {value!r} comes too late; the test has begun.\n"
            f"What to do: write @isolate({value!r}) above the test, or isolation = {value!r} in the body of the class."
        )


def is_isolation(value: Any) -> bool:
    """Whether a value says how a test is isolated."""
    return isinstance(value, str) and value in _VALUES


def _check(value: Any, where: str) -> None:
    if not is_isolation(value):
        raise DBTestCaseError(f"{where} is {value!r}; it can be 'auto', 'savepoint', 'clone' or 'class'.")
