"""Where the time of a run went, as text and as a page."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
import unittest
from html.parser import HTMLParser
from importlib.util import find_spec
from pathlib import Path

from dbtestcase.diagnosis import report
from dbtestcase.diagnosis.page import page
from dbtestcase.diagnosis.spans import SecondRun, Span, ran, waited
from tests.support import of_throwaway_servers, once

ROOT = Path(__file__).parents[2]
RUN = """
from dbtestcase.diagnosis import report
report.begin()
with report.span("class", "ShopTests"):
    with report.span("wait", "ShopTests"):
        pass
    for name in "ab":
        with report.span("test", f"ShopTests.test_{{name}}"):
            pass
report.ran_twice("test_shop.ShopTests.test_a", "SELECT at views.py:42 met an INSERT at test_shop.py:17", "passed")
{more}
print("done")
"""
SPANS = [
    Span("boot", "ShopTests", 0.0, 0.1, False),
    Span("class", "ShopTests", 0.0, 1.0, True),
    Span("wait", "ShopTests", 0.0, 0.1, True),
    Span("data", "ShopTests", 0.1, 0.3, True),
    Span("test", "ShopTests.test_<a>", 0.3, 0.9, True),
    Span("handover", "ShopTests", 0.8, 0.9, True),
    Span("class", "CafeTests", 1.0, 2.0, True),
    Span("wait", "CafeTests", 1.0, 1.05, True),
    Span("test", "CafeTests.test_b", 1.1, 2.0, True),
]
TWICE = [SecondRun("shop.CafeTests.test_<b>", "SELECT at a.py:2 met <INSERT> at b.py:3", "passed")]


class TableTests(unittest.TestCase):
    def setUp(self):
        self.text = "\n".join(report.table(SPANS, TWICE))

    def test_numbers_of_classes_tests_and_instances_are_told(self):
        self.assertIn("2 classes, 2 tests in 2.00 s; 1 instance booted, 0 clones", self.text)

    def test_waiting_counts_overlapping_time_once(self):
        self.assertIn("250.0 ms of it, 12.5 %, was waiting for instances, clones and the ends of classes", self.text)
        overlapping = [*SPANS, Span("wait", "x", 0.82, 0.88, True)]
        self.assertAlmostEqual(waited(overlapping), waited(SPANS))

    def test_processes_that_ran_side_by_side_count_each(self):
        other = [Span(*(getattr(each, name) for name in Span.__slots__[:5]), process=1) for each in SPANS]

        self.assertAlmostEqual(ran([*SPANS, *other]), 2 * ran(SPANS))

    def test_tests_that_ran_twice_are_listed_with_reason_and_outcome(self):
        self.assertIn("shop.CafeTests.test_<b> (passed): SELECT at a.py:2 met <INSERT> at b.py:3", self.text)

    def test_background_work_is_no_cost(self):
        self.assertRegex(self.text, r"instances booted +100.0 ms +1 times .* in the background")

    def test_slowest_set_up_comes_first_with_its_parts(self):
        first = self.text.partition("slowest set-ups\n")[2].splitlines()[0]

        self.assertRegex(first, r"300\.0 ms +ShopTests +\(wait 100\.0 ms, data 200\.0 ms\)")


@once
class RunTests(unittest.TestCase):
    def run_with(self, more: str = "", **variables: str) -> subprocess.CompletedProcess[str]:
        environment = {**os.environ, "PYTHONPATH": str(ROOT), **variables}
        run = subprocess.run(
            [sys.executable, "-c", RUN.format(more=more)], capture_output=True, text=True, env=environment, timeout=180
        )
        self.assertEqual((run.stdout, run.returncode), ("done\n", 0), run.stderr)
        return run

    def test_a_line_at_the_end_names_the_tests_that_ran_twice(self):
        run = self.run_with(DBTESTCASE_REPORT="")

        self.assertEqual(
            run.stderr,
            "dbtestcase: 1 test needed real connections and ran twice: ShopTests.test_a; "
            'DBTESTCASE_REPORT=1 shows why; mark it @isolate("clone").\n',
        )

    def test_a_long_list_of_tests_that_ran_twice_is_cut(self):
        more = "for n in range(20): report.ran_twice(f'test_shop.ShopTests.test_{n}', 'reason', 'passed')"

        run = self.run_with(more, DBTESTCASE_REPORT="")

        self.assertIn("21 tests needed real connections", run.stderr)
        self.assertIn("ShopTests.test_6 and 13 more; ", run.stderr)
        self.assertNotIn("test_7", run.stderr)

    def test_tests_that_passed_on_real_connections_only_are_told_what_may_be_the_reason(self):
        run = self.run_with("report.ran_twice('shop.ShopTests.test_b', '', report.FAILED_FIRST)", DBTESTCASE_REPORT="")

        self.assertIn("1 test failed in one transaction and passed on real connections: ShopTests.test_b;", run.stderr)
        self.assertIn("ids to begin at 1 need restart_identities = True", run.stderr)

    def test_a_line_that_a_plugin_has_shown_is_not_printed(self):
        run = self.run_with("assert 'ShopTests.test_a' in report.closing_line()", DBTESTCASE_REPORT="")

        self.assertEqual(run.stderr, "")

    def test_nothing_is_printed_where_no_test_ran_twice_and_no_report_is_wanted(self):
        run = self.run_with("report.hand_over()", DBTESTCASE_REPORT="")

        self.assertEqual(run.stderr, "")

    def test_what_one_process_hands_over_is_reported_by_another(self):
        rows = "[['class', 'BarTests', 0, 9, True, 0], ['test_bar.BarTests.test_z', 'a reason', 'passed']]"

        run = self.run_with(f"report.take_over({rows})", DBTESTCASE_REPORT="1")

        self.assertIn("2 classes, 2 tests in ", run.stderr)
        self.assertIn("2 tests needed real connections and ran twice: ShopTests.test_a, BarTests.test_z;", run.stderr)
        self.assertIn("test_bar.BarTests.test_z (passed): a reason", run.stderr)

    def test_table_is_printed_after_everything_else(self):
        run = self.run_with(DBTESTCASE_REPORT="1")

        first, second, third = run.stderr.splitlines()[:3]
        self.assertIn('ran twice: ShopTests.test_a; mark it @isolate("clone")', first)
        self.assertEqual(second, "dbtestcase: where the time went")
        self.assertTrue(third.startswith("  1 class, 2 tests in "), run.stderr)

    def test_page_is_written_and_named(self):
        folder = Path(self.enterContext(tempfile.TemporaryDirectory()))

        run = self.run_with(DBTESTCASE_REPORT=str(folder / "report.html"))

        self.assertIn(str(folder / "report.html"), run.stderr)
        self.assertIn("ShopTests", (folder / "report.html").read_text(encoding="utf-8"))

    def test_page_that_cannot_be_written_becomes_the_table(self):
        run = self.run_with(DBTESTCASE_REPORT="/nowhere/at/all/report.html")

        self.assertIn("1 class, 2 tests", run.stderr)
        self.assertIn("could not be written", run.stderr)


CLASSES = """
import time
from dbtestcase import DatabaseTestCase
from dbtestcase.diagnosis import report

