"""Group ``existing``: databases on a server that runs already, over TCP, as a role that may create them and no more.

Everybody uses the same kind of server, the one that pytest-postgresql starts, in /dev/shm so that no disk decides.
"""

from __future__ import annotations

from contextlib import closing
from typing import Any

import psycopg2

from benchmarks import class_setup, clones, workload
from benchmarks.cases import Answering, ours, repeated
from benchmarks.clock import Clock
from benchmarks.plan import Contender, Group, Row, Table, Target
from benchmarks.servers import PytestPostgresqlServer

Series = dict[str, list[float]]

TABLES = 30


class _ServerThatRuns(PytestPostgresqlServer):
    """A server, and the URL for a role of its own."""

    def __init__(self) -> None:
        super().__init__(workload.schema(0))
        self.start().dispose()
        superuser = self._server.url("test")
        dsn = {"host": superuser.host, "port": superuser.port, "user": superuser.username, "dbname": "test"}
        with closing(psycopg2.connect(**dsn)) as connection:
            connection.autocommit = True
            connection.cursor().execute("CREATE ROLE tester LOGIN CREATEDB")
        self.url = superuser.set(username="tester").render_as_string(hide_password=False)

    def close(self) -> None:
        self._server.stop()


def _run(*bases: type, number: int, **attributes: Any) -> Clock:
    """Run so many classes on a server that runs already; the databases are gone before it ends."""
    from dbtestcase import ExistingPostgres
    from dbtestcase.servers.existing.server import drop_everything

    server = _ServerThatRuns()
    clock = Clock()
    postgres = ExistingPostgres(server.url)
    try:
        return clock.run(ours(*bases, clock=clock, postgres=postgres, **attributes) for _ in range(number))
    finally:
        drop_everything()
        server.close()


def measure_classes(behind: float, number: int) -> Series:
    """Run so many classes and two more to warm up; ``behind`` seconds of tests are in each."""
    clock = _run(Answering, number=number + 2, metadata=workload.schema(TABLES), behind=behind)
    return {"class": clock.gaps()[1:]}


def measure_copies(behind: float, number: int) -> Series:
    """Run so many tests with ``isolation = "clone"``."""
    tests = repeated(clones.Asking, number + 3)
    clock = _run(tests, number=1, metadata=workload.schema(TABLES), behind=behind, isolation="clone")
    return {"copy": clock.gaps()[3:]}


def measure_template(number: int) -> Series:
    """Run so many classes, each with a database that pytest-postgresql makes from a template."""
    measured = class_setup.measure_peer("pytest-postgresql, a database from a template", [TABLES], number)
    return {"class": measured[str(TABLES)]}


_BACK_TO_BACK, _BEHIND = "dbtestcase, back to back", "dbtestcase, behind 150 ms of tests"
_COPIES, _COPIES_BEHIND = "dbtestcase, a copy per test", "dbtestcase, a copy per test, tests of 60 ms"
_TEMPLATE = "pytest-postgresql, a database from a template"
_CLASSES = (
    Contender(
        _BACK_TO_BACK, "existing:measure_classes", {"behind": 0, "number": 10}, unprivileged=True, in_memory=True
    ),
    Contender(_BEHIND, "existing:measure_classes", {"behind": 0.150, "number": 10}, unprivileged=True, in_memory=True),
    Contender(_TEMPLATE, "existing:measure_template", {"number": 6}, unprivileged=True, in_memory=True),
)
_OF_COPIES = (
    Contender(_COPIES, "existing:measure_copies", {"behind": 0, "number": 20}, unprivileged=True, in_memory=True),
    Contender(
        _COPIES_BEHIND, "existing:measure_copies", {"behind": 0.060, "number": 20}, unprivileged=True, in_memory=True
    ),
)

EXISTING = Group(
    "existing",
    "databases on a server that runs already",
    (*_CLASSES, *_OF_COPIES),
    (
        Table(
            f"A class's database on a server that runs already, {TABLES} tables: from a class's last test to the next "
            "class's first answer",
            tuple(Row(contender.name, "class") for contender in _CLASSES),
            reference=_BACK_TO_BACK,
            targets=(Target(_BACK_TO_BACK, at_most=0.060), Target(_BEHIND, at_most=0.005)),
        ),
        Table(
            "The same server, a private copy for each test: from a test's end to the first answer in the next",
            tuple(Row(contender.name, "copy") for contender in _OF_COPIES),
            reference=_COPIES,
        ),
    ),
)
