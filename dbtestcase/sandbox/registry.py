"""Which sandboxes there are: who answers for a URL, and which class is running."""

from __future__ import annotations

import weakref
from collections.abc import Mapping
from typing import TYPE_CHECKING

import sqlalchemy as sa

from dbtestcase.errors import DBTestCaseError

if TYPE_CHECKING:
    from .sandbox import Sandbox

PLUGIN = "dbtestcase"

# Bound late: an engine made from it connects to whichever class is running.
LATE_URL = sa.URL.create("postgresql+psycopg2", query={"plugin": PLUGIN})

_by_address: weakref.WeakValueDictionary[tuple[str, str, str], Sandbox] = weakref.WeakValueDictionary()
_running: dict[str, Sandbox] = {}
_late_engines: weakref.WeakSet[sa.Engine] = weakref.WeakSet()


def address(url: sa.URL) -> tuple[str, str, str]:
    """Return host, port and database of a URL."""
    host = url.host or url.query.get("host") or ""
    port = url.port or url.query.get("port") or 5432
    return str(host), str(port), url.database or ""


def enter(sandbox: Sandbox, url: sa.URL) -> None:
    """Let ``create_engine(url)`` find this sandbox."""
    _by_address[address(url)] = sandbox


def leave(sandbox: Sandbox) -> None:
    """Forget a sandbox that is closed."""
    for key in [key for key, found in _by_address.items() if found is sandbox]:
        del _by_address[key]


def find(url: sa.URL) -> Sandbox | None:
    """Return the sandbox that answers for a URL, None for the late-bound one.

    Raises:
        DBTestCaseError: The class that the URL belonged to is over.
    """
    if not (url.host or url.query.get("host")):
        return None
    sandbox = _by_address.get(address(url))
    if sandbox is None:
        raise DBTestCaseError(
            f"no test class runs the database {url.render_as_string()!r} any more (or yet). A class's 'url' is good "
            "while the class runs; for an engine that is made once and used by several classes, use dbtestcase.URL.\n"
            'In another process, with isolation = "clone", use instance.url(database=...) with the name that SELECT '
            "current_database() gives in the test."
        )
    return sandbox


def activate(sandboxes: Mapping[str, Sandbox]) -> None:
    """Make these the running class's sandboxes; the first is its main database."""
    _running.clear()
    _running.update(sandboxes)
    for engine in list(_late_engines):
        _let_take_part(engine)


def deactivate() -> None:
    """No class is running any more."""
    for sandbox in _running.values():
        for engine in list(_late_engines):
            sandbox.restore(engine)
    _running.clear()


def running(url: sa.URL) -> Sandbox:
    """Return the sandbox of the running class that a late-bound URL means.

    Raises:
        DBTestCaseError: No class is running, or it has no such database.
    """
    if not _running:
        raise DBTestCaseError(
            "an engine made from dbtestcase.URL was used while no test class was running. It connects to the database "
            "of the DatabaseTestCase that runs; use it inside tests, setUpClass (after super().setUpClass()) or "
            "setUpTestData."
        )
    if not url.database:
        return next(iter(_running.values()))
    if url.database not in _running:
        raise DBTestCaseError(
            f"an engine was made from dbtestcase.URL for the database {url.database!r}, but the running class has only "
            f"{', '.join(map(repr, _running))}. Add it to the class's 'schema' mapping."
        )
    return _running[url.database]


def add_late(engine: sa.Engine) -> None:
    """Take part in every class from now on; in the running one at once."""
    _late_engines.add(engine)
    if _running:
        _let_take_part(engine)


def is_late(engine: sa.Engine) -> bool:
    """Whether an engine was made from the late-bound URL, and so for no driver in particular."""
    return engine in _late_engines


def _let_take_part(engine: sa.Engine) -> None:
    # An engine for a database that only other classes have raises when it is used, not because it exists.
    if not engine.url.database or engine.url.database in _running:
        running(engine.url).redirect(engine)


def running_sandboxes() -> dict[str, Sandbox]:
    return dict(_running)
