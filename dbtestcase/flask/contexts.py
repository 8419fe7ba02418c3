"""The contexts that a test pushed: its own, and those that it forgot to pop."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import flask.globals

__all__ = ["FLASK_VARIABLES", "current_application_context", "popping_what_is_left"]

# Flask 3.2 will have one variable where there are two; both kinds of context are popped in the same way.
FLASK_VARIABLES: tuple[ContextVar[Any], ...] = tuple(
    getattr(flask.globals, name) for name in ("_cv_request", "_cv_app") if hasattr(flask.globals, name)
)


def current_application_context() -> Any | None:
    """Return the application context that is pushed, if one is."""
    return flask.globals._cv_app.get(None)


@contextmanager
def popping_what_is_left() -> Iterator[None]:
    """Pop, at the end of the block, the contexts that were pushed in it and are still there, the last one first."""
    before = _current()
    yield
    faults: list[Exception] = []
    while (innermost := _innermost(before)) is not None:
        left = _current()
        try:
            innermost.pop()
        except Exception as fault:  # a teardown function of the application; the others are popped all the same
            faults.append(fault)
        if _current() == left:  # it refuses to go, because it was pushed elsewhere as well
            for variable, outer in zip(FLASK_VARIABLES, before, strict=True):
                variable.set(outer)
    if faults:
        raise faults[0]


def _current() -> list[Any]:
    return [variable.get(None) for variable in FLASK_VARIABLES]


def _innermost(before: list[Any]) -> Any | None:
    """Return the context that was pushed last, ``None`` if all are as before."""
    left = [now for now, outer in zip(_current(), before, strict=True) if now is not None and now is not outer]
    if len(left) == 2:
        request, application = left
        # A request context that pushed an application context pops it too, so what lies above that comes first.
        own = request._cv_tokens[-1][1] if request._cv_tokens else None
        return request if own is None or own is application else application
    return left[0] if left else None
