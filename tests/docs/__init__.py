"""The documents: every block of code in them runs, every output shown is made by a run, every link leads somewhere."""

from __future__ import annotations

import os
import unittest
from pathlib import Path


def load_tests(loader: unittest.TestLoader, standard: unittest.TestSuite, pattern: str | None) -> unittest.TestSuite:
    """Find the tests here, unless TESTS_OF_DOCUMENTS is "off": CI runs them on one of its interpreters only."""
    if os.environ.get("TESTS_OF_DOCUMENTS") != "off":
        here = Path(__file__).parent
        standard.addTests(loader.discover(str(here), pattern or "test*.py", str(here.parent.parent)))
    return standard
