"""Who the server runs as. PostgreSQL refuses to run as root, so under root somebody else runs it."""

from __future__ import annotations

import errno
import os
import pwd
import shutil
import stat
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from dbtestcase.errors import PostgresNotReady
from dbtestcase.servers.cache import cache_folder
from dbtestcase.servers.directory import Launch
from dbtestcase.servers.locations import allowed, instance_locations, reachable
from dbtestcase.servers.programs import Programs
from dbtestcase.servers.supervisor_client import RequestFailed, current_supervisor
from dbtestcase.servers.trust import make_folder

__all__ = ["copies_of_programs", "launch_for"]

# An id that needs no entry in the list of users; by convention that of "nobody", who has no rights at all.
_NOBODY = (65534, 65534)
_READ_AND_RUN = stat.S_IROTH | stat.S_IXOTH

# What root needs to have a server run as somebody else: to give him a folder, to enter that, to signal him, to become
# him. As Linux numbers them.
_CAPABILITIES = {"CAP_CHOWN": 0, "CAP_DAC_OVERRIDE": 1, "CAP_KILL": 5, "CAP_SETGID": 6, "CAP_SETUID": 7}

_launches: dict[str, Launch] = {}


def launch_for(programs: Programs) -> Launch:
    """Return how to start these programs as the present user, or as an unprivileged one if that is root.

    Programs that only root can read (a virtual environment in root's home) are copied, once, to where they can be.

    Raises:
        PostgresNotReady: Root may not run them as somebody else.
    """
    if os.geteuid() != 0:
        return Launch(programs, None, programs, _alias() if _is_unknown() else None)
    key = f"{os.getpid()} {programs.bin_dir} {programs.fingerprint}"
    known = _launches.get(key)
    if known is None or not os.path.exists(known.programs.postgres):
        known = _launches[key] = _launch_as_root(programs)
    return known


def _launch_as_root(programs: Programs) -> Launch:
    users = [user for user in _users() if _is_mapped(user[0])]
    if not users:
        return Launch(programs, None, programs, _alias())  # a user namespace in which there is root only
    missing = _missing_capabilities()
    if missing:
        raise PostgresNotReady(
            "cannot start a test database: the tests run as root, PostgreSQL refuses to, and this root may not run it "
            f"as an ordinary user: it lacks {', '.join(missing)}.\n"
            "Run the tests as an ordinary user (docker run --user 1000), or leave root these capabilities (--cap-add)."
        )
    for user in users:
        if _can_run(programs, user):
            return Launch(programs, user, programs)
    user = users[0]
    return Launch(_readable_copy(programs, user), user, programs)


def _users() -> Iterator[tuple[int, int]]:
    # Not "postgres": where a real cluster lives, its files are his, and SQL of a superuser can read files.
    for name in ("dbtestcase", "nobody"):
        try:
            entry = pwd.getpwnam(name)
        except KeyError:
            continue
        if entry.pw_uid != 0:
            yield entry.pw_uid, entry.pw_gid
    yield _NOBODY


def _is_unknown() -> bool:
    """Return whether the present user has no entry in the list of users, as with ``docker run -u 12345``."""
    try:
        pwd.getpwuid(os.geteuid())
    except KeyError:
        return True
    return False


def _alias() -> tuple[int, int]:
    return next(_users())


def _is_mapped(user: int) -> bool:
    """Return whether the present user namespace has a user of that id."""
    try:
        with open("/proc/self/uid_map", encoding="ascii") as file:
            ranges = [tuple(map(int, line.split())) for line in file]
    except (OSError, ValueError):
        return True  # not Linux
    return any(first <= user < first + count for first, _, count in ranges)


def _missing_capabilities() -> list[str]:
    with suppress(OSError, StopIteration), open("/proc/self/status", encoding="ascii", errors="replace") as file:
        effective = next(int(line.split()[1], 16) for line in file if line.startswith("CapEff:"))
        return [name for name, bit in _CAPABILITIES.items() if not effective >> bit & 1]
    return []  # not Linux


def _can_run(programs: Programs, user: tuple[int, int]) -> bool:
    parts = [programs.bin_dir, programs.bin_dir.parent / "lib", programs.bin_dir.parent / "share"]
    return all(reachable(str(folder), user) for folder in parts if folder.exists()) and all(
        allowed(file, user, _READ_AND_RUN) for file in (programs.initdb, programs.postgres)
    )


