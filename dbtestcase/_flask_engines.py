"""Every engine that a Flask extension has or will make, redirected.

An application may have been made before the class (at module level), by its ``create_app``, or by each test in its
``setUp``. The engines of the first are looked up; those of the others are met as the extension makes them, in its
``init_app``, before anything can have connected.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from flask import Flask
from sqlalchemy import Engine

__all__ = ["redirecting"]

_DEFAULT_KEYS = (None, "default")  # of Flask-SQLAlchemy, and of Flask-SQLAlchemy-Lite


@contextmanager
def redirecting(
    db: Any,
    redirect: Callable[[str | None, Engine, Engine | None], None],
    prepare: Callable[[Flask], None],
) -> Iterator[None]:
    """Redirect the engines of ``db``, present and future, while the block runs.

    Args:
        db: A Flask-SQLAlchemy or Flask-SQLAlchemy-Lite extension, or ``None`` if the application uses neither.
        redirect: Takes a bind key (``None`` for the default), its engine, and the default bind's engine if any.
        prepare: Takes each application that ``db`` is initialised with from now on.
    """
    if db is None:
        yield
        return
    kind = type(db)
    original = kind.__dict__.get("init_app")

    def init_app(self: Any, app: Flask, *args: Any, **kwargs: Any) -> Any:
        made = inherited(self, app, *args, **kwargs)
        _redirect_engines(self, app, redirect)
        prepare(app)
        return made

    inherited = kind.init_app
    # On the class, since an application factory may make an extension of its own.
    kind.init_app = init_app
    try:
        for app in _known_apps(db):
            _redirect_engines(db, app, redirect)
        yield
    finally:
        if original is None:
            del kind.init_app
        else:
            kind.init_app = original


def _known_apps(db: Any) -> list[Flask]:
    # Neither extension names its applications publicly; both keep them as the keys of a weak mapping.
    by_app = getattr(db, "_app_engines", None) or getattr(db, "_app_state", None) or {}
    return list(by_app)


def _redirect_engines(db: Any, app: Flask, redirect: Callable[[str | None, Engine, Engine | None], None]) -> None:
    with app.app_context():
        engines = dict(db.engines)
    main = next((engines[key] for key in _DEFAULT_KEYS if key in engines), None)
    for key, engine in engines.items():
        redirect(None if key in _DEFAULT_KEYS else key, engine, main)
