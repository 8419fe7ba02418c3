"""The keeper's loop: orders come in over the channel, children are watched, replies go out.

Orders are dicts with ``do`` and ``id``; each is answered once, when it is done, with the same ``id``:

* ``make``: a folder in the first of ``places`` that takes it, with another for the socket if the path is too long
  for one -> ``path``, ``short``
* ``folder``: a plain folder in the first of ``places`` that takes it -> ``path``
* ``run``: a program in ``folder`` -> ``status``
* ``boot``: a server in ``folder`` -> ``pid`` once it is ready
* ``launch``: ``make``, unpack ``pack``, ``boot`` -> ``path``, ``short``, ``pid``
* ``stop``: end what runs in ``folder`` -> ``status``
* ``end``: the same, and then delete it; answered, unless its id is 0, when its path is gone. Instead of ``folder`` it
  may have ``launch``, an order's id
* ``sweep``: delete what dead owners left in ``places``; not answered

Data folders are used again if that happens soon: bringing one back to what its pack holds takes a tenth of the time
of deleting it and unpacking another. They get a new path each time, lest somebody who holds an old URL meet the wrong
server.

What cannot be done is answered with ``error``, ``errno`` and, of a program that ended, ``status``. A server that ends
without an order is told as ``{"ended": id of the order that started it, "status": ...}``.
"""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]  # has no stubs; the module signal would add to the start
import os
import select
import sys
import time

from . import child, folder, segments, tree, wire
from .greeting import Greeting
from .lodging import Lodging, furnish, has_room, is_ready, write

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .wire import Message

_TICK = 0.001
_IDLE_TICK = 0.5
_LAST_WORDS = 5.0
_SIGQUIT, _SIGKILL, _SIGTERM = 3, 9, 15
# A program that makes a cluster is asked to end, then all of its processes are, then they are killed.
_HURRY_AFTER = 0.7
_KILL_SERVER_AFTER, _KILL_PROGRAM_AFTER = 1.0, 1.6
_MOST_USED = 2
_SOON = 1.0


