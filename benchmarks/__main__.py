"""Measure dbtestcase beside its peers: ``python -m benchmarks``, ``--help`` for the options."""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import platform
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks import alone, asynchronous, class_setup, clones, environment, existing, per_test, schema_cost, suite
from benchmarks.harness import Harness
from benchmarks.plan import Group
from benchmarks.report import Report

GROUPS: dict[str, Callable[[Path], Group]] = {
    "first": lambda _: class_setup.FIRST,
    "classes": lambda _: class_setup.CLASSES,
    "alone": lambda _: alone.ALONE,
    "tests": lambda _: per_test.TESTS,
    "asyncio": lambda _: asynchronous.ASYNCIO,
    "suite": lambda _: suite.group(),
    "schema": schema_cost.group,
    "clones": lambda _: clones.CLONES,
    "existing": lambda _: existing.EXISTING,
}


def main(arguments: list[str] | None = None) -> int:
    """Measure what was asked for and print it; return the exit status."""
    asked = _parser().parse_args(arguments)
    # Ended from outside, it ends its workers and deletes its folders too.
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    python = environment.interpreter(asked.environment, asked.requirement)
    about = _about(python)
    print("\n".join(f"{name}: {value}" for name, value in about.items()))
    measured: dict[str, Any] = {}
    complete = True
    with environment.Workplace(asked.library) as workplace:
        harness = Harness(python, workplace)
        for name in asked.groups or GROUPS:
            group = GROUPS[name](workplace.folder)
            only = [each for each in group.contenders if asked.only is None or asked.only in each.name]
            group = dataclasses.replace(group, contenders=tuple(only))
            results = harness.measure(group, asked.rounds or group.rounds)
            complete = complete and not results.failures
            measured[name] = results.as_json()
            for table in group.tables:
                report = Report(table, results)
                print("\n" + (report.markdown() if asked.markdown else report.text()), flush=True)
    if asked.json is not None:
        asked.json.write_text(json.dumps({"about": about, "groups": measured}, indent=1))
    return 0 if complete else 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("python -m benchmarks", description=__doc__)
    parser.add_argument("groups", nargs="*", metavar="GROUP", help=f"what to measure (all): {', '.join(GROUPS)}")
    parser.add_argument("--rounds", type=int, help="how often each contender has its turn; each group has its own")
    parser.add_argument("--only", metavar="TEXT", help="only contenders with this in their name")
    parser.add_argument("--markdown", action="store_true", help="print Markdown")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all samples to this file, in seconds")
    parser.add_argument(
        "--environment", type=Path, metavar="FOLDER", help="where the peers are installed (below the user's cache)"
    )
    parser.add_argument(
        "--library", type=Path, metavar="FOLDER", default=environment.ROOT, help="another checkout of dbtestcase"
    )
    parser.add_argument(
        "--requirement",
        action="append",
        default=[],
        metavar="SPEC",
        help="install this in place of what requirements.txt says, as SQLAlchemy==2.0.58",
    )
    return parser


def _about(python: Path) -> dict[str, str]:
    """Return what the figures hang on."""
    versions = subprocess.run(
        [python, "-m", "pip", "freeze", "--disable-pip-version-check"], capture_output=True, text=True, check=True
    ).stdout.split()
    named = {line.partition("=")[0].lower() for line in environment.REQUIREMENTS.read_text().split()}
    shown = [line for line in versions if line.partition("=")[0].lower() in named]
    about = {
        "date": time.strftime("%Y-%m-%d"),
        "command": f"python -m benchmarks {' '.join(sys.argv[1:])}".strip(),
        "machine": f"{os.cpu_count()} processors, {_memory()}, {platform.system()} {platform.release()}",
        "temporary folder": _file_system(tempfile.gettempdir()),
        "Python": platform.python_version(),
        "PostgreSQL": _postgres(),
        "peers": ", ".join(shown).replace("==", " "),
        "load before": f"{os.getloadavg()[0]:.2f}",
    }
    user = environment.unprivileged_user()
    if user is not None:
        about["user"] = f"root; what refuses root (testing.postgresql, pytest-postgresql) runs as {user}"
    return about


def _memory() -> str:
    return f"{os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 2**30:.0f} GB"


def _file_system(folder: str) -> str:
    found = shutil.which("findmnt")
    if found is None:
        return folder
    said = subprocess.run([found, "-n", "-o", "FSTYPE", "-T", folder], capture_output=True, text=True, check=False)
    return f"{folder} on {said.stdout.strip() or 'an unknown file system'}"


def _postgres() -> str:
    found = shutil.which("postgres")
    if found is None:
        return "not on PATH"
    return subprocess.run([found, "--version"], capture_output=True, text=True, check=False).stdout.strip()


if __name__ == "__main__":
    sys.exit(main())
