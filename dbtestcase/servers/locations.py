"""Where on this machine an instance can live: in memory when there is room for what is planned, else on disk."""

from __future__ import annotations

import os
import stat

from dbtestcase.native import temporary_folder

__all__ = ["SOCKET_PATH_LIMIT", "instance_locations", "reachable", "socket_locations", "sweep_locations"]

MEMORY = "/dev/shm"
# The shortest of the systems' limits (macOS: 104 bytes, Linux: 108), less the byte that ends it.
SOCKET_PATH_LIMIT = 103

_MEGABYTE = 1024 * 1024
# What is planned, beside the copy of the template: the class's instance, the standby and one being deleted are there
# at a time, and each of them may grow.
_COPIES = 3
_HEADROOM = 128 * _MEGABYTE
_CGROUP_LIMITS = (
    ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current"),
    ("/sys/fs/cgroup/memory/memory.limit_in_bytes", "/sys/fs/cgroup/memory/memory.usage_in_bytes"),
)


def instance_locations(unpacked: int, user: tuple[int, int] | None) -> list[str]:
    """Return the folders to try for an instance whose template unpacks to so many bytes, best first.

    The environment variable ``DBTESTCASE_DIR`` names the only one.
    """
    chosen = _chosen()
    if chosen:
        return chosen
    locations = []
    need = unpacked * _COPIES + _HEADROOM
    if os.path.isdir(MEMORY) and _free(MEMORY) >= need and _free_memory() >= need:
        locations.append(MEMORY)
    locations += [location for location in _on_disk() if location not in locations]
    return [location for location in locations if os.access(location, os.W_OK | os.X_OK) and reachable(location, user)]


def socket_locations(user: tuple[int, int] | None) -> list[str]:
    """Return the folders to try for a socket when the instance's own path is too long for one."""
    return [
        location
        for location in dict.fromkeys((MEMORY, "/tmp", "/var/tmp", *_home()))
        if os.access(location, os.W_OK | os.X_OK) and reachable(location, user)
    ]


def sweep_locations() -> list[str]:
    """Return all folders where earlier runs may have left something."""
    return list(dict.fromkeys([*_chosen(), MEMORY, *_on_disk(), *_home()]))


def reachable(path: str, user: tuple[int, int] | None) -> bool:
    """Return whether the user, one in no other group, can pass through ``path`` and all folders above it."""
    if user is None:
        return True
    path = os.path.realpath(path)
    while True:
        if not allowed(path, user, stat.S_IXOTH):
            return False
        above = os.path.dirname(path)
        if above == path:
            return True
        path = above


def allowed(path: str, user: tuple[int, int], right: int) -> bool:
    """Return whether the mode of ``path`` gives the user the right, spelled as that of others (``S_IXOTH``)."""
    about = os.stat(path)
    if about.st_uid == user[0]:
        return bool(about.st_mode & (right << 6))
    if about.st_gid == user[1]:
        return bool(about.st_mode & (right << 3))
    return bool(about.st_mode & right)


def _chosen() -> list[str]:
    chosen = os.environ.get("DBTESTCASE_DIR")
    return [os.path.abspath(os.path.expanduser(chosen))] if chosen else []


def _on_disk() -> list[str]:
    return list(dict.fromkeys((os.path.abspath(temporary_folder()), "/tmp", "/var/tmp")))


def _home() -> list[str]:
    home = os.path.expanduser("~")
    return [home] if os.path.isabs(home) else []  # without HOME and without an entry in the list of users it stays "~"


def _free(location: str) -> int:
    try:
        about = os.statvfs(location)
    except OSError:
        return 0
    if about.f_files and about.f_favail < 10_000:
        return 0
    return about.f_bavail * about.f_frsize


def _free_memory() -> float:
    """Return how much memory can still be used: files in ``/dev/shm`` count, also towards a container's limit."""
    free = float("inf")
    try:
        with open("/proc/meminfo", encoding="ascii") as file:
            free = next(int(line.split()[1]) * 1024 for line in file if line.startswith("MemAvailable:"))
    except (OSError, StopIteration, ValueError):
        pass  # not Linux, or an old one: the file system's word has to do
    for limit, used in _CGROUP_LIMITS:
        try:
            with open(limit, encoding="ascii") as file, open(used, encoding="ascii") as other:
                free = min(free, int(file.read()) - int(other.read()))
        except (OSError, ValueError):
            continue  # no such controller, or "max"
    return free
