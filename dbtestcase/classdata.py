"""Objects made once per class, handed to each test as copies of its own.

``setUpTestData`` leaves persistent objects on the class. A test that changed them in place would change them for its
successors, and an object of a closed session is of no use to a test anyway. So each such class attribute is replaced by
a descriptor that gives every test its own persistent copy in the test's session. As long as the test has sent nothing
the copy is made without a query (SQLAlchemy's ``Session.merge(load=False)``); after that it is loaded, so that it never
shows what is no longer so. The session's identity map keeps relations and identities between the copies.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from sqlalchemy import inspect
from sqlalchemy.orm import Session
from sqlalchemy.orm.exc import UnmappedInstanceError

__all__ = ["ClassDatum", "hand_out", "take_back"]


class ClassDatum:
    """A class attribute that reads as the original on the class and as a fresh copy on a test."""

    def __init__(self, name: str, original: Any) -> None:
        self._name = name
        self.original = original

    def __get__(self, test: Any, owner: type) -> Any:
        if test is None:
            return self.original
        # In the instance's __dict__, which wins over a descriptor without __set__: the second access within a test
        # is free and gives the same object, and a test may assign to the name.
        running = owner._running()  # type: ignore[attr-defined]
        copy = test.__dict__[self._name] = _copy(self.original, test.session, running.is_untouched)
        return copy


def hand_out(cls: type, before: dict[str, Any]) -> list[str]:
    """Replace what ``setUpTestData`` put on ``cls`` by descriptors and return the names of those attributes.

    Args:
        before: The class's ``__dict__`` as it was before the hook ran; attributes that did not change are left alone.
    """
    names = []
    for name, value in list(vars(cls).items()):
        if name in before and before[name] is value:
            continue
        if _holds_persistent(value):
            _detach(value)
            setattr(cls, name, ClassDatum(name, value))
            names.append(name)
    return names


def take_back(cls: type, names: list[str]) -> None:
    """Remove the attributes that :func:`hand_out` replaced."""
    for name in names:
        if isinstance(vars(cls).get(name), ClassDatum):
            delattr(cls, name)


def _persistent(value: Any) -> bool:
    try:
        state = inspect(value, raiseerr=False)
    except UnmappedInstanceError:
        return False
    return state is not None and bool(getattr(state, "is_instance", False)) and state.has_identity


def _members(value: Any) -> Iterator[Any]:
    if isinstance(value, dict):
        yield from value.values()
    elif isinstance(value, (list, tuple)):
        yield from value


def _holds_persistent(value: Any) -> bool:
    return _persistent(value) or any(_holds_persistent(member) for member in _members(value))


def _detach(value: Any) -> None:
    """Load the objects and let go of the session that made them, so that no test can reach it through them."""
    if _persistent(value):
        session = inspect(value).session
        if session is not None:
            if inspect(value).expired:
                session.refresh(value)
            session.expunge(value)
    for member in _members(value):
        _detach(member)


def _copy(value: Any, session: Session, is_untouched: bool) -> Any:
    if _persistent(value):
        return _copy_object(value, session, is_untouched)
    if isinstance(value, dict):
        return type(value)((key, _copy(member, session, is_untouched)) for key, member in value.items())
    if isinstance(value, (list, tuple)):
        members = [_copy(member, session, is_untouched) for member in value]
        # A named tuple takes its members one by one.
        return type(value)(*members) if hasattr(value, "_fields") else type(value)(members)
    return value


def _copy_object(original: Any, session: Session, is_untouched: bool) -> Any:
    key = inspect(original).key
    known = session.identity_map.get(key)
    if known is not None:
        return known
    if not is_untouched:
        mapper = inspect(type(original))
        loaded = session.get(mapper.class_, mapper.primary_key_from_instance(original))
        if loaded is not None:
            return loaded
    return session.merge(original, load=False)
