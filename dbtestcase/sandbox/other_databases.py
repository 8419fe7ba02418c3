"""While a class runs, no engine connects to a server that is not ours unless the class says so.

It watches the ``do_connect`` event of all engines, and what their pools hand out that was opened before the class. New
connections of engines with a ``creator`` of their own, and drivers that are called without SQLAlchemy, are not seen.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, NamedTuple

import sqlalchemy as sa
from sqlalchemy import event
from sqlalchemy.pool import Pool

from dbtestcase.errors import UndeclaredDatabase
from dbtestcase.frames import user_origin

# Dialects whose database is a file or memory.
_SERVERLESS = frozenset({"sqlite", "duckdb", "access"})

_guards: dict[str, _Guard] = {}
_is_listening = False


class _Guard(NamedTuple):
    is_ours: Callable[[str, str, str], bool]
    since: float


def forbid_other_databases(owner: str, is_ours: Callable[[str, str, str], bool]) -> None:
    """Begin to refuse connections to servers that are not ours.

    Args:
        owner: The name of the test class.
        is_ours: Called with host, port and database; says whether this is one of the class's.
    """
    global _is_listening
    _guards[owner] = _Guard(is_ours, time.time())
    if not _is_listening:
        _is_listening = True
        event.listen(sa.Engine, "do_connect", _before_connect, insert=True)
        event.listen(Pool, "checkout", _before_use)


def allow_other_databases(owner: str) -> None:
    """End what :func:`forbid_other_databases` began; does nothing if it was not called."""
    _guards.pop(owner, None)


def _before_connect(dialect: sa.Dialect, record: Any, arguments: Any, parameters: dict[str, Any]) -> None:
    if not _guards or dialect.name in _SERVERLESS:
        return
    host = str(parameters.get("host") or parameters.get("hostaddr") or "")
    port = str(parameters.get("port") or "5432")
    database = str(parameters.get("dbname") or parameters.get("database") or "")
    if not _is_one_of_ours(host, port, database):
        raise _refusal(f"an engine tried to connect to {_named(dialect, host, port, parameters)}", "connected to")


def _before_use(connection: Any, record: Any, fairy: Any) -> None:
    if not _guards or record.starttime >= next(reversed(_guards.values())).since:
        return
    # What the drivers of PostgreSQL tell; others are not asked.
    info = getattr(connection, "info", None)
    host, port = getattr(info, "host", None), str(getattr(info, "port", ""))
    database = getattr(info, "dbname", "")
    if host and not _is_one_of_ours(host, port, database):
        named = f"database {database!r} of the server at {host!r}"
        raise _refusal(f"an engine tried to use a connection, opened before the class, to the {named}", "used")


def _is_one_of_ours(host: str, port: str, database: str) -> bool:
    return any(guard.is_ours(host, port, database) for guard in _guards.values())


def _refusal(what: str, done: str) -> UndeclaredDatabase:
    owner = next(reversed(_guards))
    return UndeclaredDatabase(
        f"{what} at {user_origin()}, which is not the database of {owner}. It has not been {done}.\n"
        f"Add the engine to {owner}.app_engines, or call cls.redirect_engine(engine) where it is made later, and it "
        f"uses the class's database. If {owner} is meant to talk to that server, set allow_other_databases = True."
    )


def _named(dialect: sa.Dialect, host: str, port: str, parameters: dict[str, Any]) -> str:
    database = parameters.get("dbname") or parameters.get("database") or parameters.get("db")
    user = parameters.get("user") or parameters.get("username")
    secret = parameters.get("password") or parameters.get("passwd")
    url = sa.URL.create(
        f"{dialect.name}+{dialect.driver}",
        username=str(user) if user else None,
        password="***" if secret else None,
        host=host if "/" not in host else None,
        port=int(port) if host and port.isdigit() else None,
        database=str(database) if database else None,
        query={"host": host} if "/" in host else {},
    )
    return repr(url.render_as_string())
