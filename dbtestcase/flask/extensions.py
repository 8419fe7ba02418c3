"""The database extensions of Flask applications: which there are, and which engines they made.

An application may have been made before the test class (at module level), by its ``create_app``, or by each test in
its ``setUp``; its extension may be known to the class or not. So nothing is asked of the user: an application is found
when an extension is initialised with it, before anything can have connected, or else when a context of it is pushed,
without which an extension gives no engine away.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from weakref import WeakSet, ref

from flask import Flask, appcontext_pushed
from sqlalchemy import Engine, MetaData

__all__ = [
    "Applications",
    "applications_of",
    "engines_of",
    "extension_of",
    "imported_by",
    "tables_of",
    "watching_applications",
]

_MODULES = ("flask_sqlalchemy", "flask_sqlalchemy_lite")
_DEFAULT_KEYS = (None, "default")  # of Flask-SQLAlchemy, and of Flask-SQLAlchemy-Lite


def _installed_kinds() -> tuple[type, ...]:
    kinds = []
    for name in _MODULES:
        try:
            kinds.append(importlib.import_module(name).SQLAlchemy)
        except ImportError:
            continue  # either will do, and so will none: an application may use plain SQLAlchemy
    return tuple(kinds)


_KINDS = _installed_kinds()
# Hundreds may lie about until the garbage collector comes; a later class has no use for them.
_made_for_a_test: WeakSet[Flask] = WeakSet()


def imported_by(cls: type) -> Any | None:
    """Return the only extension among the globals of the modules that define ``cls`` and its bases, if there is one."""
    modules = {base.__module__ for base in cls.__mro__ if not base.__module__.startswith("dbtestcase.")}
    found: dict[int, Any] = {}
    for module in modules:
        for value in list(vars(sys.modules.get(module, object)).values()):
            # By type(), because isinstance() would ask Flask's proxies what they stand for.
            if issubclass(type(value), _KINDS):
                found[id(value)] = value
    return next(iter(found.values())) if len(found) == 1 else None


def extension_of(app: Flask) -> Any | None:
    """Return the extension that an application was given, if any."""
    found = app.extensions.get("sqlalchemy")
    # An application on plain SQLAlchemy may keep an engine or a session factory under this name.
    return found if hasattr(type(found), "engines") else None


def applications_of(extension: Any) -> list[Flask]:
    """Return the applications that an extension has been initialised with, those of earlier test classes left out."""
    # Neither extension names its applications publicly; both keep them as the keys of a weak mapping.
    by_app = getattr(extension, "_app_engines", None) or getattr(extension, "_app_state", None) or {}
    return [app for app in by_app if app not in _made_for_a_test]


def engines_of(extension: Any, app: Flask) -> dict[str | None, Engine]:
    """Return the engines of an application by bind key, ``None`` for the default one."""
    made = getattr(extension, "_app_engines", {}).get(app)
    if made is None:
        made = getattr(getattr(extension, "_app_state", {}).get(app), "engines", None)
    if made is None:
        # The public way comes last, because popping a context runs the application's teardown functions.
        with app.app_context():
            made = extension.engines
    return {None if key in _DEFAULT_KEYS else key: engine for key, engine in made.items()}


def tables_of(extension: Any) -> set[tuple[str | None, str]]:
    """Return bind key and name of each table that an extension knows; Flask-SQLAlchemy-Lite knows none."""
    metadatas: dict[str | None, MetaData] = getattr(extension, "metadatas", {})
    return {(key, table) for key, metadata in metadatas.items() for table in metadata.tables}


@contextmanager
def watching_applications(found: Callable[[Flask], None], extension: Any = None) -> Iterator[None]:
    """While the block runs, call ``found`` with each application that an extension or a context is made for.

    Args:
        extension: One whose class is of neither known kind is watched as well.
    """

    def pushed(app: Flask, **_: Any) -> None:
        found(app)

    kinds = _KINDS if extension is None or issubclass(type(extension), _KINDS) else (*_KINDS, type(extension))
    with ExitStack() as undo:
        for kind in kinds:
            undo.enter_context(_initialised(kind, found))
        appcontext_pushed.connect(pushed, weak=False)
        undo.callback(appcontext_pushed.disconnect, pushed)
        yield


@contextmanager
def _initialised(kind: Any, found: Callable[[Flask], None]) -> Iterator[None]:
    own = kind.__dict__.get("init_app")
    inherited = kind.init_app

    def init_app(self: Any, app: Flask, *args: Any, **kwargs: Any) -> Any:
        made = inherited(self, app, *args, **kwargs)
        _made_for_a_test.add(app)
        found(app)
        return made

    # On the class, since an application factory may make an extension of its own.
    kind.init_app = init_app
    try:
        yield
    finally:
        if own is None:
            del kind.init_app
        else:
            kind.init_app = own


class Applications:
    """The applications that a running class has found, none of which it keeps alive."""

    def __init__(self) -> None:
        self._engines: dict[ref[Flask], list[Engine]] = {}
        self._collected: list[ref[Flask]] = []

    def __contains__(self, app: Flask) -> bool:
        return ref(app) in self._engines

    def add(self, app: Flask, engines: list[Engine]) -> None:
        """Note the engines of an application."""
        # An application ends whenever the garbage collector finds it. That may be within a statement of another one,
        # so what follows from it waits until somebody calls engines_of_collected().
        self._engines[ref(app, self._collected.append)] = engines

    def engines_of_collected(self) -> list[Engine]:
        """Return, once, the engines of the applications that exist no more."""
        engines = []
        while self._collected:
            engines += self._engines.pop(self._collected.pop(), [])
        return engines
