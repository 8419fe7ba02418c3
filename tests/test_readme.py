"""The README's code runs as pasted, and documents every public name."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path

import dbtestcase
import dbtestcase.flask

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
# A block that is a whole test module is marked, in the lines before it, with the name its file is given here.
MARKED = re.compile(r"<!-- runs: (\w+) -->\s*```python\n(.*?)```", re.DOTALL)


class ReadmeTests(unittest.TestCase):
    def test_every_marked_block_passes_as_a_test_module(self):
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        for document in DOCUMENTS:
            blocks = MARKED.findall(document.read_text())
            if not blocks:
                continue
            with self.subTest(document=document.name), tempfile.TemporaryDirectory() as folder:
                for name, code in blocks:
                    Path(folder, f"{name}.py").write_text(code)
                # Whoever installs what the README says has no psycopg 3.
                Path(folder, "psycopg.py").write_text("raise ModuleNotFoundError(name='psycopg')\n")

                run = subprocess.run(
                    [sys.executable, "-m", "unittest", "-v", *(name for name, _ in blocks)],
                    cwd=folder,
                    env=environment,
                    capture_output=True,
                    text=True,
                    timeout=200,
                )

                self.assertEqual(run.returncode, 0, run.stdout + run.stderr)
                for name, _ in blocks:
                    self.assertRegex(run.stderr, rf"\({name}\.\w+.* \.\.\. ok")

    def test_every_public_name_is_documented(self):
        for name in dbtestcase.__all__:
            with self.subTest(name=name):
                self.assertRegex(README, rf"\b{name}\b")

    def test_every_base_class_for_flask_is_documented(self):
        for name in dbtestcase.flask.__all__:
            with self.subTest(name=name):
                self.assertRegex(README, rf"\b{name}\b")

    def test_every_error_is_documented(self):
        text = "".join(path.read_text() for path in DOCUMENTS)
        for name in dbtestcase.errors.__all__:
            with self.subTest(name=name):
                self.assertRegex(text, rf"\b{name}\b")

    def test_public_attributes_of_the_base_class_are_documented(self):
        own = {name for name in vars(dbtestcase.DatabaseTestCase) if not name.startswith("_")}
        overrides = {name for name in own if hasattr(unittest.TestCase, name)}
        for name in sorted(own - overrides):
            with self.subTest(name=name):
                self.assertRegex(README, rf"\b{name}\b")

    def test_importing_the_package_starts_nothing(self):
        code = (
            "import subprocess, threading, sys\n"
            "subprocess.Popen = None\n"
            "import dbtestcase\n"
            "assert threading.active_count() == 1, threading.enumerate()\n"
            "assert 'flask' not in sys.modules and 'alembic' not in sys.modules\n"
        )
        run = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60)

        self.assertEqual(run.returncode, 0, run.stderr)
