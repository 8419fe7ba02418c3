"""The words that tell users what to do when they make one of fifteen typical mistakes."""

from __future__ import annotations

import inspect
import os
import re
import subprocess
import sys
import unittest
from functools import cache
from pathlib import Path

from tests import mistakes
from tests.support import once

ROOT = Path(__file__).parent.parent
_HEAD = re.compile(r"^(?:ERROR|FAIL): (?:setUpClass \()?(?:\w+ \()?tests\.mistakes\.(\w+).*$", re.M)


@cache
def outputs() -> dict[str, str]:
    """Run all mistakes once; return what is printed of each, by class name."""
    run = subprocess.run(
        [sys.executable, "-m", "unittest", "tests.mistakes"],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=120,
    )
    found: dict[str, str] = {}
    for block in run.stderr.split("=" * 70 + "\n")[1:]:
        head = _HEAD.search(block)
        if head is not None:
            body = block.partition("-" * 70 + "\n")[2].partition("\n" + "-" * 70)[0]
            found[head[1]] = f"{found.get(head[1], '')}{head[0]}\n{body.strip()}\n"
    return found


@once
class MistakeTests(unittest.TestCase):
    def assert_told(self, name: str, *words: str) -> None:
        output = outputs().get(name, "")
        for word in words:
            self.assertIn(word, output)

    def test_a_session_left_open_in_a_thread(self):
        self.assert_told(
            "SessionLeftOpenInAThread",
            *("LockWait", "DROP TABLE", "in thread", "in report", "idle in transaction", "close()"),
        )

    def test_a_commit_forgotten_before_a_request(self):
        self.assert_told("CommitForgottenBeforeARequest", "What to do: commit() first?", "{'names': []}")

    def test_a_row_that_was_only_flushed_before_a_request(self):
        self.assert_told(
            "FlushedBeforeARequest",
            *("commit() first: the INSERT at", "in test_request_does_not_see", "in customers looked at customer"),
        )

    def test_a_view_that_forgets_to_commit(self):
        self.assert_told(
            "ViewThatForgetsToCommit", "a Customer object, added to a session at", "in add_customer", "never sent"
        )

    def test_rows_that_are_expected_from_an_earlier_test(self):
        self.assert_told(
            "RowsOfAnEarlierTest", "found no row of trial. test_1_adds_a_trial of this class", "setUpTestData"
        )

    def test_a_not_null_violated(self):
        self.assert_told("NotNullViolated", "participant_id", "What to do", "INSERT INTO trial")

    def test_a_lazy_load_after_close(self):
        self.assert_told("LazyLoadAfterClose", "What to do", "trials")

    def test_a_wrong_table_name(self):
        self.assert_told("WrongTableName", "What to do", "if participant is meant")

    def test_a_rolled_back_fixture(self):
        self.assert_told("RolledBackFixture", "daniel", "What to do", "in setUp was rolled back", "commit() it")

    def test_a_connection_leaked_in_set_up_class(self):
        self.assert_told("ConnectionLeakedInSetUpClass", "in setUpClass", "commit")

    def test_a_commit_as_raw_sql(self):
        self.assert_told("CommitAsSql", "IsolationBroken", "COMMIT at", '@isolate("clone")')

    def test_two_sessions_deadlocked(self):
        self.assert_told("TwoSessionsDeadlocked", "deadlock", "in rename", "same order")
        last = outputs()["TwoSessionsDeadlocked"].rpartition("sqlalchemy.exc.OperationalError")[2]
        self.assertIn("What to do", last)

    def test_a_schema_that_does_not_build(self):
        self.assert_told("SchemaThatDoesNotBuild", "SchemaThatDoesNotBuild.schema", "next_number", "CREATE TABLE trial")

    def test_no_server_programs(self):
        self.assert_told("NoServerPrograms", "PostgresNotFound", "/opt/no-such-postgresql/bin", "initdb")

    def test_an_application_that_points_elsewhere(self):
        self.assert_told("ApplicationPointsElsewhere", "UndeclaredDatabase", "db.example.com", "app_engines")
        self.assertNotIn("secret", outputs()["ApplicationPointsElsewhere"].split("UndeclaredDatabase", 1)[1])

    def test_each_is_told_once_and_without_frames_of_this_library(self):
        for name, output in outputs().items():
            with self.subTest(name):
                self.assertEqual(len(re.findall("^(?:ERROR|FAIL): ", output, re.M)), 1)
                self.assertNotRegex(output, r'File "[^"]*/dbtestcase/(?!tests)\w+')

    def test_the_page_shows_every_one_of_them(self):
        page = (ROOT / "docs" / "failures.md").read_text()

        for name in outputs():
            self.assertIn(f"## {_title(name)}", page)


def _title(name: str) -> str:
    words = re.sub(r"(?<=[a-z])(?=[A-Z])|(?<=A)(?=[A-Z][a-z])", " ", name).capitalize()
    return words.replace("sql", "SQL").replace("set up class", "setUpClass")


def write_document() -> None:
    """Write ``docs/failures.md``."""
    parts = [
        "# What failures look like",
        "Fifteen typical mistakes, and what the test run prints. Written by `python -m tests.mistakes`; a test holds "
        "the words that matter.",
    ]
    for name in (name for name in vars(mistakes) if name in outputs()):
        output = outputs()[name]
        code = inspect.getsource(getattr(mistakes, name)).rstrip()
        shown = re.sub(re.escape(str(ROOT)) + "/", "", output.rstrip())
        shown = re.sub(r'File "[^"]*/lib/python3[^"/]*/(?:site-packages/)?', 'File ".../', shown)
        shown = re.sub(r'(  File "\.\.\./[^\n]*\n(?:    [^\n]*\n)*)+', "  ...\n", shown)
        parts += [f"## {_title(name)}", f"```python\n{code}\n```", f"```text\n{shown}\n```"]
    (ROOT / "docs" / "failures.md").write_text("\n\n".join(parts) + "\n")


if __name__ == "__main__":
    write_document()
