"""Group ``tests``: what one test takes, with everything around it."""

from __future__ import annotations

import unittest
from typing import Any

from sqlalchemy import Engine, create_engine

from benchmarks import workload
from benchmarks.cases import Bodied, RealCommits, Recipe, ServedCase, Untouched, ours, repeated
from benchmarks.clock import Clock
from benchmarks.plan import Contender, Group, Row, Table, Target
from benchmarks.servers import OneServer

Series = dict[str, list[float]]

UNTOUCHED = "untouched"
_WARM_UP = 20


def _lengths(test_class: type[unittest.TestCase]) -> list[float]:
    return Clock().run([test_class]).lengths()[_WARM_UP:]


def plain(number: int) -> Series:
    """Measure unittest without a database."""
    return {UNTOUCHED: _lengths(type("Plain", (repeated(Untouched, number), unittest.TestCase), {}))}


def ours_each(number: int, driver: str = "psycopg2") -> Series:
    """Measure dbtestcase, a class for each body."""
    metadata = workload.schema(1)
    measured = {UNTOUCHED: _lengths(ours(repeated(Untouched, number), metadata=metadata))}
    for name, body in workload.BODIES.items():
        # The application's driver is the class's.
        engines = [create_engine(f"postgresql+{driver}://never-connected-to/")]
        attributes = {"body": body, "expected": workload.ALONE[name], "app_engines": engines}
        measured[name] = _lengths(ours(repeated(Bodied, number), metadata=metadata, **attributes))
    return measured


def bare(number: int, driver: str = "psycopg2") -> Series:
    """Measure sessions on a bare engine, which commit for real."""
    return _on_one_server(RealCommits, number, {}, driver)


def recipe(number: int) -> Series:
    """Measure the recipe of SQLAlchemy's manual."""
    return _on_one_server(Recipe, number, workload.ALONE)


class _OtherDriver(OneServer):
    """The same server, and engines of another driver."""

    driver = "psycopg2"

    def start(self) -> Engine:
        engine = super().start()
        engine.dispose()
        return create_engine(engine.url.set(drivername=f"postgresql+{self.driver}"))


def _on_one_server(fixture: type, number: int, expected: dict[str, int], driver: str = "psycopg2") -> Series:
    measured = {}
    for name, body in {UNTOUCHED: None, **workload.BODIES}.items():
        # A server for each, as ours has one: rows that stay must not make the next body slower.
        databases = _OtherDriver(workload.schema(1))
        databases.driver = driver
        tests = repeated(Untouched if body is None else Bodied, number)
        attributes: dict[str, Any] = {"databases": databases, "body": body, "expected": expected.get(name)}
        try:
            measured[name] = _lengths(type("Theirs", (tests, fixture, ServedCase), attributes))
        finally:
            databases.close()
    return measured


def django(number: int) -> Series:
    """Measure Django's ``TestCase``, with models and bodies that do the same."""
    from benchmarks import django_side

    measured = {}
    for name, body in {UNTOUCHED: None, **django_side.BODIES}.items():
        databases = OneServer(workload.schema(1))
        try:
            measured[name] = _lengths(
                django_side.test_class(databases, repeated(Untouched, number), body, number, workload.ALONE.get(name))
            )
        finally:
            django_side.disconnect()
            databases.close()
    return measured


_NUMBER = {"number": 300}
_PLAIN, _OURS, _BARE = "plain unittest", "dbtestcase", "a bare engine, real commits"
_BARE_HUGE, _OURS_HUGE = f"{_BARE}, huge pages", f"{_OURS}, huge pages"
_RECIPE, _DJANGO = "the recipe of SQLAlchemy's manual", "Django's TestCase"
_BARE_3, _OURS_3 = f"{_BARE}, psycopg 3", f"{_OURS}, psycopg 3"
_CONTENDERS = (
    Contender(_PLAIN, "per_test:plain", {"number": 2000}),
    Contender(_OURS, "per_test:ours_each", _NUMBER),
    Contender(_BARE, "per_test:bare", _NUMBER),
    Contender(_RECIPE, "per_test:recipe", _NUMBER),
    Contender(_DJANGO, "per_test:django", _NUMBER),
    Contender(_BARE_3, "per_test:bare", {**_NUMBER, "driver": "psycopg"}),
    Contender(_OURS_3, "per_test:ours_each", {**_NUMBER, "driver": "psycopg"}),
    Contender(_BARE_HUGE, "per_test:bare", _NUMBER, huge_pages=True),
    Contender(_OURS_HUGE, "per_test:ours_each", _NUMBER, huge_pages=True),
)
_DOES = {"read": "counts rows", "write": "inserts, commits and counts"}
_DOES["write with three commits"] = "inserts and commits three times and counts"


def _table(series: str, at_most: float) -> Table:
    names = (_BARE, _OURS, _RECIPE, _DJANGO)
    return Table(
        f"A test that {_DOES[series]}",
        tuple(Row(name, series) for name in names),
        reference=_BARE,
        targets=(
            Target(_OURS, over=_BARE, at_most=at_most),
            Target(_OURS, over=_RECIPE, at_most=1.0),
            Target(_OURS, over=_DJANGO, at_most=1.0),
        ),
    )


def _pairs(bare: str, ours: str, how: str) -> list[Table]:
    return [
        Table(f"A test that {does}, {how}", (Row(bare, series), Row(ours, series)), reference=bare)
        for series, does in _DOES.items()
    ]


TESTS = Group(
    "tests",
    "one test: untouched, read, write, write with three commits",
    _CONTENDERS,
    (
        Table(
            "A test that touches no database",
            tuple(Row(name, UNTOUCHED) for name in (_PLAIN, _OURS, _BARE, _RECIPE, _DJANGO)),
            reference=_PLAIN,
            targets=(Target(_OURS, over=_PLAIN, at_most=1.3),),
        ),
        _table("read", 1.25),
        _table("write", 1.10),
        _table("write with three commits", 0.97),
        *_pairs(_BARE_3, _OURS_3, "with psycopg 3"),
        *_pairs(_BARE_HUGE, _OURS_HUGE, "its memory in huge pages"),
    ),
    pinned=True,
)
