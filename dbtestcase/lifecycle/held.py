"""A test result that holds back what a run of a test comes to, until it is known whether that run counts.

The runner sees one test: its start and its end are told once, and of its outcomes only those of the run that counts.
"""

from __future__ import annotations

import sys
import unittest
from typing import Any

__all__ = ["HeldResult"]

__unittest = True  # unittest leaves frames of modules with this name out of the tracebacks it prints

_FAILED = frozenset({"addError", "addFailure", "addExpectedFailure"})
_BUFFERS = ("_stdout_buffer", "_stderr_buffer")


class HeldResult:
    """Stands in for a result while one test runs, once or twice.

    Args:
        result: The runner's. What it has, this has too; setting an attribute sets it there.
    """

    _own = frozenset({"_events", "_explained", "_has_started", "_result", "addSubTest"})

    def __init__(self, result: unittest.TestResult) -> None:
        own = self.__dict__
        own["_result"] = result
        own["_explained"] = None
        own["_events"] = []
        own["_has_started"] = False
        if hasattr(result, "addSubTest"):  # unittest reports subtests another way to a result without it
            own["addSubTest"] = self._add_subtest

    def __getattr__(self, name: str) -> Any:
        return getattr(self.__dict__["_result"], name)

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(self._result, name, value)

    # -- told by unittest

    def startTest(self, test: Any) -> None:
        if not self._has_started:
            self.__dict__["_has_started"] = True
            self._result.startTest(test)

    def stopTest(self, test: Any) -> None:
        """Told by :meth:`tell`, once."""

    def addSuccess(self, test: Any) -> None:
        self._events.append(("addSuccess", (test,)))

    def addSkip(self, test: Any, reason: str) -> None:
        self._events.append(("addSkip", (test, reason)))

    def addError(self, test: Any, err: Any) -> None:
        self._failed("addError", test, err)

    def addFailure(self, test: Any, err: Any) -> None:
        self._failed("addFailure", test, err)

    def addExpectedFailure(self, test: Any, err: Any) -> None:
        self._events.append(("addExpectedFailure", (test, err)))

    def addUnexpectedSuccess(self, test: Any) -> None:
        self._events.append(("addUnexpectedSuccess", (test,)))

    def addDuration(self, test: Any, elapsed: float) -> None:
        self._events.append(("addDuration", (test, elapsed)))

    def _add_subtest(self, test: Any, subtest: Any, err: Any) -> None:
        if self._explained is not None and err is not None:
            err = self._explained.noted(test, err)
        self._events.append(("addSubTest", (test, subtest, err)))

    def _failed(self, name: str, test: Any, err: Any) -> None:
        if self._explained is not None:
            # At once: what the explanation looks at is there only now.
            err = self._explained.noted(test, err)
        if err is not None:
            self._events.append((name, (test, err)))

    # -- told by the class that runs the test

    @property
    def has_failed(self) -> bool:
        """Whether anything but success has been reported; an expected failure is one too."""
        return any(name in _FAILED or (name == "addSubTest" and what[2] is not None) for name, what in self._events)

    @property
    def errors_held(self) -> list[BaseException]:
        """The errors that were reported, in order."""
        found = [what[-1] for name, what in self._events if name in _FAILED or name == "addSubTest"]
        return [error for each in found if isinstance(error := _error_of(each), BaseException)]

    def explain_with(self, explained: Any) -> None:
        """From now on this run counts: let each of its errors be explained when it is reported.

        Args:
            explained: An :class:`~dbtestcase.diagnosis.results.Explained`; its ``noted()`` returns an error with its
                notes, or ``None`` for one that is not to be reported.
        """
        self.__dict__["_explained"] = explained

    def drop(self) -> None:
        """Forget this run, with what it printed into the buffers of ``unittest -b``."""
        self._events.clear()
        for name in _BUFFERS:
            buffer = getattr(self._result, name, None)
            if buffer is not None:
                buffer.seek(0)
                buffer.truncate()

    def add_problems(self, test: Any, problems: list[Exception]) -> None:
        """Let problems that were met after the test be errors of it."""
        for problem in problems:
            self.__dict__["_events"] = [each for each in self._events if each[0] != "addSuccess"]
            self._failed("addError", test, (type(problem), problem, problem.__traceback__))

    def tell(self, test: Any) -> None:
        """Tell the runner's result what the run that counts came to."""
        result = self._result
        try:
            for name, what in self._events:
                add = getattr(result, name, None)
                if add is not None:
                    add(*what)
        finally:
            if self._has_started:
                result.stopTest(test)


def _error_of(err: Any) -> Any:
    """Return the exception of what unittest (a tuple) or pytest (an ``ExceptionInfo``) hands to a result."""
    return err[1] if isinstance(err, tuple) else getattr(err, "value", err)


def is_debugged() -> bool:
    """Whether a debugger watches this thread: a test then runs once, on real connections from the start."""
    tracer = sys.gettrace()
    return tracer is not None and type(tracer).__module__ != "coverage" and _module_of(tracer).startswith(_DEBUGGERS)


_DEBUGGERS = ("bdb", "pdb", "pydevd", "_pydevd", "debugpy", "ipdb", "pudb")


def _module_of(tracer: Any) -> str:
    owner = getattr(tracer, "__self__", tracer)
    return str(getattr(type(owner) if owner is not tracer else tracer, "__module__", "") or "")
