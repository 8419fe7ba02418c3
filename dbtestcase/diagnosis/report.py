"""Where the time of a run went: a table at its end (``DBTESTCASE_REPORT=1``) or a page (``DBTESTCASE_REPORT=x.html``).

The other rooms call :func:`span` around what takes time. While no report is wanted that costs one call.
"""

from __future__ import annotations

import atexit
import multiprocessing
import os
import sys
import threading
from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass
from multiprocessing.util import Finalize
from pathlib import Path
from time import perf_counter
from types import TracebackType

VARIABLE = "DBTESTCASE_REPORT"

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
_SLOWEST = 5


@dataclass(frozen=True, slots=True)
class Span:
    """A stretch of time, in seconds since the process began to report."""

    kind: str
    name: str
    start: float
    end: float
    is_main: bool

    @property
    def seconds(self) -> float:
        return self.end - self.start


class Recorder:
    """Collects the spans of one process."""

    def __init__(self) -> None:
        self.started = perf_counter()
        self.spans: list[Span] = []

    def add(self, kind: str, name: str, start: float, end: float, *, is_main: bool | None = None) -> None:
        """Add a span; ``start`` and ``end`` as ``perf_counter()`` gave them."""
        if is_main is None:
            is_main = threading.current_thread() is threading.main_thread()
        self.spans.append(Span(kind, name, start - self.started, end - self.started, is_main))


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
    _recorder = Recorder()
    if multiprocessing.parent_process() is not None:
        Finalize(None, finish, args=(wanted,), exitpriority=0)  # workers leave without running atexit
    else:
        atexit.register(finish, wanted)


def finish(wanted: str) -> None:
    """Make the report: print it, or write it if ``wanted`` is a path."""
    global _recorder
    recorder, _recorder = _recorder, None
    if recorder is None or not recorder.spans:
        return
    lines = table(recorder.spans)
    if wanted.lower().endswith((".html", ".htm")):
        from dbtestcase.diagnosis.timeline import page

        path = Path(wanted)
        if multiprocessing.parent_process() is not None:
            path = path.with_stem(f"{path.stem}-{os.getpid()}")
        try:
            path.write_text(page(recorder.spans, lines), encoding="utf-8")
            lines = [f"dbtestcase: where the time went is in {path}"]
        except OSError as error:
            lines = [*lines, f"(the page could not be written: {error})"]
    with suppress(OSError, ValueError):  # a closed stderr must not turn a good run into a bad one
        print("\n".join(lines), file=sys.stderr)


def table(spans: Iterable[Span]) -> list[str]:
    """Return the report as lines of text."""
    spans = list(spans)
    total = wall(spans)
    cost = visible(spans)
    tests = _of(spans, "test")
    boots = _of(spans, "boot")
    lines = [
        "dbtestcase: where the time went",
        f"  {_number(_of(spans, 'class'), 'class', 'classes')}, {_number(tests, 'test', 'tests')} in {_time(total)}; "
        f"{_number(boots, 'instance', 'instances')} booted, {_number(_of(spans, 'clone'), 'clone', 'clones')}",
        f"  the library took {_time(cost)} of it, {100 * cost / total if total else 0:.1f} %",
    ]
    width = max(map(len, KINDS.values()))
    for kind, title in KINDS.items():
        found = _of(spans, kind)
        if found and kind != "class":
            longest = max(found, key=lambda each: each.seconds)
            hidden = "" if any(each.is_main for each in found) else "  in the background"
            lines.append(
                f"    {title:<{width}}  {_time(sum(each.seconds for each in found)):>9}  {len(found):>6} times"
                f"  longest {_time(longest.seconds):>9}  {longest.name}{hidden}".rstrip()
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
        if each.kind in ("wait", "schema", "data") and each.is_main:
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
    """Return the time that the main thread spent in the library; what overlaps counts once."""
    total = reached = 0.0
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
