"""The suite as pytest-postgresql is meant: fixtures, one server, a database from a template for each test.

Run by pytest, which :mod:`benchmarks.suite` starts.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
from pytest_postgresql import factories
from sqlalchemy import URL, create_engine
from sqlalchemy.orm import Session

from benchmarks import suite, workload
from benchmarks.servers import create_all, pg_ctl


def _load(host: str, port: int, user: str, dbname: str, **_: Any) -> None:
    """Make the tables. Which other keywords a loader is given differs between versions of the plugin."""
    create_all(
        workload.schema(suite.TABLES),
        URL.create("postgresql+psycopg2", user, host=host, port=port, database=dbname),
    )


server = factories.postgresql_proc(load=[_load], executable=pg_ctl())
database = factories.postgresql("server")


@pytest.fixture
def session(database: psycopg.Connection) -> Iterator[Session]:
    info = database.info
    engine = create_engine(
        URL.create("postgresql+psycopg2", info.user, host=info.host, port=info.port, database=info.dbname)
    )
    with Session(engine) as opened:
        yield opened
    engine.dispose()


def _class() -> type:
    loops = int(os.environ["BENCHMARKS_LOOPS"])

    def reading(self: Any, session: Session) -> None:
        workload.toil(loops)
        workload.read(session)

    def writing(self: Any, session: Session) -> None:
        workload.toil(loops)
        workload.write(session)

    def neither(self: Any) -> None:
        workload.toil(loops)

    return type("Tests", (), suite.ten(reading, writing, neither))


globals().update({f"Test{number}": _class() for number in range(suite.CLASSES)})
