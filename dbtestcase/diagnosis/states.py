"""Describes the state of a mapped object in a sentence, and how it came to be in that state."""

from __future__ import annotations

import sys
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any, NamedTuple

from sqlalchemy import event, inspect
from sqlalchemy.exc import NoInspectionAvailable
from sqlalchemy.orm import InstanceState, Session
from sqlalchemy.orm.attributes import instance_state

from dbtestcase.diagnosis import messages
from dbtestcase.diagnosis.redaction import Redaction
from dbtestcase.frames import Origin, usual_call

STATES = ("transient", "pending", "persistent", "deleted", "detached")

# Seen changes are remembered for this many objects of a test: enough for an assertion, nothing for a bulk load.
_REMEMBERED = 200
_EVENTS = (
    "transient_to_pending",
    "pending_to_transient",
    "pending_to_persistent",
    "persistent_to_transient",
    "persistent_to_deleted",
    "persistent_to_detached",
    "deleted_to_detached",
    "detached_to_persistent",
)
_MEANING = {
    "transient": "no session knows it and it has no row; add() it to a session first",
    "pending": "it was added to a session, but nothing was sent yet; flush() or commit() sends it",
    "persistent": "it is in a session and has a row",
    "deleted": "its deletion was flushed, but not committed",
    "detached": "it has an identity, but no session",
}


class _Change(NamedTuple):
    """The last change of an object's state that was seen."""

    state: weakref.ref[InstanceState[Any]]
    to: str
    call: str
    origin: Origin
    name: str
    before: Origin | None  # where the change before this one was


# Keyed by id(); ids are reused, so the state is compared.
_history: dict[int, _Change] = {}
_left = 0
_is_listening = False


def state_of(instance: object) -> str:
    """Return one of :data:`STATES`."""
    state = _instance_state(instance)
    return next(name for name in STATES if getattr(state, name))


def wrong_state(instance: object, expected: str, redaction: Redaction) -> str | None:
    """Return a sentence if an object is not in the expected state."""
    actual = state_of(instance)
    if actual == expected:
        return None
    reason = _because(_instance_state(instance), actual)
    return f"{describe(instance, redaction)} is {actual}, {expected} expected: {reason}."


def describe(instance: object, redaction: Redaction) -> str:
    """Return class and identity of an object; loads nothing."""
    state = _instance_state(instance)
    name = state.mapper.class_.__name__
    if state.identity is not None:
        keys = (state.mapper.get_property_by_column(column).key for column in state.mapper.primary_key)
        shown = (
            f"{key}={redaction.cell(key, value, repr(value))}" for key, value in zip(keys, state.identity, strict=True)
        )
        return f"{name}({', '.join(shown)})"
    return f"{name} object"


def cease() -> None:
    """Note nothing more until the next test."""
    global _left
    _left = 0


def begin_test() -> None:
    """Forget what was seen in the test before."""
    global _left
    _left = _REMEMBERED
    _history.clear()


@contextmanager
def watching() -> Iterator[None]:
    """Note, for the time of the block, which call of whose line moved an object from one state to another."""
    global _left
    _listen()
    begin_test()
    try:
        yield
    finally:
        _left = 0
        _history.clear()


def _listen() -> None:
    # Once per process: listeners that come and go with each class cost every class more than idle ones cost a flush.
    global _is_listening
    if not _is_listening:
        _is_listening = True
        for name in _EVENTS:
            event.listen(Session, name, _listener(name.rpartition("_to_")[2]))


def _listener(to: str) -> Callable[[Session, object], None]:
    def moved(session: Session, instance: object) -> None:
        global _left
        if _left <= 0:
            return
        _left -= 1
        state = instance_state(instance)
        before = _seen(state)
        call, origin = _session_call(moved.__name__)
        name = state.mapper.class_.__name__
        _history[id(state)] = _Change(weakref.ref(state), to, call, origin, name, before.origin if before else None)

    moved.__name__ = f"moved_to_{to}"
    return moved


def _seen(state: InstanceState[Any]) -> _Change | None:
    change = _history.get(id(state))
    return change if change is not None and change.state() is state else None


def _session_call(way: str) -> tuple[str, Origin]:
    """Return the name of the session's method that the user's line called, and that line."""
    called, origin = usual_call(way)
    name = called.f_code.co_name
    return (name if _is_public(called) else _outermost_method(sys._getframe(2))), origin


def _outermost_method(frame: FrameType | None) -> str:
    name = ""
    while frame is not None and "sqlalchemy" in frame.f_code.co_filename:
        if _is_public(frame):
            name = frame.f_code.co_name
        frame = frame.f_back
    return name


def _is_public(frame: FrameType) -> bool:
    code = frame.f_code
    return "sqlalchemy" in code.co_filename and not code.co_name.startswith(("_", "do"))


def _because(state: InstanceState[Any], actual: str) -> str:
    reason = _MEANING[actual]
    seen = _seen(state)
    if actual == "detached" and state.was_deleted:
        reason += "; it was deleted"
    elif actual == "detached" and seen is None:
        reason += "; its session was closed or removed, or it was expunged"
    if seen is not None and seen.call:
        reason += f". It became so by {seen.call}() at {seen.origin}"
    return reason


def _instance_state(instance: object) -> InstanceState[Any]:
    try:
        state = inspect(instance)
    except NoInspectionAvailable:
        state = None
    if not isinstance(state, InstanceState):
        kind = f"the class {instance.__name__}" if isinstance(instance, type) else f"{instance!r}"
        raise TypeError(f"an instance of a mapped class is needed, but {kind} is none.")
    return state


# A flush that PostgreSQL refused makes an object transient within the call that flushed.
_SENT_OR_MEANT = frozenset({"commit", "expunge", "flush"})


def never_sent() -> str | None:
    """Say which object of the test was added to a session that was closed before it was flushed."""
    for change in _history.values():
        if change.to == "transient" and change.before is not None and change.call not in _SENT_OR_MEANT:
            return messages.NEVER_SENT.format(object=f"a {change.name} object", added=change.before)
    return None


def unsent(session: Session, redaction: Redaction) -> str:
    """Say what the test's session holds that no query can see; "" if there is nothing."""
    parts = []
    for what, objects in (("new", session.new), ("changed", session.dirty), ("deleted", session.deleted)):
        touched = [each for each in objects if what != "changed" or session.is_modified(each)]
        if touched:
            names = ", ".join(_with_origin(each, redaction) for each in touched[:3])
            more = f" and {len(touched) - 3} more" if len(touched) > 3 else ""
            parts.append(f"{what}: {names}{more}")
    return messages.UNSENT.format(changes="; ".join(parts)) if parts else ""


def _with_origin(instance: object, redaction: Redaction) -> str:
    change = _seen(_instance_state(instance))
    added = f", added at {change.origin}" if change is not None and change.to == "pending" else ""
    return f"{describe(instance, redaction)}{added}"
