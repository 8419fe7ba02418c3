"""The folder that one server lives in, what the supervisor knows of it, and what it looks up there."""

from __future__ import annotations

import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from . import child
    from .channel import Message
    from .readiness import ReadinessProbe

_DATA, _RUN = "data", "run"
_ROOM = 256 * 1024 * 1024


class Directory:
    """A folder of ours, its lock, and what runs in it."""

    def __init__(self, path: str, lock: int) -> None:
        self.path = path
        self.lock = lock
        self.short: str | None = None  # another folder, for the socket
        self.child: child.Child | None = None
        self.is_server = False
        self.pipe_ended = False  # the child's pipe has ended
        self.status: int | None = None
        self.request: Message | None = None  # the run or boot that waits for its answer
        self.probe: ReadinessProbe | None = None
        self.deadline = 0.0
        self.stop_requests: list[Message] = []
        self.end_requests: list[Message] = []
        self.kill_at = 0.0
        self.escalate_at = 0.0  # when all processes of a program that was told to end are told so
        self.segments: set[str] = set()  # shared memory that a program which is killed leaves behind
        self.user: tuple[int, int] | None = None
        self.pack: tuple[int, ...] | None = None  # what the data folder was unpacked from
        self.number = 0  # of the request that started what runs here
        self.is_ending = False
        self.until = 0.0  # when a used folder is deleted

    @property
    def data_dir(self) -> str:
        """The server's data."""
        return os.path.join(self.path, _DATA)

    @property
    def socket_dir(self) -> str:
        """Where the server's socket is."""
        return os.path.join(self.short or self.path, _RUN)

    @property
    def waits(self) -> bool:
        """Whether something here is worth looking at every millisecond."""
        if self.child is None:
            return False
        return (
            self.is_ending
            or bool(self.stop_requests)
            or self.pipe_ended
            or (self.request is not None and self.is_server)
        )


def make_private(path: str, user: tuple[int, int] | None) -> None:
    """Make a folder that only the server's user can enter."""
    os.mkdir(path, 0o700)
    if user is not None:
        os.chown(path, *user)


def write(path: str, text: str, user: tuple[int, int] | None) -> None:
    """Write a file that only the server's user can read."""
    file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600)
    try:
        if user is not None:
            os.fchown(file, *user)
        os.write(file, text.encode())
    finally:
        os.close(file)


def has_room(path: str) -> bool:
    """Return whether a used folder may stay for a moment: a file system that is nearly full needs the room now."""
    try:
        about = os.statvfs(path)
    except OSError:
        return False  # somebody else has deleted it
    return about.f_bavail * about.f_frsize > _ROOM


def is_ready(pid_file: str, pid: int) -> bool:
    """Return whether the server says in its pid file that it takes connections."""
    try:
        file = os.open(pid_file, os.O_RDONLY)
    except OSError:
        return False
    try:
        lines = os.read(file, 4096).split(b"\n")
    finally:
        os.close(file)
    return len(lines) > 7 and lines[0].strip() == str(pid).encode() and lines[7].strip() == b"ready"
