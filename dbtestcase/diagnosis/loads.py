"""Which relationship of a mapped class made the ORM send a statement. Listens only while somebody asks."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from sqlalchemy import event
from sqlalchemy.orm import MapperProperty, ORMExecuteState, Session

_lock = threading.Lock()
_askers = 0
_pending = threading.local()


@contextmanager
def causes_known() -> Iterator[None]:
    """Let :func:`take` know what the ORM loads, on every session, for the time of the block."""
    global _askers
    with _lock:
        _askers += 1
        if _askers == 1:
            event.listen(Session, "do_orm_execute", _remember)
    try:
        yield
    finally:
        with _lock:
            _askers -= 1
            if _askers == 0:
                event.remove(Session, "do_orm_execute", _remember)


def take(sql: object) -> str | None:
    """Return why the ORM sends this statement, "lazy loading of Customer.orders", if it is known.

    Only a SELECT is asked about: between SQLAlchemy's event and the statement that it announces, an autoflush may send
    others.
    """
    cause: str | None = getattr(_pending, "cause", None)
    if cause is None or not isinstance(sql, str) or sql.lstrip()[:6].upper() != "SELECT":
        return None
    _pending.cause = None
    return cause


def _remember(state: ORMExecuteState) -> None:
    _pending.cause = _cause(state)


def _cause(state: ORMExecuteState) -> str | None:
    if state.is_relationship_load and state.loader_strategy_path is not None:
        names = [
            f"{mapper.class_.__name__}.{attribute.key}"
            for mapper, attribute in state.loader_strategy_path.pairs()
            if isinstance(attribute, MapperProperty)
        ]
        if names:
            how = "lazy loading" if state.lazy_loaded_from is not None else "eager loading"
            return f"{how} of {names[-1]}"
    if state.is_column_load:
        mapper = state.bind_mapper
        return f"loading deferred or expired columns of {mapper.class_.__name__ if mapper is not None else 'an object'}"
    return None
