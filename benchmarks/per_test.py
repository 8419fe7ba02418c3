"""Group ``tests``: what one test takes, with everything around it."""

from __future__ import annotations

import os
import unittest
from typing import Any

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


def ours_each(number: int) -> Series:
    """Measure dbtestcase, a class for each body."""
    metadata = workload.schema(1)
    measured = {UNTOUCHED: _lengths(ours(repeated(Untouched, number), metadata=metadata))}
    for name, body in workload.BODIES.items():
        measured[name] = _lengths(
            ours(repeated(Bodied, number), metadata=metadata, body=body, expected=workload.ALONE[name])
        )
    return measured


def ours_without_log(number: int) -> Series:
    """Measure dbtestcase with nothing remembered of what the tests send."""
    os.environ["DBTESTCASE_SQL"] = "off"
    return ours_each(number)


def bare(number: int) -> Series:
    """Measure sessions on a bare engine, which commit for real."""
    return _on_one_server(RealCommits, number, {})


def recipe(number: int) -> Series:
    """Measure the recipe of SQLAlchemy's manual."""
    return _on_one_server(Recipe, number, workload.ALONE)


def _on_one_server(fixture: type, number: int, expected: dict[str, int]) -> Series:
    measured = {}
    for name, body in {UNTOUCHED: None, **workload.BODIES}.items():
        # A server for each, as ours has one: rows that stay must not make the next body slower.
        databases = OneServer(workload.schema(1))
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
_WITHOUT_LOG = "dbtestcase, DBTESTCASE_SQL=off"
_RECIPE, _DJANGO = "the recipe of SQLAlchemy's manual", "Django's TestCase"
_CONTENDERS = (
    Contender(_PLAIN, "per_test:plain", {"number": 2000}),
    Contender(_OURS, "per_test:ours_each", _NUMBER),
    Contender(_WITHOUT_LOG, "per_test:ours_without_log", _NUMBER),
    Contender(_BARE, "per_test:bare", _NUMBER),
    Contender(_RECIPE, "per_test:recipe", _NUMBER),
    Contender(_DJANGO, "per_test:django", _NUMBER),
)


def _rows(series: str, *names: str) -> tuple[Row, ...]:
    return tuple(Row(name, series) for name in names)


TESTS = Group(
    "tests",
    "one test: untouched, read, write, write with three commits",
    _CONTENDERS,
    (
        Table(
            "A test that touches no database",
            _rows(UNTOUCHED, _PLAIN, _OURS, _BARE, _RECIPE, _DJANGO),
            reference=_PLAIN,
            targets=(Target(_OURS, over=_PLAIN, at_most=1.3),),
        ),
        Table("A test that counts rows", _rows("read", _BARE, _OURS, _RECIPE, _DJANGO), reference=_BARE),
        Table(
            "A test that inserts, commits and counts",
            _rows("write", _BARE, _OURS, _WITHOUT_LOG, _RECIPE, _DJANGO),
            reference=_BARE,
            targets=(Target(_OURS, over=_BARE, at_most=1.15), Target(_OURS, over=_WITHOUT_LOG, at_most=1.03)),
        ),
        Table(
            "A test that inserts and commits three times and counts",
            _rows("write with three commits", _BARE, _OURS, _RECIPE, _DJANGO),
            reference=_BARE,
        ),
    ),
)
