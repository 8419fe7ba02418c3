"""The folder that one server lives in, what the supervisor knows of it, and what it looks up there."""

from __future__ import annotations

import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from . import child
    from .channel import Message

_DATA, _RUN = "data", "run"
_ROOM = 256 * 1024 * 1024


class Directory:
    """A folder of ours, its lock, and what runs in it."""

    def __init__(self, path: str, lock: int) -> None:
        self.path = path
        self.lock = lock
        self.short: str | None = None  # another folder, for the socket
        self.number = 0  # of the request that started what runs here
        # What runs here
        self.child: child.Child | None = None
        self.is_server = False
        self.pipe_ended = False  # all processes are gone, not only the child
        self.status: int | None = None  # the child's exit status, once it has ended
        self.request: Message | None = None  # the run or boot that waits for its reply
        self.deadline = 0.0  # of that request
        # How it ends
        self.is_ending = False
        self.stop_requests: list[Message] = []
        self.end_requests: list[Message] = []
        self.kill_at = 0.0
        self.escalate_at = 0.0  # when all processes of a program that was told to end are told so
        self.leftovers_at = 0.0  # when processes that outlive the child are killed
        # Whether and how it can be used again
        self.user: list[int] | None = None
        self.pack: tuple[int, ...] | None = None  # what the data folder was unpacked from
        self.until = 0.0  # when a folder that nobody has used again is deleted

    @property
    def data_dir(self) -> str:
        """The server's data."""
        return os.path.join(self.path, _DATA)

    @property
    def socket_dir(self) -> str:
        """Where the server's socket is."""
        return os.path.join(self.short or self.path, _RUN)

    @property
    def is_booting(self) -> bool:
        """Whether a server here has to become ready."""
        return self.is_server and self.request is not None and self.child is not None

    @property
    def has_deadline(self) -> bool:
        """Whether something here has to happen within a time."""
        ends = self.is_ending or bool(self.stop_requests) or self.status is not None or self.request is not None
        return self.child is not None and ends


def make_private(path: str, user: list[int] | None) -> None:
    """Make a folder that only the server's user can enter."""
    os.mkdir(path, 0o700)
    if user is not None:
        os.chown(path, *user)


def has_room(path: str) -> bool:
    """Return whether a used folder may stay for a moment: a file system that is nearly full needs the room now."""
    try:
        about = os.statvfs(path)
    except OSError:
        return False  # somebody else has deleted it
    return about.f_bavail * about.f_frsize > _ROOM


def is_ready(data_dir: str, pid: int) -> bool:
    """Return whether the server says in its pid file that it takes connections."""
    try:
        # The folder belongs to the server's user, who could put anything there: a link, a pipe that nobody writes to.
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK
        file = os.open(os.path.join(data_dir, "postmaster.pid"), flags)
    except OSError:
        return False
    try:
        lines = os.read(file, 4096).split(b"\n")
    except OSError:
        return False
    finally:
        os.close(file)
    return len(lines) > 7 and lines[0].strip() == str(pid).encode() and lines[7].strip() == b"ready"
