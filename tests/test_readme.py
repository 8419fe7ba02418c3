"""The README: what a stranger sees first."""

from __future__ import annotations

import re
import runpy
import subprocess
import sys
import tomllib
import unittest
from pathlib import Path

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
QUESTIONS = {
    "tests build on each other": "docs/migrating.md#tests-that-build-on-each-other",
    "run twice": "docs/isolation.md#why-did-my-test-run-twice",
    "async?": "docs/asyncio.md",
    "existing server": "docs/existing-server.md",
    "row level security": "docs/roles.md",
    "browser": "docs/browser.md",
    "parallel": "docs/parallel.md",
    "breakpoint": "docs/look-inside.md",
}


class ReadmeTests(unittest.TestCase):
    def test_it_is_about_a_screen_and_a_half(self) -> None:
        self.assertLess(len(README.splitlines()), 180)

    def test_each_question_of_a_stranger_has_a_link(self) -> None:
        rows = [line.lower() for line in README.splitlines() if line.startswith("| ")]
        for question, link in QUESTIONS.items():
            with self.subTest(question):
                self.assertTrue(any(question in row and f"({link})" in row for row in rows))

    def test_the_extras_that_it_names_exist(self) -> None:
        extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]

        named = {name for found in re.findall(r"(?:dbtestcase|\.)\[([\w,]+)\]", README) for name in found.split(",")}

        self.assertGreaterEqual(set(extras), named)
        self.assertIn("embedded", named)

    def test_on_a_package_index_its_links_lead_into_the_repository_or_are_none(self) -> None:
        description = runpy.run_path(str(ROOT / "setup.py"))["description"]
        known = {"version": "1.2.3", "urls": {"Source": "https://example.org/dbtestcase/"}}

        self.assertIn(
            "[Tutorial](https://example.org/dbtestcase/blob/v1.2.3/docs/tutorial.md)", description(README, known)
        )
        self.assertIn("| Tutorial:", description(README, {"version": "1.2.3"}))
        self.assertNotIn("<!--", description(README, known))

    def test_importing_the_package_starts_nothing(self) -> None:
        code = (
            "import subprocess, threading, sys\n"
            "subprocess.Popen = None\n"
            "import dbtestcase\n"
            "assert threading.active_count() == 1, threading.enumerate()\n"
            "assert 'flask' not in sys.modules and 'alembic' not in sys.modules\n"
        )
        run = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=180)

        self.assertEqual(run.returncode, 0, run.stderr)
