"""What ``import dbtestcase.flask`` says where Flask is not installed."""

from __future__ import annotations

import subprocess
import sys
import unittest

from tests.support import once


def importing(module: str, missing: str) -> subprocess.CompletedProcess[str]:
    program = f"import sys; sys.modules[{missing!r}] = None; import {module}"
    return subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)


@once
class ImportTests(unittest.TestCase):
    def test_without_flask_it_says_what_to_install(self):
        run = importing("dbtestcase.flask", missing="flask")

        self.assertEqual(run.returncode, 1)
        self.assertRegex(run.stderr, r"ModuleNotFoundError: dbtestcase.flask needs Flask, which is not installed.\n")
        self.assertIn("pip install 'dbtestcase[flask]'", run.stderr)

    def test_a_flask_that_lacks_something_is_not_taken_for_none(self):
        run = importing("dbtestcase.flask", missing="itsdangerous")

        self.assertEqual(run.returncode, 1)
        self.assertNotIn("dbtestcase[flask]", run.stderr)

    def test_the_rest_of_the_library_needs_no_flask(self):
        self.assertEqual(importing("dbtestcase", missing="flask").stderr, "")

    def test_neither_extension_is_needed(self):
        for missing in ("flask_sqlalchemy", "flask_sqlalchemy_lite"):
            with self.subTest(missing):
                self.assertEqual(importing("dbtestcase.flask", missing=missing).stderr, "")


if __name__ == "__main__":
    unittest.main()
