"""One run of the suite, plain or isolated, on throwaway instances."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from dbtestcase.servers import Instance, ThrowawayPostgres, running_instance

__all__ = ["Outcome", "SuiteFailed", "SuiteRun", "run_suite"]

_REPOSITORY = Path(__file__).parents[2]

# What SQLAlchemy's plugin wants to find beside the tests.
_FILES = {
    "setup.cfg": (
        "[sqla_testing]\n"
        "requirement_cls = tests.compliance.requirements:PostgresRequirements\n"
        "profile_file = profiles.txt\n"
        "[db]\n"
    ),
    "conftest.py": "from sqlalchemy.testing.plugin.pytestplugin import *\n",
}
_ALL = "from sqlalchemy.testing.suite import *\n"
_QUICK = "".join(
    f"from sqlalchemy.testing.suite.test_{module} import *\n"
    for module in ("cte", "dialect", "insert", "results", "rowcount", "sequence", "update_delete")
)


class SuiteFailed(Exception):
    """pytest could not run the suite."""


@dataclass(frozen=True)
class Outcome:
    """How a test ended: "passed", "failed" or "skipped"."""

    outcome: str
    text: str

    @property
    def last_line(self) -> str:
        """What went wrong, on one line."""
        lines = [line[1:].strip() for line in self.text.splitlines() if line.startswith("E ")] or [self.text]
        return lines[0][:200]


@dataclass(frozen=True)
class SuiteRun:
    """What a run came to.

    Attributes:
        outcomes: How each test ended, by its name.
        ran_twice: Why tests ran twice, one reason for each.
    """

    outcomes: dict[str, Outcome]
    ran_twice: list[str]


def run_suite(*, driver: str, isolated: bool, quick: bool, select: str | None) -> SuiteRun:
    """Run the suite and return how each test ended.

    Raises:
        SuiteFailed: pytest ended without having run the tests.
    """
    with (
        TemporaryDirectory(prefix="dbtestcase-compliance-") as name,
        running_instance(ThrowawayPostgres(), owner="compliance") as instance,
    ):
        _create_schemas(instance)
        folder = Path(name)
        for file, text in {**_FILES, "test_suite.py": _QUICK if quick else _ALL}.items():
            (folder / file).write_text(text, encoding="utf-8")
        outcomes = folder / "outcomes.json"
        options = [
            f"--compliance-url={instance.url().replace('+psycopg2', f'+{driver}')}",
            f"--compliance-outcomes={outcomes}",
            *([f"--compliance-driver={driver}"] if isolated else []),
            *(["-k", select] if select else []),
        ]
        _pytest(folder, options)
        found = json.loads(outcomes.read_text(encoding="utf-8"))
    return SuiteRun({test: Outcome(**outcome) for test, outcome in found["outcomes"].items()}, found["ran_twice"])


def _create_schemas(instance: Instance) -> None:
    for schema in ("test_schema", "test_schema_2"):
        instance.execute(f"CREATE SCHEMA {schema}", database="test")


def _pytest(folder: Path, options: Sequence[str]) -> None:
    path = os.pathsep.join(filter(None, (str(_REPOSITORY), os.environ.get("PYTHONPATH"))))
    done = subprocess.run(
        [
            *(sys.executable, "-m", "pytest", "--quiet", "--tb=short", "--assert=plain", f"--rootdir={folder}"),
            *("-p", "no:cacheprovider", "-p", "no:logging", "-p", "tests.compliance.plugin", *options),
        ],
        cwd=folder,
        # Other plugins that happen to be installed have no business here.
        env={**os.environ, "PYTHONPATH": path, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    all_passed, some_failed = 0, 1
    if done.returncode not in (all_passed, some_failed):
        raise SuiteFailed(f"pytest ended with {done.returncode}:\n{done.stdout[-5000:]}")
