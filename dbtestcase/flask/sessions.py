"""The database sessions of a test and of its requests."""

from __future__ import annotations

from contextvars import copy_context
from typing import Any

import flask.globals
from sqlalchemy import inspect
from sqlalchemy.orm import InstanceState, Session, scoped_session
from sqlalchemy.orm.attributes import set_committed_value

from dbtestcase.flask.contexts import current_application_context
from dbtestcase.flask.extensions import extension_of

__all__ = ["LastingSession", "existing_session", "expire_loaded", "session_of_context"]


def session_of_context() -> Session | None:
    """Return the session of the pushed application context's extension, ``None`` if there is none."""
    context = current_application_context()
    extension = extension_of(context.app) if context is not None else None
    session = getattr(extension, "session", None)
    return session() if isinstance(session, scoped_session) else session


def existing_session(context: Any | None = None) -> Session | None:
    """Return that session, or that of another context, if somebody has used it already."""
    if context is not None and context is not current_application_context():
        return copy_context().run(_existing_session_in, context)
    context = current_application_context()
    extension = extension_of(context.app) if context is not None else None
    session = getattr(extension, "session", None)
    if isinstance(session, scoped_session) and not session.registry.has():
        return None
    return session() if isinstance(session, scoped_session) else session


def _existing_session_in(context: Any) -> Session | None:
    flask.globals._cv_app.set(context)
    return existing_session()


class LastingSession:
    """A session that is there before a test, since a context was pushed for a class or a module, and its objects.

    It is closed with the test. Its objects, of no use to the next test then, are given back to it.
    """

    def __init__(self, session: Session) -> None:
        self._session = session
        self._objects = list(session.identity_map.values())

    def close(self) -> None:
        """Undo what the test has not committed, and forget what it has read and written."""
        self._session.expire_all()
        self._session.close()

    def put_back(self) -> None:
        """Give the session its objects back."""
        self._session.add_all(each for each in self._objects if inspect(each).detached)


def expire_loaded(session: Session) -> None:
    """Let a session read again what it has read, as a session that begins now would.

    What was changed and not flushed stays, and so do primary keys, which a test may want of a row that is gone.
    """
    deleted = session.deleted
    for state in session.identity_map.all_states():
        instance = state.obj()
        if instance is not None and instance not in deleted:
            _forget(session, state, instance)


def _forget(session: Session, state: InstanceState[Any], instance: Any) -> None:
    mapper = state.mapper
    keys = [mapper.get_property_by_column(column).key for column in mapper.primary_key]
    kept = {*keys, *state.committed_state}
    # By name, since expiring a whole object also expires, unflushed changes and all, those it is related to.
    names = [name for name in mapper.attrs.keys() if name in state.dict and name not in kept]  # noqa: SIM118
    if names:
        session.expire(instance, names)
    if state.modified or state.key is None:
        return
    for key, value in zip(keys, state.key[1], strict=True):
        if key not in state.dict:
            set_committed_value(instance, key, value)
    # So that Session.get() looks whether the row is still there.
    state.expired = True
