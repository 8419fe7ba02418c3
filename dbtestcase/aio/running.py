"""A running test class of asynchronous tests: what ends with a test ends in the test's own event loop."""

from __future__ import annotations

import asyncio
import importlib.util
import os
from contextlib import suppress
from typing import Any

import sqlalchemy
from sqlalchemy import URL
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, create_async_engine
from sqlalchemy.orm import Session
from sqlalchemy.util import greenlet_spawn

from dbtestcase.diagnosis import leftovers, messages
from dbtestcase.errors import DBTestCaseError
from dbtestcase.frames import Origin
from dbtestcase.lifecycle.running import RunningClass
from dbtestcase.sandbox import LeftOpen
from dbtestcase.sandbox.loops import can_wait

__all__ = ["RunningAsyncClass"]

_SQLALCHEMY = os.path.dirname(sqlalchemy.__file__) + os.sep
# How long tasks that a test has left running may take to be cancelled, in seconds.
_LONGEST_CANCELLATION = 2.0


class RunningAsyncClass(RunningClass):
    """Gives tests an engine and a session for asyncio, and ends their runs before their event loop is closed.

    Attributes:
        not_awaited: Assertions of the present test that nobody has awaited yet.
    """

    awaits_tests = True

    def __init__(self, test_class: type[Any]) -> None:
        super().__init__(test_class)
        self.not_awaited: list[Any] = []
        self.runs.tasks = self._tasks = TestTasks(self)
        self._async_engines: dict[str | None, AsyncEngine] = {}
        self._to_keep: Any = None
        self._drivername = _drivername(test_class.app_engines)

    @property
    def url(self) -> URL:
        return super().url.set(drivername=self._drivername)

    @property
    def has_data_as_made(self) -> bool:
        # Class data are read as attributes, where nothing can be awaited: copies are always made without a query.
        return True

    def engine_for(self, database: str | None) -> AsyncEngine:
        engine = self._async_engines.get(database)
        if engine is None:
            url = self.database(database).url.set(drivername=self._drivername)
            engine = self._async_engines[database] = create_async_engine(url)
        return engine

    def session_for_test(self) -> AsyncSession:
        return AsyncSession(self.engine_for(None), expire_on_commit=False)

    def present_session(self, test: Any) -> Session | None:
        session = test.__dict__.get("session")
        return session.sync_session if isinstance(session, AsyncSession) else super().present_session(test)

    # -- one test

    def first_use(self, test: Any, *, is_attempt: bool, counts: bool) -> None:
        super().first_use(test, is_attempt=is_attempt, counts=counts)
        self._tasks.begin()
        # Cleanups run in reverse: this one after all of the user's, before the event loop is closed.
        test._cleanups.insert(0, (self._end_in_loop, (test,), {}))

    async def _end_in_loop(self, test: Any) -> None:
        # In its debug mode, which unittest uses, a loop complains of what keeps it busy; this is not the user's doing.
        asyncio.get_running_loop().slow_callback_duration = float("inf")
        await self._end_tasks()
        if self._to_keep is test:
            await greenlet_spawn(self._keep, test)
        await greenlet_spawn(self.runs.end_run, test)

    async def _end_tasks(self) -> None:
        """Cancel what the test has left running, while the connections that it uses are still there."""
        tasks = _others()
        if not tasks:
            return
        used = self._held()
        for task in tasks:
            if not _is_sqlalchemys(task):
                task.cancel()
        await asyncio.wait(tasks, timeout=_LONGEST_CANCELLATION)
        closing = _others()
        if closing:
            await asyncio.wait(closing, timeout=_LONGEST_CANCELLATION)
        still_used = {each.label for each in self._held()}
        for each in used:
            if each.label not in still_used and not self.runs.will_run_again:
                names = ", ".join(sorted(map(_task_named, tasks)))
                text = messages.TASK_LEFT.format(owner=self.name, label=each.label, opened=each.origin, tasks=names)
                leftovers.warn_left_open(text, each.origin)

    def _held(self) -> list[LeftOpen]:
        return [each for database in self.databases.values() for each in database.held_connections()]

    def leave_test(self, test: Any) -> None:
        not_awaited, self.not_awaited[:] = list(self.not_awaited), []
        session = test.__dict__.pop("session", None)
        if isinstance(session, AsyncSession):
            with suppress(Exception):  # its transaction is undone anyway
                session.sync_session.close()
        super().leave_test(test)
        if not_awaited and not self.runs.will_run_again:
            first = not_awaited[0]
            raise DBTestCaseError(
                f"{self.name}: {first.name}() at {first.origin} was not awaited, and so has asserted nothing.\n"
                f"Write 'await self.{first.name}(...)'."
            )

    def has_left_nothing(self, test: Any) -> bool:
        return super().has_left_nothing(test) and not self.not_awaited

    def _keep(self, test: Any) -> None:
        if not can_wait():
            self._to_keep = test  # told in the middle of the event loop, by a subtest: done when the test has ended
            return
        self._to_keep = None
        super()._keep(test)


class TestTasks:
    """The tasks of the test that runs."""

    def __init__(self, home: RunningAsyncClass) -> None:
        self._home = home
        self._loop: asyncio.AbstractEventLoop | None = None
        self._is_cancelling = False

    def begin(self) -> None:
        """Note the event loop of a test, if the caller runs in it."""
        self._is_cancelling = False
        try:
            self._loop = asyncio.get_running_loop()
        except RuntimeError:
            self._loop = None

    def is_test(self) -> bool:
        try:
            task = asyncio.current_task()
        except RuntimeError:
            return True  # setUp() and the like run where no event loop does
        # unittest runs each of these as a task of its own. A cleanup is not known here; it gets an error like others.
        code = getattr(task.get_coro(), "cr_code", None) if task is not None else None
        test = self._home.runs.test
        own = (getattr(test, name, None) for name in ("asyncSetUp", "asyncTearDown", test._testMethodName))
        return code is not None and any(code is getattr(each, "__code__", None) for each in own)

    def attempt_died(self) -> None:
        if self._loop is not None:
            self._loop.set_exception_handler(lambda loop, context: None)

    def cancel(self) -> bool:
        if self._loop is None or self._loop.is_closed() or self._is_cancelling:
            return False
        self._is_cancelling = True
        with suppress(RuntimeError):  # it has just been closed
            self._loop.call_soon_threadsafe(self._cancel_all)
        return True

    def _cancel_all(self) -> None:
        self._is_cancelling = False
        for task in asyncio.all_tasks():
            task.cancel()


def _drivername(engines: Any) -> str:
    """Return the driver of the code under test, or else the first that is installed."""
    for engine in engines:
        if isinstance(engine, AsyncEngine) and engine.dialect.name == "postgresql":
            return f"postgresql+{engine.dialect.driver}"
    return "postgresql+psycopg" if importlib.util.find_spec("asyncpg") is None else "postgresql+asyncpg"


def _others() -> set[asyncio.Task[Any]]:
    return {task for task in asyncio.all_tasks() if task is not asyncio.current_task()}


def _is_sqlalchemys(task: asyncio.Task[Any]) -> bool:
    """Whether it closes a connection or session at the end of a block, and so comes to its end by itself."""
    code = getattr(task.get_coro(), "cr_code", None)
    return code is not None and code.co_filename.startswith(_SQLALCHEMY)


def _task_named(task: asyncio.Task[Any]) -> str:
    code = getattr(task.get_coro(), "cr_code", None)
    runs = f", which runs {Origin(code.co_filename, code.co_firstlineno, code.co_name)}" if code is not None else ""
    return f"{task.get_name()!r}{runs}"
