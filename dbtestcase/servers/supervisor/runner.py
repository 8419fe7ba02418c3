"""What runs in the instance directories: servers and ``initdb``, started, watched and ended."""

from __future__ import annotations

import os
import select
import time

from . import child, pack
from .directory import Directory, is_ready

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .channel import Message
    from .directories import Directories
    from .replies import Replies

SIGQUIT, SIGKILL, SIGTERM = 3, 9, 15
# A program that makes a cluster is asked to end, then all of its processes are, then they are killed.
_ESCALATE_AFTER, _ESCALATE_AGAIN = 0.7, 0.1
# What outlives a server, a stopped process or a program that SQL has started, gets so long to end by itself, and
# after the kill so long to be gone.
_LEFTOVERS_AFTER, _LEFTOVERS_GONE = 0.2, 2.0


class Runner:
    """Starts programs in directories and watches them until all their processes are gone."""

    def __init__(self, poll: select.poll, directories: Directories, replies: Replies) -> None:
        self._poll = poll
        self._directories = directories
        self._replies = replies
        self._pipes: dict[int, Directory] = {}
        self.is_ending = False

    def boot(self, directory: Directory, request: Message) -> None:
        """Start a server; the request is replied to when it is ready, or is not."""
        directory.number = request["id"]
        self.start(directory, request, [*request["argv"], directory.data_dir])
        directory.is_server = True

    def start(self, directory: Directory, request: Message, argv: list[str]) -> None:
        """Start a program; the request is replied to when it has ended."""
        if directory.child is not None:
            raise OSError(0, "something runs in this folder already")
        index = None
        if request.get("pack"):
            index, directory.pack = pack.read(request["pack"], request["base"])
            directory.user = request["user"]
        self._start(directory, request, argv, index)
        directory.request, directory.pipe_ended, directory.status, directory.is_server = request, False, None, False
        directory.leftovers_at, directory.deadline = 0.0, time.monotonic() + request["timeout"]

    def _start(self, directory: Directory, request: Message, argv: list[str], index: pack.Index | None) -> None:
        configuration = request.get("configuration", "").replace("@socket_dir@", directory.socket_dir)
        data_dir, name = directory.data_dir, request.get("configuration_file", "")

        def prepare() -> None:
            child.become(request["user"], request.get("alias"))
            if index is not None:
                pack.unpack(index, data_dir, keep=[name])
            if configuration:
                child.write_file(data_dir, name, configuration)

        inherit = [directory.lock] + ([self._directories[directory.short].lock] if directory.short else [])
        log = os.open(
            os.path.join(directory.path, request["log"]),
            os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW,
            0o600,
        )
        try:
            directory.child = child.start(
                argv, request["env"], log=log, inherit=inherit, signal=SIGQUIT, prepare=prepare
            )
        finally:
            os.close(log)
        self._pipes[directory.child.pipe] = directory
        self._poll.register(directory.child.pipe, select.POLLIN)

    def read(self, descriptor: int) -> None:
        """Take note that one of the pipes can be read."""
        directory = self._pipes.get(descriptor)
        if directory is not None and directory.child is not None and directory.child.read():
            directory.pipe_ended = True
            self._poll.unregister(descriptor)

    def reap(self) -> None:
        """Take note of all children that have ended."""
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if not pid:
                return
            self._directories.background.discard(pid)
            for directory in self._directories:
                if directory.child is not None and directory.child.pid == pid:
                    directory.status = os.waitstatus_to_exitcode(status)

    def look_at(self, directory: Directory) -> None:
        """Do what it is time for."""
        if directory.child is None:
            return
        now = time.monotonic()
        if directory.status is None:
            if directory.stop_requests or directory.is_ending:
                self._enforce_end(directory, now)
            elif directory.request is not None:
                self._look_at_request(directory, directory.request, now)
        elif directory.pipe_ended:
            self._ended(directory)
        else:
            self._end_leftovers(directory, directory.child, now)

    def _look_at_request(self, directory: Directory, request: Message, now: float) -> None:
        assert directory.child is not None
        if directory.is_server and is_ready(directory.data_dir, directory.child.pid):
            directory.request = None
            self._replies.reply(request, pid=directory.child.pid, path=directory.path, short=directory.short)
        elif now > directory.deadline:
            directory.request = None
            what = "it is not ready" if directory.is_server else "it has not ended"
            self._replies.fail(request, f"{what} after {request['timeout']:g} seconds", directory)
            self.end(directory, SIGQUIT, now)

    def _enforce_end(self, directory: Directory, now: float) -> None:
        if not directory.is_server:
            self._escalate(directory, now)
        elif now > directory.kill_at:
            self._signal(directory, SIGKILL)

    def _escalate(self, directory: Directory, now: float) -> None:
        """Remind a program that was told to end, and all that it has started, with growing force.

        The folder must not vanish under one of its processes, so these too have to end.
        """
        assert directory.child is not None
        if now < directory.escalate_at:
            return
        directory.escalate_at = now + _ESCALATE_AGAIN
        try:
            os.killpg(directory.child.pid, SIGKILL if now > directory.kill_at else SIGTERM)
        except ProcessLookupError:
            return  # its pipe is about to end

    def _end_leftovers(self, directory: Directory, ended: child.Child, now: float) -> None:
        """The child has ended, but something that it started has not."""
        if not directory.leftovers_at:
            directory.leftovers_at = now + _LEFTOVERS_AFTER
            self._report_end(directory)
        if not directory.is_server and (directory.stop_requests or directory.is_ending):
            self._escalate(directory, now)
        if now > directory.leftovers_at + _LEFTOVERS_GONE:
            self._ended(directory)  # it cannot be found, so not be killed
        elif now > directory.leftovers_at:
            known = {each.child.pid for each in self._directories if each.child is not None}
            for pid in ended.holders(known | self._directories.background):
                try:
                    os.kill(pid, SIGKILL)
                except OSError:
                    continue  # it has just ended

    def _ended(self, directory: Directory) -> None:
        ended, request, stops = directory.child, directory.request, directory.stop_requests
        assert ended is not None
        self._report_end(directory)
        if not directory.pipe_ended:
            self._poll.unregister(ended.pipe)
            directory.pack = None  # whoever holds the pipe may write there yet
        del self._pipes[ended.pipe]
        os.close(ended.pipe)
        directory.child, directory.request, directory.stop_requests = None, None, []
        if request is not None:
            self._reply_ended(request, ended, directory)
        for stop in stops:
            self._replies.reply(stop, status=directory.status)
        if directory.is_ending:
            self._release(directory)

    def _report_end(self, directory: Directory) -> None:
        """Say that a server has ended which nobody told to; once."""
        unasked = not directory.stop_requests and not directory.is_ending and directory.request is None
        if directory.is_server and unasked:
            self._replies.say({"ended": directory.number, "status": directory.status})
            directory.is_server = False

    def _reply_ended(self, request: Message, ended: child.Child, directory: Directory) -> None:
        if ended.error:
            kind, number, text = (*ended.error.decode(errors="replace").split("\0", 2), "0", "")[:3]
            self._replies.fail(request, text, directory, errno=int(number), kind=kind)
        elif directory.is_server:
            self._replies.fail(request, "", directory, status=directory.status)
        else:
            self._replies.reply(request, status=directory.status)

    def stop(self, directory: Directory, request: Message) -> None:
        """End what runs in a directory; the request is replied to when it has ended."""
        if directory.child is None:
            self._replies.reply(request, status=directory.status)
            return
        directory.stop_requests.append(request)
        self.end(directory, request["signal"], time.monotonic() + request["timeout"])

    def delete(self, directory: Directory, request: Message) -> None:
        """End what runs in a directory and delete it; the request is replied to when its path is gone."""
        directory.is_ending = True
        directory.end_requests.append(request)
        if directory.child is None:
            self._release(directory)
        else:
            self.end(directory, request["signal"], time.monotonic() + request["timeout"])

    def end(self, directory: Directory, signal: int, kill_at: float) -> None:
        """Tell what runs in a directory to end, and kill it if it has not by then."""
        directory.kill_at = kill_at
        if not directory.is_server:
            # initdb alone at first: it lets the server that it is running finish its step.
            signal, directory.escalate_at = SIGTERM, time.monotonic() + _ESCALATE_AFTER
        self._signal(directory, signal)

    def _signal(self, directory: Directory, number: int) -> None:
        if directory.child is not None and directory.status is None:
            try:
                os.kill(directory.child.pid, number)
            except ProcessLookupError:
                return

    def _release(self, directory: Directory) -> None:
        if self.is_ending:
            return  # all folders are deleted in the end
        self._directories.release(directory)
        for request in directory.end_requests:
            self._replies.reply(request)
