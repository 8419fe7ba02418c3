"""The instance directories of one supervisor: made, used again, deleted.

Data folders are used again if that happens soon: bringing one back to what its pack holds takes a tenth of the time
of deleting it and unpacking another. They get a new path each time, so a stale URL cannot reach the wrong server.
"""

from __future__ import annotations

import os
import time

from . import child, folder, pack, tree
from .directory import Directory, has_room, make_private

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from .channel import Message

_MOST_REUSABLE = 2
_SOON = 1.0


class NoLocation(Exception):
    """A folder can be made in none of the locations; the text says why in each."""


class Directories:
    """All directories, by path, and the child processes that delete others."""

    def __init__(self) -> None:
        self._by_path: dict[str, Directory] = {}
        self._reusable: list[Directory] = []
        self.background: set[int] = set()

    def __iter__(self) -> Iterator[Directory]:
        return iter(list(self._by_path.values()))

    def __getitem__(self, path: str) -> Directory:
        return self._by_path[path]

    @property
    def has_work(self) -> bool:
        """Whether something has to be deleted soon."""
        return bool(self._reusable)

    def started_by(self, number: int) -> Directory | None:
        """Return the directory in which the request of that number has started something."""
        return next((each for each in self if each.number == number), None) if number else None

    def make_plain(self, locations: list[str], mode: int) -> Directory:
        """Make a folder in the first of the locations that takes it."""
        return self._in_first(locations, lambda location: self._add(location, mode))

    def make(self, request: Message) -> Directory:
        """Make the directory for a server, with the data folder of a used one if one fits."""
        used = self._take_reusable(request)
        if used is not None:
            try:
                made = self._make_in(os.path.dirname(used.path), request, used)
            except OSError:
                self.remove(used)
            else:
                self.remove_now(used)
                return made
        return self._in_first(request["locations"], lambda location: self._make_in(location, request, None))

    @staticmethod
    def _in_first(locations: list[str], make: Callable[[str], Directory]) -> Directory:
        problems = []
        for location in locations:
            try:
                return make(location)
            except OSError as exc:
                problems.append(f"{location}: {exc.strerror}")
        raise NoLocation("; ".join(problems))

    def _add(self, location: str, mode: int) -> Directory:
        path, lock = folder.make(location, mode)
        made = self._by_path[path] = Directory(path, lock)
        return made

    def _make_in(self, location: str, request: Message, used: Directory | None) -> Directory:
        made = self._add(location, request["mode"])
        try:
            if used is not None:
                os.rename(used.data_dir, made.data_dir)
            else:
                make_private(made.data_dir, request["user"])
            socket = os.path.join(made.socket_dir, request["socket"])
            if len(socket) > request["longest_path"] or not _is_plain(socket):
                made.short = self.make_plain(request["socket_locations"], request["mode"]).path
            make_private(made.socket_dir, request["user"])
        except NoLocation as exc:
            self.remove(made)
            raise OSError(0, f"no location for a socket ({exc})") from exc
        except OSError:
            self.remove(made)
            raise
        return made

    def _take_reusable(self, request: Message) -> Directory | None:
        """Return a used directory that was unpacked from the same pack, and forget that it was used."""
        if not self._reusable or not request.get("pack"):
            return None
        _, wanted = pack.read(request["pack"], request["base"])
        for used in self._reusable:
            fits = used.pack == wanted and used.user == request["user"]
            if fits and os.path.dirname(used.path) in request["locations"]:
                self._reusable.remove(used)
                return used
        return None

    def release(self, directory: Directory) -> None:
        """Let go of a directory in which nothing runs: free its path now, delete its content now or later."""
        if directory.short is not None:
            self.remove_now(self._by_path[directory.short])
        if directory.pack is None or not has_room(directory.path):
            self.remove(directory)
            return
        used = None
        try:
            used = self._add(os.path.dirname(directory.path), 0o700)
            os.rename(directory.data_dir, used.data_dir)
        except OSError:
            if used is not None:
                self.remove_now(used)
            self.remove(directory)
            return
        used.pack, used.user, used.until = directory.pack, directory.user, time.monotonic() + _SOON
        self._reusable.append(used)
        self.remove_now(directory)

    def drop_reusable(self) -> None:
        """Delete what nobody has used again."""
        now = time.monotonic()
        while self._reusable and (len(self._reusable) > _MOST_REUSABLE or self._reusable[0].until < now):
            self.remove(self._reusable.pop(0))

    def remove(self, directory: Directory) -> None:
        """Free a directory's path now, and delete its content in the background."""
        del self._by_path[directory.path]
        path = folder.rename_away(directory.path)
        self._do_in_background(lambda: tree.remove(path), directory.lock)
        os.close(directory.lock)

    def remove_now(self, directory: Directory) -> None:
        """Delete a directory and wait for that."""
        del self._by_path[directory.path]
        try:
            tree.remove(directory.path)
        except OSError:
            pass  # somebody else is at work there too; a sweep deletes what is left
        finally:
            os.close(directory.lock)

    def sweep(self, locations: list[str]) -> None:
        """Delete, in the background, what dead owners have left."""

        def remove_dead() -> None:
            for location in locations:
                for path, _ in folder.dead(location):
                    tree.remove(path)

        self._do_in_background(remove_dead)

    def _do_in_background(self, work: Callable[[], None], *keep: int) -> None:
        pid = child.in_background(work, keep=keep)
        if pid is not None:
            self.background.add(pid)


def _is_plain(path: str) -> bool:
    """Return whether every program takes the path as it stands.

    Drivers encode it as UTF-8 whatever the locale, libpq splits hosts at commas, and URLs and configuration files
    have special characters of their own.
    """
    return path.isascii() and all(character.isalnum() or character in "/._-+" for character in path)
