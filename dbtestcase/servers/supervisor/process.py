"""The supervisor's loop: requests come in over the channel, children are watched, replies go out.

Requests are dicts with ``do`` and ``id``; each is replied to once, when it is done, with the same ``id``:

* ``ping``: nothing, to see whether somebody is there
* ``make``: a folder in the first of ``locations`` that takes it, with another for the socket if the path is too long
  for one -> ``path``, ``short``
* ``folder``: a plain folder in the first of ``locations`` that takes it -> ``path``
* ``run``: a program in ``folder`` -> ``status``
* ``boot``: a server in ``folder`` -> ``pid`` once it is ready
* ``launch``: ``make``, unpack ``pack``, ``boot`` -> ``path``, ``short``, ``pid``
* ``stop``: end what runs in ``folder`` -> ``status``
* ``end``: the same, and then delete it; replied to, unless its id is 0, when its path is gone. Instead of ``folder`` it
  may have ``launch``, a request's id
* ``sweep``: delete what dead owners left in ``locations``; not replied to

What cannot be done is replied to with ``error``, ``errno`` and, of a program that ended, ``status``. A server that ends
without a request is told as ``{"ended": id of the request that started it, "status": ...}``.
"""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]  # has no stubs; the module signal would add to the start
import os
import select
import sys
import time

from . import child, pack
from .channel import Reader, Unreadable
from .directories import Directories, NoLocation
from .replies import Replies
from .runner import SIGQUIT, Runner

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from .channel import Message
    from .directory import Directory

CHANNEL = 3
_MOST_DESCRIPTORS = 4096
_SIGNALS = (1, 2, 3, 13, 15)  # HUP, INT, QUIT, PIPE, TERM
_BOOT_TICK, _END_TICK, _IDLE_TICK = 0.001, 0.02, 0.5
_KILL_SERVER_AFTER, _KILL_PROGRAM_AFTER = 1.0, 1.6
_LONGEST_END, _LONGEST_DELETION = 5.0, 30.0


class Supervisor:
    """Carries out the requests of one test process."""

    def __init__(self, descriptor: int, parent: int) -> None:
        self._channel = descriptor
        self._parent = parent
        self._reader = Reader()
        self._replies = Replies(descriptor)
        self._directories = Directories()
        self._poll = select.poll()
        self._poll.register(descriptor, select.POLLIN)
        self._runner = Runner(self._poll, self._directories, self._replies)
        self._wake_up = _wake_up_when_children_end()
        self._poll.register(self._wake_up, select.POLLIN)
        self._parent_fd = _watch(parent)
        if self._parent_fd is not None:
            self._poll.register(self._parent_fd, select.POLLIN)
        self._requests: dict[str, Callable[[Message], None]] = {
            "ping": self._replies.reply,
            "make": self._make,
            "folder": self._make_folder,
            "run": lambda request: self._runner.start(self._named(request), request, request["argv"]),
            "boot": lambda request: self._runner.boot(self._named(request), request),
            "launch": lambda request: self._runner.boot(self._directories.make(request), request),
            "stop": lambda request: self._runner.stop(self._named(request), request),
            "end": self._end,
            "sweep": lambda request: self._directories.sweep(request["locations"]),
        }

    def serve(self) -> None:
        """Work until the channel ends or the parent dies; then end and delete everything."""
        try:
            while self._turn():
                pass
        except BaseException as exc:
            self._replies.say({"crash": _described(exc)})
            raise
        finally:
            self._replies.is_closed = self._runner.is_ending = True
            self._end_all()

    def _turn(self) -> bool:
        for descriptor, _ in self._poll.poll(self._timeout()):
            if descriptor == self._channel:
                if not self._read_requests():
                    return False
            elif descriptor == self._parent_fd:
                return False
            else:
                self._read(descriptor)
        if self._parent_fd is None and os.getppid() != self._parent:
            return False
        self._look_around()
        self._directories.drop_reusable()
        return True

    def _timeout(self) -> float | None:
        """Return the milliseconds after which something may have to be done though nobody has asked for it."""
        directories = list(self._directories)
        if any(directory.is_booting for directory in directories):
            return _BOOT_TICK * 1000
        if any(directory.has_deadline for directory in directories):
            return _END_TICK * 1000
        return _IDLE_TICK * 1000 if self._parent_fd is None or self._directories.has_work else None

    def _read_requests(self) -> bool:
        try:
            more = os.read(self._channel, 64 * 1024)
        except ConnectionError:
            return False
        if not more:
            return False
        for request in self._reader.feed(more):
            self._handle(request)
        return True

    def _read(self, descriptor: int) -> None:
        if descriptor == self._wake_up:
            os.read(descriptor, 4096)
        else:
            self._runner.read(descriptor)

    def _look_around(self) -> None:
        self._runner.reap()
        for directory in self._directories:
            self._runner.look_at(directory)

    # Requests

    def _handle(self, request: Message) -> None:
        try:
            carry_out = self._requests[request["do"]]
            number = request["id"]
        except (KeyError, TypeError) as exc:
            raise Unreadable(f"no request: {exc}") from exc
        try:
            carry_out(request)
        except (OSError, pack.DamagedPack, NoLocation, KeyError) as exc:
            text = f"no such folder of ours: {exc}" if isinstance(exc, KeyError) else str(exc)
            where = self._directories.started_by(number)
            details = {"errno": getattr(exc, "errno", None) or 0, "kind": type(exc).__name__}
            self._replies.fail(request, text, where, **details)

    def _make(self, request: Message) -> None:
        made = self._directories.make(request)
        self._replies.reply(request, path=made.path, short=made.short)

    def _make_folder(self, request: Message) -> None:
        made = self._directories.make_plain(request["locations"], request["mode"])
        self._replies.reply(request, path=made.path)

    def _named(self, request: Message) -> Directory:
        return self._directories[request["folder"]]

    def _end(self, request: Message) -> None:
        if "launch" in request:
            directory = self._directories.started_by(request["launch"])
            if directory is None:
                return  # it came to nothing
        else:
            directory = self._named(request)
        self._runner.delete(directory, request)

    # The end

    def _end_all(self) -> None:
        for descriptor in (self._channel, self._parent_fd):
            if descriptor is not None:
                self._poll.unregister(descriptor)
        now = time.monotonic()
        for directory in self._directories:
            directory.request, directory.is_ending = None, True
            patience = _KILL_SERVER_AFTER if directory.is_server else _KILL_PROGRAM_AFTER
            self._runner.end(directory, SIGQUIT, now + patience)
        while any(each.child is not None for each in self._directories) and time.monotonic() < now + _LONGEST_END:
            for descriptor, _ in self._poll.poll(_END_TICK * 1000):
                self._read(descriptor)
            self._look_around()
        for directory in self._directories:
            if directory.child is None:
                self._directories.remove_now(directory)
        while self._directories.background and time.monotonic() < now + _LONGEST_DELETION:
            self._runner.reap()
            self._poll.poll(_END_TICK * 1000)


