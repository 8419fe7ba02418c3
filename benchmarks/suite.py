"""Group ``suite``: sixty classes of ten tests, from process start to end."""

from __future__ import annotations

import os
import subprocess
import sys
import unittest
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from benchmarks import workload
from benchmarks.cases import Recipe, ServedCase, ours
from benchmarks.clock import Clock
from benchmarks.plan import Contender, Group, Row, Table, Target
from benchmarks.servers import PEERS, OneServer
from dbtestcase.lifecycle import schedule

CLASSES, TABLES = 60, 30
_READS, _WRITES, _UNTOUCHED = 3, 4, 3


def _tests(loops: int, read: Any, write: Any) -> dict[str, Any]:
    """Return ten tests: some read, some write, some do not touch the database; each toils besides."""

    def reading(test: Any) -> None:
        workload.toil(loops)
        read(test)

    def writing(test: Any) -> None:
        workload.toil(loops)
        if write(test) != workload.ALONE["write"]:
            raise AssertionError("rows of another test are there")

    def neither(test: Any) -> None:
        workload.toil(loops)

    return ten(reading, writing, neither)


def ten(reading: Any, writing: Any, neither: Any) -> dict[str, Any]:
    """Return ten tests by name, of these three kinds."""
    kinds = [reading] * _READS + [writing] * _WRITES + [neither] * _UNTOUCHED
    return {f"test_{number}": kind for number, kind in enumerate(kinds)}


def _sqlalchemy_tests(loops: int) -> type:
    tests = _tests(loops, lambda test: workload.read(test.session), lambda test: workload.write(test.session))
    return type("Ten", (), tests)


def run_ours(loops: int, ahead: bool = True) -> None:
    """Run the suite with dbtestcase; without ``ahead`` it is told nothing of the classes to come."""
    if not ahead:
        schedule.plan(())
    metadata, tests = workload.schema(TABLES), _sqlalchemy_tests(loops)
    Clock().run([ours(tests, metadata=metadata) for _ in range(CLASSES)])


def run_plain(loops: int) -> None:
    """Run as many tests that only toil."""
    tests = _tests(loops, lambda test: 0, lambda test: 1)
    Clock().run([type("Plain", (unittest.TestCase,), tests) for _ in range(CLASSES)])


def run_recipe(peer: str, loops: int) -> None:
    """Run the suite with the recipe of SQLAlchemy's manual, in a database from a peer for each class."""
    kind = OneServer if peer == "one server" else PEERS[peer]
    databases = kind(workload.schema(TABLES))
    tests = _sqlalchemy_tests(loops)
    try:
        Clock().run([type("Theirs", (tests, Recipe, ServedCase), {"databases": databases}) for _ in range(CLASSES)])
    finally:
        databases.close()


def run_django(loops: int) -> None:
    """Run the suite with Django's ``TestCase``, all in one database of a server that runs already."""
    from benchmarks import django_side

    databases = OneServer(workload.schema(TABLES))
    django_side.use(databases)
    tests = _tests(loops, lambda test: django_side.read(), lambda test: django_side.write())
    try:
        Clock().run([type("Theirs", (django_side.TestCase,), tests) for _ in range(CLASSES)])
    finally:
        django_side.disconnect()
        databases.close()


def run_pytest(loops: int) -> None:
    """Run the suite under pytest with the fixtures of pytest-postgresql: a database of its own for each test."""
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--pyargs", "benchmarks.pytest_side"]
    ended = subprocess.run(
        command,
        env=os.environ | {"BENCHMARKS_LOOPS": str(loops)},
        stdout=subprocess.PIPE,
        text=True,
        check=False,
    )
    if ended.returncode or f"{CLASSES * 10} passed" not in ended.stdout:
        sys.exit(ended.stdout)


@dataclass(frozen=True)
class _Kind:
    """A way to test that runs the suite. ``slow``: minutes, so once, and only where tests do something else besides."""

    name: str
    function: str
    arguments: Mapping[str, Any] = field(default_factory=dict)
    unprivileged: bool = False
    slow: bool = False


_OURS = "dbtestcase: an instance per class"
_DJANGO = "Django's TestCase: one server that runs, for all"
_FACTORY = "testing.postgresql, cached factory"
_KINDS = (
    _Kind(_OURS, "run_ours"),
    _Kind(f"{_OURS}, booted when its turn comes", "run_ours", {"ahead": False}),
    _Kind("plain unittest: no database", "run_plain"),
    _Kind("SQLAlchemy's recipe: one server that runs, for all", "run_recipe", {"peer": "one server"}),
    _Kind(_DJANGO, "run_django"),
    _Kind("the recipe, a fork of pgmem per class", "run_recipe", {"peer": "pgmem, a fork each"}),
    _Kind(f"the recipe, an instance per class from {_FACTORY}", "run_recipe", {"peer": _FACTORY}, True, True),
    _Kind(
        "the recipe, an instance per class from testing.postgresql",
        "run_recipe",
        {"peer": "testing.postgresql"},
        unprivileged=True,
        slow=True,
    ),
    _Kind("pytest and pytest-postgresql: a database per test", "run_pytest", {}, True, True),
)


def _named(milliseconds: int, kind: str) -> str:
    return f"{kind} ({milliseconds} ms)"


def group() -> Group:
    """Return the group; how many loops make a millisecond is found out now."""
    contenders: list[Contender] = []
    tables: list[Table] = []
    for milliseconds in (0, 15):
        loops = workload.loops_for(milliseconds / 1000)
        kinds = [kind for kind in _KINDS if milliseconds or not kind.slow]
        contenders += [
            Contender(
                _named(milliseconds, kind.name),
                f"suite:{kind.function}",
                {**kind.arguments, "loops": loops},
                unprivileged=kind.unprivileged,
                whole=True,
                rounds=1 if kind.slow else 1000,
            )
            for kind in kinds
        ]
        what = f"that compute for {milliseconds} ms besides" if milliseconds else "that do nothing else"
        tables.append(
            Table(
                f"A suite of {CLASSES} classes of 10 tests {what}, {TABLES} tables: process start to end",
                tuple(Row(_named(milliseconds, kind.name), "process", kind.name) for kind in kinds),
                reference=_OURS,
                targets=() if milliseconds else (Target(_OURS, over=_DJANGO, at_most=1.0),),
            )
        )
    return Group("suite", f"{CLASSES} classes of 10 tests", tuple(contenders), tuple(tables), rounds=3)
