"""A test result that holds back what a run of a test comes to, until it is known whether that run counts.

The runner sees one test: its start and its end are told once, and of its outcomes only those of the run that counts.
"""

from __future__ import annotations

import sys
import unittest
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from dbtestcase.diagnosis.database_errors import DATABASE_ERRORS

__all__ = ["HeldResult"]

__unittest = True  # unittest leaves frames of modules with this name out of the tracebacks it prints

_FAILED = frozenset({"addError", "addFailure", "addExpectedFailure"})
_REPORTED = frozenset({"addError", "addFailure", "addSubTest"})
_BUFFERS = ("_stdout_buffer", "_stderr_buffer")
_SUCCESS: tuple[str, tuple[Any, ...]] = ("addSuccess", ())


class HeldResult:
    """Stands in for a result while one test runs, once or twice.

    Attributes:
        has_failed: Whether anything but a success or a skip has been reported; an expected failure counts as one too.

    Args:
        result: The runner's. What it has, this has too; setting an attribute sets it there.
    """

    # One is made for every test: what most of them never change stands here.
    _explain: Any = None
    _has_started = False
    has_failed = False

    def __init__(self, result: unittest.TestResult) -> None:
        own = self.__dict__
        own["_result"] = result
        own["_events"] = []

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
        self.__dict__["_events"].append(_SUCCESS)

    def addSkip(self, test: Any, reason: str) -> None:
        self._events.append(("addSkip", (test, reason)))

    def addError(self, test: Any, err: Any) -> None:
        self._failed("addError", test, err)

    def addFailure(self, test: Any, err: Any) -> None:
        self._failed("addFailure", test, err)

    def addExpectedFailure(self, test: Any, err: Any) -> None:
        self.__dict__["has_failed"] = True
        self._events.append(("addExpectedFailure", (test, err)))

    def addUnexpectedSuccess(self, test: Any) -> None:
        self.__dict__["has_failed"] = True
        self._events.append(("addUnexpectedSuccess", (test,)))

    def addDuration(self, test: Any, elapsed: float) -> None:
        self._events.append(("addDuration", (test, elapsed)))

    @property
    def addSubTest(self) -> Any:
        # unittest reports subtests another way to a result that has no such method.
        return self.__dict__["_result"].addSubTest and self._add_subtest

    def _add_subtest(self, test: Any, subtest: Any, err: Any) -> None:
        if err is not None:
            if self._explain is not None:
                self._noted(test, err)
            self.__dict__["has_failed"] = True
        self._events.append(("addSubTest", (test, subtest, _with_present_traceback(err))))

    def _failed(self, name: str, test: Any, err: Any) -> None:
        # At once: what the explanation looks at is there only now.
        if self._explain is not None and not self._noted(test, err) and self.has_failed:
            return
        self.__dict__["has_failed"] = True
        self._events.append((name, (test, _with_present_traceback(err))))

    def _noted(self, test: Any, err: Any) -> bool:
        """Give an error its notes; return whether it tells the reader anything new."""
        error = _error_of(err)
        if not isinstance(error, BaseException):
            return True
        try:
            return bool(self._explain(test, error))
        except Exception as fault:
            error.add_note(f"(dbtestcase could not explain this failure: {type(fault).__name__}: {fault})")
            return True

    # -- told by the class that runs the test

    @property
    def errors_held(self) -> list[BaseException]:
        """The errors that were reported, in order."""
        found = [what[-1] for name, what in self._events if name in _FAILED or name == "addSubTest"]
        return [error for each in found if isinstance(error := _error_of(each), BaseException)]

    def explain_with(self, explain: Callable[[Any, BaseException], bool] | None) -> None:
        """Let each error be explained, and get its notes, when it is reported; this run counts.

        A fault of ``explain`` never replaces the test's own.

        Args:
            explain: Returns whether the error is to be reported although one of the same test has been.
        """
        self.__dict__["_explain"] = explain

    def explain_held(self, explain: Callable[[Any, BaseException], bool]) -> None:
        """Let what was reported so far be explained now: it turned out to count."""
        self.explain_with(explain)
        for name, what in self._events:
            if name in ("addError", "addFailure") or (name == "addSubTest" and what[-1] is not None):
                self._noted(what[0], what[-1])
        self.__dict__["_events"] = [
            (name, (*what[:-1], _with_present_traceback(what[-1]))) if name in _REPORTED else (name, what)
            for name, what in self._events
        ]

    def drop(self) -> None:
        """Forget this run, with what it printed as far as the runner holds that back."""
        self._events.clear()
        self.__dict__["has_failed"] = False
        for name in _BUFFERS:  # of unittest -b
            buffer = getattr(self._result, name, None)
            if buffer is not None:
                buffer.seek(0)
                buffer.truncate()
        _forget_captured(self._result)

    def add_problems(self, test: Any, problems: list[Exception]) -> None:
        """Let problems that were met after the test be errors of it."""
        for problem in problems:
            if self.has_failed and isinstance(problem, DATABASE_ERRORS):
                continue  # closing what an error has left open only repeats it
            self.__dict__["_events"] = [each for each in self._events if each[0] != "addSuccess"]
            self._failed("addError", test, (type(problem), problem, problem.__traceback__))

    def tell(self, test: Any) -> None:
        """Tell the runner's result what the run that counts came to."""
        own = self.__dict__
        result = own["_result"]
        try:
            for name, what in own["_events"]:
                if name == "addSuccess":
                    result.addSuccess(test)
                elif (add := getattr(result, name, None)) is not None:
                    add(*what)
        finally:
            if self._has_started:
                result.stopTest(test)


def _error_of(err: Any) -> Any:
    """Return the exception of what unittest (a tuple) or pytest (an ``ExceptionInfo``) hands to a result."""
    return err[1] if isinstance(err, tuple) else getattr(err, "value", err)


def _with_present_traceback(err: Any) -> Any:
    """Return what was handed to a result with the traceback that the exception has by now."""
    return (err[0], err[1], err[1].__traceback__) if isinstance(err, tuple) and err[1] is not None else err


def _forget_captured(result: Any) -> None:
    """Drop what pytest, whose result knows its configuration, has captured of a test up to now."""
    plugins = getattr(getattr(result, "config", None), "pluginmanager", None)
    if plugins is None:
        return
    # As careful as it can be about names that pytest does not promise: at worst something is shown twice.
    with suppress(Exception):
        capture = plugins.getplugin("capturemanager")
        capture.read_global_capture()
        if capture._capture_fixture is not None:
            capture._capture_fixture.readouterr()
    with suppress(Exception):
        logs = plugins.getplugin("logging-plugin")
        logs.caplog_handler.reset()
        logs.report_handler.reset()


def is_debugged() -> bool:
    """Whether a debugger watches this thread: a test then runs once, on real connections from the start."""
    tracer = sys.gettrace()
    if tracer is not None and _is_debugger(tracer):
        return True
    return _monitoring is not None and _monitoring.get_tool(_monitoring.DEBUGGER_ID) is not None


_DEBUGGERS = ("bdb", "pydevd", "_pydevd", "debugpy")
_monitoring: Any = getattr(sys, "monitoring", None)  # from CPython 3.12 on, debuggers may do without a trace function


def _is_debugger(tracer: Any) -> bool:
    # A trace function may measure coverage as well. Debuggers in Python derive from the standard library's.
    owner = getattr(tracer, "__self__", None)
    modules = [getattr(tracer, "__module__", None), *(kind.__module__ for kind in type(owner).__mro__)]
    return any(str(module).startswith(_DEBUGGERS) for module in modules)
