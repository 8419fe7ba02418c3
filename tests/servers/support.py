"""A folder of its own for the instances of a test, so that it can count what is left there, and Python beside it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import unittest
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import psutil

from dbtestcase.servers import discard_standby
from dbtestcase.servers.locations import reachable
from tests.support import happens

ROOT = Path(__file__).resolve().parents[2]

# Imports this room of the library alone: starting Python takes most of the time of these tests.
_ROOM_ONLY = f"""
import sys, types
package = sys.modules["dbtestcase"] = types.ModuleType("dbtestcase")
package.__path__ = [{str(ROOT / "dbtestcase")!r}]
"""


class ScratchTestCase(unittest.TestCase):
    """Gives each test a folder where its instances live, and if it asks for one a cache that begins empty."""

    def setUp(self) -> None:
        discard_standby()  # what an earlier test has left is elsewhere
        self.addCleanup(os.umask, os.umask(0o022))  # root's servers run as somebody else, who has to get in
        # In memory, for speed; and not in the user's own temporary folder, which may be closed to the server's user.
        where = "/dev/shm" if os.access("/dev/shm", os.W_OK) else "/tmp"
        self.scratch = Path(tempfile.mkdtemp(prefix="dbtc-", dir=where))
        self.addCleanup(self._remove_scratch)
        self.scratch.chmod(0o755)
        self.location = self.scratch / "location"
        self.location.mkdir()

    def _remove_scratch(self) -> None:
        def is_gone() -> bool:
            # Our supervisor may be deleting the same files.
            shutil.rmtree(self.scratch, ignore_errors=True)
            return not self.scratch.exists()

        self.assertSoon(is_gone, 5, f"{self.scratch} cannot be deleted")

    def environment(self, **variables: str | Path) -> dict[str, str]:
        """The environment for another process, with its instances in our location."""
        changed = {name: str(value) for name, value in variables.items()}
        return {**os.environ, "PYTHONPATH": str(ROOT), "DBTESTCASE_DIR": str(self.location), **changed}

    def command(self, code: str) -> list[str]:
        """The command that runs Python code."""
        return [sys.executable, "-c", _ROOM_ONLY + code]

    def python(self, code: str, **variables: str | Path) -> subprocess.CompletedProcess[str]:
        """Run Python code to its end."""
        return subprocess.run(
            self.command(code),
            env=self.environment(**variables),
            cwd="/",
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )

    def python_as(
        self, user: int, code: str, *, prefix: Sequence[str] = (), **variables: str | Path
    ) -> subprocess.CompletedProcess[str]:
        """Run Python code to its end as a user who has no entry in the list of users, and no rights.

        Args:
            prefix: A command that runs the one behind it.
        """
        interpreter = self.interpreter_for((user, user))
        code = _ROOM_ONLY + code
        paths = os.pathsep.join([str(ROOT), *(path for path in sys.path if path.endswith("-packages"))])
        return subprocess.run(
            ["setpriv", f"--reuid={user}", f"--regid={user}", "--clear-groups", *prefix, interpreter, "-c", code],
            env=self.environment(**{"PYTHONPATH": paths, "HOME": self.scratch, **variables}),
            cwd="/",
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )

    def interpreter_for(self, user: tuple[int, int]) -> str:
        """Return a Python like this one that the user can run; skip the test if there is none."""
        if os.getuid() != 0 or shutil.which("setpriv") is None:
            self.skipTest("only root can become another user, with setpriv")
        candidates = [os.path.realpath(sys.executable), f"/usr/bin/python3.{sys.version_info.minor}"]
        for candidate in candidates:
            if os.path.exists(candidate) and reachable(candidate, user) and reachable(str(ROOT), user):
                return candidate
        raise unittest.SkipTest("other users can run no Python like this one, or cannot read the library")

    def run_well(self, code: str, **variables: str | Path) -> str:
        """Run Python code that must succeed; return what it printed."""
        result = self.python(code, **variables)
        self.assertEqual(result.returncode, 0, result.stderr)
        return result.stdout.strip()

    def start(self, code: str, **options: object) -> subprocess.Popen[str]:
        """Start Python code that says something once it is where the test wants it; ended with the test."""
        process = subprocess.Popen(
            self.command(code),
            env=self.environment(),
            cwd="/",
            stdout=subprocess.PIPE,
            text=True,
            **options,  # type: ignore[call-overload]
        )
        self.addCleanup(process.stdout.close)
        self.addCleanup(process.wait, 60)
        self.addCleanup(process.kill)
        return process

    def servers(self) -> list[psutil.Process]:
        """All processes that work in our location."""
        return processes_in(self.location)

    def folders(self) -> list[str]:
        """What is left in our location."""
        return sorted(os.listdir(self.location))

    def assertSoon(self, holds: Callable[[], bool], seconds: float, message: str) -> None:
        """Fail unless the condition holds within the time; a busy machine gets as much more as it is busy."""
        if not happens(holds, seconds):
            self.fail(message)


def processes_in(location: Path) -> list[psutil.Process]:
    """Return the processes whose working folder or command line is in ``location``."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.status() == psutil.STATUS_ZOMBIE or process.pid == os.getpid():
                continue
            where = [*process.cmdline(), _cwd(process)]
        except psutil.Error:
            continue
        if any(part.startswith(str(location)) for part in where):
            found.append(process)
    return found


def _cwd(process: psutil.Process) -> str:
    try:
        return process.cwd()
    except psutil.Error:
        return ""


def changed_environment(case: unittest.TestCase, variables: Mapping[str, str | Path]) -> None:
    """Set variables until the test ends."""
    before = dict(os.environ)

    def restore() -> None:
        os.environ.clear()
        os.environ.update(before)

    case.addCleanup(restore)
    os.environ.update({name: str(value) for name, value in variables.items()})
