"""Where the contenders run: a virtual environment with the peers, folders of their own, a user that may run servers."""

from __future__ import annotations

import hashlib
import os
import pwd
import shutil
import subprocess
import sys
import tempfile
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
REQUIREMENTS = Path(__file__).with_name("requirements.txt")
MEMORY = Path("/dev/shm")
# Let Python take its memory from glibc, and glibc take it in huge pages: "Memory Allocation Tunables" in its manual.
HUGE_PAGES = {"PYTHONMALLOC": "malloc", "GLIBC_TUNABLES": "glibc.malloc.hugetlb=1"}


def interpreter(folder: Path | None, extra: list[str]) -> Path:
    """Return the Python of the environment that holds the peers; make it first if it is not there.

    Args:
        folder: Where such environments are kept; below the user's cache folder if ``None``.
        extra: Requirements that come after those of requirements.txt, in place of the line for the same package.
    """
    wanted = _requirements(extra)
    kept = folder or _cache_folder()
    name = hashlib.sha256("\n".join([sys.version, *wanted]).encode()).hexdigest()[:12]
    place = kept / f"peers-{name}"
    python = place / "bin" / "python"
    finished = place / "installed.txt"  # written last: a half-made environment has none
    if not finished.exists():
        print(f"installing the peers into {place} ...", file=sys.stderr, flush=True)
        shutil.rmtree(place, ignore_errors=True)
        venv.create(place, with_pip=True)
        pip = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        subprocess.run([*pip, *wanted], check=True)
        finished.write_text("\n".join(wanted) + "\n")
    return python


def compile_all(python: Path, folder: Path) -> None:
    """Compile the modules below the folder."""
    subprocess.run([python, "-m", "compileall", "-q", folder], check=True)


def _requirements(extra: list[str]) -> list[str]:
    lines = [line.strip() for line in REQUIREMENTS.read_text().splitlines()]
    replaced = {_package(line) for line in extra}
    return [line for line in lines if line and line[0] != "#" and _package(line) not in replaced] + extra


def _package(requirement: str) -> str:
    return requirement.replace(">", "=").replace("<", "=").partition("=")[0].partition("[")[0].strip().lower()


def _cache_folder() -> Path:
    from platformdirs import user_cache_path

    return user_cache_path("dbtestcase-benchmarks", appauthor=False)


class Workplace:
    """The temporary folders of one run of the benchmarks. A context manager that deletes them."""

    def __init__(self, library: Path) -> None:
        self._library = library
        self._made: list[Path] = []

    def __enter__(self) -> Workplace:
        self.folder = self._make(None)
        self.caches = self.folder / "caches"
        self.caches.mkdir()
        # A copy, compiled as an installed package is: nothing is written into the checkout, and what is changed there
        # in the meantime is not measured.
        self.code = self.folder / "code"
        for package in (ROOT / "benchmarks", self._library / "dbtestcase"):
            shutil.copytree(package, self.code / package.name, ignore=shutil.ignore_patterns("__pycache__"))
        return self

    def __exit__(self, *_: object) -> None:
        for folder in self._made:
            shutil.rmtree(folder, ignore_errors=True)

    def temporary_folder(self, *, in_memory: bool, user: str | None) -> Path:
        """Make an empty folder for one worker, which that user owns."""
        folder = self._make(MEMORY if in_memory and MEMORY.is_dir() else None)
        if user is not None:
            shutil.chown(folder, user)
        return folder

    def _make(self, above: Path | None) -> Path:
        folder = Path(tempfile.mkdtemp(prefix="bench-", dir=above))
        folder.chmod(0o711)
        self._made.append(folder)
        return folder


def unprivileged_user() -> str | None:
    """Return the user for what refuses to run as root; ``None`` if we are not root."""
    if os.geteuid() != 0:
        return None
    for name in ("postgres", "nobody"):
        try:
            pwd.getpwnam(name)
        except KeyError:
            continue
        return name
    return None


def as_user(user: str | None) -> list[str]:
    """Return what to put before a command so that this user runs it.

    The user may read everything, since the interpreter often lies in root's home folder, and write what is its own.
    """
    if user is None:
        return []
    group = pwd.getpwnam(user).pw_gid
    read_all = "-all,+dac_read_search"
    return [
        "setpriv",
        f"--reuid={user}",
        f"--regid={group}",
        "--clear-groups",
        f"--inh-caps={read_all}",
        f"--ambient-caps={read_all}",
        f"--bounding-set={read_all}",
    ]


def variables(python: Path, code: Path, temporary: Path, cache: Path | None) -> dict[str, str]:
    """Return the environment of a worker: as a user's would be, without what could steer it from outside."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("PG", "DBTESTCASE_", "PYTHON", "DJANGO_", "PYTEST_"))
    }
    return kept | {
        "PATH": f"{python.parent}{os.pathsep}{os.environ.get('PATH', os.defpath)}",
        "PYTHONPATH": str(code),
        "TMPDIR": str(temporary),
        "HOME": str(temporary),
        "DBTESTCASE_CACHE": str(cache or temporary / "cache"),
    }
