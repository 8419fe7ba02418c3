"""Group ``alone``: a program that runs one class, from the start of its process to the end."""

from __future__ import annotations

import unittest

import sqlalchemy.dialects.postgresql.psycopg2
import sqlalchemy.orm  # noqa: F401  what any test with SQLAlchemy imports is not counted

from benchmarks.cases import Answering, ServedCase, Untouched, ours
from benchmarks.clock import Clock
from benchmarks.plan import Contender, Group, Row, Table, Target
from benchmarks.servers import PEERS
from benchmarks.workload import schema


def run_ours(run: bool) -> None:
    """Import what is needed, and run a class with one test if ``run``."""
    clock = Clock()
    test_class = ours(Answering, metadata=schema(30), clock=clock)
    if run:
        clock.run([test_class])


def run_peer(peer: str, run: bool) -> None:
    """Do the same with a peer's database."""
    clock = Clock()
    if "pgmem" in peer:
        import pgmem  # noqa: F401
    elif "pytest" in peer:
        import pytest_postgresql.executors
        import pytest_postgresql.janitor  # noqa: F401
    else:
        import testing.postgresql  # noqa: F401
    if run:
        databases = PEERS[peer](schema(30))
        clock.run([type("Theirs", (Answering, ServedCase), {"clock": clock, "databases": databases})])
        databases.close()


def run_plain(run: bool) -> None:
    """Do the same without a database."""
    if run:
        Clock().run([type("Plain", (Untouched, unittest.TestCase), {"test_nothing": Untouched.test})])


_OURS = "dbtestcase, warm cache"
_PEERS = ("testing.postgresql", "pytest-postgresql, a server each", "pgmem, a server each")
_CONTENDERS = (
    Contender(_OURS, "alone:run_ours", {"run": True}, whole=True, less={"run": False}),
    Contender("unittest, no database", "alone:run_plain", {"run": True}, whole=True, less={"run": False}),
    *(
        Contender(
            peer,
            "alone:run_peer",
            {"peer": peer, "run": True},
            unprivileged="pgmem" not in peer,
            whole=True,
            less={"peer": peer, "run": False},
            rounds=5,
        )
        for peer in _PEERS
    ),
)

ALONE = Group(
    "alone",
    "one class alone: from process start to end, less what a process takes that only imports",
    _CONTENDERS,
    (
        Table(
            "One class alone, 30 tables: process start to end, less one that only imports",
            tuple(Row(contender.name, "process") for contender in _CONTENDERS),
            reference=_OURS,
            targets=(Target(_OURS, at_most=0.200),),
        ),
    ),
    rounds=10,
)
