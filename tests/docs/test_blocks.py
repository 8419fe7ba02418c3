"""Every block of code in the documents runs, and every output that they show is what a run prints."""

from __future__ import annotations

import tempfile
import unittest
from pathlib import Path

from tests.docs.blocks import ROOT, blocks, documents
from tests.docs.runs import Mistake, outputs, run_document, same


class DocumentTests(unittest.TestCase):
    """One test for each document; they are made below."""


def _test_of(path: Path):
    def test(self: DocumentTests) -> None:
        with tempfile.TemporaryDirectory() as folder:
            for block, printed in outputs(path, Path(folder)):
                self.assertTrue(
                    same(block.code, printed),
                    f"{path.name}:{block.line} shows another output than this; "
                    f"python -m tests.docs.outputs {path.relative_to(ROOT)} writes it:\n{printed}",
                )

    return test


for _path in documents():
    _name = str(_path.relative_to(ROOT).with_suffix("")).replace("/", "_").replace("-", "_").lower()
    setattr(DocumentTests, f"test_{_name}", _test_of(_path))


class HarnessTests(unittest.TestCase):
    def run_text(self, text: str) -> None:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, "page.md")
            path.write_text(text)
            list(run_document(path, Path(folder)))

    def test_a_block_without_a_mark_is_refused(self) -> None:
        with self.assertRaisesRegex(Mistake, r"page\.md:1: no comment"):
            self.run_text("```python\nprint()\n```\n")

    def test_a_module_whose_tests_fail_is_refused(self) -> None:
        code = "import unittest\nclass T(unittest.TestCase):\n    def test_it(self):\n        self.fail()\n"

        with self.assertRaisesRegex(Mistake, "do not pass"):
            self.run_text(f"<!-- runs: one -->\n```python\n{code}```\n")

    def test_a_module_without_a_test_that_ran_is_refused(self) -> None:
        with self.assertRaisesRegex(Mistake, r"no test of one has run|do not pass"):
            self.run_text("<!-- runs: one -->\n```python\nimport unittest\nunittest.TestCase\n```\n")

    def test_a_command_that_fails_is_refused(self) -> None:
        with self.assertRaisesRegex(Mistake, "exit code 3, 0 expected"):
            self.run_text("<!-- run -->\n```bash\nexit 3\n```\n")

    def test_times_and_processes_are_no_difference_and_words_are(self) -> None:
        self.assertTrue(same("waited 5.1 ms (process 12)", "waited 17 ms (process 9)"))
        self.assertFalse(same("waited 5.1 ms", "ran 5.1 ms"))

    def test_the_marks_of_a_block_are_read(self) -> None:
        (block,) = blocks("text\n\n<!-- run: 1 -->\n\n```bash\nfalse\n```\n")

        self.assertEqual((block.verb, block.argument, block.code), ("run", "1", "false\n"))


if __name__ == "__main__":
    unittest.main()
