"""Where the time of a run went: a table at its end (``DBTESTCASE_REPORT=1``) or a page (``DBTESTCASE_REPORT=x.html``).

The other rooms call :func:`span` around what takes time. While no report is wanted that costs one call. Processes that
run tests for another one (unittest-parallel) put what they recorded into a folder of that one, class by class, since
they may be ended without warning; the one report is made by the process that began.
"""

from __future__ import annotations

import atexit
import json
import multiprocessing
import os
import shutil
import sys
import tempfile
import threading
from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import astuple, dataclass
from multiprocessing.util import Finalize
from pathlib import Path
from time import perf_counter
from types import TracebackType

VARIABLE = "DBTESTCASE_REPORT"
_PARTS = "DBTESTCASE_REPORT_PARTS"  # set for child processes: the folder that takes what they recorded

# What can be reported, and how the table calls it. Of these, VISIBLE is time that the user waits for the library.
KINDS = {
    "class": "classes",
    "boot": "instances booted",
    "template": "templates made",
    "wait": "waiting for instances",
    "schema": "creating schemas",
    "data": "setUpTestData",
    "test": "tests",
    "clone": "clones made",
    "handover": "waiting for clones",
    "begin": "beginning tests",
    "undo": "undoing tests",
    "stop": "ending classes",
}
VISIBLE = ("wait", "schema", "handover", "begin", "undo", "stop")
SET_UP = ("wait", "schema", "data")
_SLOWEST = 5


@dataclass(frozen=True, slots=True)
class Span:
    """A stretch of time, in seconds of ``perf_counter()``, which all processes of a machine share.

    Attributes:
        process: Which of the processes that ran tests: its number, 0 for the one that began.
    """

    kind: str
    name: str
    start: float
    end: float
    is_main: bool
    process: int = 0

    @property
    def seconds(self) -> float:
        return self.end - self.start


class Recorder:
    """Collects the spans of one process.

    Args:
        parts: The folder into which it puts them at the end of each class; ``None`` if it makes the report itself.
    """

    def __init__(self, parts: Path | None = None) -> None:
        self.spans: list[Span] = []
        self._parts = parts

    def add(self, kind: str, name: str, start: float, end: float, *, is_main: bool | None = None) -> None:
        """Add a span; ``start`` and ``end`` as ``perf_counter()`` gave them."""
        if is_main is None:
            is_main = threading.current_thread() is threading.main_thread()
        self.spans.append(Span(kind, name, start, end, is_main))
        if kind == "class" and self._parts is not None:
            self.hand_over(self._parts)

    def hand_over(self, folder: Path) -> None:
        """Append what was recorded since the last time to this process's file."""
        spans, self.spans = self.spans, []
        lines = "".join(f"{json.dumps(astuple(each))}\n" for each in spans)
        with suppress(OSError), (folder / f"{os.getpid()}.jsonl").open("a", encoding="utf-8") as file:
            file.write(lines)


def _collected(folder: Path) -> list[Span]:
    """Return what child processes have recorded."""
    found = []
    for number, path in enumerate(sorted(folder.glob("*.jsonl")), 1):
        for line in path.read_text(encoding="utf-8").splitlines():
            with suppress(ValueError):  # the last line of a process that was ended
                found.append(Span(*[*json.loads(line)[:5], number]))
    return found


class _Timed:
    __slots__ = ("_kind", "_name", "_recorder", "_start")

    def __init__(self, recorder: Recorder, kind: str, name: str) -> None:
        self._recorder, self._kind, self._name = recorder, kind, name

    def __enter__(self) -> None:
        self._start = perf_counter()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._recorder.add(self._kind, self._name, self._start, perf_counter())


_NOTHING = nullcontext()
_recorder: Recorder | None = None


def span(kind: str, name: str = "") -> AbstractContextManager[None]:
    """Time the block for the report, if one is wanted.

    Args:
        kind: One of :data:`KINDS`.
        name: The class or test that it is done for.
    """
    return _NOTHING if _recorder is None else _Timed(_recorder, kind, name)


def in_background(kind: str, name: str, start: float, end: float) -> None:
    """Report what another process did meanwhile; ``start`` and ``end`` as ``perf_counter()`` gave them."""
    if _recorder is not None:
        _recorder.add(kind, name, start, end, is_main=False)


def is_wanted() -> bool:
    """Whether a report will be made."""
    return _recorder is not None


def begin(wanted: str | None = None) -> None:
    """Begin to record if a report is wanted, and make it when the process ends. Called when the library is imported."""
    global _recorder
    wanted = os.environ.get(VARIABLE, "") if wanted is None else wanted
    if wanted in ("", "0", "off") or _recorder is not None:
        return
    parts = os.environ.get(_PARTS)
    if parts is not None and os.path.isdir(parts):
        _recorder = Recorder(Path(parts))
        Finalize(None, _recorder.hand_over, args=(Path(parts),), exitpriority=0)
        return
    _recorder = Recorder()
    if multiprocessing.parent_process() is not None:
        Finalize(None, finish, args=(wanted,), exitpriority=0)  # workers leave without running atexit
        return
    os.environ[_PARTS] = tempfile.mkdtemp(prefix="dbtestcase-report-")
    atexit.register(finish, wanted)
    os.register_at_fork(after_in_child=_begin_in_child)


