from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path

from tests.support import of_throwaway_servers, once

ROOT = Path(__file__).parent.parent.parent
FAILING = """
import unittest
from sqlalchemy import text
from dbtestcase import DatabaseTestCase, isolate
from tests.support import Base, Customer, once

class ShopTests(DatabaseTestCase):
    schema = Base

    @classmethod
    def setUpTestData(cls, session):
        session.add(Customer(name="Ada"))

    def test_1_fails(self):
        self.session.add(Customer(name="Grace"))
        self.session.flush()
        self.fail("on purpose")

    @isolate("clone")
    def test_2_fails_in_a_clone(self):
        self.session.add(Customer(name="Edith"))
        self.session.commit()
        self.fail("on purpose")

    def test_3_starts_clean(self):
        names = self.session.scalars(text("SELECT name FROM customer")).all()
        self.assertEqual(names, ["Ada"])
"""


CLASSES = """
import unittest
from sqlalchemy import text
from sqlalchemy.orm import Session
from dbtestcase import DatabaseTestCase
from tests.support import Base, Customer

class SavepointTests(DatabaseTestCase):
    schema = Base

    @classmethod
    def setUpTestData(cls, session):
        session.add(Customer(name="Ada"))

    def tearDown(self):
        self.session.execute(text("DELETE FROM customer"))
        self.session.commit()

    def test_1_fails(self):
        self.session.add(Customer(name="committed"))
        self.session.commit()
        self.session.add(Customer(name="flushed"))
        self.session.flush()
        self.fail("on purpose")

    def test_2_fails_in_sql_with_another_session_open(self):
        other = Session(self.engine)
        other.add(Customer(name="of the other session"))
        other.flush()
        self.session.execute(text("SELECT * FROM nowhere"))

    def test_3_fails_in_a_subtest(self):
        for number in range(2):
            with self.subTest(number=number):
                self.session.add(Customer(name=f"subtest {number}"))
                self.session.commit()
                self.fail("on purpose")

    @unittest.expectedFailure
    def test_4_is_expected_to_fail(self):
        self.session.add(Customer(name="expected"))
        self.session.commit()
        self.fail("on purpose")

    def test_5_starts_clean(self):
        self.assertEqual(self.session.scalars(text("SELECT name FROM customer")).all(), ["Ada"])

class CloneTests(SavepointTests):
    isolation = "clone"
"""


def run(*command: str, cache: str, **more: object) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "DBTESTCASE_CACHE": cache, "DBTESTCASE_KEEP": "failed", "PYTHONPATH": str(ROOT)}
    return subprocess.run(
        [sys.executable, "-m", *command], env=environment, capture_output=True, text=True, timeout=120, **more
    )


class KeepTests(unittest.TestCase):
    @once
    @of_throwaway_servers
    def test_a_failed_test_s_database_can_be_opened_later_and_the_next_test_starts_clean(self):
        with tempfile.TemporaryDirectory() as folder:
            Path(folder, "failing.py").write_text(FAILING)
            tests = run("unittest", "failing", cache=f"{folder}/cache", cwd=folder)

            self.assertRegex(tests.stderr, r"FAILED \(failures=2\)")
            kept = dict(re.findall(r"^  failing\.ShopTests\.(\w+): python -m dbtestcase (.+)$", tests.stderr, re.M))
            self.assertEqual(sorted(kept), ["test_1_fails", "test_2_fails_in_a_clone"], tests.stderr)
            for test, name in (("test_1_fails", "Grace"), ("test_2_fails_in_a_clone", "Edith")):
                with self.subTest(test=test):
                    looked = run("dbtestcase", *kept[test].split(), cache=f"{folder}/cache", input="TABLE customer;")

                    self.assertIn("Ada", looked.stdout, looked.stderr)
                    self.assertIn(name, looked.stdout)
            cleaned = run("dbtestcase", "clean", cache=f"{folder}/cache")
            self.assertIn("2 kept instances deleted", cleaned.stdout)

    @once
    @of_throwaway_servers
    def test_several_tests_of_several_classes_are_kept_as_they_were_at_their_failure(self):
        wanted = {
            "test_1_fails": ["Ada", "committed", "flushed"],
            "test_2_fails_in_sql_with_another_session_open": ["Ada", "of the other session"],
            "test_3_fails_in_a_subtest": ["Ada", "subtest 0"],
        }
        with tempfile.TemporaryDirectory() as folder:
            Path(folder, "failing.py").write_text(CLASSES)
            tests = run("unittest", "failing", cache=f"{folder}/cache", cwd=folder)

            # A subtest that comes after the failure is an error; tearDown, which does, is none.
            self.assertIn("FAILED (failures=4, errors=4, expected failures=2)", tests.stderr.splitlines())
            self.assertEqual(tests.stderr.count("the test had failed before, and its database was kept"), 2)
            kept = re.findall(r"^  failing\.(\w+)\.(\w+): python -m dbtestcase (.+)$", tests.stderr, re.M)
            self.assertEqual(
                sorted((case, test) for case, test, _ in kept),
                sorted((case, test) for case in ("CloneTests", "SavepointTests") for test in wanted),
            )
            for case, test, command in kept:
                with self.subTest(case=case, test=test):
                    asked = (
                        "SELECT string_agg(name, ',' ORDER BY name) AS names FROM customer \\gset\n\\echo names :names"
                    )
                    looked = run("dbtestcase", *command.split(), cache=f"{folder}/cache", input=asked)

                    self.assertIn(f"names {','.join(wanted[test])}", looked.stdout, looked.stderr)

    @once
    @of_throwaway_servers
    def test_a_runner_that_ends_its_workers_without_warning_has_told_of_them(self):
        with tempfile.TemporaryDirectory() as folder:
            Path(folder, "test_failing.py").write_text(FAILING)
            tests = run("unittest_parallel", "-j", "2", "--level=class", cache=f"{folder}/cache", cwd=folder)
            one_by_one = run("unittest_parallel", "-j", "2", "--level=test", cache=f"{folder}/cache", cwd=folder)

        kept = re.findall(r"^  test_failing\.ShopTests\.(\w+): python -m dbtestcase start", tests.stderr, re.M)
        self.assertEqual(kept, ["test_1_fails", "test_2_fails_in_a_clone"])
        self.assertEqual(tests.stderr.count("SQL sent: 1 statement"), 2)
        self.assertIn("--level class", one_by_one.stderr)

    def test_a_value_that_means_nothing_is_said_so(self):
        with tempfile.TemporaryDirectory() as folder:
            Path(folder, "failing.py").write_text(
                FAILING.replace("import unittest", "import os\nos.environ['DBTESTCASE_KEEP'] = 'maybe'")
            )
            tests = run("unittest", "failing", cache=f"{folder}/cache", cwd=folder)

        self.assertIn("DBTESTCASE_KEEP is 'maybe'", tests.stderr)
