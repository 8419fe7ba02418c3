"""The pytest plugin of a run: it notes how each test ended, and isolates the tests if that is asked for.

The suite makes its engines from one URL. Isolated, that is :data:`dbtestcase.URL`, so that each of them is isolated
without the suite's knowing. Each class of the suite runs within a test class of ours, with ``isolation = "auto"``:
what the suite does once for a class, as creating tables, is done as in ``setUpClass``; each of its tests, from before
its own first fixture until after its last one, is one of ours, which runs twice if it has to.
"""

from __future__ import annotations

import json
import re
import unittest
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from _pytest.runner import runtestprotocol
from sqlalchemy.dialects.postgresql import provision
from sqlalchemy.testing import config
from sqlalchemy.testing.plugin import pytestplugin

import dbtestcase
from dbtestcase import DatabaseTestCase, isolate
from dbtestcase.diagnosis import report

# Each table with its rows, counted; statistics come late.
_ROWS = r"""
    SELECT format('%I.%I', nspname, relname),
        (xpath('/row/c/text()', query_to_xml(format('SELECT count(*) AS c FROM %I.%I', nspname, relname),
                                             false, true, '')))[1]::text
    FROM pg_class JOIN pg_namespace n ON n.oid = relnamespace
    WHERE relkind = 'r' AND nspname !~ '^(pg_|information_schema$)' ORDER BY 1
"""
_DATABASE_IN_CLASS_NAME = re.compile(r"_postgresql\+.*?(?=::)")

_outcomes: dict[str, dict[str, str]] = {}
_ran_twice: list[str] = []


class Home(DatabaseTestCase):
    """What one class of the suite runs in; ``test_item`` is each of its tests."""

    item: Any
    following: Any

    @staticmethod
    def schema(connection: sa.Connection) -> None:  # type: ignore[override]
        for name in ("test_schema", "test_schema_2"):
            connection.execute(sa.schema.CreateSchema(name))

    def test_item(self) -> None:
        _forget_fixtures_of(self.item)
        # The class of the suite goes on, and what was made for it stays.
        reports = runtestprotocol(self.item, log=False, nextitem=self.item.parent)
        self.item.reports = reports
        if any(each.failed for each in reports):
            raise AssertionError("failed")

    @isolate("class")
    def test_end_of_class(self) -> None:
        self.item.ihook.pytest_runtest_teardown(item=self.item, nextitem=self.following)


class Isolated:
    """Runs the suite's tests as tests of ours."""

    def __init__(self) -> None:
        self._suite_class: Any = None
        self._home: type[Home]
        self.enter(None)

    def enter(self, suite_class: Any) -> None:
        """Leave the class of before, and begin another one."""
        if hasattr(self, "_home"):
            self.leave()
        self._suite_class = suite_class

        class Now(Home):
            pass

        Now.__qualname__ = getattr(suite_class, "__name__", "Suite")
        self._home = Now
        Now.setUpClass()
        if config.db is not None:
            # An engine begins each class as it was made; the suite wants one that has met its server.
            with config.db.connect():
                pass

    def leave(self) -> None:
        self._home.tearDownClass()
        self._home.doClassCleanups()
        if self._home.tearDown_exceptions:
            raise self._home.tearDown_exceptions[0][1]

    def run(self, item: Any, following: Any) -> None:
        """Run one of the suite's tests."""
        if item.cls is not self._suite_class:
            self.enter(item.cls)
            _set_up_class(item)
        item.ihook.pytest_runtest_logstart(nodeid=item.nodeid, location=item.location)
        before = self._committed()
        case = self._home("test_item")
        case.item = item
        case.run(result := unittest.TestResult())
        assert self._committed() == before, f"{item.nodeid} left something behind"
        if following is None or following.cls is not item.cls:
            end = self._home("test_end_of_class")
            end.item, end.following = item, following
            end.run(unittest.TestResult())
        reports = vars(item).pop("reports", ())
        if not reports:  # it could not even begin
            _note(item.nodeid, "failed", "".join(text for _, text in (*result.errors, *result.failures)))
        for each in reports:
            item.ihook.pytest_runtest_logreport(report=each)
        item.ihook.pytest_runtest_logfinish(nodeid=item.nodeid, location=item.location)

    def _committed(self) -> Any:
        """Return what others see of the class's database."""
        with self._home.instance.connect("test") as connection, connection.cursor() as cursor:
            cursor.execute(_ROWS)
            return cursor.fetchall()


_isolated: Isolated | None = None


def _set_up_class(item: Any) -> None:
    """Let the suite do what it does once for a class, before its first test begins."""
    with suppress(pytest.skip.Exception, Exception):  # told when the test itself is run
        pytestplugin.pytest_runtest_setup(item)
        item.session._setupstate.setup(item.parent)
        if not item._request:
            item._initrequest()
        known = item._fixtureinfo.name2fixturedefs
        for name in item.fixturenames:
            if name in known and known[name][-1].scope == "class":
                item._request.getfixturevalue(name)


def _forget_fixtures_of(item: Any) -> None:
    """Let a test begin as if it had not run before: pytest's fixtures do not expect to be interrupted in their end."""
    item.session._setupstate.stack.pop(item, None)
    for known in item._fixtureinfo.name2fixturedefs.values():
        for each in known:
            if each.scope == "function":
                each.cached_result = None
                each._finalizers.clear()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--compliance-url", help="the database, without isolation")
    parser.addoption("--compliance-driver", help="isolate the tests, with this driver")
    parser.addoption("--compliance-outcomes", type=Path, help="file to write the outcomes to")


def pytest_configure(config: pytest.Config) -> None:
    global _isolated
    driver = config.getoption("--compliance-driver")
    if driver is None:
        url: Any = sa.make_url(config.getoption("--compliance-url"))
    else:
        url = sa.make_url(dbtestcase.URL).set(drivername=f"postgresql+{driver}")
        report.ran_twice = lambda test_id, reason, outcome: _ran_twice.append(reason)
        _isolated = Isolated()
    config.option.dburi = [url]
    # It would create extensions, which not every server has, and which this suite does not use.
    provision.post_configure_engine.for_db("postgresql")(lambda url, engine, follower_ident: None)
    # SQLAlchemy 2.1 says so of servers before 18, and its suite makes an error of it.
    config.addinivalue_line("filterwarnings", "ignore:Computed column .* is being created as 'STORED'")


def pytest_unconfigure() -> None:
    if _isolated is not None:
        _isolated.leave()


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_protocol(item: Any, nextitem: Any) -> bool | None:
    if _isolated is None:
        return None
    _isolated.run(item, nextitem)
    return True


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    if report.failed:
        _note(report.nodeid, "failed", report.longreprtext)
    elif report.skipped or report.when == "call":
        _note(report.nodeid, report.outcome, "")


def _note(nodeid: str, outcome: str, text: str) -> None:
    """Remember how a test ended; "passed" is what it is until something else is known."""
    name = _DATABASE_IN_CLASS_NAME.sub("", nodeid.partition("::")[2])
    if _outcomes.get(name, {"outcome": "passed"})["outcome"] == "passed":
        _outcomes[name] = {"outcome": outcome, "text": text}


def pytest_sessionfinish(session: pytest.Session) -> None:
    found = {"outcomes": _outcomes, "ran_twice": _ran_twice}
    session.config.getoption("--compliance-outcomes").write_text(json.dumps(found), encoding="utf-8")
