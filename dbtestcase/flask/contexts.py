"""The Flask contexts that are pushed: by us, by the test, and those that it forgot to pop.

Below Flask 3.2 a request uses the application context that is already pushed, if it is one of the same application,
and with it ``g`` and the database session. That holds for a context that the user's code pushes; the one that we push
is kept apart from requests (:mod:`dbtestcase.flask.requests`).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any
from weakref import WeakSet

import flask.globals
from flask import Flask

__all__ = [
    "FLASK_VARIABLES",
    "current_application_context",
    "is_shared_with_requests",
    "keep_apart",
    "only_apart_contexts_are_pushed",
    "popping_leftovers",
]

# Flask 3.2 will have one variable where there are two; both kinds of context are popped in the same way.
FLASK_VARIABLES: tuple[ContextVar[Any], ...] = tuple(
    getattr(flask.globals, name) for name in ("_cv_request", "_cv_app") if hasattr(flask.globals, name)
)

_apart: WeakSet[Any] = WeakSet()


def current_application_context() -> Any | None:
    """Return the application context that is pushed, if one is."""
    return flask.globals._cv_app.get(None)


def keep_apart(context: Any) -> None:
    """Let requests have contexts of their own although this one is pushed."""
    _apart.add(context)


def only_apart_contexts_are_pushed() -> bool:
    """Whether the user's code has pushed no context."""
    return all(context is None or context in _apart for context in _current())


def is_shared_with_requests(app: Flask) -> bool:
    """Whether Flask lets a request of ``app`` use the application context that is pushed."""
    context = current_application_context()
    return len(FLASK_VARIABLES) == 2 and context is not None and context.app is app


@contextmanager
def popping_leftovers() -> Iterator[None]:
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