def _begin_in_child() -> None:
    global _recorder
    parts = os.environ.get(_PARTS)
    if _recorder is not None and parts is not None:
        _recorder = Recorder(Path(parts))
    atexit.unregister(finish)


def finish(wanted: str) -> None:
    """Make the report: print it, or write it if ``wanted`` is a path."""
    global _recorder
    recorder, _recorder = _recorder, None
    spans = recorder.spans if recorder is not None else []
    parts = os.environ.pop(_PARTS, None) if multiprocessing.parent_process() is None else None
    if parts is not None:
        spans = [*spans, *_collected(Path(parts))]
        shutil.rmtree(parts, ignore_errors=True)
    if not spans:
        return
    lines = table(spans)
    if wanted.lower().endswith((".html", ".htm")):
        lines = _write_page(Path(wanted), spans, lines)
    with suppress(OSError, ValueError):  # a closed stderr must not turn a good run into a bad one
        print("\n".join(lines), file=sys.stderr)


def _write_page(path: Path, spans: list[Span], lines: list[str]) -> list[str]:
    """Write the page and return what to print."""
    from dbtestcase.diagnosis.timeline import page

    worker = os.environ.get("PYTEST_XDIST_WORKER") or (os.getpid() if multiprocessing.parent_process() else None)
    if worker is not None:
        path = path.with_stem(f"{path.stem}-{worker}")
    try:
        path.write_text(page(spans), encoding="utf-8")
    except OSError as error:
        return [*lines, f"(the page could not be written: {error})"]
    return [f"dbtestcase: where the time went is in {path}"]


def table(spans: Iterable[Span]) -> list[str]:
    """Return the report as lines of text."""
    spans = list(spans)
    total = wall(spans)
    cost = visible(spans)
    tests = _of(spans, "test")
    boots = _of(spans, "boot")
    processes = len({each.process for each in spans})
    lines = [
        "dbtestcase: where the time went",
        f"  {_number(_of(spans, 'class'), 'class', 'classes')}, {_number(tests, 'test', 'tests')} in {_time(total)}"
        f"{f' and {processes} processes' if processes > 1 else ''}; "
        f"{_number(boots, 'instance', 'instances')} booted, {_number(_of(spans, 'clone'), 'clone', 'clones')}",
        f"  the library took {_time(cost)} of it, {100 * share(spans):.1f} %",
    ]
    width = max(map(len, KINDS.values()))
    for kind, title in KINDS.items():
        found = _of(spans, kind)
        if found and kind != "class":
            longest = max(found, key=lambda each: each.seconds)
            hidden = "" if any(each.is_main for each in found) else "  in the background"
            name = "" if kind == "boot" else longest.name  # a boot has the name of its folder
            lines.append(
                f"    {title:<{width}}  {_time(sum(each.seconds for each in found)):>9}  {len(found):>6} times"
                f"  longest {_time(longest.seconds):>9}  {name}{hidden}".rstrip()
            )
    slowest = set_ups(spans)[:_SLOWEST]
    if slowest:
        lines.append("  slowest set-ups")
        lines += [f"    {_time(seconds):>9}  {name}  ({parts})" for name, seconds, parts in slowest]
    return lines


def set_ups(spans: Iterable[Span]) -> list[tuple[str, float, str]]:
    """Return class, seconds and their parts, the slowest set-up first."""
    parts: dict[str, list[Span]] = {}
    for each in spans:
        if each.kind in SET_UP and each.is_main:
            parts.setdefault(each.name, []).append(each)
    found = [
        (name, sum(each.seconds for each in own), ", ".join(f"{each.kind} {_time(each.seconds)}" for each in own))
        for name, own in parts.items()
    ]
    return sorted(found, key=lambda item: -item[1])


def wall(spans: Iterable[Span]) -> float:
    """Return the time from the first to the last of what was reported."""
    spans = list(spans)
    return max(each.end for each in spans) - min(each.start for each in spans) if spans else 0.0


def visible(spans: Iterable[Span]) -> float:
    """Return the time that the main threads spent in the library; what overlaps counts once."""
    return sum(_covered(own) for own in _by_process(spans).values())


def share(spans: Iterable[Span]) -> float:
    """Return which part of the time that processes ran tests they spent in the library, from 0 to 1."""
    spans = list(spans)
    ran = sum(wall(own) for own in _by_process(spans).values())
    return visible(spans) / ran if ran else 0.0


def _by_process(spans: Iterable[Span]) -> dict[int, list[Span]]:
    found: dict[int, list[Span]] = {}
    for each in spans:
        found.setdefault(each.process, []).append(each)
    return found


def _covered(spans: Iterable[Span]) -> float:
    total, reached = 0.0, float("-inf")
    for each in sorted((s for s in spans if s.is_main and s.kind in VISIBLE), key=lambda s: s.start):
        total += max(0.0, each.end - max(each.start, reached))
        reached = max(reached, each.end)
    return total


def _of(spans: Iterable[Span], kind: str) -> list[Span]:
    return [each for each in spans if each.kind == kind]


def _number(found: list[Span], one: str, many: str) -> str:
    return f"{len(found)} {one if len(found) == 1 else many}"


def _time(seconds: float) -> str:
    return f"{seconds:.2f} s" if seconds >= 1 else f"{seconds * 1000:.1f} ms"
