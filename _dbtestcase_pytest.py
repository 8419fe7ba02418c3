"""Tells dbtestcase which tests pytest is about to run, and pytest which of them ran twice; deals out whole classes.

A plugin that pytest finds by its entry point.

It stands beside the package so that pytest, which loads it in every run, does not import SQLAlchemy and all the rest in
runs that have no use for it.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any

import pytest


@pytest.hookimpl(wrapper=True)
def pytest_collection_finish(session: pytest.Session) -> Iterator[None]:
    """Hand over the plan, now that everybody has selected and sorted. Without classes of ours nobody would take it."""
    collected = [*session.items]
    yield
    case = sys.modules.get("dbtestcase.case")
    if case is None:
        return
    if session.items != collected:
        _take_back(session.items, [each for each in collected if _is_of(case.DatabaseTestCase, each)])
    # A worker of pytest-xdist collects all tests, and learns one by one which of them are its own.
    items = [] if hasattr(session.config, "workerinput") else session.items
    schedule = sys.modules["dbtestcase.lifecycle.schedule"]
    if any(session.config.getoption(name, False) for name in ("usepdb", "trace")):
        schedule.debug()
    schedule.plan(each.cls for each in items if _is_of(case.DatabaseTestCase, each))  # type: ignore[attr-defined]


def _is_of(base: type, item: pytest.Item) -> bool:
    test_class = getattr(item, "cls", None)
    return isinstance(test_class, type) and issubclass(test_class, base)


def _take_back(items: list[pytest.Item], ours: list[pytest.Item]) -> None:
    """Let our tests be what pytest has collected.

    anyio puts functions in place of coroutine methods that its mark reaches, also one on the whole module: neither
    ``setUp`` nor we would get to see them.
    """
    own = {(each.parent, each.name): each for each in ours}
    items[:] = dict.fromkeys(own.get((each.parent, getattr(each, "originalname", each.name)), each) for each in items)


def pytest_fixture_setup(fixturedef: Any, request: pytest.FixtureRequest) -> None:
    """Before the first fixture of a test: what fixtures send must not be committed into the class's database."""
    case = sys.modules.get("dbtestcase.case")
    if case is None or fixturedef.scope != "function" or request.cls is None:
        return
    if issubclass(request.cls, case.DatabaseTestCase):
        sys.modules["dbtestcase.lifecycle.wiring"].begin_tests(request.cls, request.function)


def pytest_sessionfinish(session: pytest.Session) -> None:
    """In a worker of pytest-xdist: send what was recorded to the process that talks to the user."""
    report = sys.modules.get("dbtestcase.diagnosis.report")
    if report is not None and hasattr(session.config, "workeroutput"):
        session.config.workeroutput["dbtestcase"] = report.hand_over()


@pytest.hookimpl(optionalhook=True)  # a hook of pytest-xdist
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Keep the tests of a class together where pytest-xdist would deal out single tests, its default.

    Each worker that gets one of a class sets the class up. Tests outside of classes are dealt out as before, and
    whoever chooses another way of dealing out (``--dist``) has it.
    """
    if config.getoption("dist") != "load":
        return None
    from xdist.scheduler import LoadScopeScheduling

    class LoadByClass(LoadScopeScheduling):  # type: ignore[misc]  # pytest-xdist has no types
        def _split_scope(self, nodeid: str) -> str:
            return nodeid.rpartition("::")[0] if nodeid.count("::") > 1 else nodeid

    return LoadByClass(config, log)


@pytest.hookimpl(optionalhook=True)  # a hook of pytest-xdist
def pytest_testnodedown(node: Any) -> None:
    """Take over what a worker of pytest-xdist has recorded."""
    rows = getattr(node, "workeroutput", {}).get("dbtestcase")
    if rows:
        from dbtestcase.diagnosis import report

        report.begin()
        report.take_over(rows)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Name the tests that ran twice."""
    report = sys.modules.get("dbtestcase.diagnosis.report")
    line = report.closing_line() if report is not None else None
    if line:
        terminalreporter.write_line(line)
