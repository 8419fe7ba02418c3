"""What every kind of schema has in common, and the simplest kind: a callable."""

from __future__ import annotations

import inspect
from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable

from sqlalchemy import Connection, MetaData

from dbtestcase.errors import SchemaError
from dbtestcase.schema.connect import engine_for
from dbtestcase.schema.failure import failure, location_of
from dbtestcase.schema.target import Target


class Part(ABC):
    """One step of a schema: something that can be created in a database, and says whether that may be kept."""

    background = True
    """May it be created from another thread than the main one?"""

    @abstractmethod
    def fingerprint(self) -> str | None:
        """Return what identifies the content in any process, or None if it cannot be known without running it."""

    def token(self) -> Hashable:
        """Return what identifies the content within this process, where it has no fingerprint."""
        return None

    @abstractmethod
    def create(self, target: Target) -> None:
        """Create it and commit."""


class CallablePart(Part):
    """Calls the user's function with a connection and commits what it did."""

    background = False  # the user's code expects the thread that runs the tests

    def __init__(self, function: Callable[[Connection], object], owner: str) -> None:
        self._function = function
        self._name = getattr(function, "__qualname__", None) or repr(function)
        _check_signature(function, self._name, owner)

    def fingerprint(self) -> str | None:
        return None

    def token(self) -> Hashable:
        try:
            hash(self._function)
        except TypeError:
            return object()  # equal to nothing else: what it makes is not shared
        return self._function

    def create(self, target: Target) -> None:
        engine = engine_for(target.url)
        try:
            with engine.connect() as connection:
                result = self._function(connection)
                if inspect.iscoroutine(result):
                    result.close()
                    raise TypeError(f"{self._name} is a coroutine function; write it as a plain one")
                if isinstance(result, MetaData | type):
                    raise TypeError(f"{self._name} returned {result!r}, which nobody reads; write schema = that object")
                if not connection.closed and connection.in_transaction():
                    connection.commit()
        except SchemaError:
            raise
        except Exception as exc:
            raise failure(target, f"run {self._name}(connection)", exc, location=location_of(exc)) from exc
        finally:
            engine.dispose()


def _check_signature(function: Callable[..., object], name: str, owner: str) -> None:
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):  # some built-in callables have none
        return
    try:
        signature.bind(object())
    except TypeError as exc:
        raise SchemaError(
            f"{owner}: {name}{signature} cannot be called with one argument, a sqlalchemy.Connection ({exc}).\n"
            f"Write it as `def {getattr(function, '__name__', 'create')}(connection): ...`, outside the class or as a "
            "@staticmethod; what it does on the connection is committed for you."
        ) from exc
