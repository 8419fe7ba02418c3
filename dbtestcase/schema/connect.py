"""Connections of our own to the instance that is being prepared."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import psycopg2
from sqlalchemy import URL, Engine, create_engine
from sqlalchemy.dialects.postgresql.psycopg2 import PGDialect_psycopg2
from sqlalchemy.pool import NullPool

_DRIVER = "postgresql+psycopg2"
_environment = threading.Lock()

# What libpq reads even if host, port, user and database are given: it would connect elsewhere or not at all, or with
# other settings than those of the server.
_MISLEADING = (
    "PGSERVICE",
    "PGSERVICEFILE",
    "PGHOSTADDR",
    "PGOPTIONS",
    "PGCLIENTENCODING",
    "PGTZ",
    "PGDATESTYLE",
    "PGREQUIREAUTH",
    "PGREQUIREPEER",
    "PGREQUIRESSL",
    "PGSSLMODE",
    "PGSSLNEGOTIATION",
    "PGGSSENCMODE",
    "PGCHANNELBINDING",
    "PGTARGETSESSIONATTRS",
)


def plain_url(url: URL, database: str | None = None) -> URL:
    """Return ``url`` with psycopg2 as its driver, without plugins, for ``database`` if one is named."""
    url = url.set(drivername=_DRIVER).difference_update_query(["plugin"])
    return url if database is None else url.set(database=database)


def connect(url: URL) -> Any:
    """Open a psycopg2 connection to ``url``, whatever the PG... environment variables say."""
    with without_libpq_environment():
        return psycopg2.connect("", **connect_arguments(url))


def connect_arguments(url: URL) -> dict[str, Any]:
    """Return ``url`` as keyword arguments of psycopg2.connect: host, port, user, dbname."""
    dialect: Any = PGDialect_psycopg2  # its constructor has no annotations
    _, arguments = dialect().create_connect_args(plain_url(url))
    return dict(arguments)


def engine_for(url: URL) -> Engine:
    """Return an engine without a pool, so that nothing stays connected once a statement is through."""
    # A creator also keeps the engine out of the reach of "do_connect" listeners: ours and those of the application.
    return create_engine(plain_url(url), poolclass=NullPool, creator=partial(connect, url))


@contextmanager
def without_libpq_environment() -> Iterator[None]:
    """Hide PGSERVICE, PGOPTIONS and the like while the block runs; libpq would follow them past our own arguments."""
    with _environment:
        hidden = {name: os.environ.pop(name) for name in _MISLEADING if name in os.environ}
        try:
            yield
        finally:
            os.environ.update(hidden)
