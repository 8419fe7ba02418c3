"""While a class runs, no engine connects to a server that is not ours unless the class says so.

It watches the ``do_connect`` event of all engines. Engines with a ``creator`` of their own, and drivers that are called
without SQLAlchemy, are not seen.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import sqlalchemy as sa
from sqlalchemy import event

from dbtestcase.diagnosis.origin import user_origin
from dbtestcase.errors import UndeclaredDatabase

# Dialects whose database is a file or memory.
_SERVERLESS = frozenset({"sqlite", "duckdb", "access"})

_guards: dict[str, Callable[[str, str], bool]] = {}
_is_listening = False


def forbid_other_databases(owner: str, is_ours: Callable[[str, str], bool]) -> None:
    """Begin to refuse connections to servers that are not ours.

    Args:
        owner: The name of the test class.
        is_ours: Called with host and port; says whether a server was started by this library.
    """
    global _is_listening
    _guards[owner] = is_ours
    if not _is_listening:
        _is_listening = True
        event.listen(sa.Engine, "do_connect", _before_connect, insert=True)


def allow_other_databases(owner: str) -> None:
    """End what :func:`forbid_other_databases` began; does nothing if it was not called."""
    _guards.pop(owner, None)


def _before_connect(dialect: sa.Dialect, record: Any, arguments: Any, parameters: dict[str, Any]) -> None:
    if not _guards or dialect.name in _SERVERLESS:
        return
    host = str(parameters.get("host") or parameters.get("hostaddr") or "")
    port = str(parameters.get("port") or "5432")
    if any(is_ours(host, port) for is_ours in _guards.values()):
        return
    owner = next(reversed(_guards))
    raise UndeclaredDatabase(
        f"an engine tried to connect to {_named(dialect, host, port, parameters)} at {user_origin()}, which is not the "
        f"database of {owner}. It has not been connected to.\n"
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
        port=int(port) if port.isdigit() else None,
        database=str(database) if database else None,
        query={"host": host} if "/" in host else {},
    )
    return repr(url.render_as_string())
