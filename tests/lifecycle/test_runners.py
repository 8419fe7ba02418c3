"""Runners see one test, whichever they are: only the run that counts, named once, and the line at the end."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path

from tests.support import once

ROOT = Path(__file__).parent.parent.parent
TESTS = """
import logging, pytest, sys, unittest
from sqlalchemy import func, select
from dbtestcase import DatabaseTestCase
from tests.support import Base, Customer

class ShopTests(DatabaseTestCase):
    schema = Base

    def need_real_connections(self):
        with self.engine.connect() as one, self.engine.connect() as other:
            one.execute(Customer.__table__.insert(), {"name": "uncommitted"})
            other.scalar(select(func.count()).select_from(Customer))

    def test_1_passes(self):
        self.session.add(Customer(name="Ada"))
        self.session.commit()

    def test_2_needs_real_connections(self):
        self.need_real_connections()

    def test_3_fails(self):
        print("printed")
        logging.getLogger("shop").warning("logged")
        self.need_real_connections()
        self.fail("on purpose")

    def test_4_is_skipped(self):
        self.need_real_connections()
        self.skipTest("not today")

    def test_5_has_subtests(self):
        for number in range(2):
            with self.subTest(number=number):
                self.need_real_connections()

class OtherTests(DatabaseTestCase):
    schema = Base

    def test_1_passes(self):
        self.assertRowCount(Customer, 0)
"""
FIXTURES = """
import pytest
from sqlalchemy import func, select
from dbtestcase import DatabaseTestCase
from tests.support import Base, Customer

VALUE = "original"

class ShopTests(DatabaseTestCase):
    schema = Base

    @pytest.fixture(autouse=True)
    def given(self, monkeypatch, capsys, caplog):
        monkeypatch.setattr(f"{__name__}.VALUE", "patched")
        self.capsys, self.caplog, self.by_fixture = capsys, caplog, "given"

    def test_it(self):
        import logging
        self.assertEqual((self.by_fixture, VALUE), ("given", "patched"))
        print("printed")
        logging.getLogger().warning("logged")
        with pytest.raises(ZeroDivisionError):
            self.need_real_connections()
            1 / 0
        self.assertEqual(self.capsys.readouterr().out, "printed\\n")
        self.assertEqual(len(self.caplog.records), 1)

    def need_real_connections(self):
        with self.engine.connect() as one, self.engine.connect() as other:
            one.execute(Customer.__table__.insert(), {"name": "uncommitted"})
            other.scalar(select(func.count()).select_from(Customer))
"""
DEBUGGED = """
import unittest
from sqlalchemy import func, select, text
from dbtestcase import DatabaseTestCase
from tests.support import Base, Customer

class ShopTests(DatabaseTestCase):
    schema = Base

    def setUp(self):
        print("set up")

    def tearDown(self):
        self.session.execute(text("DELETE FROM customer"))
        self.session.commit()
        print("torn down")

    def test_1_fails(self):
        self.session.add(Customer(name="Ada"))
        self.session.commit()
        self.fail("on purpose")

    def test_2_is_clean(self):
        self.assertRowCount(Customer, 0)
"""


def is_installed(name: str) -> bool:
    return importlib.util.find_spec(name) is not None


MANY_CLASSES = """
from pathlib import Path

from dbtestcase import DatabaseTestCase


class FirstTests(DatabaseTestCase):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        with open(Path(__file__).with_name("set_ups"), "a") as file:
            file.write(cls.__name__ + "\\n")

    def test_1(self):
        self.session.connection()

    test_2 = test_1


class SecondTests(FirstTests):
    pass


class ThirdTests(FirstTests):
    pass


class FourthTests(FirstTests):
    pass


class FifthTests(FirstTests):
    pass


class SixthTests(FirstTests):
    pass


def test_outside_of_classes():
    pass
