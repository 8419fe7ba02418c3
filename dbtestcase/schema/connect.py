"""Connections of our own to the instance that is being prepared."""

from __future__ import annotations

from functools import partial
from typing import Any

import psycopg2
from sqlalchemy import URL, Engine, create_engine
from sqlalchemy.dialects.postgresql.psycopg2 import PGDialect_psycopg2
from sqlalchemy.pool import NullPool

from dbtestcase.libpq import hidden_variables

_DRIVER = "postgresql+psycopg2"


def plain_url(url: URL, database: str | None = None) -> URL:
    """Return ``url`` with psycopg2 as its driver, without plugins, for ``database`` if one is named."""
    url = url.set(drivername=_DRIVER).difference_update_query(["plugin"])
    return url if database is None else url.set(database=database)


def connect(url: URL) -> Any:
    """Open a psycopg2 connection to ``url``, whatever the PG... environment variables say."""
    with hidden_variables():
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
