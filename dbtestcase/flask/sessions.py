"""The database sessions of a test and of its requests."""

from __future__ import annotations

from typing import Any

from sqlalchemy.orm import InstanceState, Session, scoped_session
from sqlalchemy.orm.attributes import set_committed_value

from dbtestcase.flask.contexts import current_application_context
from dbtestcase.flask.extensions import extension_of

__all__ = ["existing_session", "forget_what_was_read", "session_of_context"]


def session_of_context() -> Session | None:
    """Return the session that the extension has for the present application context.

    ``None`` if no context is pushed, or its application has no extension.
    """
    context = current_application_context()
    extension = extension_of(context.app) if context is not None else None
    session = getattr(extension, "session", None)
    return session() if isinstance(session, scoped_session) else session


def existing_session() -> Session | None:
    """Return that session if somebody has used it already."""
    context = current_application_context()
    extension = extension_of(context.app) if context is not None else None
    session = getattr(extension, "session", None)
    if isinstance(session, scoped_session) and not session.registry.has():
        return None
    return session() if isinstance(session, scoped_session) else session


def forget_what_was_read(session: Session) -> None:
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