"""


class RunnerTests(unittest.TestCase):
    def setUp(self):
        self.folder = Path(self.enterContext(tempfile.TemporaryDirectory()))
        self.write(TESTS)

    def write(self, code: str) -> None:
        (self.folder / "test_it.py").write_text(code)

    def run_module(self, *arguments: str, answers: str = "", **variables: str) -> subprocess.CompletedProcess[str]:
        environment = {
            **os.environ, "PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1", "NO_COLOR": "1", "COLUMNS": "300",
            **variables,
        }  # fmt: skip
        return subprocess.run(
            [sys.executable, "-m", *arguments],
            cwd=self.folder, env=environment, input=answers, capture_output=True, text=True, timeout=180,
        )  # fmt: skip

    # -- unittest

    def test_unittest(self):
        done = self.run_module("unittest", "-v", "test_it")

        self.assertIn("Ran 6 tests", done.stderr)
        self.assertIn("FAILED (failures=1, skipped=1)", done.stderr)
        self.assertEqual(len(re.findall(r"^test_\w+ \(.*\.\.\.", done.stderr, re.M)), 6)
        last = done.stderr.strip().splitlines()[-1]
        self.assertIn("3 tests needed real connections and ran twice: ", last)
        self.assertIn("DBTESTCASE_REPORT=1", last)
        self.assertIn('@isolate("clone")', last)

    @once
    def test_unittest_with_fail_fast_and_buffers(self):
        done = self.run_module("unittest", "-f", "-b", "test_it.ShopTests")

        self.assertIn("Ran 3 tests", done.stderr)
        self.assertIn("FAILED (failures=1)", done.stderr)
        self.assertEqual(len(re.findall(r"^printed$", done.stderr, re.M)), 1)
        self.assertIn("2 tests needed real connections", done.stderr)

    @unittest.skipUnless(sys.version_info >= (3, 12), "unittest --durations")
    def test_unittest_durations(self):
        done = self.run_module("unittest", "--durations", "0", "-v", "test_it.ShopTests.test_2_needs_real_connections")

        self.assertEqual(len(re.findall(r"^\d+\.\d+s +test_2_needs", done.stderr, re.M)), 1, done.stderr)

    @once
    def test_the_report_says_what_met_what(self):
        done = self.run_module("unittest", "test_it", DBTESTCASE_REPORT="1")

        for words in ("test_2_needs_real_connections", "test_it.py:", "met uncommitted work", "INSERT INTO customer"):
            self.assertIn(words, done.stderr)

    # -- pytest

    @once
    def test_pytest(self):
        done = self.run_module("pytest", "-p", "no:cacheprovider", "--durations=0", "-vv")

        self.assertRegex(done.stdout, r"1 failed, \d+ passed, 1 skipped")
        self.assertEqual(len(re.findall(r"^printed$", done.stdout, re.M)), 1)
        self.assertEqual(len(re.findall(r"^WARNING  shop:.* logged$", done.stdout, re.M)), 1)
        self.assertEqual(len(re.findall(r"call +test_it.py::ShopTests::test_2", done.stdout)), 1)
        self.assertIn("3 tests needed real connections and ran twice: ", done.stdout)
        self.assertIn("This test ran twice, here on real connections", done.stdout)
        self.assertNotIn("ran twice: ", done.stderr)

    @once
    def test_pytest_stops_at_the_first_failure_and_runs_the_last_one_again(self):
        stopped = self.run_module("pytest", "-x")
        again = self.run_module("pytest", "--lf")

        self.assertRegex(stopped.stdout, r"1 failed, 2 passed")
        self.assertRegex(again.stdout, "1 failed")

    @once
    def test_pytest_with_fixtures_and_captured_output(self):
        self.write(FIXTURES)

        done = self.run_module("pytest", "-p", "no:cacheprovider", "test_it.py")

        self.assertIn("1 passed", done.stdout, done.stdout)
        self.assertIn("1 test needed real connections", done.stdout)

    @once
    def test_pytest_with_a_debugger_runs_each_test_once_and_shows_the_database_as_it_was_left(self):
        self.write(DEBUGGED)

        done = self.run_module(
            "pytest", "-p", "no:cacheprovider", "-s", "--pdb",
            answers="p self.session.connection().exec_driver_sql('TABLE customer').all()\ncontinue\n",
        )  # fmt: skip

        self.assertRegex(done.stdout, r"\(Pdb\) \[\(1, 'Ada'\)\]", done.stderr)
        self.assertRegex(done.stdout, r"1 failed, 1 passed")
        self.assertEqual(done.stdout.count("set up"), 2)
        self.assertEqual(done.stdout.count("torn down"), 2)
        self.assertNotIn("ran twice", done.stdout)

    @once
    def test_a_pytest_fixture_that_uses_the_database_is_told_to_be_a_set_up(self):
        self.write(
            FIXTURES.replace(
                "        monkeypatch.setattr",
                "        self.session.connection().exec_driver_sql('SELECT 1')\n        monkeypatch.setattr",
            )
            + "    test_again = test_it\n"
        )

        done = self.run_module("pytest", "-p", "no:cacheprovider", "test_it.py")

        self.assertIn("A fixture of pytest that uses the database runs before the test begins", done.stdout)
        self.assertIn("2 errors", done.stdout)  # the class's first test is no exception

    @once
    def test_a_pytest_fixture_may_use_the_database_where_tests_build_on_each_other(self):
        self.write(
            FIXTURES.replace(
                "        monkeypatch.setattr",
                "        self.session.connection().exec_driver_sql('SELECT 1')\n        monkeypatch.setattr",
            ).replace("    schema = Base\n", "    schema = Base\n    isolation = 'class'\n")
        )

        done = self.run_module("pytest", "-p", "no:cacheprovider", "test_it.py")

        self.assertNotIn("A fixture of pytest that uses the database", done.stdout)

    @once
    def test_pytest_with_fixtures_learns_of_code_that_set_up_class_has_made(self):
        self.write(
            """
