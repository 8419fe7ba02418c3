"""Real connections whose statements are logged, and watched while they wait.

Virtual connections pass the sandbox's own gate. Real ones, those of the class phase and of ``isolation="clone"``, are
plain connections of the driver; here they get cursors that report what they send.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from typing import Any, Protocol

from dbtestcase.diagnosis.leftovers import OpenCursors
from dbtestcase.diagnosis.locks import LockWatch
from dbtestcase.frames import Origin, user_origin


class _Observer(Protocol):
    def statement_started(self, connection_label: str, origin: Origin, sql: str, parameters: Any) -> None: ...

    def statement_finished(self, connection_label: str, rowcount: int, error: BaseException | None) -> None: ...


@dataclass(slots=True)
class _Watched:
    pid: int
    label: str
    is_handed_out: Callable[[], bool]
    observer: Callable[[], _Observer | None]
    locks: LockWatch | None
    cursors: OpenCursors = field(default_factory=OpenCursors)


_watched: weakref.WeakKeyDictionary[Any, _Watched] = weakref.WeakKeyDictionary()


def watch_connection(
    connection: Any,
    *,
    label: str,
    opened: Origin,
    is_handed_out: Callable[[], bool] = lambda: True,
    observer: Callable[[], _Observer | None] = lambda: None,
    locks: LockWatch | None = None,
) -> None:
    """Let a new psycopg2 or psycopg connection report what its cursors send.

    Args:
        label: What to call it in messages.
        opened: The user's line that it was opened for.
        is_handed_out: Whether it serves the code under test now; what SQLAlchemy asks a new connection is not reported.
        observer: Gives whom to tell of each statement at present.
        locks: Ends statements that wait too long.
    """
    pid = connection.info.backend_pid
    _watched[connection] = _Watched(pid, label, is_handed_out, observer, locks)
    if locks is not None:
        locks.backends.opened(pid, label, opened)
        weakref.finalize(connection, locks.backends.closed, pid).atexit = False
    connection.cursor_factory = _reporting(connection.cursor_factory or _plain_cursor(connection))
    if getattr(connection, "server_cursor_factory", None) is not None:
        connection.server_cursor_factory = _reporting(connection.server_cursor_factory)


def close_cursors(connection: Any) -> list[Origin]:
    """Close the cursors of a connection that are open; return the lines that opened them."""
    watched = _watched.get(connection)
    return [] if watched is None else [opened for _, opened in watched.cursors.close_all()]


@contextmanager
def _reported(cursor: Any, sql: Any, parameters: Any) -> Iterator[None]:
    watched = _watched.get(cursor.connection)
    if watched is None or not watched.is_handed_out():
        yield
        return
    origin = user_origin()
    if cursor._opened_at is None:
        cursor._opened_at = origin
    observer, locks = watched.observer(), watched.locks
    if observer is not None:
        observer.statement_started(watched.label, origin, sql, parameters)
    try:
        if locks is None:
            yield
        else:
            begins = cursor.connection.info.transaction_status == 0
            with locks.statement(watched.pid, sql, parameters, origin, begins=begins):
                yield
    except BaseException as error:
        if observer is not None:
            observer.statement_finished(watched.label, -1, error)
        raise
    if observer is not None:
        observer.statement_finished(watched.label, cursor.rowcount, None)


def _plain_cursor(connection: Any) -> Any:
    import psycopg2.extensions

    return psycopg2.extensions.cursor


@cache
def _reporting(base: Any) -> Any:
    """Return a cursor class like ``base`` that reports; works for both drivers, whose methods have the same shape."""

    class ReportingCursor(base):  # type: ignore[misc]
        _opened_at: Origin | None = None

        def __init__(self, connection: Any, *args: Any, **kwargs: Any) -> None:
            super().__init__(connection, *args, **kwargs)
            watched = _watched.get(connection)
            if watched is not None and watched.is_handed_out():
                watched.cursors.add(self)

        def execute(self, query: Any, *args: Any, **kwargs: Any) -> Any:
            with _reported(self, query, _parameters(args, kwargs)):
                return super().execute(query, *args, **kwargs)

        def executemany(self, query: Any, *args: Any, **kwargs: Any) -> Any:
            sets = _parameters(args, kwargs)
            if not isinstance(sets, list):
                sets = list(sets)
                args, kwargs = (sets, *args[1:]), {key: kwargs[key] for key in kwargs if key == "returning"}
            with _reported(self, query, sets):
                return super().executemany(query, *args, **kwargs)

        def callproc(self, procname: str, *args: Any) -> Any:
            with _reported(self, f"SELECT * FROM {procname}(...)", None):
                return super().callproc(procname, *args)

        def copy_expert(self, sql: Any, *args: Any, **kwargs: Any) -> Any:
            with _reported(self, sql, None):
                return super().copy_expert(sql, *args, **kwargs)

        def copy_from(self, file: Any, table: str, *args: Any, **kwargs: Any) -> Any:
            with _reported(self, f"COPY {table} FROM STDIN", None):
                return super().copy_from(file, table, *args, **kwargs)

        def copy_to(self, file: Any, table: str, *args: Any, **kwargs: Any) -> Any:
            with _reported(self, f"COPY {table} TO STDOUT", None):
                return super().copy_to(file, table, *args, **kwargs)

        @contextmanager
        def copy(self, statement: Any, *args: Any, **kwargs: Any) -> Iterator[Any]:
            with (
                _reported(self, statement, _parameters(args, kwargs)),
                super().copy(statement, *args, **kwargs) as copy,
            ):
                yield copy

        def stream(self, query: Any, *args: Any, **kwargs: Any) -> Iterator[Any]:
            with _reported(self, query, _parameters(args, kwargs)):
                yield from super().stream(query, *args, **kwargs)

    ReportingCursor.__name__, ReportingCursor.__qualname__ = base.__name__, base.__qualname__
    return ReportingCursor


def _parameters(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    if args:
        return args[0]
    return next((kwargs[name] for name in ("vars", "params", "vars_list", "params_seq") if name in kwargs), None)
