"""Data folders as files: write one into a single file, and bring another folder to what it holds.

A data folder is about a thousand small files. Kept as one file it can be published and removed by a single rename or
unlink, a reader that holds it open is never disturbed, and unpacking reads no folder at all. Each content is stored
once (a cluster has four databases of nearly the same files), and not at all if the pack that it builds on, its base,
has it; what is left then is compressed.

A file begins and ends with MAGIC. Before the end stand the index, compressed, and its length. The index's first line
is the base's checksum, or empty, the bytes that all unpacks to, and what whoever made the pack says about it; each
other line is a folder's name, or a file's name, size, source (0 this pack, 1 the base), offset, bytes stored and
checksum, with NUL between them. Bytes not stored are zeros at the file's end.
"""

from __future__ import annotations

import mmap
import os
import stat
import zlib

from . import tree

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Container, Iterator

    File = tuple[int, int, int, int, int]  # size, source, offset, bytes stored, checksum

MAGIC = b"dbtestcase pack 4\n"
OWN, BASE = 0, 1
# The time of each unpacked file, 1 January 2001: whatever writes to the file sets another.
_STAMP = 978307200 * 10**9
_PLAIN_FILE = 0o100600
_KNOWN_INDEXES = 8
_PAGE = 4096
_COMPRESSION = 1
_MOST_UNPACKED = 2**40
# Where PostgreSQL has its databases, nearly all of a cluster's files.
_DATABASES = "base"


class DamagedPack(Exception):
    """The file is not a pack, or not a whole one, or not one for its base."""


class About:
    """What a pack says of itself.

    Attributes:
        unpacked: The bytes that it unpacks to.
        text: What whoever made it says about it.
        checksum: Identifies it for those that build on it.
        base: The checksum of the pack that it builds on.
    """

    def __init__(self, unpacked: int, text: str, checksum: int, base: int | None) -> None:
        self.unpacked = unpacked
        self.text = text
        self.checksum = checksum
        self.base = base


class Index:
    """What a pack holds, by folder, and the content of its files.

    Attributes:
        folders: By name relative to the top: the names in it, each with its file, ``None`` for a folder.
        contents: This pack's bytes, and those of its base.
        checksum: Identifies the pack for those that build on it.
    """

    def __init__(self, own: memoryview, base: Index | None, checksum: int) -> None:
        self.folders: dict[str, dict[str, File | None]] = {"": {}}
        below: memoryview = base.contents[OWN] if base is not None else memoryview(b"")
        self.contents: tuple[memoryview, memoryview] = (own, below)
        self.checksum = checksum

    def add(self, name: str, file: File | None) -> None:
        """Add a file, or a folder (``None``)."""
        above, _, last = name.rpartition("/")
        self.folders[above][last] = file
        if file is None:
            self.folders[name] = {}

    def content(self, file: File) -> memoryview:
        """Return what is stored of a file.

        Raises:
            DamagedPack: It is not what was stored.
        """
        _, source, offset, stored, checksum = file
        content = self.contents[source][offset : offset + stored]
        if zlib.crc32(content) != checksum:
            raise DamagedPack("its content has changed")
        return content


