"""Where the time of a run went, and which tests ran twice.

``DBTESTCASE_REPORT=1`` prints a table at the end of the run, ``DBTESTCASE_REPORT=x.html`` writes a page; without them
one line names the tests that ran twice. The other rooms call :func:`span` around what takes time, which costs one call
while no report is wanted.

One process makes the report. Workers of ``multiprocessing`` (unittest-parallel) write what they recorded to a folder of
that process, class by class, since they may be ended without warning. Runners that have another way between their
processes (pytest-xdist) use :func:`hand_over` and :func:`take_over`.
"""

from __future__ import annotations

import atexit
import json
import multiprocessing
import os
import shutil
import sys
import threading
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import astuple
from multiprocessing.util import Finalize
from pathlib import Path
from types import TracebackType
from typing import Any

from dbtestcase.diagnosis.spans import KINDS, SecondRun, Span, ran, set_ups, shown, totals, waited, wall
from dbtestcase.native import monotonic, temporary_folder

VARIABLE = "DBTESTCASE_REPORT"
RUN = "DBTESTCASE_RUN"  # set for child processes: names the folder that takes what they recorded
_SLOWEST = 5
_NAMED = 8

_wanted = ""
_has_begun = False
_is_announced = False
_parent: str | None = None  # names the folder of the process that started this one
_is_forked = False
_spans: list[Span] = []
_second_runs: list[SecondRun] = []
FAILED_FIRST = "passed after failing in the one transaction"
_processes = 0  # others that have contributed
_NOTHING = nullcontext()


class _Timed:
    __slots__ = ("_kind", "_name", "_start")

    def __init__(self, kind: str, name: str) -> None:
        self._kind, self._name = kind, name

    def __enter__(self) -> None:
        self._start = monotonic()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        is_main = threading.current_thread() is threading.main_thread()
        _spans.append(Span(self._kind, self._name, self._start, monotonic(), is_main))
        if self._kind == "class" and _is_worker():
            _write_for_parent()


def span(kind: str, name: str = "") -> AbstractContextManager[None]:
    """Time the block for the report, if one is wanted; ``name`` is the class or test that it is done for."""
    return _Timed(kind, name) if _wanted else _NOTHING


def in_background(kind: str, name: str, start: float, end: float) -> None:
    """Record what another process did meanwhile; ``start`` and ``end`` as ``monotonic()`` gave them."""
    if _wanted:
        _spans.append(Span(kind, name, start, end, is_main=False))


def ran_twice(test_id: str, reason: str, outcome: str) -> None:
    """Record that a test ran a second time because of something that one transaction cannot carry.

    Args:
        reason: A sentence: "SELECT at shop/views.py:42 met uncommitted INSERT of another connection at ...".
        outcome: "passed", "failed" or :data:`FAILED_FIRST`.
    """
    _second_runs.append(SecondRun(test_id, reason, outcome))
    if _is_worker():
        _write_for_parent()


def is_wanted() -> bool:
    """Whether a report will be made."""
    return bool(_wanted)


def begin(wanted: str | None = None) -> None:
    """Begin to record, and arrange for what is printed at the end; called when the library is imported."""
    global _wanted, _has_begun, _parent
    if _has_begun:
        return
    _has_begun = True
    wanted = os.environ.get(VARIABLE, "") if wanted is None else wanted
    _wanted = "" if wanted in ("0", "off") else wanted
    _parent, os.environ[RUN] = os.environ.get(RUN), os.urandom(8).hex()
    # Workers leave without running atexit. Whether this is one is not known while it imports the main module.
    Finalize(None, _write_for_parent, exitpriority=0)
    atexit.register(_finish)
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=_begin_in_child)


def hand_over() -> list[tuple[Any, ...]]:
    """Return what this process recorded, in a form that JSON can carry, for another one to take over; forget it."""
    global _is_announced
    _is_announced = True
    rows = [*map(astuple, _spans), *map(astuple, _second_runs)]
    _spans.clear()
    _second_runs.clear()
    return rows


def take_over(rows: Iterable[Sequence[Any]]) -> None:
    """Add what another process has handed over."""
    global _processes
    _processes += 1
    for row in rows:
        if len(row) == 3:
            _second_runs.append(SecondRun(*row))
        else:
            _spans.append(Span(*[*row[:5], _processes]))


def closing_line() -> str | None:
    """Return the line that names the tests that ran twice, ``None`` if there are none.

    Whoever asks shows it: it is not printed at the end of the process any more.
    """
    global _is_announced
    _is_announced = True
    _take_over_from_workers()
    why = "" if _wanted else f"; {VARIABLE}=1 shows why"
    lines = []
    needed = list(dict.fromkeys(_short(each.test) for each in _second_runs if each.outcome != FAILED_FIRST))
    if needed:
        them = "it" if len(needed) == 1 else "them"
        lines.append(
            f'{_counted(needed, "needed real connections and ran twice")}{why}; mark {them} @isolate("clone").'
        )
    failed = list(dict.fromkeys(_short(each.test) for each in _second_runs if each.outcome == FAILED_FIRST))
    if failed:
        lines.append(
            f"{_counted(failed, 'failed in one transaction and passed on real connections')}{why}. Tests that expect "
            "ids to begin at 1 need restart_identities = True on their class. What else passes with "
            '@isolate("clone") is to be marked so; what still fails depends on what its first run left, a file say.'
        )
    return "\n".join(lines) or None