class Keeper:
    """Carries out the orders of one test process."""

    def __init__(self, channel: int, parent: int) -> None:
        self._channel = channel
        self._parent = parent
        self._receiver = wire.Receiver(channel)
        self._lodgings: dict[str, Lodging] = {}
        self._used: list[Lodging] = []  # not needed any more; their data folders can be brought back
        self._aside: set[int] = set()
        self._is_ending = False
        self._poll = select.poll()
        self._poll.register(channel, select.POLLIN)
        self._pipes: dict[int, Lodging] = {}
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
        if any(lodging.waits for lodging in self._lodgings.values()):
            timeout: float | None = _TICK
        else:
            timeout = _IDLE_TICK if self._parent_fd is None or self._aside or self._used else None
        for descriptor, _ in self._poll.poll(None if timeout is None else timeout * 1000):
            if descriptor == self._channel:
                orders = self._receiver.receive()
                if orders is None:
                    return False
                for order in orders:
                    self._obey(order)
            elif descriptor == self._parent_fd:
                return False
            elif descriptor in self._pipes:
                self._hear(self._pipes[descriptor])
        if self._parent_fd is None and os.getppid() != self._parent:
            return False
        for lodging in list(self._lodgings.values()):
            self._look_at(lodging)
        self._drop_used()
        self._reap_aside()
        return True

    # Orders

    def _obey(self, order: Message) -> None:
        try:
            getattr(self, f"_do_{order['do']}")(order)
        except OSError as exc:
            started = next((one for one in self._lodgings.values() if one.number == order["id"]), None)
            self._fail(order, str(exc), number=exc.errno or 0, kind=type(exc).__name__, lodging=started)
        except tree.DamagedPack as exc:
            started = next((one for one in self._lodgings.values() if one.number == order["id"]), None)
            self._fail(order, str(exc), kind="DamagedPack", lodging=started)
        except KeyError as exc:
            self._fail(order, f"no such folder of ours: {exc}")

    def _do_make(self, order: Message) -> None:
        lodging = self._make(order)
        if lodging is not None:
            self._answer(order, path=lodging.path, short=lodging.short)

    def _do_folder(self, order: Message) -> None:
        problems = []
        for place in order["places"]:
            try:
                path, lock = folder.make(place, order["mode"])
            except OSError as exc:
                problems.append(f"{place}: {exc.strerror}")
                continue
            self._lodgings[path] = Lodging(path, lock)
            self._answer(order, path=path)
            return
        self._fail(order, "; ".join(problems))

    def _do_launch(self, order: Message) -> None:
        lodging = self._make(order)
        if lodging is not None:
            self._boot(lodging, order)

    def _make(self, order: Message) -> Lodging | None:
        """Make the folder that the order wants; answer the order if that fails."""
        used = self._find_used(order)
        places = order["places"] if used is None else [os.path.dirname(used.path), *order["places"]]
        problems = []
        for place in places:
            try:
                lodging = self._make_in(place, order, used)
            except OSError as exc:
                problems.append(f"{place}: {exc.strerror}")
                if used is not None:
                    self._remove(used)
                    used = None
                continue
            if used is not None:
                self._remove_now(used)
            return lodging
        self._fail(order, "; ".join(problems))
        return None

    def _make_in(self, place: str, order: Message, used: Lodging | None) -> Lodging:
        path, lock = folder.make(place, order["mode"])
        lodging = self._lodgings[path] = Lodging(path, lock)
        try:
            if used is not None:
                os.rename(used.data_dir, lodging.data_dir)
            else:
                furnish(lodging.data_dir, order["user"])
            socket = os.path.join(lodging.socket_dir, order["socket"])
            # Drivers take a path as UTF-8 whatever the locale makes of it.
            if not socket.isascii() or len(socket) > order["longest_path"]:
                self._make_short(lodging, order)
            furnish(lodging.socket_dir, order["user"])
        except OSError:
            self._remove(lodging)
            raise
        return lodging

    def _make_short(self, lodging: Lodging, order: Message) -> None:
        problem = OSError(0, "no place for a socket")
        for place in order["short_places"]:
            try:
                lodging.short, lock = folder.make(place, order["mode"])
            except OSError as exc:
                problem = exc
                continue
            self._lodgings[lodging.short] = Lodging(lodging.short, lock)
            return
        raise problem

    def _find_used(self, order: Message) -> Lodging | None:
        """Return a used folder that was unpacked from the same pack, and forget that it was used."""
        if not self._used or not order.get("pack"):
            return None
        pack = os.open(order["pack"], os.O_RDONLY)
        try:
            wanted = tree.identity(pack)
        finally:
            os.close(pack)
        for lodging in self._used:
            fits = lodging.pack == wanted and lodging.user == order["user"]
            if fits and os.path.dirname(lodging.path) in order["places"]:
                self._used.remove(lodging)
                return lodging
        return None

    def _do_run(self, order: Message) -> None:
        self._start(self._lodgings[order["folder"]], order, order["argv"])

    def _do_boot(self, order: Message) -> None:
        self._boot(self._lodgings[order["folder"]], order)

    def _boot(self, lodging: Lodging, order: Message) -> None:
        lodging.number = order["id"]
        write(
            os.path.join(lodging.data_dir, order["configuration_file"]),
            order["configuration"].replace(order["socket_dir_here"], lodging.socket_dir),
            order["user"],
        )
        self._start(lodging, order, [*order["argv"], lodging.data_dir])
        lodging.is_server = True
        lodging.deadline = time.monotonic() + order["timeout"]

    def _start(self, lodging: Lodging, order: Message, argv: list[str]) -> None:
        if lodging.child is not None:
            raise OSError(0, "something runs in this folder already")
        inherit = [lodging.lock] + ([self._lodgings[lodging.short].lock] if lodging.short else [])
        pack = os.open(order["pack"], os.O_RDONLY) if order.get("pack") else None
        if pack is not None:
            try:
                tree.index_of(pack)  # here, so that it is remembered
            except BaseException:
                os.close(pack)
                raise
            lodging.pack, lodging.user = tree.identity(pack), order["user"]
        log = os.open(os.path.join(lodging.path, order["log"]), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        try:
            lodging.child = child.start(
                argv,
                order["env"],
                user=order["user"],
                log=log,
                signal=_SIGQUIT,
                inherit=inherit,
                pack=pack,
                data_dir=lodging.data_dir,
                keep=[order.get("configuration_file", "")],
            )
        finally:
            os.close(log)
            if pack is not None:
                os.close(pack)
        lodging.order, lodging.silent, lodging.status, lodging.is_server = order, False, None, False
        self._pipes[lodging.child.pipe] = lodging
        self._poll.register(lodging.child.pipe, select.POLLIN)

    def _do_stop(self, order: Message) -> None:
        lodging = self._lodgings[order["folder"]]
        if lodging.child is None:
            self._answer(order, status=lodging.status)
            return
        lodging.stop_orders.append(order)
        lodging.kill_at = time.monotonic() + order["timeout"]
        self._signal(lodging, order["signal"])

    def _do_end(self, order: Message) -> None:
        if "launch" in order:
            lodging = next((one for one in self._lodgings.values() if one.number == order["launch"]), None)
            if lodging is None:
                return  # it came to nothing
        else:
            lodging = self._lodgings[order["folder"]]
        lodging.is_doomed = True
        if order["id"]:
            lodging.end_orders.append(order)
        if lodging.child is None:
            self._retire(lodging)
            return
        lodging.kill_at = time.monotonic() + order["timeout"]
        self._signal(lodging, order["signal"])

    def _do_sweep(self, order: Message) -> None:
        places = order["places"]

        def sweep() -> None:
            for place in places:
                for path, _ in folder.dead(place):
                    tree.remove(path)

        self._aside.add(child.aside(sweep))

    # What happens in the folders

    def _hear(self, lodging: Lodging) -> None:
        assert lodging.child is not None
        if lodging.child.hear():
            lodging.silent = True
            self._poll.unregister(lodging.child.pipe)

    def _look_at(self, lodging: Lodging) -> None:
        if lodging.child is None:
            return
        if lodging.status is None and (lodging.silent or lodging.waits):
            lodging.status = lodging.child.reap()
        if lodging.status is not None and lodging.silent:
            self._ended(lodging)
        elif lodging.stop_orders or lodging.is_doomed:
            if not lodging.is_server:
                self._press(lodging)
            elif time.monotonic() > lodging.kill_at:
                self._signal(lodging, _SIGKILL)
                if lodging.status is not None:
                    self._ended(lodging)  # a program that the server started holds its pipe; it is not ours
        elif lodging.order is not None and lodging.is_server:
            self._look_at_boot(lodging, lodging.order)

    def _look_at_boot(self, lodging: Lodging, order: Message) -> None:
        assert lodging.child is not None
        if lodging.greeting is None:
            if is_ready(os.path.join(lodging.data_dir, "postmaster.pid"), lodging.child.pid):
                lodging.greeting = Greeting(os.path.join(lodging.socket_dir, order["socket"]), order["greet"])
        elif lodging.greeting.is_over():
            lodging.order = None
            self._answer(order, pid=lodging.child.pid, path=lodging.path, short=lodging.short)
            return
        if time.monotonic() > lodging.deadline:
            lodging.order = None
            self._signal(lodging, _SIGQUIT)
            self._fail(order, f"no answer within {order['timeout']:g} seconds", lodging=lodging)

    def _ended(self, lodging: Lodging) -> None:
        ended, order, stops = lodging.child, lodging.order, lodging.stop_orders
        assert ended is not None
        if not lodging.silent:
            self._poll.unregister(ended.pipe)
            lodging.pack = None  # whoever holds the pipe may write there yet
        del self._pipes[ended.pipe]
        os.close(ended.pipe)
        if lodging.segments:
            segments.remove(lodging.segments)
            lodging.segments = set()
        was_server = lodging.is_server and order is None
        lodging.child, lodging.order, lodging.stop_orders, lodging.greeting = None, None, [], None
        if order is not None:
            self._answer_ended(order, ended, lodging)
        for stop in stops:
            self._answer(stop, status=lodging.status)
        if lodging.is_doomed:
            self._retire(lodging)
        elif was_server and not stops:
            self._say({"ended": lodging.number, "status": lodging.status})

    def _answer_ended(self, order: Message, ended: child.Child, lodging: Lodging) -> None:
        if ended.complaint:
            kind, number, text = ended.complaint.decode(errors="replace").split("\0", 2)
            self._fail(order, text, number=int(number), kind=kind, lodging=lodging)
        elif lodging.is_server:
            self._fail(order, "", status=lodging.status, lodging=lodging)
        else:
            self._answer(order, status=lodging.status)

    def _press(self, lodging: Lodging) -> None:
        """Remind a program that was told to end, and all that it has started, with growing force.

        The processes are not done before its pipe has ended; the folder must not vanish under one of them.
        """
        assert lodging.child is not None
        now = time.monotonic()
        if now < lodging.hurry_at:
            return
        lodging.hurry_at = now + 0.1
        lodging.segments |= segments.mapped_by(lodging.child.pid)
        try:
            os.killpg(lodging.child.pid, _SIGKILL if now > lodging.kill_at else _SIGTERM)
        except ProcessLookupError:
            return  # its end is about to be heard

    def _signal(self, lodging: Lodging, number: int) -> None:
        if lodging.child is not None and lodging.status is None:
            if not lodging.is_server:
                # initdb alone at first: it lets the server that it is running finish its step. That one, in its
                # bootstrap mode, would die of the signal at once and leave its shared memory behind.
                number, lodging.hurry_at = _SIGTERM, time.monotonic() + _HURRY_AFTER
            try:
                os.kill(lodging.child.pid, number)
            except ProcessLookupError:
                return

    # Folders that are not needed any more

    def _retire(self, lodging: Lodging) -> None:
        if self._is_ending:
            return  # all folders are deleted in the end
        self._use_up(lodging)
        for order in lodging.end_orders:
            self._answer(order)

    def _use_up(self, lodging: Lodging) -> None:
        if lodging.short is not None:
            self._remove_now(self._lodgings[lodging.short])
        if lodging.pack is None or not has_room(lodging.path):
            self._remove(lodging)
            return
        try:
            path, lock = folder.make(os.path.dirname(lodging.path), 0o700)
        except OSError:
            self._remove(lodging)
            return
        used = self._lodgings[path] = Lodging(path, lock)
        try:
            os.rename(lodging.data_dir, used.data_dir)
        except OSError:
            self._remove_now(used)
            self._remove(lodging)
            return
        used.pack, used.user, used.until = lodging.pack, lodging.user, time.monotonic() + _SOON
        self._used.append(used)
        self._remove_now(lodging)

    def _drop_used(self) -> None:
        now = time.monotonic()
        while self._used and (len(self._used) > _MOST_USED or self._used[0].until < now):
            self._remove(self._used.pop(0))

    def _remove(self, lodging: Lodging) -> None:
        del self._lodgings[lodging.path]
        path = folder.put_aside(lodging.path)
        self._aside.add(child.aside(lambda: tree.remove(path), keep=[lodging.lock]))
        os.close(lodging.lock)

    def _remove_now(self, lodging: Lodging) -> None:
        del self._lodgings[lodging.path]
        try:
            tree.remove(lodging.path)
        except OSError:
            pass  # somebody else is at work there too; a sweep deletes what is left
        finally:
            os.close(lodging.lock)

    def _reap_aside(self) -> None:
        for pid in list(self._aside):
            if os.waitpid(pid, os.WNOHANG)[0]:
                self._aside.remove(pid)

    # The end

    def _end_all(self) -> None:
        for descriptor in (self._channel, self._parent_fd):
            if descriptor is not None:
                self._poll.unregister(descriptor)
        until = time.monotonic() + _LAST_WORDS
        for lodging in self._lodgings.values():
            lodging.order = None
            if lodging.child is not None:
                patience = _KILL_SERVER_AFTER if lodging.is_server else _KILL_PROGRAM_AFTER
                lodging.is_doomed, lodging.kill_at = True, time.monotonic() + patience
                self._signal(lodging, _SIGQUIT)
        while any(lodging.child is not None for lodging in self._lodgings.values()) and time.monotonic() < until:
            for descriptor, _ in self._poll.poll(_TICK * 1000):
                self._hear(self._pipes[descriptor])
            for lodging in list(self._lodgings.values()):
                self._look_at(lodging)
        for lodging in list(self._lodgings.values()):
            if lodging.child is None:
                self._remove_now(lodging)
        for pid in self._aside:
            os.waitpid(pid, 0)

    # Answers

    def _answer(self, order: Message, **answer: object) -> None:
        if order:
            self._say({"id": order["id"], **answer})

    def _fail(
        self,
        order: Message,
        text: str,
        *,
        number: int = 0,
        kind: str = "",
        status: int | None = None,
        lodging: Lodging | None = None,
    ) -> None:
        where = {"path": lodging.path, "short": lodging.short} if lodging is not None else {"path": None}
        self._answer(order, error=text, errno=number, kind=kind, status=status, **where)

    def _say(self, message: Message) -> None:
        if self._is_ending:
            return
        try:
            wire.send(self._channel, message)
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
    trace, places = exc.__traceback__, []
    while trace is not None:
        places.append(f"{os.path.basename(trace.tb_frame.f_code.co_filename)}:{trace.tb_lineno}")
        trace = trace.tb_next
    return f"{type(exc).__name__}: {exc} (at {', '.join(places)})"


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
        Keeper(channel, parent).serve()
