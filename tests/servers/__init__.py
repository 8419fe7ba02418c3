"""Servers: their programs, templates, instances, copies, and what is left when anything goes wrong."""

from __future__ import annotations

import os
import unittest
from pathlib import Path


def load_tests(loader: unittest.TestLoader, standard: unittest.TestSuite, pattern: str | None) -> unittest.TestSuite:
    """Find the tests here, except where CI has run them on the same interpreter with another SQLAlchemy."""
    if os.environ.get("TESTS_OF_SERVERS") != "off":
        here = Path(__file__).parent
        standard.addTests(loader.discover(str(here), pattern or "test*.py", str(here.parent.parent)))
    return standard
