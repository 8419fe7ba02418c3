"""Whether a test class uses our names for something else, or misspells them.

A base class lives in its users' namespace: a class attribute ``url = "/customers"`` would be overwritten without a
word, and ``shema = Base`` would give tests an empty database.
"""

from __future__ import annotations

import difflib
import inspect
import unittest
from collections.abc import Callable, Iterator, Mapping
from functools import cached_property
from inspect import signature
from pathlib import Path
from types import FunctionType
from typing import Any

from sqlalchemy import Engine, MetaData

from dbtestcase.errors import DBTestCaseError
from dbtestcase.lifecycle.isolation import is_isolation
from dbtestcase.servers import ExistingPostgres, ThrowawayPostgres

__all__ = ["check_names", "coroutine_tests", "id_of", "id_of_class"]

_OURS = "dbtestcase"
# What tests read, and what a class may make of it.
_READ = ("engine", "url", "instance", "session", "external_url", "client", "live_server_url")
_CALLED = ("capture_queries", "engine_for", "redirect_engine")
_SIMILAR = 0.8
_CODE = (FunctionType, classmethod, staticmethod, property)


def check_names(test_class: type) -> None:
    """Raise if a test class or a base class uses a name of ours for something else, or misspells it."""
    _check_hook(test_class)
    first_of_ours = next(base for base in test_class.__mro__ if _is_ours(base))
    for base in _users_classes(test_class):
        for name in ("setUp", "tearDown"):
            hook = vars(base).get(name)
            if issubclass(type(hook), FunctionType) and inspect.iscoroutinefunction(hook):
                raise DBTestCaseError(
                    f"{base.__qualname__}.{name} is a coroutine function, which nobody awaits.\nDerive "
                    f"{base.__qualname__} from dbtestcase.aio.AsyncDatabaseTestCase and call it async{name[0].upper()}"
                    f"{name[1:]}, or let it be a plain 'def'."
                )
        for name, value in vars(base).items():
            if name in _READ and hasattr(first_of_ours, name) and not _may_override(name, value):
                raise DBTestCaseError(
                    f"{base.__qualname__}.{name} is {_shown(value)}, but '{name}' is {_MEANING[name]}.\n"
                    f"Give that attribute of {base.__qualname__} another name."
                )
            if name in _CALLED and not callable(getattr(test_class, name)):
                raise DBTestCaseError(
                    f"{base.__qualname__}.{name} is {_shown(value)}, but '{name}' is a method of DatabaseTestCase.\n"
                    f"Give that attribute of {base.__qualname__} another name."
                )
            _check_spelling(base, name, value)


def id_of(test: Any) -> str:
    """Return a test's name, also of one that uses the name ``id`` for something else."""
    return str(test.id() if callable(test.id) else unittest.TestCase.id(test))


def id_of_class(test_class: type) -> str:
    """Return a class's name as the ids of its tests begin: two modules may have classes of the same name."""
    return f"{test_class.__module__}.{test_class.__qualname__}"


def coroutine_tests(test_class: type) -> frozenset[str]:
    """Return the names of the methods of a class, and of its base classes, that are coroutine functions."""
    return frozenset(
        name
        for base in _users_classes(test_class)
        for name, value in vars(base).items()
        # Its type is asked first: a proxy may have nothing behind it.
        if issubclass(type(value), FunctionType) and inspect.iscoroutinefunction(value)
    )


_MEANING = {
    "engine": "the Engine of the class's database, and is set by setUpClass",
    "url": "the URL of the class's database, and is set by setUpClass",
    "instance": "the class's PostgreSQL instance, and is set by setUpClass",
    "session": "the test's Session",
    "external_url": "the address of the test's database",
    "client": "the test client of the application",
    "live_server_url": "the address of the live server, and is set by setUpClass",
}


def _users_classes(test_class: type) -> Iterator[type]:
    for base in test_class.__mro__:
        if not _is_ours(base) and base.__module__ not in ("builtins", "unittest.case", "unittest.async_case"):
            yield base


def _is_ours(base: type) -> bool:
    return base.__module__.partition(".")[0] == _OURS


def _may_override(name: str, value: Any) -> bool:
    """Whether a test that reads the name still gets what it means: a property may, and a name that is only reserved."""
    if name in ("session", "client", "external_url"):
        return isinstance(value, property | cached_property) or value is None
    return value is None


def _shown(value: Any) -> str:
    if isinstance(value, str) and "://" in value:
        return "a text with a URL in it"  # not shown: there may be a password in it
    return "a method" if issubclass(type(value), _CODE) else repr(value)


# -- misspelled

_FITS: Mapping[str, Callable[[Any], bool]] = {
    "schema": lambda value: isinstance(value, Path | MetaData) or hasattr(value, "metadata"),
    "postgres": lambda value: isinstance(value, ThrowawayPostgres | ExistingPostgres),
    "isolation": is_isolation,
    "app_engines": lambda value: isinstance(value, Engine) or _all(value, lambda each: isinstance(each, Engine)),
    "app_role": lambda value: isinstance(value, str),
    "allow_other_databases": lambda value: isinstance(value, bool | list | tuple),
    "restart_identities": lambda value: isinstance(value, bool),
    "hidden_columns": lambda value: _all(value, lambda each: isinstance(each, str)),
    "lock_wait": lambda value: isinstance(value, int | float),
    "bind_databases": lambda value: isinstance(value, Mapping),
    "setUpTestData": lambda value: isinstance(value, classmethod) and "session" in signature(value.__func__).parameters,
}
_SPELLED = {name.lower(): name for name in _FITS}


def _all(values: Any, fits: Callable[[Any], bool]) -> bool:
    return isinstance(values, list | tuple | set) and bool(values) and all(map(fits, values))


def _check_spelling(base: type, name: str, value: Any) -> None:
    if name.startswith("_") or name in _FITS or issubclass(type(value), FunctionType | staticmethod | property):
        return
    for similar in difflib.get_close_matches(name.lower(), _SPELLED, n=1, cutoff=_SIMILAR):
        meant = _SPELLED[similar]
        # Only what would be understood under the other name: a class may well have 'schemas' of its own.
        if hasattr(base, meant) and meant not in vars(base) and _FITS[meant](value):
            raise DBTestCaseError(
                f"{base.__qualname__} has an attribute {name!r}, which means nothing to DatabaseTestCase.\n"
                f"Is {meant!r} meant? If not, give it a name that is less like it."
            )


# -- the hook


def _check_hook(test_class: type) -> None:
    """Look whether ``setUpTestData`` can be called as it is."""
    name = "setUpTestData"
    hook = inspect.getattr_static(test_class, name)
    if getattr(getattr(hook, "__func__", hook), "__module__", "").partition(".")[0] == _OURS:
        return
    wanted = f"Write it as\n    @classmethod\n    def {name}(cls, session):"
    where = f"{test_class.__qualname__}.{name}"
    if inspect.isfunction(hook):
        raise DBTestCaseError(f"{where} is no class method. {wanted}")
    if inspect.iscoroutinefunction(getattr(test_class, name)):
        raise DBTestCaseError(
            f"{where} is a coroutine function, which nobody awaits; its session is an ordinary one, in asynchronous "
            f"classes too. {wanted}"
        )
    try:
        signature(getattr(test_class, name)).bind(None)
    except TypeError:
        raise DBTestCaseError(
            f"{where} has to take one argument, the session that it adds its rows to. {wanted}"
        ) from None
    except ValueError:
        return  # a callable whose signature nobody knows
