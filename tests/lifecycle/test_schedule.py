"""What is known of the tests to come, under unittest and under pytest."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import textwrap
import unittest
from pathlib import Path

from tests.support import once

CLASSES = """
import unittest
from pathlib import Path
from dbtestcase import DatabaseTestCase
from dbtestcase.lifecycle import schedule

def note(test, following):
    with Path(__file__).with_suffix(".log").open("a") as log:
        print(type(test).__name__, "then", *(each.__name__ for each in following), file=log)

class First(DatabaseTestCase):
    def test_1(self):
        note(self, schedule.after(type(self), 2))
    def test_2(self):
        pass

class Plain(unittest.TestCase):
    def test_nothing(self):
        pass

class Second(DatabaseTestCase):
    def test_1(self):
        note(self, schedule.after(type(self), 2))

@unittest.skip("not today")
class Skipped(DatabaseTestCase):
    def test_1(self):
        pass

class Third(DatabaseTestCase):
    def test_1(self):
        note(self, schedule.after(type(self), 2))
"""


class ScheduleTests(unittest.TestCase):
    def setUp(self):
        self.folder = Path(self.enterContext(tempfile.TemporaryDirectory()))
        (self.folder / "test_it.py").write_text(textwrap.dedent(CLASSES))

    def notes(self, *arguments: str) -> list[str]:
        """Run the classes above and return what their tests noted."""
        done = subprocess.run(
            [sys.executable, "-m", *arguments], cwd=self.folder, capture_output=True, text=True, timeout=120
        )
        self.assertEqual(done.returncode, 0, done.stdout + done.stderr)
        return (self.folder / "test_it.log").read_text().splitlines()

    def test_unittest_tells_by_building_the_tests(self):
        # By name: First, Plain, Second, Skipped, Third.
        self.assertEqual(
            self.notes("unittest", "test_it"), ["First then Second Third", "Second then Third", "Third then"]
        )

    @once
    def test_pytest_tells_through_the_plugin(self):
        self.assertEqual(
            self.notes("pytest", "-p", "no:cacheprovider"),
            ["First then Second Third", "Second then Third", "Third then"],
        )

    @once
    def test_what_pytest_leaves_out_is_not_expected(self):
        self.assertEqual(
            self.notes("pytest", "-p", "no:cacheprovider", "-k", "First or Third"),
            ["First then Third", "Third then"],
        )

    @once
    def test_the_plugin_imports_nothing_of_ours_where_pytest_runs_other_tests(self):
        (self.folder / "test_it.py").write_text(
            "import sys\n\ndef test_it():\n    assert not {'dbtestcase', 'sqlalchemy', 'psycopg2'} & set(sys.modules)\n"
            "    assert '_dbtestcase_pytest' in sys.modules\n"
            "    open(__file__[:-3] + '.log', 'w').write('it was so')\n"
        )

        self.assertEqual(self.notes("pytest", "-p", "no:cacheprovider"), ["it was so"])


if __name__ == "__main__":
    unittest.main()
