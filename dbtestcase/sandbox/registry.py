"""Which databases there are: who answers for a URL, and which class is running."""

from __future__ import annotations

import weakref
from collections.abc import Mapping
from typing import Any

import sqlalchemy as sa

from dbtestcase.errors import DBTestCaseError

__all__ = ["PLUGIN", "URL"]

PLUGIN = "dbtestcase"
_HOST = "dbtestcase"
_DATABASE = "test"
# Takes what somebody appends to the URL, such as the number of a worker; it has no meaning here.
SUFFIX = "suffix"

URL = f"postgresql+psycopg2://{_HOST}/{_DATABASE}?plugin={PLUGIN}&{SUFFIX}="
"""Stands for the database of whichever test class is running: a plain string, for configurations and for engines that
are made once and used by several classes. Another path names another database of the class."""


_by_address: weakref.WeakValueDictionary[tuple[str, str, str], Any] = weakref.WeakValueDictionary()
_running: dict[str, Any] = {}
_late_engines: weakref.WeakSet[sa.Engine] = weakref.WeakSet()


def address(url: sa.URL) -> tuple[str, str, str]:
    """Return host, port and database of a URL."""
    host = url.host or url.query.get("host") or ""
    port = url.port or url.query.get("port") or 5432
    return str(host), str(port), url.database or ""


def enter(database: Any, url: sa.URL) -> None:
    """Let ``create_engine(url)`` find this database."""
    _by_address[address(url)] = database


def leave(database: Any) -> None:
    """Forget a database whose class is over."""
    for key in [key for key, found in _by_address.items() if found is database]:
        del _by_address[key]


def names_running_class(url: sa.URL) -> bool:
    """Whether a URL is :data:`URL`, perhaps with another path or driver."""
    return (url.host or url.query.get("host") or _HOST) == _HOST


def is_ours(url: sa.URL | None) -> bool:
    """Whether it is the URL of an engine that our plugin has made, for a class or for :data:`URL`."""
    return url is not None and PLUGIN in url.normalized_query.get("plugin", ())


def find(url: sa.URL) -> Any:
    """Return the database that answers for a URL, ``None`` for the one that stands for the running class's.

    Raises:
        DBTestCaseError: The class that the URL belonged to is over.
    """
    if names_running_class(url):
        return None
    database = _by_address.get(address(url))
    if database is None:
        raise DBTestCaseError(
            f"no test class runs the database {url.render_as_string()!r} any more (or yet). A class's 'url' is good "
            "while the class runs; for an engine that is made once and used by several classes, use dbtestcase.URL.\n"
            "For another process or program, ask for self.external_url within the test."
        )
    return database


def beside(url: sa.URL) -> Any:
    """Return a database of a running class on the server that a URL names, if the URL names another one there.

    A program that makes databases of its own begins with the address of the one that it knows.
    """
    host, port, database = address(url)
    if names_running_class(url) or (host, port, database) in _by_address:
        return None
    return next((found for key, found in _by_address.items() if key[:2] == (host, port)), None)


def activate(databases: Mapping[str, Any]) -> None:
    """Make these the running class's databases; the first is its main one."""
    _running.clear()
    _running.update(databases)
    for engine in list(_late_engines):
        _let_take_part(engine)


def deactivate() -> None:
    """No class is running any more."""
    for database in _running.values():
        for engine in list(_late_engines):
            database.restore(engine)
    _running.clear()


def running(url: sa.URL) -> Any:
    """Return the database of the running class that :data:`URL` means.

    Raises:
        DBTestCaseError: No class is running, or it has no such database.
    """
    if not _running:
        raise DBTestCaseError(
            "an engine made from dbtestcase.URL was used while no test class was running. It connects to the database "
            "of the DatabaseTestCase that runs; use it inside tests, setUpClass (after super().setUpClass()) or "
            "setUpTestData."
        )
    name = _name(url)
    if name is None:
        return next(iter(_running.values()))
    if name not in _running:
        raise DBTestCaseError(
            f"an engine was made from dbtestcase.URL for the database {name!r}, but the running class has only "
            f"{', '.join(map(repr, _running))}. Add it to the class's 'schema' mapping."
        )
    return _running[name]


def add_late(engine: sa.Engine) -> None:
    """Take part in every class from now on; in the running one at once."""
    _late_engines.add(engine)
    if _running:
        _let_take_part(engine)


def is_late(engine: sa.Engine) -> bool:
    """Whether an engine was made from :data:`URL`, and so for no driver in particular."""
    return engine in _late_engines


def _name(url: sa.URL) -> str | None:
    """Return the database that a URL asks for by name; ``None`` for the class's first."""
    return url.database if url.database and (url.database != _DATABASE or _DATABASE in _running) else None


def _let_take_part(engine: sa.Engine) -> None:
    # An engine for a database that only other classes have raises when it is used, not because it exists.
    name = _name(engine.url)
    if name is None or name in _running:
        running(engine.url).redirect(engine)
