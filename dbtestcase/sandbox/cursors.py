"""Cursors of the one transaction: the driver's own classes, with a gate before what sends.

Nothing else of a cursor is touched, so each has and lacks exactly what the driver's has.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import cache
from typing import Any

__all__ = ["client_side", "default_class", "gated", "gated_class", "text_of"]

# Methods that take a text of SQL first.
_SEND = ("execute", "executemany")
# Those that keep the connection busy beyond the call, or whose text is not known.
_NEED_REAL = ("callproc", "stream")
# psycopg2's for COPY; what each does to the table. psycopg's is copy().
_COPY = {"copy_from": "COPY FROM", "copy_to": "COPY TO", "copy_expert": ""}

_READ_TOO_LATE = "a server-side cursor was read after its transaction had ended"


def gated(connection: Any, virtual: Any, options: dict[str, Any]) -> Any:
    """Return a cursor for the user's own statements.

    Args:
        connection: The physical connection.
        virtual: The :class:`~dbtestcase.sandbox.connection.SandboxConnection` that it is asked of.
        options: What ``cursor()`` was called with.
    """
    return _cursor_of(gated_class, connection, virtual, options)


def _cursor_of(class_of: Callable[[type], type], connection: Any, virtual: Any, options: dict[str, Any]) -> Any:
    kind = options.pop("cursor_factory", None) or getattr(connection, "cursor_factory", None) or default_class()
    if virtual.engine.dialect.driver == "psycopg2":
        cursor = connection.cursor(cursor_factory=class_of(kind), **options)
    else:
        options.setdefault("row_factory", connection.row_factory)
        cursor = class_of(kind)(connection, row_factory=options.pop("row_factory"))
        if "binary" in options:
            cursor.format = int(options["binary"])
    cursor.sandboxed = virtual
    return cursor


@cache
def gated_class(kind: type) -> type:
    """Return a driver's cursor class with the gate of :meth:`Gate.execute` before what sends."""
    members: dict[str, Any] = {"connection": property(lambda self: self.sandboxed)}
    for name in _SEND:
        members[name] = _sending(getattr(kind, name))
    for name in _NEED_REAL:
        if hasattr(kind, name):
            members[name] = _needing_real(name)
    for name, text in _COPY.items():
        if hasattr(kind, name):
            members[name] = _copying(getattr(kind, name), text)
    if hasattr(kind, "copy"):
        members["copy"] = _copying_in_block(kind.copy)
    return type(kind.__name__, (kind,), members)


def client_side(connection: Any, virtual: Any) -> Any:
    """Return a cursor in place of a server-side one, which SQLAlchemy wants for ``yield_per`` and its like.

    It reads the same rows, since those are a snapshot of when the cursor was opened, and it ends as the other would:
    with its transaction.
    """
    is_async = virtual.engine.dialect.is_async
    cursor = connection.cursor() if is_async else _cursor_of(_ending_class, connection, virtual, {})
    # Adapters of asynchronous drivers cannot be referred to weakly; they hold nothing on the server.
    held = (lambda: cursor) if is_async else weakref.ref(cursor)

    def close() -> None:
        known = held()
        if known is None:
            return
        if hasattr(known, "_rows"):  # an adapter of SQLAlchemy's, which would go on as if there were no more rows
            known._rows = _Gone(virtual)
        else:
            known.is_gone = True

    virtual.database.work_of(virtual).cursors += (close,)
    return cursor


@cache
def _ending_class(kind: type) -> type:
    """Return a driver's cursor class of which nothing can be read once ``is_gone`` is set."""

    def reading(inner: Callable[..., Any]) -> Callable[..., Any]:
        def read(self: Any, *args: Any, **options: Any) -> Any:
            if self.is_gone:
                self.sandboxed.database.stop(self.sandboxed, _READ_TOO_LATE)
            return inner(self, *args, **options)

        return read

    members = {name: reading(getattr(kind, name)) for name in ("fetchone", "fetchmany", "fetchall")}
    return type(kind.__name__, (kind,), {**members, "is_gone": False})


class _Gone:
    """The rows of a cursor whose transaction is over."""

    def __init__(self, virtual: Any) -> None:
        self._virtual = virtual

    def _raise(self) -> Any:
        self._virtual.database.stop(self._virtual, _READ_TOO_LATE)

    def __len__(self) -> int:
        return int(self._raise())

    def __bool__(self) -> bool:
        return bool(self._raise())

    def __iter__(self) -> Any:
        return self._raise()

    def popleft(self) -> Any:
        return self._raise()

    def clear(self) -> None:
        """Closing such a cursor is no error."""


def text_of(query: Any, cursor: Any) -> str | bytes | None:
    """Return the text of what a cursor was given; ``None`` if it is of a kind that is not known."""
    if isinstance(query, (str, bytes)):
        return query
    as_string = getattr(query, "as_string", None)
    return as_string(cursor) if as_string is not None else None


def _known_text(query: Any, cursor: Any) -> Any:
    text = text_of(query, cursor)
    if text is None:
        cursor.sandboxed.database.stop(
            cursor.sandboxed, f"a {type(query).__name__} as a statement needs real connections"
        )
    return text


def _sending(inner: Callable[..., Any]) -> Callable[..., Any]:
    how = "many" if inner.__name__ == "executemany" else "one"

    def send(self: Any, query: Any, *args: Any, **options: Any) -> Any:
        virtual, text = self.sandboxed, _known_text(query, self)
        parameters = args[0] if args else options.get("vars", options.get("params"))
        return virtual.database.execute(
            virtual, self, text, parameters, lambda: inner(self, query, *args, **options), how
        )

    send.__name__ = inner.__name__
    return send


def _copying(inner: Callable[..., Any], text: str) -> Callable[..., Any]:
    def copy(self: Any, first: Any, *args: Any, **options: Any) -> Any:
        virtual = self.sandboxed
        sql = text_of(first, self) if not text else f"{text} {args[0] if args else options.get('table', '')}"
        return virtual.database.execute(virtual, self, sql, None, lambda: inner(self, first, *args, **options), "copy")

    return copy


def _copying_in_block(inner: Callable[..., Any]) -> Callable[..., Any]:
    @contextmanager
    def copy(self: Any, statement: Any, *args: Any, **options: Any) -> Iterator[Any]:
        virtual, text = self.sandboxed, _known_text(statement, self)
        if virtual.autocommits:
            virtual.database.stop(virtual, "cursor.copy() in autocommit needs real connections")
        block = ExitStack()

        def begin() -> Any:
            return block.enter_context(inner(self, statement, *args, **options))

        found = virtual.database.execute(virtual, self, text, None, begin, "copy")
        with virtual.work.shared.copying(virtual.work), block:
            yield found

    return copy


def _needing_real(name: str) -> Callable[..., Any]:
    def stop(self: Any, *args: Any, **options: Any) -> Any:
        self.sandboxed.database.stop(self.sandboxed, f"cursor.{name}() needs real connections")

    return stop


def default_class() -> type:
    """Return the class of psycopg2's cursors that are not asked to be of another one."""
    import psycopg2.extensions

    return psycopg2.extensions.cursor