def write(
    source: str,
    target: str,
    about: str = "",
    *,
    base: Index | None = None,
    skip: Callable[[str], bool] = lambda name: False,
) -> int:
    """Write all folders and files below ``source`` into the new file ``target``; return the bytes they unpack to.

    The folder may belong to somebody who is not to be trusted: nothing in it is followed, and a file of another owner
    (a hard link, that is) is refused.

    Args:
        about: What :func:`about` is to tell of it, on one line.
        base: The pack to build on: what it has too is not stored again.
        skip: Called with each path relative to ``source``; what it accepts is left out (of a folder: what is in it).

    Raises:
        ValueError: There is something that is neither a folder nor a plain file of the folder's owner.
    """
    from hashlib import blake2b  # here, because the supervisor, which only reads, does without

    def identify(content: memoryview) -> bytes:
        return blake2b(content, digest_size=16).digest()

    lines: list[str] = []
    known = {identify(base.content(file)): (BASE, file[2]) for file in _files(base)} if base is not None else {}
    unpacked = offset = 0
    compressor = zlib.compressobj(_COMPRESSION) if base is not None else None
    file = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    with open(file, "wb", buffering=1024 * 1024) as out:
        os.fchmod(file, 0o600)  # whatever the umask
        out.write(MAGIC)
        for name, content in _walk(source, skip):
            if content is None:
                lines.append(name)
                continue
            # New WAL segments end in zeros: a hole costs neither the copy nor the memory.
            stored = len(content.rstrip(b"\0"))
            kept = memoryview(content)[:stored]
            identity = identify(kept)
            if identity not in known:
                known[identity] = (OWN, offset)
                offset += stored
                out.write(kept if compressor is None else compressor.compress(kept))
            where, at = known[identity]
            lines.append(f"{name}\0{len(content)}\0{where}\0{at}\0{stored}\0{zlib.crc32(kept)}")
            unpacked += -(-stored // _PAGE) * _PAGE
        if compressor is not None:
            out.write(compressor.flush())
        first = f"{'' if base is None else f'{base.checksum:x}'}\0{unpacked}\0{about}"
        index = zlib.compress("\n".join([first, *lines]).encode("utf-8", "surrogateescape"), _COMPRESSION)
        out.write(index)
        out.write(len(index).to_bytes(8, "big"))
        out.write(MAGIC)
    return unpacked


def _files(index: Index) -> Iterator[File]:
    for names in index.folders.values():
        yield from (file for file in names.values() if file is not None)


def _walk(source: str, skip: Callable[[str], bool]) -> Iterator[tuple[str, bytes | None]]:
    """Yield each folder's name with ``None``, each file's with its content."""
    top = os.open(source, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        yield from _walk_below(top, "", os.fstat(top).st_uid, skip)
    finally:
        os.close(top)


def _walk_below(
    folder: int, prefix: str, owner: int, skip: Callable[[str], bool]
) -> Iterator[tuple[str, bytes | None]]:
    with os.scandir(folder) as entries:
        found = sorted((entry.name, entry.is_dir(follow_symlinks=False)) for entry in entries)
    for entry, is_folder in found:
        name = prefix + entry
        if not is_folder and skip(name):
            continue
        try:
            flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | (os.O_DIRECTORY if is_folder else 0)
            file = os.open(entry, flags, dir_fd=folder)
        except OSError as exc:
            raise ValueError(f"{name!r} is neither a folder nor a plain file") from exc
        try:
            about = os.fstat(file)
            if about.st_uid != owner:
                raise ValueError(f"{name!r} belongs to another user")
            if is_folder:
                yield name, None
                yield from _walk_below(file, f"{name}/", owner, skip)
            elif stat.S_ISREG(about.st_mode):
                yield name, _read_all(file, about.st_size)
            else:
                raise ValueError(f"{name!r} is neither a folder nor a plain file")
        finally:
            os.close(file)


def _read_all(file: int, size: int) -> bytes:
    parts = []
    while part := os.read(file, size + 1):
        parts.append(part)
    return parts[0] if len(parts) == 1 else b"".join(parts)


_indexes: dict[tuple[int, ...], Index] = {}


def identity(source: int) -> tuple[int, ...]:
    """Return what tells the open file ``source`` from any other and from its own earlier content."""
    about = os.fstat(source)
    return about.st_dev, about.st_ino, about.st_size, about.st_mtime_ns


def about(path: str) -> About:
    """Return what a pack says of itself, which is quickly read.

    Raises:
        DamagedPack: It is not a pack.
        OSError: It cannot be read.
    """
    source = _opened(path)
    try:
        _, checksum, index = _divided(_mapped(source))
    finally:
        os.close(source)
    try:
        base, unpacked, text = index.partition("\n")[0].split("\0", 2)
        return About(int(unpacked), text, checksum, int(base, 16) if base else None)
    except ValueError as exc:
        raise DamagedPack("its index is wrong") from exc


def check(path: str, base: str | None) -> None:
    """Read all that a pack stores itself, its base left out.

    Raises:
        DamagedPack: It is not what was stored.
        OSError: It cannot be read.
    """
    index, _ = read(path, base)
    for file in _files(index):
        if file[1] == OWN:
            index.content(file)


def read(path: str, base: str | None = None) -> tuple[Index, tuple[int, ...]]:
    """Return the index of a pack, and the identity of it and its base; reading takes a while, so it is remembered.

    Args:
        base: Path of the pack that it builds on.

    Raises:
        DamagedPack: It is not a whole pack, or builds on another one.
        OSError: It cannot be read.
    """
    source = _opened(path)
    try:
        below, which = read(base) if base is not None else (None, ())
        which = (*identity(source), *which)
        if which not in _indexes:
            index = _read_index(_mapped(source), below)
            while len(_indexes) >= _KNOWN_INDEXES:
                del _indexes[next(iter(_indexes))]
            _indexes[which] = index
        return _indexes[which], which
    finally:
        os.close(source)


def _opened(path: str) -> int:
    # Without waiting for somebody who writes into a pipe of this name.
    return os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)


def _mapped(source: int) -> memoryview:
    if os.fstat(source).st_size < 2 * len(MAGIC) + 8:
        raise DamagedPack("it is too short")
    return memoryview(mmap.mmap(source, 0, access=mmap.ACCESS_READ))


def _divided(content: memoryview) -> tuple[memoryview, int, str]:
    """Return what is stored, the pack's checksum and the text of its index."""
    begin, end = len(MAGIC), len(content) - len(MAGIC) - 8
    if content[:begin] != MAGIC or content[end + 8 :] != MAGIC:
        raise DamagedPack("its first or last bytes are wrong")
    length = int.from_bytes(content[end : end + 8], "big")
    if length > end - begin:
        raise DamagedPack("its index is wrong")
    written = content[end - length : end]
    try:
        text = zlib.decompress(written).decode("utf-8", "surrogateescape")
    except (ValueError, zlib.error) as exc:
        raise DamagedPack("its index is wrong") from exc
    return content[begin : end - length], zlib.crc32(written), text


def _read_index(content: memoryview, base: Index | None) -> Index:
    own, checksum, text = _divided(content)
    first, *lines = text.split("\n")
    built_on = first.partition("\0")[0]
    try:
        if built_on:
            if base is None or int(built_on, 16) != base.checksum:
                raise DamagedPack("it builds on another one")
            own = memoryview(zlib.decompress(own))
        index = Index(own, base, checksum)
        for line in lines:
            _add(index, line)
    except (ValueError, KeyError, IndexError, zlib.error) as exc:
        raise DamagedPack("its index is wrong") from exc
    return index


def _add(index: Index, line: str) -> None:
    name, *numbers = line.split("\0")
    # A folder of somebody else's could have us write anywhere.
    if any(part in ("", ".", "..") for part in name.split("/")):
        raise DamagedPack("its index is wrong")
    if not numbers:
        index.add(name, None)
        return
    size, source, offset, stored, checksum = map(int, numbers)
    if not (0 <= stored <= size < _MOST_UNPACKED and 0 <= offset <= len(index.contents[source]) - stored):
        raise DamagedPack("its index is wrong")
    index.add(name, (size, source, offset, stored, checksum))


def unpack(index: Index, target: str, *, keep: Container[str] = ()) -> None:
    """Bring the folder ``target`` to what the pack holds.

    ``target`` may be empty, or have been unpacked from the same pack and used since. Then only what was written to
    is written again: each file is unpacked with a time long past, and to write to it is to change its time. Folders
    get mode 0700 and files 0600, whatever the umask.

    Args:
        keep: Names at the top of ``target`` that are not the pack's business.

    Raises:
        DamagedPack: A file's content has changed.
    """
    previous = os.umask(0o077)
    try:
        if os.path.exists(f"{target}/{_DATABASES}"):
            _bring(index, "", target, keep)
        else:
            _fill(index, target, keep)
    finally:
        os.umask(previous)


def _fill(index: Index, target: str, keep: Container[str]) -> None:
    """Unpack into an empty folder: half of the databases in a process beside this one, which takes half the time."""
    names = [name for name, file in index.folders.get(_DATABASES, {}).items() if file is None]
    others = [f"{_DATABASES}/{name}" for name in names[len(names) // 2 :]]

    def bring_others() -> None:
        for folder in others:
            os.mkdir(f"{target}/{folder}", 0o700)
            _bring(index, folder, f"{target}/{folder}", ())

    if others:
        os.mkdir(f"{target}/{_DATABASES}", 0o700)
    helper = _beside(bring_others) if others and (os.cpu_count() or 1) > 1 else None
    _bring(index, "", target, keep, others)
    if helper is None or os.waitpid(helper, 0)[1]:
        _bring(index, "", target, keep)  # what the other process did is right already


def _beside(work: Callable[[], None]) -> int | None:
    """Do something in a process of its own, which ends with status 0 if it is done; ``None`` if there can be none."""
    try:
        pid = os.fork()
    except OSError:
        return None
    if pid:
        return pid
    status = 1
    try:
        work()
        status = 0
    finally:
        os._exit(status)


def _bring(index: Index, folder: str, path: str, keep: Container[str], others: Container[str] = ()) -> None:
    """Bring one folder, and what is in it, to what the pack holds, but for the folders that others are at work on."""
    wanted = index.folders[folder]
    right = set()
    with os.scandir(path) as entries:
        for entry in entries:
            name = entry.name
            if name in keep and not folder:
                continue
            if name in wanted:
                file = wanted[name]
                if file is None:
                    is_right = entry.is_dir(follow_symlinks=False)
                else:
                    about = entry.stat(follow_symlinks=False)
                    is_right = about.st_mtime_ns == _STAMP and about.st_mode == _PLAIN_FILE and about.st_size == file[0]
                if is_right:
                    right.add(name)
                    continue
            if entry.is_dir(follow_symlinks=False):
                tree.remove(f"{path}/{name}")
            else:
                os.unlink(f"{path}/{name}")
    for name, file in wanted.items():
        below = f"{path}/{name}"
        if file is None:
            inner = f"{folder}/{name}" if folder else name
            if inner in others:
                continue
            if name not in right:
                os.mkdir(below, 0o700)
            _bring(index, inner, below, keep, others)
        elif name not in right:
            _write(below, file[0], index.content(file))


def _write(path: str, size: int, content: memoryview) -> None:
    target = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        done = 0
        while done < len(content):
            done += os.write(target, content[done:])
        if size > len(content):
            os.ftruncate(target, size)
        os.utime(target, ns=(_STAMP, _STAMP))
    finally:
        os.close(target)
