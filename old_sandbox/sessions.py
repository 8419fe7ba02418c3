"""The ORM sessions that began on our engines: whoever made them, they end with the test."""

from __future__ import annotations

import weakref
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa
from sqlalchemy import event
from sqlalchemy.orm import Session

from .engines import root

if TYPE_CHECKING:
    from .run import Run
    from .sandbox import Sandbox

_owners: weakref.WeakKeyDictionary[sa.Engine, weakref.ref[Sandbox]] = weakref.WeakKeyDictionary()
_is_listening = False


def listen() -> None:
    """Begin to notice sessions, once per process."""
    global _is_listening
    if not _is_listening:
        _is_listening = True
        event.listen(Session, "after_begin", _after_begin)


def own(engine: sa.Engine, sandbox: Sandbox) -> None:
    _owners[engine] = weakref.ref(sandbox)


def disown(engine: sa.Engine) -> None:
    _owners.pop(engine, None)


def _after_begin(session: Session, transaction: Any, connection: sa.Connection) -> None:
    owner = _owners.get(root(connection.engine))
    sandbox = owner() if owner is not None else None
    if sandbox is not None and sandbox._core.run is not None:
        sandbox._core.run.has_session(session)
        channel = getattr(connection.connection.dbapi_connection, "_channel", None)
        if channel is not None:
            channel.serves_session = True


def close_all(run: Run) -> None:
    """Close the sessions of a test. Their transactions are undone anyway; a fault of one must not stop the others."""
    for session in run.sessions():
        try:
            session.close()
        except Exception as error:
            run.record(error)
