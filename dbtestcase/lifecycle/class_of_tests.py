"""What running the tests of a class needs of the running class."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from dbtestcase.lifecycle.connections import ClassConnections
from dbtestcase.sandbox import LeftOpen, SandboxedDatabase

__all__ = ["ClassOfTests"]


class ClassOfTests(Protocol):
    """The running class, as far as running its tests concerns it."""

    @property
    def name(self) -> str: ...

    @property
    def databases(self) -> Mapping[str, SandboxedDatabase]: ...

    @property
    def always_real(self) -> str: ...

    @property
    def connections(self) -> ClassConnections: ...

    @property
    def prepares_tests(self) -> bool: ...

    def begin_test(self, test: Any) -> None: ...

    def leave_test(self, test: Any) -> None: ...

    def has_left_nothing(self, test: Any) -> bool: ...

    def explain(self, test: Any, error: BaseException) -> bool: ...

    def first_use(self, test: Any, *, is_attempt: bool, counts: bool) -> None: ...

    def use_shared(self) -> None: ...

    def use_copies(self) -> None: ...

    def leave_copies(self) -> list[LeftOpen]: ...

    def after_test(self, test: Any, problems: list[Exception], *, has_failed: bool) -> None: ...

    def warn_left_open(self, left: list[LeftOpen], *, when: str) -> None: ...
