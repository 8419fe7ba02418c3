"""The assertions of ``AsyncDatabaseTestCase``: those that send something are awaited."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Generator
from contextlib import AbstractAsyncContextManager, AbstractContextManager
from typing import Any, Generic, TypeVar, overload

from sqlalchemy.util import greenlet_spawn

from dbtestcase.assertions import DatabaseAssertions
from dbtestcase.diagnosis.statements import CapturedQueries
from dbtestcase.frames import Origin, user_origin
from dbtestcase.lifecycle.wiring import running_class

__all__ = ["AsyncDatabaseAssertions"]

__unittest = True  # unittest leaves frames of modules with this name out of the tracebacks it prints

Result = TypeVar("Result")


class Assertion(Awaitable[None]):
    """An assertion that is carried out when it is awaited, and an error of its test if it never is.

    Attributes:
        name: The method's.
        origin: The line that made it.
    """

    def __init__(self, test: Any, name: str, make: Callable[[], Awaitable[Any]]) -> None:
        self.name = name
        self.origin: Origin = user_origin()
        self._make = make
        self._not_awaited: list[Assertion] = running_class(type(test)).not_awaited
        self._not_awaited.append(self)

    def __await__(self) -> Generator[Any, None, None]:
        self._not_awaited.remove(self)
        yield from self._make().__await__()


class Block(AbstractContextManager[Result], AbstractAsyncContextManager[Result], Generic[Result]):
    """A context manager that may be used with ``with`` and with ``async with``."""

    def __init__(self, block: AbstractContextManager[Result]) -> None:
        self._block = block

    def __enter__(self) -> Result:
        return self._block.__enter__()

    def __exit__(self, *error: Any) -> None:
        self._block.__exit__(*error)

    async def __aenter__(self) -> Result:
        return self._block.__enter__()

    async def __aexit__(self, *error: Any) -> None:
        self._block.__exit__(*error)


class AsyncDatabaseAssertions(DatabaseAssertions):
    """What an asynchronous test can ask of its database, as :class:`DatabaseAssertions` describes it.

    The blocks take ``with`` and ``async with``. What is awaited sees what tasks of the test do meanwhile.
    """

    # -- queries

    def capture_queries(self) -> Block[CapturedQueries]:  # type: ignore[override]
        return Block(super().capture_queries())

    @overload  # type: ignore[override]
    def assertNumQueries(self, num: int, *, msg: Any = None) -> Block[CapturedQueries]: ...
    @overload
    def assertNumQueries(
        self, num: int, func: Callable[..., object], *args: Any, msg: Any = None, **kwargs: Any
    ) -> Awaitable[None]: ...
    def assertNumQueries(
        self, num: int, func: Callable[..., object] | None = None, *args: Any, msg: Any = None, **kwargs: Any
    ) -> Block[CapturedQueries] | Awaitable[None]:
        """Fail unless the block sends exactly ``num`` queries; the message lists what it sent.

        With ``func``, await the result: that is called, and awaited if it is a coroutine function.
        """
        block = Block(super().assertNumQueries(num, msg=msg))
        if func is None:
            return block

        async def count() -> None:
            with block:
                result = func(*args, **kwargs)
                if inspect.isawaitable(result):
                    await result

        return Assertion(self, "assertNumQueries", count)

    def assertNoRepeatedQueries(  # type: ignore[override]
        self, at_most: int = 1, *, msg: Any = None
    ) -> Block[CapturedQueries]:
        return Block(super().assertNoRepeatedQueries(at_most, msg=msg))

    # -- rows and schema

    def assertRowExists(  # type: ignore[override]
        self, entity: Any, msg: Any = None, /, **values: Any
    ) -> Awaitable[None]:
        return _awaited(self, super().assertRowExists, entity, msg, **values)

    def assertRowAbsent(  # type: ignore[override]
        self, entity: Any, msg: Any = None, /, **values: Any
    ) -> Awaitable[None]:
        return _awaited(self, super().assertRowAbsent, entity, msg, **values)

    def assertRowCount(  # type: ignore[override]
        self, entity: Any, n: int, /, *criteria: Any, msg: Any = None
    ) -> Awaitable[None]:
        return _awaited(self, super().assertRowCount, entity, n, *criteria, msg=msg)

    def assertSchemaMatches(  # type: ignore[override]
        self, metadata: Any, msg: Any = None, *, server_defaults: bool = False, ignore: tuple[str, ...] = ()
    ) -> Awaitable[None]:
        return _awaited(
            self, super().assertSchemaMatches, metadata, msg, server_defaults=server_defaults, ignore=ignore
        )


def _awaited(test: Any, assertion: Callable[..., None], *args: Any, **kwargs: Any) -> Awaitable[None]:
    return Assertion(test, assertion.__name__, lambda: greenlet_spawn(assertion, *args, **kwargs))
