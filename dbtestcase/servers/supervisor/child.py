"""A child process of the supervisor: another user's, in a session of its own, and dead when the supervisor is."""

from __future__ import annotations

import os
import sys

from . import tree

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from typing import NoReturn

_PR_SET_PDEATHSIG = 1
_SIGKILL = 9


def _no_prctl(signal: int) -> None:
    """Do nothing: this system cannot signal a process because its parent died."""


def _find_prctl() -> Callable[[int], None]:
    if not sys.platform.startswith("linux"):
        return _no_prctl
    try:
        import ctypes

        prctl = ctypes.CDLL(None).prctl
    except (ImportError, OSError, AttributeError):
        return _no_prctl

    def die_with_parent(signal: int) -> None:
        prctl(_PR_SET_PDEATHSIG, ctypes.c_ulong(signal), 0, 0, 0)

    return die_with_parent


die_with_parent = _find_prctl()


class Child:
    """A running child, and the pipe that ends when it and all its own children are dead.

    Until it has become the program it was started for, what went wrong comes through the pipe in words.
    """

    def __init__(self, pid: int, pipe: int) -> None:
        self.pid = pid
        self.pipe = pipe
        self.error = b""

    def read(self) -> bool:
        """Read the pipe; return whether all its holders are gone."""
        more = os.read(self.pipe, 4096)
        self.error += more
        return not more

    def reap(self) -> int | None:
        """Return the exit status as :class:`subprocess.Popen` has it, ``None`` while it lives."""
        try:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
        except ChildProcessError:
            return 0
        return os.waitstatus_to_exitcode(status) if pid else None


def start(
    argv: list[str],
    env: Mapping[str, str],
    *,
    user: tuple[int, int] | None,
    log: int,
    signal: int,
    inherit: Sequence[int],
    pack: int | None = None,
    data_dir: str | None = None,
    keep: Sequence[str] = (),
) -> Child:
    """Start a program, after unpacking ``pack`` into ``data_dir`` in the same child if there is one.

    Args:
        user: User and group id to become, with no other group; ``None`` stays who we are.
        log: Descriptor for the program's output.
        signal: What it gets when the supervisor dies.
        inherit: Further descriptors that it and its children keep open.
        keep: Names in ``data_dir`` that unpacking leaves alone.
    """
    supervisor = os.getpid()
    read_end, write_end = os.pipe()
    pid = os.fork()
    if pid:
        os.close(write_end)
        return Child(pid, read_end)
    try:
        os.close(read_end)
        os.setsid()
        if user is not None:
            os.setgroups([])
            os.setgid(user[1])
            os.setuid(user[0])
        # After the change of user, which clears it.
        die_with_parent(_SIGKILL if pack is not None else signal)
        if os.getppid() != supervisor:
            os._exit(1)
        if pack is not None and data_dir is not None:
            tree.unpack(pack, data_dir, keep=keep)
            die_with_parent(signal)
        for descriptor in inherit:
            os.set_inheritable(descriptor, True)
        os.set_inheritable(write_end, True)
        os.dup2(log, 1)
        os.dup2(log, 2)
        os.execve(argv[0], argv, env)
    except BaseException as exc:
        _report(write_end, exc)


def _report(pipe: int, exc: BaseException) -> NoReturn:
    number = exc.errno if isinstance(exc, OSError) and exc.errno else 0
    try:
        os.write(pipe, f"{type(exc).__name__}\0{number}\0{exc}".encode(errors="replace")[:4000])
    finally:
        os._exit(127)


def in_background(work: Callable[[], None], *, keep: Sequence[int] = ()) -> int:
    """Do ``work`` in a child of low priority; return its process id. It is not tied to the supervisor's life.

    Args:
        keep: Descriptors above 2 that the child keeps; it closes all others.
    """
    pid = os.fork()
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
