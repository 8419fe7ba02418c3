"""Requests and commands of a test get contexts of their own, as they have in production.

Below 3.2 Flask gives a request the application context that is already pushed. The one that we push for a test would so
share ``g`` and the database session with the code under test, and hide every bug that lies between them: it is out of
sight while a request or a command runs. Where the user's code has pushed a context, Flask's own rules hold.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import closing, contextmanager
from contextvars import Context, ContextVar, copy_context
from functools import cached_property
from typing import Any, ParamSpec, TypeVar

from flask import Flask, has_request_context
from flask.testing import FlaskCliRunner

from dbtestcase.flask.contexts import (
    FLASK_VARIABLES,
    is_shared_with_requests,
    keep_apart,
    only_apart_contexts_are_pushed,
)

__all__ = ["own_contexts"]

P = ParamSpec("P")
T = TypeVar("T")

_is_in_request: ContextVar[bool] = ContextVar("dbtestcase_is_in_request", default=False)


@contextmanager
def own_contexts(after: Callable[[bool], None]) -> Iterator[None]:
    """Give each request and each command that a test makes contexts of its own, while the block runs.

    Args:
        after: Called when a request or command is over, with the test's contexts in place again; its argument says
            whether the request has used the application context of the test.
    """
    call, invoke = Flask.__call__, FlaskCliRunner.invoke

    def called(self: Flask, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        if _is_in_request.get():  # a request that the code under test makes of its own application
            return call(self, environ, start_response)
        if not only_apart_contexts_are_pushed():
            shares = is_shared_with_requests(self)
            try:
                return call(self, environ, start_response)
            finally:
                after(shares)
        own = _OwnContext(after)
        preserve = environ.get("werkzeug.debug.preserve_context")
        if preserve is None:
            return _Body(own.run(call, self, environ, start_response), own)

        def preserve_apart(context: Any) -> None:
            keep_apart(context)  # the client pushes it again, but other requests have nothing to do with it
            preserve(context)

        environ["werkzeug.debug.preserve_context"] = preserve_apart
        body = _Body(own.run(call, self, environ, start_response), own)
        # In a with block of the client Flask pushes the request's contexts again, for the test to look at. A body that
        # is still being made shares them: it has to be read where they are pushed, or, as before Flask 3.1.2 they are
        # still pushed by the body itself, to its end before that.
        return body.read() if own.run(has_request_context) else body.shared()

    def invoked(self: FlaskCliRunner, *args: Any, **kwargs: Any) -> Any:
        if _is_in_request.get():
            return invoke(self, *args, **kwargs)
        if not only_apart_contexts_are_pushed():
            try:
                return invoke(self, *args, **kwargs)
            finally:
                after(True)
        return _OwnContext(after).run(invoke, self, *args, **kwargs)

    # On the classes: whichever application a test makes, however its wsgi_app is wrapped, and whoever made the client.
    application: Any = Flask
    runner: Any = FlaskCliRunner
    application.__call__, runner.invoke = called, invoked
    try:
        yield
    finally:
        application.__call__, runner.invoke = call, invoke


class _OwnContext:
    """Where no Flask context is pushed, as a server calls an application; all other context variables are the same."""

    def __init__(self, after: Callable[[bool], None]) -> None:
        self._after = after
        self._context = Context()
        self._context.run(_take_over, copy_context())

    def run(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        try:
            return self._context.run(function, *args, **kwargs)
        finally:
            self._after(False)

    def run_at_any_time(self, function: Callable[[], None]) -> None:
        """Run a function without a word to the test, which may be in the middle of something."""
        self._context.run(function)


def _take_over(variables: Context) -> None:
    for variable, value in variables.items():
        if variable not in FLASK_VARIABLES:
            variable.set(value)
    _is_in_request.set(True)


class _Body:
    """The body of a response. Streamed parts are made in the request's contexts too, whenever they are read."""

    def __init__(self, body: Iterable[bytes], own: _OwnContext) -> None:
        self._body = body
        self._own = own
        self._is_closed = False

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        return self._own.run(next, self._parts)

    @cached_property
    def _parts(self) -> Iterator[bytes]:
        return iter(self._body)

    def shared(self) -> Iterable[bytes]:
        """Return the body as the application made it; whoever has it then closes it."""
        self._is_closed = True
        return self._body

    def read(self) -> list[bytes]:
        """Return all parts."""
        with closing(self):
            return list(self)

    def close(self) -> None:
        if not self._is_closed:
            self._is_closed = True
            self._own.run(self._close)

    def _close(self) -> None:
        close = getattr(self._body, "close", None)
        if close is not None:
            close()

    def __del__(self) -> None:
        # Nobody has read it to its end. Left to the generator, its contexts would be popped among those of the test,
        # and the application's teardown functions would take the test's session for that of the request.
        if not self._is_closed:
            self._is_closed = True
            self._own.run_at_any_time(self._close)
