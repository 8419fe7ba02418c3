"""Tells dbtestcase which tests pytest is about to run. A plugin that pytest finds by its entry point.

It stands beside the package so that pytest, which loads it in every run, does not import SQLAlchemy and all the rest in
runs that have no use for it.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pytest


def pytest_collection_finish(session: pytest.Session) -> None:
    """Hand over the plan, now that everybody has selected and sorted. Without classes of ours nobody would take it."""
    case = sys.modules.get("dbtestcase.case")
    if case is None:
        return
    # A worker of pytest-xdist collects all tests, and learns one by one which of them are its own.
    items = [] if hasattr(session.config, "workerinput") else session.items
    classes = (getattr(item, "cls", None) for item in items)
    sys.modules["dbtestcase.lifecycle.schedule"].plan(
        each for each in classes if isinstance(each, type) and issubclass(each, case.DatabaseTestCase)
    )