import pytest
from sqlalchemy import text
from dbtestcase import DatabaseTestCase

class VisitTests(DatabaseTestCase):
    @pytest.fixture(autouse=True)
    def given(self):
        pass

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        with cls.engine.begin() as connection:
            connection.exec_driver_sql("CREATE TABLE visit (id int)")
            connection.exec_driver_sql(
                "CREATE FUNCTION visit() RETURNS int LANGUAGE sql AS 'INSERT INTO visit VALUES (1) RETURNING id'"
            )

    def test_it(self):
        with self.engine.connect() as connection:
            connection.scalar(text("SELECT visit()"))
            connection.rollback()
            self.assertEqual(connection.scalar(text("SELECT count(*) FROM visit")), 0)
"""
        )

        done = self.run_module("pytest", "-p", "no:cacheprovider", "test_it.py")

        self.assertIn("1 passed", done.stdout, done.stdout)
        self.assertNotIn("failed", done.stdout)  # in its first run neither

    @once
    @unittest.skipUnless(is_installed("xdist"), "pytest-xdist is not installed")
    def test_pytest_xdist(self):
        done = self.run_module("pytest", "-p", "no:cacheprovider", "-n", "2", "--dist", "loadscope")

        self.assertRegex(done.stdout, r"1 failed, \d+ passed, 1 skipped")
        self.assertIn("3 tests needed real connections and ran twice: ", done.stdout)

    @once
    @unittest.skipUnless(is_installed("xdist"), "pytest-xdist is not installed")
    def test_pytest_xdist_sets_each_class_up_in_one_worker(self):
        self.write(MANY_CLASSES)

        for dealt_out, set_ups in ((), 6), (("--dist", "each"), 12):
            with self.subTest(dealt_out=dealt_out):
                done = self.run_module("pytest", "-p", "no:cacheprovider", "-n", "2", *dealt_out, "test_it.py")

                self.assertRegex(done.stdout, rf"{2 * set_ups + set_ups // 6} passed")
                self.assertEqual((self.folder / "set_ups").read_text().count("\n"), set_ups)
                (self.folder / "set_ups").unlink()

    # -- others

    @once
    @unittest.skipUnless(is_installed("unittest_parallel"), "unittest-parallel is not installed")
    def test_unittest_parallel(self):
        done = self.run_module("unittest_parallel", "-j", "2", "--level", "class", "-s", ".")

        self.assertIn("FAILED (failures=1, skipped=1)", done.stderr)
        self.assertIn("3 tests needed real connections and ran twice: ", done.stderr)

    @once
    @unittest.skipUnless(is_installed("teamcity"), "teamcity-messages is not installed")
    def test_the_runner_of_pycharm(self):
        done = self.run_module("teamcity.unittestpy", "test_it")

        names = re.findall(r"##teamcity\[testStarted .* name='test_it\.\w+\.(\w+)'\]", done.stdout)
        failed = re.findall(r"##teamcity\[testFailed .* name='test_it\.\w+\.(\w+)'\]", done.stdout)
        self.assertEqual(len(names), 6)
        self.assertEqual(len(set(names)), 5)  # both classes have a test_1_passes
        self.assertEqual(failed, ["test_3_fails"])

    @once
    @unittest.skipUnless(is_installed("stestr"), "stestr is not installed")
    def test_stestr(self):
        (self.folder / ".stestr.conf").write_text("[DEFAULT]\ntest_path=.\ngroup_regex=([^\\.]+\\.[^\\.]+)\\.\n")

        done = self.run_module("stestr", "run", "--concurrency", "2")

        self.assertRegex(done.stdout, r"- Passed: 4")
        self.assertRegex(done.stdout, r"- Failed: 1")
        self.assertRegex(done.stdout, r"- Skipped: 1")

    @once
    @unittest.skipUnless(is_installed("green"), "green is not installed")
    def test_green(self):
        done = self.run_module("green", "-s", "1", "test_it")

        self.assertIn("FAILED (failures=1, passes=4, skips=1)", done.stdout + done.stderr)

    @once
    @unittest.skipUnless(is_installed("nose2"), "nose2 is not installed")
    def test_nose2(self):
        done = self.run_module("nose2", "test_it")

        self.assertIn("FAILED (failures=1, skipped=1)", done.stderr)


class DebuggerTests(unittest.TestCase):
    def run_code(self, code: str) -> list[str]:
        """Run lines of code after a class whose runs are counted; return what they print as JSON."""
        module = TESTS.replace(
            "    def test_1_passes", "    def setUp(self): RUNS.append(1)\n\n    def test_1_passes", 1
        )
        code = f"RUNS = []\n{module}\nimport bdb, json\n{code}\nprint(json.dumps(len(RUNS)))\n"
        done = subprocess.run(
            [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=180,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )  # fmt: skip
        self.assertEqual(done.returncode, 0, done.stderr)
        return json.loads(done.stdout.strip().splitlines()[-1])

    def test_without_one_a_test_runs_twice(self):
        self.assertEqual(
            self.run_code(
                "unittest.TestSuite([ShopTests('test_2_needs_real_connections')]).run(unittest.TestResult())"
            ),
            2,
        )

    def test_debug_runs_it_once_on_real_connections(self):
        self.assertEqual(self.run_code("unittest.TestSuite([ShopTests('test_2_needs_real_connections')]).debug()"), 1)

    def test_a_trace_function_of_a_debugger_lets_it_run_once(self):
        self.assertEqual(
            self.run_code(
                "class Debugger(bdb.Bdb):\n"
                "    def user_line(self, frame): self.set_step()\n"
                "suite = unittest.TestSuite([ShopTests('test_2_needs_real_connections')])\n"
                "Debugger().runcall(suite.run, unittest.TestResult())"
            ),
            1,
        )

    @unittest.skipUnless(hasattr(sys, "monitoring"), "CPython 3.12")
    def test_a_debugger_that_monitors_lets_it_run_once_and_what_measures_coverage_does_not(self):
        for tool, runs in (("DEBUGGER_ID", 1), ("COVERAGE_ID", 2)):
            with self.subTest(tool):
                self.assertEqual(
                    self.run_code(
                        f"sys.monitoring.use_tool_id(sys.monitoring.{tool}, 'a tool')\n"
                        "unittest.TestSuite([ShopTests('test_2_needs_real_connections')]).run(unittest.TestResult())"
                    ),
                    runs,
                )

    def test_another_trace_function_changes_nothing(self):
        self.assertEqual(
            self.run_code(
                "suite = unittest.TestSuite([ShopTests('test_2_needs_real_connections')])\n"
                "sys.settrace(lambda frame, event, argument: None)\n"
                "suite.run(unittest.TestResult())\n"
                "sys.settrace(None)"
            ),
            2,
        )


if __name__ == "__main__":
    unittest.main()
