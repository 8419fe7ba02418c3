"""The documents: every block of code in them runs, every output shown is made by a run, every link leads somewhere."""

from __future__ import annotations

import os
import unittest
from pathlib import Path

from tests.support import RUNS_ONCE


def load_tests(loader: unittest.TestLoader, standard: unittest.TestSuite, pattern: str | None) -> unittest.TestSuite:
    """Find the tests here, except where CI leaves out what it runs once, or beside the others."""
    if RUNS_ONCE and os.environ.get("TESTS_OF_DOCUMENTS") != "off":
        here = Path(__file__).parent
        standard.addTests(loader.discover(str(here), pattern or "test*.py", str(here.parent.parent)))
    return standard
