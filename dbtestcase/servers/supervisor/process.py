"""The supervisor's loop: requests come in over the channel, children are watched, replies go out.

Requests are dicts with ``do`` and ``id``; each is answered once, when it is done, with the same ``id``:

* ``make``: a folder in the first of ``locations`` that takes it, with another for the socket if the path is too long
  for one -> ``path``, ``short``
* ``folder``: a plain folder in the first of ``locations`` that takes it -> ``path``
* ``run``: a program in ``folder`` -> ``status``
* ``boot``: a server in ``folder`` -> ``pid`` once it is ready
* ``launch``: ``make``, unpack ``pack``, ``boot`` -> ``path``, ``short``, ``pid``
* ``stop``: end what runs in ``folder`` -> ``status``
* ``end``: the same, and then delete it; answered, unless its id is 0, when its path is gone. Instead of ``folder`` it
  may have ``launch``, a request's id
* ``sweep``: delete what dead owners left in ``locations``; not answered

Data folders are used again if that happens soon: bringing one back to what its pack holds takes a tenth of the time
of deleting it and unpacking another. They get a new path each time, so a stale URL cannot reach
the wrong server.

What cannot be done is answered with ``error``, ``errno`` and, of a program that ended, ``status``. A server that ends
without a request is told as ``{"ended": id of the request that started it, "status": ...}``.
"""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]  # has no stubs; the module signal would add to the start
import os
import select
import sys
import time

from . import channel, child, folder, segments, tree
from .directory import Directory, has_room, is_ready, make_private, write
from .readiness import ReadinessProbe

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .channel import Message

_TICK = 0.001
_IDLE_TICK = 0.5
_LAST_WORDS = 5.0
_SIGQUIT, _SIGKILL, _SIGTERM = 3, 9, 15
# A program that makes a cluster is asked to end, then all of its processes are, then they are killed.
_ESCALATE_AFTER = 0.7
_KILL_SERVER_AFTER, _KILL_PROGRAM_AFTER = 1.0, 1.6
_MOST_USED = 2
_SOON = 1.0


