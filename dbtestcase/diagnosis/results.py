"""A test result that lets failures be explained before it takes them down.

unittest, pytest and the like all hand a test a result object and print what that is told. So a note has to be on an
exception before it gets there, and the one place that is the same for all of them is around that object.
"""

from __future__ import annotations

import functools
import unittest
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from dbtestcase.diagnosis.tracebacks import leave_out_ours

__unittest = True  # unittest leaves frames of modules with this name out of the tracebacks it prints

Explain = Callable[[Any, BaseException], None]


class ExplainedResult:
    """Stands in for a test result: hands everything on, but first gives each error of the test to ``explain``.

    An expected failure is left as it is. A fault of ``explain`` never replaces the test's own.

    Args:
        is_aftermath: Whether an error only follows from what was done after an earlier failure of the same test; it is
            not reported.
    """

    def __init__(
        self,
        result: unittest.TestResult,
        explain: Explain,
        is_aftermath: Callable[[BaseException], bool] = lambda error: False,
    ) -> None:
        self.__dict__["_result"] = result
        self.__dict__["_explain"] = explain
        self.__dict__["_is_aftermath"] = is_aftermath
        # unittest asks for each test whether a result has it at all, and reports subtests another way if not.
        known = getattr(result, "addSubTest", None)
        if known is not None:
            self.__dict__["addSubTest"] = self._add_subtest

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._result, name)
        if callable(found):
            self.__dict__[name] = found  # asked for again and again, for each test
        return found

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(self._result, name, value)

    def addError(self, test: Any, err: Any) -> Any:
        if isinstance(err, tuple) and self._is_aftermath(err[1]):
            return None
        return self._result.addError(test, self._note(test, err))

    def addFailure(self, test: Any, err: Any) -> Any:
        return self._result.addFailure(test, self._note(test, err))

    def _add_subtest(self, test: Any, subtest: Any, err: Any) -> Any:
        return self._result.addSubTest(test, subtest, err if err is None else self._note(test, err))

    def _note(self, test: Any, err: Any) -> Any:
        error = err[1] if isinstance(err, tuple) else getattr(err, "value", err)
        if not isinstance(error, BaseException):
            return err
        try:
            self._explain(test, error)
        except Exception as fault:
            error.add_note(f"(dbtestcase could not explain this failure: {type(fault).__name__}: {fault})")
        return (err[0], error, error.__traceback__) if isinstance(err, tuple) else err


def explaining(
    hook: Callable[[type], Any],
    explain: Callable[[type, BaseException], None],
    before: Callable[[type], None] | None = None,
) -> Callable[[type], Any]:
    """Return a ``setUpClass`` or ``tearDownClass`` whose errors are given to ``explain`` before anybody sees them.

    No result object stands between these and the runner.

    Args:
        before: Called first, if given.
    """

    @functools.wraps(hook)
    def explained(cls: type) -> Any:
        try:
            if before is not None:
                before(cls)
            return hook(cls)
        except Exception as error:
            with suppress(Exception):
                explain(cls, error)
                leave_out_ours(error)
            raise

    explained.is_explained = True  # type: ignore[attr-defined]
    return explained
