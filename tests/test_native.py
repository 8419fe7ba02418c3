"""The clock that times statements and waits goes on whatever tests do to theirs."""

from __future__ import annotations

import subprocess
import sys
import unittest
from importlib.util import find_spec
from pathlib import Path

CHECK = """
def check():
    from dbtestcase import native
    first = native.monotonic()
    assert any(native.monotonic() > first for _ in range(100_000)), "the clock stands still"
    assert native.monotonic() - first < 60, "the clock was moved"
"""
FROZEN = {
    "freezegun": "import freezegun\nwith freezegun.freeze_time('2020-01-01'):\n    check()\n",
    "time_machine": "import time_machine\nwith time_machine.travel(0, tick=False):\n    check()\n",
}


class ClockTests(unittest.TestCase):
    def test_it_goes_on_while_others_are_frozen(self):
        for name, program in FROZEN.items():
            for imported_before in (True, False):
                with self.subTest(name, imported_before=imported_before):
                    if find_spec(name) is None:
                        self.skipTest(f"{name} is not installed")
                    before = "import dbtestcase.native\n" if imported_before else ""

                    run = subprocess.run(
                        [sys.executable, "-c", f"{before}{CHECK}{program}check()\n"],
                        cwd=Path(__file__).parents[1],
                        capture_output=True,
                        text=True,
                        timeout=180,
                    )

                    self.assertEqual((run.returncode, run.stderr), (0, ""))


if __name__ == "__main__":
    unittest.main()