def _counted(names: list[str], what: str) -> str:
    number = "1 test" if len(names) == 1 else f"{len(names)} tests"
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return f"dbtestcase: {number} {what}: {', '.join(names[:_NAMED])}{more}"


def table(spans: Iterable[Span], second_runs: Iterable[SecondRun] = ()) -> list[str]:
    """Return the report as lines of text."""
    spans, second_runs = list(spans), list(second_runs)
    total, cost = ran(spans), waited(spans)
    processes = len({each.process for each in spans})
    lines = [
        "dbtestcase: where the time went",
        f"  {_number(spans, 'class', 'class', 'classes')}, {_number(spans, 'test', 'test', 'tests')} in "
        f"{shown(wall(spans))}{f' and {processes} processes' if processes > 1 else ''}; "
        f"{_number(spans, 'boot', 'instance', 'instances')} booted, {_number(spans, 'clone', 'clone', 'clones')}",
        f"  {shown(cost)} of it, {100 * cost / (total or 1):.1f} %, was waiting for instances, clones and the ends of "
        "classes; to begin and undo a test is part of its own time",
    ]
    width = max(map(len, KINDS.values()))
    for each in totals(spans):
        hidden = "  in the background" if each.is_background else ""
        lines.append(
            f"    {each.title:<{width}}  {shown(each.seconds):>9}  {each.times:>6} times"
            f"  longest {shown(each.longest):>9}  {each.name}{hidden}".rstrip()
        )
    slowest = set_ups(spans)[:_SLOWEST]
    if slowest:
        lines.append("  slowest set-ups")
        lines += [f"    {shown(seconds):>9}  {name}  ({parts})" for name, seconds, parts in slowest]
    if second_runs:
        lines.append("  tests that ran twice")
        lines += [f"    {each.test} ({each.outcome}): {each.reason}" for each in second_runs]
    return lines


def _finish() -> None:
    lines: list[str] = []
    if _is_worker():
        return
    if not _is_announced:
        line = closing_line()
        lines += [line] if line else []
    _take_over_from_workers()
    if _wanted and (_spans or _second_runs):
        lines += _report()
    if lines:
        with suppress(OSError, ValueError):  # a closed stderr must not turn a good run into a bad one
            print("\n".join(lines), file=sys.stderr)


def _report() -> list[str]:
    """Write the page if one is wanted; return what to print."""
    lines = table(_spans, _second_runs)
    if not _wanted.lower().endswith((".html", ".htm")):
        return lines
    from dbtestcase.diagnosis import page  # which nobody needs until then

    try:
        Path(_wanted).write_text(page.page(_spans, _second_runs), encoding="utf-8")
    except OSError as error:
        return [*lines, f"(the page could not be written: {error})"]
    return [f"dbtestcase: where the time went is in {_wanted}"]


def _begin_in_child() -> None:
    global _is_forked, _parent
    _is_forked, _parent = True, os.environ.get(RUN)
    _spans.clear()
    _second_runs.clear()
    atexit.unregister(_finish)


def _is_worker() -> bool:
    return _parent is not None and (_is_forked or multiprocessing.parent_process() is not None)


def _folder(run: str | None) -> Path:
    return Path(temporary_folder(), f"dbtestcase-report-{run}")


def _write_for_parent() -> None:
    if not _is_worker():
        return
    folder = _folder(_parent)
    rows = hand_over()
    if rows:
        with suppress(OSError):
            folder.mkdir(mode=0o700, exist_ok=True)
            with (folder / f"{os.getpid()}.jsonl").open("a", encoding="utf-8") as file:
                file.write("".join(f"{json.dumps(row)}\n" for row in rows))


def _take_over_from_workers() -> None:
    folder = _folder(os.environ.get(RUN))
    for path in sorted(folder.glob("*.jsonl")):
        rows = []
        for line in path.read_text(encoding="utf-8").splitlines():
            with suppress(ValueError):  # the last line of a process that was ended
                rows.append(json.loads(line))
        take_over(rows)
    shutil.rmtree(folder, ignore_errors=True)


def _short(test_id: str) -> str:
    return ".".join(test_id.rsplit(".", 2)[-2:])


def _number(spans: Iterable[Span], kind: str, one: str, many: str) -> str:
    number = sum(each.kind == kind for each in spans)
    return f"{number} {one if number == 1 else many}"