def _readable_copy(programs: Programs, user: tuple[int, int]) -> Programs:
    source = programs.bin_dir.parent
    if not any(source.glob("share*/**/postgres.bki")):
        raise PostgresNotReady(
            f"cannot start a test database: the programs in {str(programs.bin_dir)!r} can be read by root only, "
            "but PostgreSQL does not run as root.\n"
            "Make that folder and those above it readable for everybody, or install PostgreSQL elsewhere "
            "and set DBTESTCASE_BIN_DIR to its folder of programs."
        )
    libraries = _libraries_of_wheel(source)
    below = source.relative_to(libraries.parent) if libraries is not None else Path("pgsql")
    name = f"programs-{programs.fingerprint}"
    problems = []
    for location in _locations_for_copies(user):
        try:
            make_folder(location, 0o755)
            if not reachable(str(location), user):
                continue
            target = location / name
            if not target.exists():
                _copy(source, libraries, target)
            return Programs(target / below / "bin", programs.found_in)
        except OSError as exc:
            problems.append(f"{location}: {exc.strerror or exc}")
    raise PostgresNotReady(
        f"cannot start a test database: the programs in {str(programs.bin_dir)!r} can be read by root only, "
        f"and could not be copied to where others can read them ({'; '.join(problems)})."
    )


def _locations_for_copies(user: tuple[int, int]) -> Iterator[Path]:
    yield from _lasting_locations()
    # The last resort lasts as long as this process.
    with suppress(RequestFailed):
        made = current_supervisor().request("folder", locations=instance_locations(0, user), mode=0o711).wait()
        yield Path(made["path"])


def copies_of_programs() -> list[Path]:
    """Return the folders with copies of programs that only root can read."""
    if os.geteuid() != 0:
        return []
    return sorted(path for location in _lasting_locations() for path in location.glob("programs-*"))


def _lasting_locations() -> Iterator[Path]:
    """Yield folders for copies that later runs find again; not the cache, which nobody else may enter."""
    from platformdirs import site_cache_path

    chosen = cache_folder()
    if chosen is not None:
        if os.environ.get("DBTESTCASE_CACHE"):
            yield chosen.with_name(f"{chosen.name}-programs")
        yield site_cache_path("dbtestcase", appauthor=False)


def _libraries_of_wheel(source: Path) -> Path | None:
    """Return the folder where a wheel has put the libraries that its programs need; they find it by a relative path."""
    for folder in list(source.parents)[:3]:
        libraries = folder.with_name(f"{folder.name}.libs")
        if libraries.is_dir():
            return libraries
    return None


def _copy(source: Path, libraries: Path | None, target: Path) -> None:
    """Copy what a server needs; published by rename, so that what is there is whole."""
    private = target.with_name(f"{target.name}.{os.getpid()}-{os.urandom(4).hex()}.part")
    try:
        if libraries is None:
            copy = private / "pgsql"
        else:
            copy = private / source.relative_to(libraries.parent)
            shutil.copytree(libraries, private / libraries.name, copy_function=_link_or_copy)
        (copy / "bin").mkdir(parents=True)
        for program in ("initdb", "postgres"):
            _link_or_copy(str(source / "bin" / program), str(copy / "bin" / program))
        for part in source.iterdir():
            if part.name.startswith(("lib", "share")) and part.is_dir():
                shutil.copytree(part, copy / part.name, copy_function=_link_or_copy)
        for folder, _, _ in os.walk(private):
            os.chmod(folder, 0o755)
        private.rename(target)
    except OSError as exc:
        shutil.rmtree(private, ignore_errors=True)
        if exc.errno not in (errno.EEXIST, errno.ENOTEMPTY):
            raise  # else somebody else was faster


def _link_or_copy(source: str, target: str) -> str:
    mode = os.stat(source).st_mode
    if mode & stat.S_IROTH:
        try:
            os.link(os.path.realpath(source), target)
        except OSError:
            pass  # another file system
        else:
            return target
    shutil.copyfile(source, target)
    os.chmod(target, 0o755 if mode & stat.S_IXUSR else 0o644)
    return target
