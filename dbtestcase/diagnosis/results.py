"""A test result that lets failures be explained before it takes them down.

unittest, pytest and the like all hand a test a result object and print what that is told. So a note has to be on an
exception before it gets there, and the one place that is the same for all of them is around that object.
"""

from __future__ import annotations

import unittest
from collections.abc import Callable
from typing import Any

Explain = Callable[[Any, BaseException], None]


class ExplainedResult:
    """Stands in for a test result: hands everything on, but first gives each error of the test to ``explain``.

    An expected failure is left as it is. A fault of ``explain`` never replaces the test's own.
    """

    def __init__(self, result: unittest.TestResult, explain: Explain) -> None:
        self.__dict__["_result"] = result
        self.__dict__["_explain"] = explain

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._result, name)
        if callable(found):
            self.__dict__[name] = found  # asked for again and again, for each test
        return found

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(self._result, name, value)

    def addError(self, test: Any, err: Any) -> Any:
        self._note(test, err)
        return self._result.addError(test, err)

    def addFailure(self, test: Any, err: Any) -> Any:
        self._note(test, err)
        return self._result.addFailure(test, err)

    def _add_subtest(self, test: Any, subtest: Any, err: Any) -> Any:
        if err is not None:
            self._note(test, err)
        return self._result.addSubTest(test, subtest, err)

    @property
    def addSubTest(self) -> Any:
        # unittest asks whether a result has it at all, and reports subtests another way if not.
        known = self._result.addSubTest
        return self._add_subtest if known is not None else None

    def _note(self, test: Any, err: Any) -> None:
        error = err[1] if isinstance(err, tuple) else getattr(err, "value", err)
        if not isinstance(error, BaseException):
            return
        try:
            self._explain(test, error)
        except Exception as fault:
            error.add_note(f"(dbtestcase could not explain this failure: {type(fault).__name__}: {fault})")
