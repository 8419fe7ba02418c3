"""The ORM sessions that a test uses: whoever made them, they end with it."""

from __future__ import annotations

import weakref
from contextlib import suppress
from typing import Any

import sqlalchemy as sa
from sqlalchemy import event
from sqlalchemy.orm import Session

from .connection import SandboxConnection
from .takeover import root

__all__ = ["SessionsOfTest", "listen", "serve"]


class SessionsOfTest:
    """Those that have begun a transaction in the present test."""

    def __init__(self) -> None:
        self._sessions: list[Session] = []
        self.note = self._sessions.append
        self.forget = self._sessions.clear

    def close(self) -> None:
        """Close them; their transactions are undone anyway, and a fault of one must not stop the others."""
        for session in self._sessions:
            if session.in_transaction() or session.identity_map or session._new:
                with suppress(Exception):
                    session.close()
        self._sessions.clear()


_databases: weakref.WeakKeyDictionary[sa.Engine, weakref.ref[Any]] = weakref.WeakKeyDictionary()
_is_listening = False


def listen() -> None:
    """Begin to notice sessions, once per process."""
    global _is_listening
    if not _is_listening:
        _is_listening = True
        event.listen(Session, "after_begin", _began)


def serve(engine: sa.Engine, database: Any) -> None:
    """Note which :class:`~dbtestcase.sandbox.database.SandboxedDatabase` an engine leads to."""
    _databases[engine] = weakref.ref(database)


def _began(session: Session, transaction: Any, connection: sa.Connection) -> None:
    dbapi_connection = connection.connection.dbapi_connection
    if type(dbapi_connection) is SandboxConnection:
        dbapi_connection.database.sessions.note(session)
        return
    known = _databases.get(root(connection.engine))
    database = known() if known is not None else None
    if database is None:
        return
    if database.is_copy:
        database.sessions.note(session)
    opened = database.real.get(dbapi_connection)
    if opened is not None:
        opened.session = weakref.ref(session)
