"""What is made once per class, handed to each test as copies of its own.

``setUpTestData`` leaves persistent objects on the class. A test that changed them in place would change them for its
successors, and an object of a closed session is of no use to a test anyway. So each such class attribute is replaced by
a descriptor that gives every test its own persistent copy in the test's session. As long as the test has sent nothing
the copy is made without a query (SQLAlchemy's ``Session.merge(load=False)``); after that it is loaded, so that it never
shows what is no longer so. The session's identity map keeps relations and identities between the copies.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

from sqlalchemy import inspect
from sqlalchemy.ext.mutable import MutableBase
from sqlalchemy.orm import Session

__all__ = ["ClassDatum", "hand_out", "take_back"]

_MISSING = object()


class ClassDatum:
    """A class attribute that reads as the original on the class and as a fresh copy on a test."""

    def __init__(self, name: str, original: Any, replaced: Any = _MISSING) -> None:
        self._name = name
        self.original = original
        self.replaced = replaced

    def __get__(self, test: Any, owner: type) -> Any:
        if test is None:
            return self.original
        running = owner._dbtestcase  # type: ignore[attr-defined]

        def copied(persistent: Any) -> Any:
            return _copy_object(persistent, test.session, running.is_untouched)

        # In the instance's __dict__, which wins over a descriptor without __set__: the second access within a test
        # is free and gives the same object, and a test may assign to the name.
        mine = test.__dict__[self._name] = _copy(self.original, copied, {})
        return mine


def hand_out(cls: type, before: dict[str, Any]) -> list[str]:
    """Replace what ``setUpTestData`` put on ``cls`` by descriptors and return the names of those attributes.

    These are the persistent objects and the collections; anything else is left as it is.

    Args:
        before: The class's ``__dict__`` as it was before the hook ran. What did not change since then is left alone,
            unless it is a collection of the class body that got persistent objects.
    """
    names = []
    for name, value in list(vars(cls).items()):
        known = before.get(name, _MISSING)
        holds_persistent = any(map(_is_persistent, _objects(value)))
        if holds_persistent or (known is not value and _kind(value) in (list, dict, set)):
            for each in _objects(value):
                _detach(each)
            setattr(cls, name, ClassDatum(name, value, known))
            names.append(name)
    return names


def take_back(cls: type, names: list[str]) -> None:
    """Let the attributes that :func:`hand_out` replaced be what they were before the hook."""
    for name in names:
        datum = vars(cls).get(name)
        if isinstance(datum, ClassDatum) and datum.replaced is _MISSING:
            delattr(cls, name)
        elif isinstance(datum, ClassDatum):
            setattr(cls, name, datum.replaced)


def _is_persistent(value: Any) -> bool:
    # The type is asked first: to inspect an engine is to connect, and a proxy may have nothing behind it.
    if inspect(type(value), raiseerr=False) is None:
        return False
    state = inspect(value)
    return bool(state.has_identity) and not state.was_deleted


def _kind(value: Any) -> Any:
    """Return which kind of collection a value is, or ``None``."""
    for kind in (list, tuple, dict, set, frozenset):
        if issubclass(type(value), kind):
            return kind
    return dataclasses.dataclass if dataclasses.is_dataclass(type(value)) else None


def _fields(value: Any) -> list[tuple[str, Any]]:
    return [(each.name, getattr(value, each.name)) for each in dataclasses.fields(value) if hasattr(value, each.name)]


def _objects(value: Any, seen: set[int] | None = None) -> Iterator[Any]:
    """Yield a value and what the collections in it hold, except for the collections themselves."""
    seen = set() if seen is None else seen
    if id(value) in seen:
        return
    kind = None if _is_persistent(value) else _kind(value)  # a model may be a dataclass
    if kind is None:
        yield value
        return
    seen.add(id(value))
    if kind is dict:
        members: Any = (*value.keys(), *value.values())
    elif kind is dataclasses.dataclass:
        members = [member for _, member in _fields(value)]
    else:
        members = value
    for member in members:
        yield from _objects(member, seen)


def _detach(value: Any) -> None:
    """Load an object and let go of the session that made it, so that no test can reach that through it."""
    if not _is_persistent(value):
        return
    session = inspect(value).session
    if session is not None:
        if inspect(value).expired:
            session.refresh(value)
        session.expunge(value)


def _copy(value: Any, copied: Callable[[Any], Any], made: dict[int, Any]) -> Any:
    """Return a copy of a value, in which ``copied`` stands for each persistent object.

    Args:
        made: The copies of collections so far: one that occurs twice, or within itself, does so in the copy.
    """
    if id(value) in made:
        return made[id(value)]
    if _is_persistent(value):
        return copied(value)
    kind = _kind(value)
    if kind is None:
        return value

    def again(member: Any) -> Any:
        return _copy(member, copied, made)

    if kind is tuple:
        members = [again(member) for member in value]
        # A named tuple takes its members one by one.
        mine: Any = type(value)(*members) if hasattr(value, "_fields") else type(value)(members)
        made[id(value)] = mine
        return mine
    if kind is frozenset:
        return made.setdefault(id(value), type(value)(map(again, value)))
    mine = made[id(value)] = _empty(value, kind)
    if kind is list:
        mine.extend(map(again, value))
    elif kind is set:
        mine.update(map(again, value))
    elif kind is dict:
        mine.update((again(key), again(member)) for key, member in value.items())
    else:
        for name, member in _fields(value):
            object.__setattr__(mine, name, again(member))  # it may be frozen
    return mine


def _empty(value: Any, kind: Any) -> Any:
    # The collection of a relationship belongs to its object, and would tell that of each change.
    if type(value) is kind or type(value).__module__.startswith("sqlalchemy."):
        return kind()
    mine = copy.copy(value)  # a defaultdict keeps its factory
    if kind is not dataclasses.dataclass:
        mine.clear()
    return mine


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
    before = set(session.identity_map.keys())
    mine = session.merge(original, load=False)
    # With those that came along through relationships.
    for state in session.identity_map.all_states():
        if state.key not in before:
            _own_values(state, session)
    return mine


def _own_values(state: Any, session: Session) -> None:
    """Part an object's values from those of the original: a test may change them in place."""
    reload = []
    for attribute in state.mapper.column_attrs:
        value = state.dict.get(attribute.key)
        if isinstance(value, MutableBase):
            reload.append(attribute.key)  # only one that was loaded knows its object
        elif value is not None and type(value).__hash__ is None:
            mine = _MISSING
            with suppress(Exception):
                mine = copy.deepcopy(value)
            if mine is _MISSING:
                reload.append(attribute.key)
            else:
                state.dict[attribute.key] = mine
    if reload:
        session.expire(state.obj(), reload)
