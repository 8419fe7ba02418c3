"""Whole folders at once: pack one into a single file, unpack it again, delete it.

A data directory is about a thousand small files. Kept as one file it can be published and removed by a single
rename or unlink, a reader that holds it open is never disturbed, and unpacking reads no directory at all.
"""

from __future__ import annotations

import mmap
import os
import zlib

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Container, Iterator

MAGIC = b"dbtestcase pack 2\n"
# The time of each unpacked file, 1 January 2001: whatever writes to the file sets another.
_STAMP = 978307200 * 10**9
_PLAIN_FILE = 0o100600
_KNOWN_INDEXES = 8
_PAGE = 4096


class DamagedPack(Exception):
    """The file is not a pack, or not a whole one."""


def pack(source: str, target: str, *, skip: Callable[[str], bool] = lambda name: False) -> int:
    """Write all folders and files below ``source`` into the new file ``target``; return the bytes they unpack to.

    Args:
        skip: Called with each path relative to ``source``; what it accepts is left out (of a folder: what is in it).

    Raises:
        ValueError: There is something that is neither a folder nor a plain file.
    """
    index: list[str] = []
    unpacked = 0
    with open(target, "xb", buffering=1024 * 1024) as out:
        out.write(MAGIC)
        offset = len(MAGIC)
        for name, is_folder in _walk(source, "", skip):
            if is_folder:
                index.append(name)
                continue
            with open(os.path.join(source, name), "rb") as file:
                content = file.read()
            # New WAL segments end in zeros: a hole costs neither the copy nor the memory.
            stored = len(content.rstrip(b"\0"))
            kept = memoryview(content)[:stored]
            out.write(kept)
            index.append(f"{name}\0{len(content)}\0{offset}\0{stored}\0{zlib.crc32(kept)}")
            offset += stored
            unpacked += -(-stored // _PAGE) * _PAGE
        written = "\n".join(index).encode()
        out.write(written)
        out.write(len(written).to_bytes(8, "big"))
        out.write(MAGIC)
    return unpacked


def _walk(root: str, below: str, skip: Callable[[str], bool]) -> Iterator[tuple[str, bool]]:
    with os.scandir(os.path.join(root, below)) as entries:
        found = sorted(entries, key=lambda entry: entry.name)
    for entry in found:
        name = f"{below}/{entry.name}" if below else entry.name
        if entry.is_dir(follow_symlinks=False):
            yield name, True
            yield from _walk(root, name, skip)
        elif skip(name):
            continue
        elif entry.is_file(follow_symlinks=False):
            yield name, False
        else:
            raise ValueError(f"{name!r} is neither a folder nor a plain file")


class Index:
    """What a pack holds, by folder: the names of its folders, and of files size, offset, bytes stored and checksum."""

    def __init__(self) -> None:
        self.folders: dict[str, dict[str, tuple[int, int, int, int] | None]] = {"": {}}

    def add(self, name: str, file: tuple[int, int, int, int] | None) -> None:
        """Add a file, or a folder (``None``)."""
        above, _, last = name.rpartition("/")
        self.folders[above][last] = file
        if file is None:
            self.folders[name] = {}


_indexes: dict[tuple[int, ...], Index] = {}


def identity(source: int) -> tuple[int, ...]:
    """Return what tells the open file ``source`` from any other and from its own earlier content."""
    about = os.fstat(source)
    return about.st_dev, about.st_ino, about.st_size, about.st_mtime_ns


def index_of(source: int) -> Index:
    """Return the index of the pack open as ``source``; reading it takes a while, so it is remembered.

    Raises:
        DamagedPack: It is not a whole pack.
    """
    which = identity(source)
    if which not in _indexes:
        with _mapped(source) as content:
            index = _read_index(content)
        while len(_indexes) >= _KNOWN_INDEXES:
            del _indexes[next(iter(_indexes))]
        _indexes[which] = index
    return _indexes[which]


def unpack(source: int, target: str, *, keep: Container[str] = ()) -> None:
    """Bring the folder ``target`` to what the pack, open as file descriptor ``source``, holds.

    ``target`` may be empty, or have been unpacked from the same pack and used since. Then only what was written to
    is written again: each file is unpacked with a time long past, and to write to it is to change its time. Folders
    get mode 0700 and files 0600, whatever the umask.

    Args:
        keep: Names at the top of ``target`` that are not the pack's business.

    Raises:
        DamagedPack: It is not a whole pack.
    """
    index = index_of(source)
    previous = os.umask(0o077)
    try:
        with _mapped(source) as content, memoryview(content) as view:
            _bring(index, "", target, view, keep)
    finally:
        os.umask(previous)


def _bring(index: Index, folder: str, path: str, view: memoryview, keep: Container[str]) -> None:
    wanted = index.folders[folder]
    right = set()
    with os.scandir(path) as entries:
        for entry in entries:
            name = entry.name
            if name in keep and not folder:
                continue
            if name in wanted:
                if wanted[name] is None:
                    is_right = entry.is_dir(follow_symlinks=False)
                else:
                    about = entry.stat(follow_symlinks=False)
                    is_right = (
                        about.st_mtime_ns == _STAMP
                        and about.st_mode == _PLAIN_FILE
                        and about.st_size == wanted[name][0]  # type: ignore[index]
                    )
                if is_right:
                    right.add(name)
                    continue
            if entry.is_dir(follow_symlinks=False):
                remove(f"{path}/{name}")
            else:
                os.unlink(f"{path}/{name}")
    for name, file in wanted.items():
        below = f"{path}/{name}"
        if file is None:
            if name not in right:
                os.mkdir(below, 0o700)
            _bring(index, f"{folder}/{name}" if folder else name, below, view, keep)
        elif name not in right:
            _write(below, file, view)


def _write(path: str, file: tuple[int, int, int, int], view: memoryview) -> None:
    size, offset, stored, checksum = file
    with view[offset : offset + stored] as content:
        if zlib.crc32(content) != checksum:
            raise DamagedPack("its content has changed")
        target = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            done = 0
            while done < stored:
                done += os.write(target, content[done:])
            if size > stored:
                os.ftruncate(target, size)
            os.utime(target, ns=(_STAMP, _STAMP))
        finally:
            os.close(target)


def _mapped(source: int) -> mmap.mmap:
    if os.fstat(source).st_size < 2 * len(MAGIC) + 8:
        raise DamagedPack("it is too short")
    return mmap.mmap(source, 0, access=mmap.ACCESS_READ)


def _read_index(content: mmap.mmap) -> Index:
    end = len(content) - len(MAGIC)
    if content[: len(MAGIC)] != MAGIC or content[end:] != MAGIC:
        raise DamagedPack("its first or last bytes are wrong")
    length = int.from_bytes(content[end - 8 : end], "big")
    if length > end - 8 - len(MAGIC):
        raise DamagedPack("its index is wrong")
    index = Index()
    try:
        for line in content[end - 8 - length : end - 8].decode().split("\n"):
            name, *numbers = line.split("\0")
            if not numbers:
                index.add(name, None)
                continue
            size, offset, stored, checksum = map(int, numbers)
            if not len(MAGIC) <= offset <= offset + stored <= end:
                raise DamagedPack("its index is wrong")
            index.add(name, (size, offset, stored, checksum))
    except (ValueError, KeyError) as exc:
        raise DamagedPack("its index is wrong") from exc
    return index


def remove(path: str) -> None:
    """Delete the folder ``path`` and all below it, following no link; what is gone already is no error."""
    try:
        parent = os.open(os.path.dirname(path), os.O_RDONLY | os.O_DIRECTORY)
    except FileNotFoundError:
        return
    try:
        _remove(os.path.basename(path), parent)
    finally:
        os.close(parent)


def _remove(name: str, parent: int) -> None:
    try:
        folder = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=parent)
    except FileNotFoundError:
        return
    try:
        with os.scandir(folder) as entries:
            found = [(entry.name, entry.is_dir(follow_symlinks=False)) for entry in entries]
        for entry, is_folder in found:
            try:
                if is_folder:
                    _remove(entry, folder)
                else:
                    os.unlink(entry, dir_fd=folder)
            except FileNotFoundError:
                continue
    finally:
        os.close(folder)
    try:
        os.rmdir(name, dir_fd=parent)
    except FileNotFoundError:
        return