class {name}Tests(DatabaseTestCase):
    def test_1(self):
        self.session.connection()
        time.sleep(0.2)
        report.ran_twice(self.id(), "a reason", "passed")
"""

POOLED = """
import multiprocessing, unittest
import test_a

def run(name):
    return unittest.TextTestRunner().run(unittest.defaultTestLoader.loadTestsFromName(name)).testsRun

if __name__ == "__main__":
    for kind in ("fork", "spawn"):
        with multiprocessing.get_context(kind).Pool(2) as pool:
            assert pool.map(run, ["test_a", "test_b", "test_c", "test_d"], chunksize=1) == [1, 1, 1, 1]
"""


class ParallelTests(unittest.TestCase):
    def run_in_parallel(self, *command: str, report: str) -> tuple[str, Path]:
        folder = Path(self.enterContext(tempfile.TemporaryDirectory()))
        for name in ("A", "B", "C", "D"):
            (folder / f"test_{name.lower()}.py").write_text(CLASSES.format(name=name))
        (folder / "pooled.py").write_text(POOLED)
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "DBTESTCASE_REPORT": report, "TMPDIR": str(folder)}
        run = subprocess.run(
            [sys.executable, *command], cwd=folder, capture_output=True, text=True, env=environment, timeout=120
        )
        self.assertEqual(run.returncode, 0, run.stderr)
        return run.stdout + run.stderr, folder

    @once
    @of_throwaway_servers
    def test_processes_that_are_ended_without_warning_are_in_the_one_report(self):
        said, folder = self.run_in_parallel("pooled.py", report="1")

        self.assertEqual(said.count("where the time went"), 1, said)
        self.assertEqual(said.count("needed real connections"), 1, said)
        told = said[said.index("dbtestcase: where") :]
        self.assertRegex(told, r"8 classes, 8 tests in [\d.]+ s and \d processes; 8 instances booted")
        self.assertEqual(list(folder.glob("dbtestcase-report-*")), [])

    @once
    def test_tests_of_workers_that_ran_twice_are_named_without_a_report(self):
        said, folder = self.run_in_parallel("pooled.py", report="")

        self.assertEqual(said.count("needed real connections"), 1, said)
        self.assertIn("4 tests needed real connections and ran twice: ", said)
        self.assertEqual(list(folder.glob("dbtestcase-report-*")), [])

    @once
    def test_pytest_names_them_in_its_summary(self):
        for processes in ((), ("-n", "2")):
            if processes and find_spec("xdist") is None:
                self.skipTest("pytest-xdist is not installed")
            with self.subTest(processes):
                command = ("-m", "pytest", "-p", "no:cacheprovider", *processes)
                said, _ = self.run_in_parallel(*command, report="1")

                self.assertEqual(said.count("needed real connections"), 1, said)
                self.assertRegex(said, r"4 tests needed real connections and ran twice: (\w+Tests\.test_1(, |; )){4}")
                self.assertEqual(said.count("where the time went"), 1, said)
                self.assertIn("4 classes, 4 tests in ", said)

    @once
    def test_unittest_parallel_makes_one_page(self):
        said, folder = self.run_in_parallel("-m", "unittest_parallel", "-j", "2", report="report.html")

        self.assertIn("where the time went is in report.html", said)
        self.assertEqual([path.name for path in folder.glob("*.html")], ["report.html"])
        for name in ("test_a.ATests", "test_b.BTests", "test_c.CTests", "test_d.DTests"):
            self.assertIn(f'title="{name}"', (folder / "report.html").read_text(encoding="utf-8"))


class PageTests(unittest.TestCase):
    def setUp(self):
        self.page = page(SPANS, TWICE)

    def test_page_is_well_formed_and_escapes_names(self):
        open_tags: list[str] = []

        class Check(HTMLParser):
            def handle_starttag(self, tag, attrs):
                if tag not in ("meta", "input"):
                    open_tags.append(tag)

            def handle_endtag(check, tag):
                self.assertEqual(open_tags.pop(), tag)

        Check().feed(self.page)

        self.assertEqual(open_tags, [])
        self.assertIn("test_&lt;a&gt;", self.page)
        self.assertNotIn("<a>", self.page)
        self.assertIn("met &lt;INSERT&gt; at b.py:3", self.page)

    def test_page_loads_nothing_from_elsewhere(self):
        self.assertIsNone(re.search(r"https?://|src=|@import|<link", self.page))

    def test_each_class_has_a_row_with_what_happened_in_it(self):
        rows = re.findall(r'<div class="row"><div class="name" title="(\w+)">.*?</div></div></div>|$', self.page)
        shop = self.page.partition('title="ShopTests">')[2].partition('class="row"')[0]

        self.assertEqual(rows[:2], ["ShopTests", "CafeTests"])
        self.assertEqual(shop.count('class="bar"'), 5)
        self.assertIn("ShopTests · setUpTestData · 200.0 ms", shop)

    def test_a_run_without_second_runs_has_no_table_of_them(self):
        self.assertIn("Tests that ran twice", self.page)
        self.assertNotIn("Tests that ran twice", page(SPANS))

    def test_background_work_that_overlaps_gets_rows_of_its_own(self):
        overlapping = page([*SPANS, Span("boot", "x", 0.05, 0.2, False), Span("boot", "x", 0.3, 0.4, False)])
        rows = overlapping.partition("in the background")[2].partition("</section>")[0]

        self.assertEqual(rows.count('<div class="track">'), 2)

    def test_shares_add_up_and_count_what_a_test_waits_for_once(self):
        shares = re.findall(r"([\w' ,]+) ([\d.]+) (m?s), (\d+) %</span>", self.page)

        self.assertEqual((shares[0][0].strip(), shares[0][3]), ("tests", "70"))
        self.assertAlmostEqual(sum(int(percent) for *_, percent in shares), 100, delta=2)

    def test_axis_has_round_numbers(self):
        self.assertIn(">0.2 s<", self.page)

    def test_page_looks_light_and_dark(self):
        self.assertIn("prefers-color-scheme: dark", self.page)


if __name__ == "__main__":
    unittest.main()
