"""What libpq reads: environment variables, which must not bend our connections, and parameters, also for asyncpg."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlencode

from dbtestcase.native import new_lock

__all__ = ["asyncpg_arguments", "hidden_variables", "hide_variables", "names_server", "show_variables"]

# libpq reads these behind the back of a URL that names host, port, user and database: the first three send a
# connection elsewhere or fail it, the others change the session or refuse a server without passwords or TLS.
_BENDING = (
    "PGSERVICE",
    "PGSERVICEFILE",
    "PGHOSTADDR",
    "PGOPTIONS",
    "PGTZ",
    "PGDATESTYLE",
    "PGGEQO",
    "PGCLIENTENCODING",
    "PGREQUIREAUTH",
    "PGREQUIREPEER",
    "PGREQUIRESSL",
    "PGSSLCERTMODE",
    "PGSSLMODE",
    "PGSSLNEGOTIATION",
    "PGGSSENCMODE",
    "PGCHANNELBINDING",
    "PGTARGETSESSIONATTRS",
    "PGLOADBALANCEHOSTS",
    "PGMINPROTOCOLVERSION",
    "PGMAXPROTOCOLVERSION",
)

# Which of libpq's parameters asyncpg takes as arguments, and which only within a "dsn"; it has no use for the others.
_ASYNCPG = {"host", "port", "user", "password", "passfile", "database", "service", "target_session_attrs"}
_ASYNCPG |= {"krbsrvname", "gsslib"}
_ASYNCPG_DSN = {"application_name", "options"}
_ASYNCPG_DSN |= {"sslmode", "sslcert", "sslkey", "sslrootcert", "sslcrl", "sslpassword", "sslnegotiation"}
_ASYNCPG_DSN |= {"ssl_min_protocol_version", "ssl_max_protocol_version"}

# Arguments of the drivers' connect() that say where a server is, and as whom and how safely one connects to it.
# fmt: off
_NAMES_A_SERVER = frozenset({
    "async_fallback", "channel_binding", "conninfo", "database", "dbname", "direct_tls", "dsn", "host", "hostaddr",
    "load_balance_hosts", "passfile", "passwd", "password", "plugin", "port", "require_auth", "requirepeer", "service",
    "servicefile", "target_session_attrs", "user", "username",
})
# fmt: on

_lock = new_lock()
_users = 0
_hidden: dict[str, str] = {}


def hide_variables() -> None:
    """Take out of the environment what would bend a connection; undone by :func:`show_variables`, counted."""
    global _users
    with _lock:
        _users += 1
        if _users == 1:
            for name in _BENDING:
                value = os.environ.pop(name, None)
                if value is not None:
                    _hidden[name] = value


def show_variables() -> None:
    """Undo one :func:`hide_variables`; the last one puts everything back that has not been set anew."""
    global _users
    with _lock:
        _users -= 1
        if _users == 0:
            for name, value in _hidden.items():
                os.environ.setdefault(name, value)
            _hidden.clear()


@contextmanager
def hidden_variables() -> Iterator[None]:
    """Hide the variables while the block runs, also those that were set since others were hidden."""
    hide_variables()
    set_since = {name: os.environ.pop(name) for name in _BENDING if name in os.environ}
    try:
        yield
    finally:
        os.environ.update(set_since)
        show_variables()


def names_server(argument: str) -> bool:
    """Whether an argument of a driver's ``connect()`` names a server or a way to it, and not how a session is to be."""
    return argument in _NAMES_A_SERVER or argument.startswith(("ssl", "gss", "krb"))


def asyncpg_arguments(parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Return connection parameters of libpq's as ``asyncpg.connect()`` takes them."""
    given = {("database" if name == "dbname" else name): value for name, value in parameters.items()}
    arguments = {name: value for name, value in given.items() if name in _ASYNCPG}
    if "hostaddr" in given:
        arguments.setdefault("host", given["hostaddr"])
    in_dsn = {name: value for name, value in given.items() if name in _ASYNCPG_DSN}
    if in_dsn:
        arguments["dsn"] = f"postgresql:///?{urlencode(in_dsn)}"
    return arguments


def _after_fork_in_child() -> None:
    global _lock
    _lock = new_lock()


os.register_at_fork(after_in_child=_after_fork_in_child)