class Supervisor:
    """Carries out the requests of one test process."""

    def __init__(self, descriptor: int, parent: int) -> None:
        self._channel = descriptor
        self._parent = parent
        self._receiver = channel.Receiver(descriptor)
        self._directories: dict[str, Directory] = {}
        self._reusable: list[Directory] = []  # not needed any more; their data folders can be brought back
        self._background: set[int] = set()
        self._is_ending = False
        self._poll = select.poll()
        self._poll.register(descriptor, select.POLLIN)
        self._pipes: dict[int, Directory] = {}
        self._parent_fd = _watch(parent)
        if self._parent_fd is not None:
            self._poll.register(self._parent_fd, select.POLLIN)

    def serve(self) -> None:
        """Work until the channel ends or the parent dies; then end and delete everything."""
        try:
            while self._turn():
                pass
        except BaseException as exc:
            self._say({"crash": _described(exc)})
            raise
        finally:
            self._is_ending = True
            self._end_all()

    def _turn(self) -> bool:
        if any(directory.waits for directory in self._directories.values()):
            timeout: float | None = _TICK
        else:
            timeout = _IDLE_TICK if self._parent_fd is None or self._background or self._reusable else None
        for descriptor, _ in self._poll.poll(None if timeout is None else timeout * 1000):
            if descriptor == self._channel:
                requests = self._receiver.receive()
                if requests is None:
                    return False
                for request in requests:
                    self._handle(request)
            elif descriptor == self._parent_fd:
                return False
            elif descriptor in self._pipes:
                self._read(self._pipes[descriptor])
        if self._parent_fd is None and os.getppid() != self._parent:
            return False
        for directory in list(self._directories.values()):
            self._look_at(directory)
        self._drop_used()
        self._reap_background()
        return True

    # Requests

    def _handle(self, request: Message) -> None:
        try:
            getattr(self, f"_do_{request['do']}")(request)
        except OSError as exc:
            started = next((one for one in self._directories.values() if one.number == request["id"]), None)
            self._fail(request, str(exc), number=exc.errno or 0, kind=type(exc).__name__, directory=started)
        except tree.DamagedPack as exc:
            started = next((one for one in self._directories.values() if one.number == request["id"]), None)
            self._fail(request, str(exc), kind="DamagedPack", directory=started)
        except KeyError as exc:
            self._fail(request, f"no such folder of ours: {exc}")

    def _do_make(self, request: Message) -> None:
        directory = self._make(request)
        if directory is not None:
            self._reply(request, path=directory.path, short=directory.short)

    def _do_folder(self, request: Message) -> None:
        problems = []
        for location in request["locations"]:
            try:
                path, lock = folder.make(location, request["mode"])
            except OSError as exc:
                problems.append(f"{location}: {exc.strerror}")
                continue
            self._directories[path] = Directory(path, lock)
            self._reply(request, path=path)
            return
        self._fail(request, "; ".join(problems))

    def _do_launch(self, request: Message) -> None:
        directory = self._make(request)
        if directory is not None:
            self._boot(directory, request)

    def _make(self, request: Message) -> Directory | None:
        """Make the folder that the request wants; answer the request if that fails."""
        used = self._find_used(request)
        locations = request["locations"] if used is None else [os.path.dirname(used.path), *request["locations"]]
        problems = []
        for location in locations:
            try:
                directory = self._make_in(location, request, used)
            except OSError as exc:
                problems.append(f"{location}: {exc.strerror}")
                if used is not None:
                    self._remove(used)
                    used = None
                continue
            if used is not None:
                self._remove_now(used)
            return directory
        self._fail(request, "; ".join(problems))
        return None

    def _make_in(self, location: str, request: Message, used: Directory | None) -> Directory:
        path, lock = folder.make(location, request["mode"])
        directory = self._directories[path] = Directory(path, lock)
        try:
            if used is not None:
                os.rename(used.data_dir, directory.data_dir)
            else:
                make_private(directory.data_dir, request["user"])
            socket = os.path.join(directory.socket_dir, request["socket"])
            # Drivers take a path as UTF-8 whatever the locale makes of it.
            if not socket.isascii() or len(socket) > request["longest_path"]:
                self._make_short(directory, request)
            make_private(directory.socket_dir, request["user"])
        except OSError:
            self._remove(directory)
            raise
        return directory

    def _make_short(self, directory: Directory, request: Message) -> None:
        problem = OSError(0, "no location for a socket")
        for location in request["socket_locations"]:
            try:
                directory.short, lock = folder.make(location, request["mode"])
            except OSError as exc:
                problem = exc
                continue
            self._directories[directory.short] = Directory(directory.short, lock)
            return
        raise problem

    def _find_used(self, request: Message) -> Directory | None:
        """Return a used folder that was unpacked from the same pack, and forget that it was used."""
        if not self._reusable or not request.get("pack"):
            return None
        pack = os.open(request["pack"], os.O_RDONLY)
        try:
            wanted = tree.identity(pack)
        finally:
            os.close(pack)
        for directory in self._reusable:
            fits = directory.pack == wanted and directory.user == request["user"]
            if fits and os.path.dirname(directory.path) in request["locations"]:
                self._reusable.remove(directory)
                return directory
        return None

    def _do_run(self, request: Message) -> None:
        self._start(self._directories[request["folder"]], request, request["argv"])

    def _do_boot(self, request: Message) -> None:
        self._boot(self._directories[request["folder"]], request)

    def _boot(self, directory: Directory, request: Message) -> None:
        directory.number = request["id"]
        write(
            os.path.join(directory.data_dir, request["configuration_file"]),
            request["configuration"].replace(request["socket_dir_here"], directory.socket_dir),
            request["user"],
        )
        self._start(directory, request, [*request["argv"], directory.data_dir])
        directory.is_server = True
        directory.deadline = time.monotonic() + request["timeout"]

    def _start(self, directory: Directory, request: Message, argv: list[str]) -> None:
        if directory.child is not None:
            raise OSError(0, "something runs in this folder already")
        inherit = [directory.lock] + ([self._directories[directory.short].lock] if directory.short else [])
        pack = os.open(request["pack"], os.O_RDONLY) if request.get("pack") else None
        if pack is not None:
            try:
                tree.index_of(pack)  # here, so that it is remembered
            except BaseException:
                os.close(pack)
                raise
            directory.pack, directory.user = tree.identity(pack), request["user"]
        log = os.open(os.path.join(directory.path, request["log"]), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        try:
            directory.child = child.start(
                argv,
                request["env"],
                user=request["user"],
                log=log,
                signal=_SIGQUIT,
                inherit=inherit,
                pack=pack,
                data_dir=directory.data_dir,
                keep=[request.get("configuration_file", "")],
            )
        finally:
            os.close(log)
            if pack is not None:
                os.close(pack)
        directory.request, directory.pipe_ended, directory.status, directory.is_server = request, False, None, False
        self._pipes[directory.child.pipe] = directory
        self._poll.register(directory.child.pipe, select.POLLIN)

    def _do_stop(self, request: Message) -> None:
        directory = self._directories[request["folder"]]
        if directory.child is None:
            self._reply(request, status=directory.status)
            return
        directory.stop_requests.append(request)
        directory.kill_at = time.monotonic() + request["timeout"]
        self._signal(directory, request["signal"])

    def _do_end(self, request: Message) -> None:
        if "launch" in request:
            directory = next((one for one in self._directories.values() if one.number == request["launch"]), None)
            if directory is None:
                return  # it came to nothing
        else:
            directory = self._directories[request["folder"]]
        directory.is_ending = True
        if request["id"]:
            directory.end_requests.append(request)
        if directory.child is None:
            self._release(directory)
            return
        directory.kill_at = time.monotonic() + request["timeout"]
        self._signal(directory, request["signal"])

    def _do_sweep(self, request: Message) -> None:
        locations = request["locations"]

        def sweep() -> None:
            for location in locations:
                for path, _ in folder.dead(location):
                    tree.remove(path)

        self._background.add(child.in_background(sweep))

    # What happens in the folders

    def _read(self, directory: Directory) -> None:
        assert directory.child is not None
        if directory.child.read():
            directory.pipe_ended = True
            self._poll.unregister(directory.child.pipe)

    def _look_at(self, directory: Directory) -> None:
        if directory.child is None:
            return
        if directory.status is None and (directory.pipe_ended or directory.waits):
            directory.status = directory.child.reap()
        if directory.status is not None and directory.pipe_ended:
            self._ended(directory)
        elif directory.stop_requests or directory.is_ending:
            if not directory.is_server:
                self._escalate(directory)
            elif time.monotonic() > directory.kill_at:
                self._signal(directory, _SIGKILL)
                if directory.status is not None:
                    self._ended(directory)  # a program that the server started holds its pipe; it is not ours
        elif directory.request is not None and directory.is_server:
            self._look_at_boot(directory, directory.request)

    def _look_at_boot(self, directory: Directory, request: Message) -> None:
        assert directory.child is not None
        if directory.probe is None:
            if is_ready(os.path.join(directory.data_dir, "postmaster.pid"), directory.child.pid):
                directory.probe = ReadinessProbe(
                    os.path.join(directory.socket_dir, request["socket"]), request["probe_database"]
                )
        elif directory.probe.is_over():
            directory.request = None
            self._reply(request, pid=directory.child.pid, path=directory.path, short=directory.short)
            return
        if time.monotonic() > directory.deadline:
            directory.request = None
            self._signal(directory, _SIGQUIT)
            self._fail(request, f"no answer within {request['timeout']:g} seconds", directory=directory)

    def _ended(self, directory: Directory) -> None:
        ended, request, stops = directory.child, directory.request, directory.stop_requests
        assert ended is not None
        if not directory.pipe_ended:
            self._poll.unregister(ended.pipe)
            directory.pack = None  # whoever holds the pipe may write there yet
        del self._pipes[ended.pipe]
        os.close(ended.pipe)
        if directory.segments:
            segments.remove(directory.segments)
            directory.segments = set()
        was_server = directory.is_server and request is None
        directory.child, directory.request, directory.stop_requests, directory.probe = None, None, [], None
        if request is not None:
            self._reply_ended(request, ended, directory)
        for stop in stops:
            self._reply(stop, status=directory.status)
        if directory.is_ending:
            self._release(directory)
        elif was_server and not stops:
            self._say({"ended": directory.number, "status": directory.status})

    def _reply_ended(self, request: Message, ended: child.Child, directory: Directory) -> None:
        if ended.error:
            kind, number, text = ended.error.decode(errors="replace").split("\0", 2)
            self._fail(request, text, number=int(number), kind=kind, directory=directory)
        elif directory.is_server:
            self._fail(request, "", status=directory.status, directory=directory)
        else:
            self._reply(request, status=directory.status)

    def _escalate(self, directory: Directory) -> None:
        """Remind a program that was told to end, and all that it has started, with growing force.

        The processes are not done before its pipe has ended; the folder must not vanish under one of them.
        """
        assert directory.child is not None
        now = time.monotonic()
        if now < directory.escalate_at:
            return
        directory.escalate_at = now + 0.1
        directory.segments |= segments.mapped_by(directory.child.pid)
        try:
            os.killpg(directory.child.pid, _SIGKILL if now > directory.kill_at else _SIGTERM)
        except ProcessLookupError:
            return  # its end is about to be heard

    def _signal(self, directory: Directory, number: int) -> None:
        if directory.child is not None and directory.status is None:
            if not directory.is_server:
                # initdb alone at first: it lets the server that it is running finish its step. That one, in its
                # bootstrap mode, would die of the signal at once and leave its shared memory behind.
                number, directory.escalate_at = _SIGTERM, time.monotonic() + _ESCALATE_AFTER
            try:
                os.kill(directory.child.pid, number)
            except ProcessLookupError:
                return

    # Folders that are not needed any more

    def _release(self, directory: Directory) -> None:
        if self._is_ending:
            return  # all folders are deleted in the end
        self._keep_for_reuse(directory)
        for request in directory.end_requests:
            self._reply(request)

    def _keep_for_reuse(self, directory: Directory) -> None:
        if directory.short is not None:
            self._remove_now(self._directories[directory.short])
        if directory.pack is None or not has_room(directory.path):
            self._remove(directory)
            return
        try:
            path, lock = folder.make(os.path.dirname(directory.path), 0o700)
        except OSError:
            self._remove(directory)
            return
        used = self._directories[path] = Directory(path, lock)
        try:
            os.rename(directory.data_dir, used.data_dir)
        except OSError:
            self._remove_now(used)
            self._remove(directory)
            return
        used.pack, used.user, used.until = directory.pack, directory.user, time.monotonic() + _SOON
        self._reusable.append(used)
        self._remove_now(directory)

    def _drop_used(self) -> None:
        now = time.monotonic()
        while self._reusable and (len(self._reusable) > _MOST_USED or self._reusable[0].until < now):
            self._remove(self._reusable.pop(0))

    def _remove(self, directory: Directory) -> None:
        del self._directories[directory.path]
        path = folder.rename_away(directory.path)
        self._background.add(child.in_background(lambda: tree.remove(path), keep=[directory.lock]))
        os.close(directory.lock)

    def _remove_now(self, directory: Directory) -> None:
        del self._directories[directory.path]
        try:
            tree.remove(directory.path)
        except OSError:
            pass  # somebody else is at work there too; a sweep deletes what is left
        finally:
            os.close(directory.lock)

    def _reap_background(self) -> None:
        for pid in list(self._background):
            if os.waitpid(pid, os.WNOHANG)[0]:
                self._background.remove(pid)

    # The end

    def _end_all(self) -> None:
        for descriptor in (self._channel, self._parent_fd):
            if descriptor is not None:
                self._poll.unregister(descriptor)
        until = time.monotonic() + _LAST_WORDS
        for directory in self._directories.values():
            directory.request = None
            if directory.child is not None:
                patience = _KILL_SERVER_AFTER if directory.is_server else _KILL_PROGRAM_AFTER
                directory.is_ending, directory.kill_at = True, time.monotonic() + patience
                self._signal(directory, _SIGQUIT)
        while any(directory.child is not None for directory in self._directories.values()) and time.monotonic() < until:
            for descriptor, _ in self._poll.poll(_TICK * 1000):
                self._read(self._pipes[descriptor])
            for directory in list(self._directories.values()):
                self._look_at(directory)
        for directory in list(self._directories.values()):
            if directory.child is None:
                self._remove_now(directory)
        for pid in self._background:
            os.waitpid(pid, 0)

    # Answers

    def _reply(self, request: Message, **answer: object) -> None:
        if request:
            self._say({"id": request["id"], **answer})

    def _fail(
        self,
        request: Message,
        text: str,
        *,
        number: int = 0,
        kind: str = "",
        status: int | None = None,
        directory: Directory | None = None,
    ) -> None:
        where = {"path": directory.path, "short": directory.short} if directory is not None else {"path": None}
        self._reply(request, error=text, errno=number, kind=kind, status=status, **where)

    def _say(self, message: Message) -> None:
        if self._is_ending:
            return
        try:
            channel.send(self._channel, message)
        except OSError:
            return  # the next read finds the channel ended too, and that ends the loop


def _watch(parent: int) -> int | None:
    """Return a descriptor that is readable once the process is dead, ``None`` where the system has no such thing."""
    if not sys.platform.startswith("linux"):
        return None
    try:
        return os.pidfd_open(parent)
    except (OSError, AttributeError):
        return None


def _described(exc: BaseException) -> str:
    trace, locations = exc.__traceback__, []
    while trace is not None:
        locations.append(f"{os.path.basename(trace.tb_frame.f_code.co_filename)}:{trace.tb_lineno}")
        trace = trace.tb_next
    return f"{type(exc).__name__}: {exc} (at {', '.join(locations)})"


def _listen_to_signals() -> None:
    """Undo what we inherit: a shell has its background jobs ignore SIGQUIT, and so would a server that is starting."""
    for number in (_SIGQUIT, _SIGTERM):
        _signal.signal(number, _signal.SIG_DFL)


def main() -> None:
    """Serve the process that started this one over the descriptor named first on the command line."""
    channel, parent = int(sys.argv[1]), int(sys.argv[2])
    os.chdir("/")
    _listen_to_signals()
    if os.getppid() == parent:
        Supervisor(channel, parent).serve()
