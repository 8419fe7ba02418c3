"""While a class runs, no engine connects to a server that is not ours unless the class says so.

It watches the ``do_connect`` event of all engines, and what their pools hand out that was opened before the class. New
connections of engines with a ``creator`` of their own, and drivers that are called without SQLAlchemy, are not seen.
Files and databases in memory (SQLite) may be used beside the class's database, but not in place of it.

Processes that a test starts with multiprocessing are watched too. Where they are not forked, modules are imported anew
there, and engines made anew, which nobody has redirected.
"""

from __future__ import annotations

import multiprocessing
import threading
import time
import weakref
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import sqlalchemy as sa
from sqlalchemy import event
from sqlalchemy.pool import NullPool, Pool

from dbtestcase.errors import IsolationBroken, UndeclaredDatabase
from dbtestcase.frames import UNKNOWN, Origin, is_installed, user_origin

from . import registry
from .connection import SandboxConnection
from .engine_origins import made_at, url_of

__all__ = ["Guard", "allow_other_databases", "forbid_other_databases"]

# Dialects whose database is a file or memory.
_SERVERLESS = frozenset({"sqlite", "duckdb", "access"})
_MOST_SHOWN = 3
# Among what each process of multiprocessing hands on to those that it starts.
_INHERITED = "dbtestcase"

_guards: dict[str, Guard] = {}
# Threads of tests whose class has ended, with its name: the engines are led to the application's own server again.
_left: weakref.WeakKeyDictionary[threading.Thread, str] = weakref.WeakKeyDictionary()
_is_listening = False


class _Connection(NamedTuple):
    """Where an engine has connected to something that is not ours."""

    url: str
    made: Origin
    used: Origin


@dataclass
class Guard:
    """What one running test class forbids.

    Args:
        owner: The name of the test class.
        is_ours: Called with host, port and database; says whether this is one of the class's.
        redirected: Returns the URLs for which its redirected engines were made.
        allowed: Hosts, or URLs, of servers that may be connected to; for a database without a server its URL.
    """

    owner: str
    is_ours: Callable[[str, str, str], bool]
    redirected: Callable[[], Collection[sa.URL]] = tuple
    allowed: Collection[str | sa.URL] = ()
    since: float = field(default_factory=time.time)
    elsewhere: list[_Connection] = field(default_factory=list)

    def allows(self, host: str, port: str, database: str) -> bool:
        """Whether a server may be connected to."""
        return self.is_ours(host, port, database) or any(
            host == each if isinstance(each, str) and "://" not in each else _names(each, host, port, database)
            for each in self.allowed
        )

    def note(self, dialect: sa.Dialect, named: str) -> None:
        """Note that an engine uses a file, or a database in memory.

        Raises:
            UndeclaredDatabase: It is the one for which a redirected engine was made.
        """
        url = url_of(dialect)
        if url is not None and any(sa.make_url(each) == url for each in self.allowed if "://" in str(each)):
            return
        if url is not None and url.database and url in self.redirected():
            raise self.error_for(
                dialect, f"an engine tried to connect to {named}, from the URL of a redirected engine,"
            )
        if len(self.elsewhere) < _MOST_SHOWN:
            self.elsewhere.append(_Connection(named, made_at(dialect), user_origin()))

    def error_for(self, dialect: sa.Dialect, what: str, done: str = "connected to") -> UndeclaredDatabase:
        """Return the error for an engine that is not one of the class's."""
        made = made_at(dialect)
        where = f" The engine was made at {made}." if made is not UNKNOWN else ""
        remedy = _remedy(self.owner, made) if self.is_ours is not _is_of_a_class else _REMEDY_IN_CHILD
        return UndeclaredDatabase(
            f"{what} at {user_origin()}, which is not the database of {self.owner}. It has not been {done}.{where}\n"
            f"What to do: {remedy} If {self.owner} is meant to talk to that database, set "
            "allow_other_databases = True, or to a list of hosts or URLs."
        )

    def unused(self) -> UndeclaredDatabase | None:
        """Return the error for a class whose own database nobody has used, if another one was used in its place."""
        if not self.elsewhere:
            return None
        lines = "".join(
            f"\n  - {each.url} at {each.used}" + (f", engine made at {each.made}" if each.made is not UNKNOWN else "")
            for each in self.elsewhere
        )
        return UndeclaredDatabase(
            f"{self.owner}: nobody used the class's database. The code under test used another one:{lines}\n"
            f"What to do: {_remedy(self.owner, self.elsewhere[0].made)} If {self.owner} is meant to use that database "
            "only, set allow_other_databases = True."
        )


_REMEDY_IN_CHILD = (
    "this process has imported the application anew, and nobody has redirected its engines. Give self.external_url "
    "to the process, and let it make its engine from that."
)


def forbid_other_databases(guard: Guard) -> None:
    """Begin to refuse connections to servers that are not ours."""
    global _is_listening
    _guards[guard.owner] = guard
    _hand_on(guard)
    if not _is_listening:
        _is_listening = True
        event.listen(sa.Engine, "do_connect", _before_connect, insert=True)
        event.listen(Pool, "checkout", _before_use)


