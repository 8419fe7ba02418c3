"""Requests and commands of a test get contexts of their own, as they have in production.

Flask gives a request the application context that is already pushed, if there is one; a test that pushed its own would
share ``g`` and the database session with the code under test, and hide every bug that lies between them. So the test's
context is out of sight while a request or a command of the application runs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from contextvars import Context, copy_context
from typing import Any, TypeVar

from flask import Flask
from flask.globals import _cv_app, _cv_request
from flask.testing import FlaskCliRunner

__all__ = ["own_contexts"]

T = TypeVar("T")


@contextmanager
def own_contexts(app: Flask, after: Callable[[], None]) -> Iterator[None]:
    """Give each request and each command of ``app`` an application context of its own.

    Args:
        after: Called when a request or command is over, with the test's context in place again.
    """
    if getattr(app.wsgi_app, "_dbtestcase", False):
        yield
        return
    wsgi_app = app.wsgi_app

    def isolated(environ: Any, start_response: Any) -> Iterable[bytes]:
        return _out_of_sight(after, wsgi_app, environ, start_response)

    isolated._dbtestcase = True  # type: ignore[attr-defined]
    runner_class = app.test_cli_runner_class or FlaskCliRunner

    class IsolatedRunner(runner_class):  # type: ignore[misc, valid-type]
        def invoke(self, *args: Any, **kwargs: Any) -> Any:
            return _out_of_sight(after, super().invoke, *args, **kwargs)

    had_runner_class = app.test_cli_runner_class
    app.wsgi_app = isolated  # type: ignore[method-assign]
    app.test_cli_runner_class = IsolatedRunner
    try:
        yield
    finally:
        app.wsgi_app = wsgi_app  # type: ignore[method-assign]
        app.test_cli_runner_class = had_runner_class


def _out_of_sight(after: Callable[[], None], call: Callable[..., T], *args: Any, **kwargs: Any) -> T:
    """Call a function where no Flask context is pushed, as a server does; all other context variables are the same."""
    variables = copy_context()

    def begin() -> T:
        for variable, value in variables.items():
            if variable is not _cv_app and variable is not _cv_request:
                variable.set(value)
        return call(*args, **kwargs)

    try:
        return Context().run(begin)
    finally:
        after()
