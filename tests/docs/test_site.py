"""The documentation builds without a warning and without a network, and has every public name."""

from __future__ import annotations

import importlib
import subprocess
import sys
import tempfile
import unittest
import zlib
from pathlib import Path

import dbtestcase
import dbtestcase.errors
from tests.docs.blocks import ROOT

# Reached through another name, or nothing that users call.
_NOT_LISTED = {"dbtestcase.errors", "dbtestcase.DatabaseTestCase.run", "dbtestcase.DatabaseTestCase.debug"}


class SiteTests(unittest.TestCase):
    @classmethod
    def setUpClass(cls) -> None:
        super().setUpClass()
        folder = cls.enterClassContext(tempfile.TemporaryDirectory())
        cls.build = subprocess.run(
            [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-n", "-q", "-b", "html", "docs", f"{folder}/html"],
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        inventory = Path(folder, "html", "objects.inv").read_bytes()
        lines = zlib.decompress(inventory.split(b"\n", 4)[4]).decode().splitlines()
        cls.names = {line.split(" ")[0] for line in lines if " py:" in line}

    def test_it_builds_without_a_warning(self) -> None:
        self.assertEqual((self.build.returncode, self.build.stderr), (0, ""))

    def test_every_public_name_is_in_the_reference(self) -> None:
        for module in ("dbtestcase", "dbtestcase.flask", "dbtestcase.aio", "dbtestcase.errors"):
            for name in importlib.import_module(module).__all__:
                with self.subTest(name=name):
                    self.assertIn(f"{module}.{name}", self.names | _NOT_LISTED)

    def test_every_public_attribute_of_a_base_class_has_its_text(self) -> None:
        from dbtestcase.aio import AsyncDatabaseTestCase
        from dbtestcase.flask import FlaskDatabaseTestCase, FlaskLiveServerTestCase

        cases = {
            dbtestcase.DatabaseTestCase: "dbtestcase",
            AsyncDatabaseTestCase: "dbtestcase.aio",
            FlaskDatabaseTestCase: "dbtestcase.flask",
            FlaskLiveServerTestCase: "dbtestcase.flask",
        }
        for case, module in cases.items():
            names = {*vars(case), *vars(case).get("__annotations__", {})}
            for name in sorted(each for each in names if not each.startswith("_")):
                with self.subTest(case=case.__name__, name=name):
                    inherited = any(name in vars(each) for each in case.__mro__[1:])
                    full = f"{module}.{case.__name__}.{name}"
                    self.assertTrue(inherited or full in self.names | _NOT_LISTED, full)


if __name__ == "__main__":
    unittest.main()
