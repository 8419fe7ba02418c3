"""The drivers that can be shared; a driver that is not used is not imported."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import sqlalchemy as sa

from .problems import IsolationBroken

SUPPORTED = ("postgresql+psycopg2", "postgresql+psycopg")


def driver_for(drivername: str, url: Callable[[], sa.URL], owner: str) -> Any:
    """Return the driver module of ours for a drivername.

    Raises:
        IsolationBroken: There is none for it.
    """
    if drivername == "postgresql+psycopg2":
        from .psycopg2_driver import Psycopg2Driver

        return Psycopg2Driver(lambda: connect_parameters(url()))
    if drivername == "postgresql+psycopg":
        from .psycopg_driver import PsycopgDriver

        return PsycopgDriver(lambda: connect_parameters(url()))
    raise IsolationBroken(f"{owner}: the driver {drivername!r} cannot be isolated; use one of {', '.join(SUPPORTED)}.")


def connect_parameters(url: sa.URL) -> dict[str, Any]:
    """Return a URL as the keyword arguments that either driver's ``connect()`` takes."""
    named = {
        "host": url.host,
        "port": url.port,
        "dbname": url.database,
        "user": url.username,
        "password": url.password,
    }
    parameters = {name: value for name, value in named.items() if value is not None}
    parameters.update({name: value for name, value in url.query.items() if isinstance(value, str)})
    return parameters