def allow_other_databases(owner: str, left: Iterable[threading.Thread]) -> None:
    """End what :func:`forbid_other_databases` began.

    Args:
        left: Threads that go on with what the tests have begun: they may never connect to anything.
    """
    _guards.pop(owner, None)
    _hand_on(_last() if _guards else None)
    _left.update(dict.fromkeys(left, owner))


class _ForChildren:
    """What a process of multiprocessing is given, and begins with: it is to refuse other databases too."""

    def __init__(self, guard: Guard) -> None:
        self._guard = guard

    def __reduce__(self) -> tuple[Any, ...]:
        allowed = [each if isinstance(each, str) else each.render_as_string(False) for each in self._guard.allowed]
        return _forbid_in_child, (self._guard.owner, allowed)


def _hand_on(guard: Guard | None) -> None:
    handed_on: dict[str, Any] = multiprocessing.current_process()._config  # type: ignore[attr-defined]
    if guard is None:
        handed_on.pop(_INHERITED, None)
    else:
        handed_on[_INHERITED] = _ForChildren(guard)


def _forbid_in_child(owner: str, allowed: Collection[str]) -> _ForChildren:
    guard = Guard(owner, _is_of_a_class, allowed=allowed)
    forbid_other_databases(guard)
    return _ForChildren(guard)


def _is_of_a_class(host: str, port: str, database: str) -> bool:
    """Whether an address can only be that of a class's database, which the process was given."""
    return "/dbtestcase-" in host or database.startswith("dbtestcase_")


def _refuse_left_thread() -> None:
    thread = threading.current_thread()
    owner = _left.get(thread)
    if owner is not None:
        raise IsolationBroken(
            f"{owner} has ended, but the thread {thread.name!r} goes on with what one of its tests has begun, and "
            f"wants a connection at {user_origin()}. It gets none: its engine may lead to the application's own server "
            f"by now.\nWhat to do: let the test wait for its threads (join(), shutdown()), or end them in a cleanup."
        )


def _last() -> Guard:
    return next(reversed(_guards.values()))


def _before_connect(dialect: sa.Dialect, record: Any, arguments: Any, parameters: dict[str, Any]) -> None:
    if _left:
        _refuse_left_thread()
    if not _guards:
        return
    if dialect.name in _SERVERLESS:
        _last().note(dialect, _serverless(dialect, arguments))
        return
    if registry.is_ours(url_of(dialect)):
        return  # it says itself why it has no database now
    host = str(parameters.get("host") or parameters.get("hostaddr") or "")
    port = str(parameters.get("port") or "5432")
    database = str(parameters.get("dbname") or parameters.get("database") or parameters.get("db") or "")
    if not _is_allowed(host, port, database):
        raise _last().error_for(dialect, f"an engine tried to connect to {_named(host, port, database)}")


def _before_use(connection: Any, record: Any, fairy: Any) -> None:
    if _left:
        _refuse_left_thread()
    if type(connection) is SandboxConnection or not _guards or record.starttime >= _last().since:
        return
    if isinstance(fairy._pool, NullPool):
        return  # nothing lies ready in it; this connection was being opened when the class began
    dialect = fairy._pool._dialect
    if getattr(dialect, "name", "") in _SERVERLESS:
        _last().note(dialect, _serverless(dialect))
        return
    # What the drivers of PostgreSQL tell; others are not asked.
    info = getattr(connection, "info", None)
    host, port = getattr(info, "host", None), str(getattr(info, "port", ""))
    database = getattr(info, "dbname", "")
    if host and not _is_allowed(host, port, database):
        what = f"an engine tried to use a connection, opened before the class, to {_named(host, port, database)}"
        raise _last().error_for(dialect, what, "used")


def _is_allowed(host: str, port: str, database: str) -> bool:
    return any(guard.allows(host, port, database) for guard in _guards.values())


def _names(url: str | sa.URL, host: str, port: str, database: str) -> bool:
    """Whether a URL names this server, and this database of it if it names one."""
    wanted = sa.make_url(url)
    known = wanted.host or wanted.query.get("host") or ""
    return host == known and str(wanted.port or 5432) == port and wanted.database in (None, "", database)


def _remedy(owner: str, made: Origin) -> str:
    """Say how an engine that was made there comes to use the class's database."""
    configure = (
        "give the code that makes it the URL dbtestcase.URL, in its configuration for tests or as the variable that it "
        "reads"
    )
    if made is UNKNOWN:
        return f"add the engine to {owner}.app_engines, or {configure}."
    if is_installed(made.filename) or made.filename.endswith("env.py"):
        return f"{configure}: an engine that is made there cannot be named in {owner}.app_engines."
    if made.function == "<module>":
        return f"add the engine to {owner}.app_engines."
    return (
        f"add the engine to {owner}.app_engines if it is there before the class, call cls.redirect_engine(engine) "
        f"where it is made later, or {configure}."
    )


def _serverless(dialect: sa.Dialect, arguments: Any = ()) -> str:
    url = url_of(dialect)
    if url is not None:
        return repr(url.render_as_string())
    return repr(f"{dialect.name}:///{arguments[0]}") if arguments else f"a database of {dialect.name}"


def _named(host: str, port: str, database: str) -> str:
    return f"the database {database!r} of the server at {host or 'the default host'}:{port}"
