"""The pytest plugin of a run: it notes how each test ended, and lets the tests use a sandbox if that is asked for.

The suite makes its engines from one URL. Here that is the sandbox's, so that each of them is isolated without the
suite's knowing. A test is in the sandbox from before its own first fixture until after its last one; what the suite
does once per class, as creating tables, is done outside, as in ``setUpClass``.
"""

from __future__ import annotations

import json
import re
import warnings
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import psycopg2
import pytest
import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import provision

from dbtestcase.errors import UncommittedRead
from dbtestcase.sandbox import Sandbox
from dbtestcase.sandbox.drivers import connect_parameters

_TABLES = r"""
    SELECT format('%I.%I', nspname, relname) FROM pg_class JOIN pg_namespace n ON n.oid = relnamespace
    WHERE relkind = 'r' AND nspname !~ '^(pg_|information_schema$)' ORDER BY 1
"""
_DATABASE_IN_CLASS_NAME = re.compile(r"_postgresql\+.*?(?=::)")

_sandbox: Sandbox | None = None
_outcomes: dict[str, dict[str, str]] = {}


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--compliance-url", help="the database, without isolation")
    parser.addoption("--compliance-outcomes", type=Path, help="file to write the outcomes to")
    parser.addoption("--compliance-sandbox", action="store_true", help="isolate the tests")


def pytest_configure(config: pytest.Config) -> None:
    global _sandbox
    url = sa.make_url(config.getoption("--compliance-url"))
    if config.getoption("--compliance-sandbox"):
        _sandbox = Sandbox(url, owner="ComplianceTests")
        url = _sandbox.url
    config.option.dburi = [url]
    # It would create extensions, which not every server has, and which this suite does not use.
    provision.post_configure_engine.for_db("postgresql")(lambda url, engine, follower_ident: None)
    # SQLAlchemy 2.1 says so of servers before 18, and its suite makes an error of it.
    config.addinivalue_line("filterwarnings", "ignore:Computed column .* is being created as 'STORED'")


def pytest_unconfigure() -> None:
    if _sandbox is not None:
        _sandbox.close()


@pytest.fixture(autouse=True)
def isolated(request: pytest.FixtureRequest) -> Iterator[None]:
    """Undo the test and its fixtures; a problem of the sandbox's, or a row that is still there, is the test's error."""
    if _sandbox is None:
        yield
        return
    before = _committed(_sandbox.real_url)
    _sandbox.begin_test(request.node.nodeid)
    yield
    problems = _sandbox.end_test()
    if _sandbox.needs_fresh_database:
        _sandbox.move_to(_sandbox.real_url)
    if problems:
        raise problems[0]
    assert _committed(_sandbox.real_url) == before, "the test left something behind"


def _committed(url: sa.URL) -> dict[str, int]:
    """Return what others see of the database: its tables, and how many rows each has."""
    with closing(psycopg2.connect(**connect_parameters(url))) as connection, connection.cursor() as cursor:
        cursor.execute(_TABLES)
        return {name: _count(cursor, name) for (name,) in cursor.fetchall()}


def _count(cursor: Any, table: str) -> int:
    cursor.execute(f"SELECT count(*) FROM {table}")
    count: int = cursor.fetchone()[0]
    return count


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    if report.failed:
        _note(report.nodeid, "failed", report.longreprtext)
    elif report.skipped or report.when == "call":
        _note(report.nodeid, report.outcome, "")


def pytest_warning_recorded(warning_message: warnings.WarningMessage, nodeid: str) -> None:
    if issubclass(warning_message.category, UncommittedRead):
        _note(nodeid, "warned", str(warning_message.message))


def _note(nodeid: str, outcome: str, text: str) -> None:
    """Remember how a test ended; "passed" is what it is until something else is known."""
    name = _DATABASE_IN_CLASS_NAME.sub("", nodeid.partition("::")[2])
    if _outcomes.get(name, {"outcome": "passed"})["outcome"] == "passed":
        _outcomes[name] = {"outcome": outcome, "text": text}


def pytest_sessionfinish(session: pytest.Session) -> None:
    session.config.getoption("--compliance-outcomes").write_text(json.dumps(_outcomes), encoding="utf-8")
