"""What stands between a test class, which lives in its users' namespace, and the running class behind it.

A base class has one private attribute, ``_dbtestcase``: a :class:`NotRunning` until ``setUpClass``, and then the
:class:`~dbtestcase.lifecycle.running.RunningClass` until the class has ended.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from functools import cached_property
from typing import Any, NoReturn, TypeVar

from dbtestcase.diagnosis import report
from dbtestcase.errors import DBTestCaseError
from dbtestcase.frames import user_origin
from dbtestcase.lifecycle import classes, schedule
from dbtestcase.lifecycle.isolation import isolation_of_method
from dbtestcase.lifecycle.names import id_of_class
from dbtestcase.lifecycle.running import RunningClass
from dbtestcase.servers import expects

__all__ = [
    "NotRunning",
    "NotThere",
    "SessionOfTest",
    "SetByClass",
    "debug_test",
    "end_tests",
    "explain_class",
    "run_test",
    "running_class",
    "set_up",
]

__unittest = True  # unittest leaves frames of modules with this name out of the tracebacks it prints

_Session = TypeVar("_Session")
_SET_BY_CLASS = ("instance", "engine", "url")


class NotRunning:
    """The state of a class whose ``setUpClass`` has not run; ``kind`` makes the running class."""

    def __init__(self, kind: type[RunningClass]) -> None:
        self.kind = kind


class NotThere(DBTestCaseError, AttributeError):
    """Also an AttributeError, so that whoever only looks (``hasattr()``, ``inspect``, mocks) takes it for absent."""

    __module__ = DBTestCaseError.__module__
    __qualname__ = DBTestCaseError.__qualname__


class SetByClass:
    """What ``cls.engine`` and its like are before ``setUpClass``: a sentence instead of a bare AttributeError."""

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = name

    def __get__(self, test: object, owner: type) -> Any:
        later = _Later(owner.__qualname__, self._name)
        if test is not None:
            later.tell()
        # Runners such as nose2 look at every name of a class.
        return later


class SessionOfTest(cached_property[_Session]):
    """The test's session; an attribute of the user's that is called so, and is no session, is told."""

    def __get__(self, test: Any, owner: type | None = None) -> _Session:  # type: ignore[override]
        if test is None:
            return self  # type: ignore[return-value]
        session: _Session | None = test.__dict__.get("session")
        if session is None:  # without the lock of a cached_property: a test makes its session in its own thread
            session = test.__dict__["session"] = self.func(test)
        return session

    def __set__(self, test: Any, value: Any) -> None:
        if value is not None and not (hasattr(value, "execute") and hasattr(value, "commit")):
            name = type(test).__qualname__
            raise DBTestCaseError(
                f"{name}: self.session is set to {type(value).__name__} object at {user_origin()}, but 'session' is "
                "the test's Session of SQLAlchemy.\nGive that attribute another name."
            )
        test.__dict__["session"] = value

    def __delete__(self, test: Any) -> None:
        try:
            del test.__dict__["session"]
        except KeyError:
            raise AttributeError("session") from None


class _Later:
    """Stands for an attribute that is there once ``setUpClass`` has run; to use it is an error that says so."""

    def __init__(self, owner: str, name: str) -> None:
        self.__owner, self.__name = owner, name

    def tell(self) -> NoReturn:
        raise NotThere(
            f"{self.__owner}.{self.__name} is there once DatabaseTestCase.setUpClass has run, and not after the class "
            f"has ended.\nIf {self.__owner} or a base class of it defines setUpClass, make 'super().setUpClass()' its "
            "first line."
        )

    def __getattr__(self, name: str) -> NoReturn:
        self.tell()

    def __repr__(self) -> str:
        return f"<{self.__owner}.{self.__name}, which is there once setUpClass has run>"


def running_class(test_class: Any) -> Any:
    """Return the running class behind a test class, or raise if its ``setUpClass`` did not run."""
    running = test_class.__dict__.get("_dbtestcase")
    if not isinstance(running, RunningClass):
        name = test_class.__qualname__
        raise NotThere(
            f"{name} has no database: DatabaseTestCase.setUpClass did not run for it.\n"
            f"If {name} or a base class of it defines setUpClass, make 'super().setUpClass()' its first line. If the "
            "runner leaves class fixtures out, let it run whole classes (unittest-parallel: --level class)."
        )
    return running


def set_up(test_class: Any, is_ours: Callable[[type], bool]) -> None:
    """Start what stands behind a test class, and arrange for its end.

    Args:
        is_ours: Whether a class that comes later in the run is one that needs a server too.
    """
    earlier = test_class._class_cleanups[:]
    test_class._class_cleanups.clear()
    try:
        _set_up(test_class, is_ours)
    finally:
        # Cleanups from before super().setUpClass() run first all the same: to them the class is still there.
        test_class._class_cleanups += earlier


def _set_up(test_class: Any, is_ours: Callable[[type], bool]) -> None:
    classes.begin(test_class)
    test_class.addClassCleanup(classes.end, test_class)
    # Class cleanups, not tearDownClass: unittest skips tearDownClass when setUpClass raises, and the server would
    # outlive the class.
    test_class.addClassCleanup(schedule.finish, test_class)
    kind = kind_of(test_class)
    try:
        running = test_class.enterClassContext(kind(test_class))
    except DBTestCaseError as error:
        # The reader needs the sentence and the place in his own code, not our frames.
        raise error.with_traceback(None) from error.__cause__
    test_class.addClassCleanup(_forget, test_class)
    test_class.addClassCleanup(running.connections.check_use)
    test_class._dbtestcase = running
    test_class.instance, test_class.engine, test_class.url = running.instance, running.engine_for(None), running.url
    running.redirect_application()
    with report.span("data", id_of_class(test_class)):
        running.make_class_data()
    for position, following in enumerate(schedule.after(test_class, expects())):
        if not is_ours(following):
            break
        # A mistake of that class is its own: it will be told there.
        with suppress(Exception):
            running.expect(following, kind_of(following), position)


def kind_of(test_class: Any) -> type[RunningClass]:
    """Return what makes the running class of a test class."""
    return test_class._dbtestcase.kind  # type: ignore[no-any-return]


def run_test(test: Any, result: Any, run: Callable[[Any], Any]) -> None:
    """Run a test; an error of it if its class was not set up."""
    # A test that uses no database is to cost next to nothing, so nothing is called here that need not be.
    running = type(test).__dict__.get("_dbtestcase")
    if not isinstance(running, RunningClass):
        if not getattr(type(test), "__unittest_skip__", False):
            _let_fail(test)
        run(result)
    elif running.coroutines and test._testMethodName in running.coroutines:
        _let_fail(test, _not_awaited(test))
        run(result)
    else:
        running.run_test(test, result, run)


def debug_test(test: Any, debug: Callable[[], Any]) -> None:
    """Run a test without collecting errors."""
    running_class(type(test)).runs.run_once(test, debug)


def begin_tests(test_class: type, method: Any) -> None:
    """Let what runs between ``setUpClass`` and a test, a fixture of pytest's say, use none of the class's databases."""
    running = test_class.__dict__.get("_dbtestcase")
    if not isinstance(running, RunningClass) or isolation_of_method(test_class, method) == "class":
        return
    if running.runs.tasks is None:  # connections of an asynchronous class are changed by its tests, in their event loop
        running.runs.end_postponed()
        if running.connections.are_of_class:
            running.runs.leave_class()
        running.use_shared()


def end_tests(test_class: type) -> None:
    """Let ``tearDownClass`` and class cleanups use the class's databases."""
    running = test_class.__dict__.get("_dbtestcase")
    if isinstance(running, RunningClass):
        running.runs.end_postponed()
        running.connections.use_class_databases()


