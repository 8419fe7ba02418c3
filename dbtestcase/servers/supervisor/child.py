"""A child process of the supervisor: another user's, in a session of its own, and dead when the supervisor is."""

from __future__ import annotations

import os
import sys

from . import namespace

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from typing import NoReturn

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36
_SIGKILL = 9


try:
    import ctypes

    _prctl = ctypes.CDLL(None).prctl if sys.platform.startswith("linux") else None
except (ImportError, OSError, AttributeError):
    _prctl = None


def prctl(option: int, value: int) -> None:
    """Do as the system call of that name; nothing on systems that have none."""
    if _prctl is not None:
        _prctl(option, ctypes.c_ulong(value), 0, 0, 0)


def adopt_orphans() -> None:
    """Become the parent of processes whose own parents die: a server's processes, and what they have started."""
    prctl(_PR_SET_CHILD_SUBREAPER, 1)


class Child:
    """A running child, and the pipe that ends when it and all its own children are dead.

    Until it has become the program it was started for, its error comes through the pipe in words.
    """

    def __init__(self, pid: int, pipe: int) -> None:
        self.pid = pid
        self.pipe = pipe
        self.error = b""

    def read(self) -> bool:
        """Read the pipe; return whether all its holders are gone."""
        more = os.read(self.pipe, 4096)
        self.error = (self.error + more)[:4096]
        return not more

    def holders(self, known: set[int]) -> Iterator[int]:
        """Yield the adopted orphans, other than ``known`` children, that hold the pipe, or may do so."""
        about = os.fstat(self.pipe)
        name = f"pipe:[{about.st_ino}]"
        for pid in _children_of(os.getpid()) - known:
            try:
                descriptors = os.listdir(f"/proc/{pid}/fd")
            except FileNotFoundError:
                continue
            except OSError:
                yield pid  # we may not look: it has another user
                continue
            if any(_link(f"/proc/{pid}/fd/{descriptor}") == name for descriptor in descriptors):
                yield pid


def _children_of(parent: int) -> set[int]:
    found = set()
    for name in os.listdir("/proc") if os.path.isdir("/proc") else ():
        if name.isdigit():
            try:
                with open(f"/proc/{name}/stat", "rb") as file:
                    fields = file.read().rpartition(b")")[2].split()
            except OSError:
                continue
            if int(fields[1]) == parent and fields[0] != b"Z":
                found.add(int(name))
    return found


def _link(path: str) -> str:
    try:
        return os.readlink(path)
    except OSError:
        return ""


def start(
    argv: list[str],
    env: Mapping[str, str],
    *,
    log: int,
    inherit: Sequence[int],
    signal: int,
    prepare: Callable[[], None] = lambda: None,
) -> Child:
    """Start a program.

    Args:
        log: Descriptor for the program's output.
        inherit: Further descriptors that it and its children keep open.
        signal: What it gets when the supervisor dies.
        prepare: Called in the child before; until it has returned, the child is killed when the supervisor dies.
    """
    supervisor = os.getpid()
    read_end, write_end = os.pipe()
    try:
        pid = os.fork()
    except OSError:
        os.close(read_end)
        os.close(write_end)
        raise
    if pid:
        os.close(write_end)
        return Child(pid, read_end)
    try:
        os.close(read_end)
        os.setsid()
        prctl(_PR_SET_PDEATHSIG, _SIGKILL)
        prepare()
        # Again, because a change of user clears it.
        prctl(_PR_SET_PDEATHSIG, signal)
        if os.getppid() != supervisor:
            os._exit(1)
        for descriptor in inherit:
            os.set_inheritable(descriptor, True)
        os.set_inheritable(write_end, True)
        os.dup2(log, 1)
        os.dup2(log, 2)
        os.execve(argv[0], argv, env)
    except BaseException as exc:
        _report(write_end, exc)


def become(user: Sequence[int] | None, alias: Sequence[int] | None) -> None:
    """Change to a user and group, with no other group, and then to what these are called in a user namespace."""
    if user is not None:
        os.setgroups([])
        os.setgid(user[1])
        os.setuid(user[0])
        prctl(_PR_SET_PDEATHSIG, _SIGKILL)
    if alias is not None:
        namespace.enter(alias[0], alias[1])


def write_file(folder: str, name: str, text: str) -> None:
    """Write a file that only the present user can read."""
    file = os.open(os.path.join(folder, name), os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600)
    try:
        rest = memoryview(text.encode("utf-8", "surrogateescape"))
        while rest:
            rest = rest[os.write(file, rest) :]
    finally:
        os.close(file)


def _report(pipe: int, exc: BaseException) -> NoReturn:
    number = exc.errno if isinstance(exc, OSError) and exc.errno else 0
    try:
        os.write(pipe, f"{type(exc).__name__}\0{number}\0{exc}".encode(errors="replace")[:4000])
    finally:
        os._exit(127)


def _do_now(work: Callable[[], None]) -> None:
    try:
        work()
    except OSError:
        return  # as in a child, whose errors go nowhere: the next sweep deletes what is left


def in_background(work: Callable[[], None], *, keep: Sequence[int] = ()) -> int | None:
    """Do ``work`` in a child of low priority; return its process id. It is not tied to the supervisor's life.

    Where no more processes are allowed it is done at once, and ``None`` returned.

    Args:
        keep: Descriptors above 2 that the child keeps; it closes all others.
    """
    try:
        pid = os.fork()
    except OSError:
        _do_now(work)
        return None
    if pid:
        return pid
    try:
        os.nice(10)
        last = 2
        for descriptor in sorted(keep):
            os.closerange(last + 1, descriptor)
            last = descriptor
        os.closerange(last + 1, 1024)
        work()
    finally:
        os._exit(0)