def _wake_up_when_children_end() -> int:
    """Return a descriptor that can be read after the end of a child."""
    read_end, write_end = os.pipe()
    os.set_blocking(read_end, False)
    os.set_blocking(write_end, False)
    _signal.signal(_signal.SIGCHLD, lambda number, frame: None)
    _signal.set_wakeup_fd(write_end, warn_on_full_buffer=False)
    return read_end


def _watch(parent: int) -> int | None:
    """Return a descriptor that is readable once the process is dead, ``None`` where the system has no such thing."""
    if not sys.platform.startswith("linux"):
        return None
    try:
        return os.pidfd_open(parent)
    except (OSError, AttributeError):
        return None


def _described(exc: BaseException) -> str:
    trace, lines = exc.__traceback__, []
    while trace is not None:
        lines.append(f"{os.path.basename(trace.tb_frame.f_code.co_filename)}:{trace.tb_lineno}")
        trace = trace.tb_next
    return f"{type(exc).__name__}: {exc} (at {', '.join(lines)})"


def _shed_inheritance() -> None:
    """Undo what a process inherits: a user's files, an umask, and signals that are ignored or blocked.

    A shell has its background jobs ignore SIGQUIT, an application that daemonizes SIGCHLD; so would our servers.
    """
    try:
        names = os.listdir("/proc/self/fd" if sys.platform.startswith("linux") else "/dev/fd")
    except OSError:  # in a root folder without them
        names = [str(number) for number in range(_MOST_DESCRIPTORS)]
    for name in names:
        if int(name) > CHANNEL:
            try:
                os.close(int(name))
            except OSError:
                continue  # the one that listed the folder
    os.set_inheritable(CHANNEL, False)
    os.umask(0o077)
    os.chdir("/")
    for number in _SIGNALS:
        _signal.signal(number, _signal.SIG_DFL)
    _signal.pthread_sigmask(_signal.SIG_SETMASK, [])


def main() -> None:
    """Serve the process named on the command line, which started this one and holds the other end of descriptor 3."""
    parent = int(sys.argv[1])
    _shed_inheritance()
    if os.getpid() != os.getsid(0):
        os.setsid()
    child.adopt_orphans()
    if os.getppid() == parent:
        Supervisor(CHANNEL, parent).serve()