def explain_class(test_class: type, error: BaseException) -> None:
    """Give an error of ``setUpClass`` or ``tearDownClass`` its notes."""
    running = test_class.__dict__.get("_dbtestcase")
    if isinstance(running, RunningClass):
        running.explain_class(error)


def _let_fail(test: Any, problem: DBTestCaseError | None = None) -> None:
    """Let the test be an error instead of running it, reported as any other.

    Args:
        problem: What is wrong; ``None`` if its class was not set up.
    """

    def raise_it() -> NoReturn:
        if problem is not None:
            raise problem
        try:
            running_class(type(test))
        except DBTestCaseError as error:
            raise error.with_traceback(None) from None
        raise AssertionError("its class runs")

    async def do_nothing() -> None:
        pass

    test.setUp = test.tearDown = lambda: None
    test.asyncSetUp = test.asyncTearDown = do_nothing
    setattr(test, test._testMethodName, raise_it)


def _not_awaited(test: Any) -> DBTestCaseError:
    name = type(test).__qualname__
    return DBTestCaseError(
        f"{name}.{test._testMethodName} is a coroutine function, which {name} would never await: it would pass "
        f"whatever it says.\nDerive {name} from dbtestcase.aio.AsyncDatabaseTestCase, or let the test be a plain 'def'."
    )


def _forget(test_class: Any) -> None:
    for name in ("_dbtestcase", *_SET_BY_CLASS):
        if name in test_class.__dict__:
            delattr(test_class, name)
