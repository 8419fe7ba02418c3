"""What is made once per class, handed to each test as copies of its own.

``setUpTestData`` leaves persistent objects on the class. A test that changed them in place would change them for its
successors, and an object of a closed session is of no use to a test anyway. So each such class attribute is replaced by
a descriptor that gives every test its own persistent copy in the test's session. As long as the test has sent nothing
the copy is made without a query (SQLAlchemy's ``Session.merge(load=False)``); after that it is loaded, so that it never
shows what is no longer so. The session's identity map keeps relations and identities between the copies.

An object that the code under test has made in a session of its own stays there. That session is committed, as that of
the hook is, and otherwise left alone: what tests get are copies of what a session of ours has read.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from typing import Any, Self

from sqlalchemy import inspect
from sqlalchemy.ext.mutable import MutableBase
from sqlalchemy.orm import Session

from dbtestcase.errors import DBTestCaseError

__all__ = ["ClassDatum", "hand_out", "take_back"]

_MISSING = object()


class ClassDatum:
    """A class attribute that reads on the class as what the hook left there, and on a test as a fresh copy.

    Args:
        shown: What the hook left there.
        original: What is copied.
        replaced: What the attribute was before the hook.
    """

    def __init__(self, name: str, shown: Any, original: Any, replaced: Any = _MISSING) -> None:
        self._name = name
        self._shown = shown
        self.original = original
        self.replaced = replaced

    def __get__(self, test: Any, owner: type) -> Any:
        if test is None:
            return self._shown
        running = owner._dbtestcase  # type: ignore[attr-defined]

        def copied(persistent: Any) -> Any:
            session = getattr(test.session, "sync_session", test.session)
            return _copy_object(persistent, session, running.has_data_as_made)

        # In the instance's __dict__, which wins over a descriptor without __set__: the second access within a test
        # is free and gives the same object, and a test may assign to the name.
        mine = test.__dict__[self._name] = _copy(self.original, copied, {})
        return mine


def hand_out(cls: type, before: dict[str, Any], session: Session) -> list[str]:
    """Replace what ``setUpTestData`` put on ``cls`` by descriptors and return the names of those attributes.

    These are the persistent objects and the collections; anything else is left as it is.

    Args:
        before: The class's ``__dict__`` as it was before the hook ran. What did not change since then is left alone,
            unless it is a collection of the class body that got persistent objects.
        session: The session that the hook was given, committed.

    Raises:
        DBTestCaseError: An object is not in the database although its session was committed.
    """
    names = []
    with _OtherSessions(session) as others:
        for name, value in list(vars(cls).items()):
            known = before.get(name, _MISSING)
            objects = list(_objects(value))
            if known is not value or _kind(value) is not None:
                others.commit(objects)
            holds_persistent = any(map(_is_persistent, objects))
            if not holds_persistent and (known is value or _kind(value) not in (list, dict, set)):
                continue
            original = value
            if any(map(others.hold, objects)):
                try:
                    original = _copy(value, others.read, {})
                except _NotCommitted:
                    raise DBTestCaseError(
                        f"{cls.__qualname__}.{name} is not in the database: the session to which setUpTestData has "
                        "added it works within a transaction that is still open.\nAdd it to the session that "
                        "setUpTestData is given, or commit that transaction there."
                    ) from None
            for each in _objects(original):
                _detach(each)
            setattr(cls, name, ClassDatum(name, value, original, known))
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


class _NotCommitted(Exception):
    pass


class _OtherSessions:
    """The sessions of the code under test in which the hook has made objects. A context manager for reading these.

    None of them is closed or asked for an object: every test of the process may use it.
    """

    def __init__(self, own: Session) -> None:
        self._own = own
        self._reading: dict[Any, Session] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for session in self._reading.values():
            session.close()

    def hold(self, value: Any) -> bool:
        """Whether a persistent object belongs to one of them."""
        return _is_persistent(value) and inspect(value).session not in (None, self._own)

    def commit(self, values: Iterable[Any]) -> None:
        """Commit those to which some values belong, and end so what they are reading."""
        for value in values:
            session = inspect(value).session if _is_mapped(value) else None
            if session not in (None, self._own) and session.in_transaction():
                session.commit()

    def read(self, value: Any) -> Any:
        """Return an object of one of them as a session of ours reads it; any other object as it is.

        Raises:
            _NotCommitted: There is no such row for others.
        """
        if not self.hold(value):
            return value
        state = inspect(value)
        bind = state.session.get_bind(state.mapper)
        reading = self._reading.setdefault(bind.engine, Session(bind.engine))
        mine = reading.get(state.mapper.class_, state.identity, identity_token=state.identity_token)
        if mine is None:
            raise _NotCommitted
        return mine


def _is_mapped(value: Any) -> bool:
    # The type is asked: to inspect an engine is to connect, and a proxy may have nothing behind it.
    return inspect(type(value), raiseerr=False) is not None


def _is_persistent(value: Any) -> bool:
    return _is_mapped(value) and inspect(value).has_identity and not inspect(value).was_deleted


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


def _copy_object(original: Any, session: Session, is_as_made: bool) -> Any:
    key = inspect(original).key
    known = session.identity_map.get(key)
    if known is not None:
        return known
    if not is_as_made:
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
        if value is not None and (isinstance(value, MutableBase) or type(value).__hash__ is None):
            mine = _MISSING
            with suppress(Exception):
                mine = copy.deepcopy(value)
            if mine is _MISSING:
                reload.append(attribute.key)
                continue
            state.dict[attribute.key] = mine
            if isinstance(mine, MutableBase):
                mine._parents[state] = attribute.key  # as loading it would do: it tells this object of its changes
    if reload:
        session.expire(state.obj(), reload)
