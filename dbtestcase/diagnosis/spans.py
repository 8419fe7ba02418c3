"""What a run has recorded, and the totals that the report shows."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

# What can be recorded, and how the report calls it. WAITING is time in which a main thread waits for the library.
KINDS = {
    "class": "classes",
    "boot": "instances booted",
    "template": "templates made",
    "wait": "waiting for instances",
    "data": "setUpTestData",
    "test": "tests",
    "clone": "clones made",
    "handover": "waiting for clones",
    "stop": "ending classes",
}
WAITING = ("wait", "handover", "stop")
SET_UP = ("wait", "data")


@dataclass(frozen=True, slots=True)
class Span:
    """A stretch of time, in seconds of ``monotonic()``, which all processes of a machine share.

    Attributes:
        kind: One of :data:`KINDS`.
        name: The class or test that it was for.
        process: Which of the processes that ran tests: its number, 0 for the one that makes the report.
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


@dataclass(frozen=True, slots=True)
class SecondRun:
    """A test that ran a second time, on real connections.

    Attributes:
        test: Its id.
        reason: A sentence: what happened that one transaction cannot carry.
        outcome: How the second run ended.
    """

    test: str
    reason: str
    outcome: str


@dataclass(frozen=True, slots=True)
class Total:
    """All spans of one kind; ``name`` is the class or test of the longest one."""

    title: str
    times: int
    seconds: float
    longest: float
    name: str
    is_background: bool


def totals(spans: Iterable[Span]) -> list[Total]:
    """Return how often and how long each kind of thing was done, classes left out."""
    spans = list(spans)
    found = []
    for kind, title in KINDS.items():
        own = [each for each in spans if each.kind == kind and kind != "class"]
        if own:
            longest = max(own, key=lambda each: each.seconds)
            # A boot has the name of its folder.
            name = "" if kind == "boot" else longest.name
            seconds = sum(each.seconds for each in own)
            is_background = not any(each.is_main for each in own)
            found.append(Total(title, len(own), seconds, longest.seconds, name, is_background))
    return found


def set_ups(spans: Iterable[Span]) -> list[tuple[str, float, str]]:
    """Return class, seconds and their parts, the slowest set-up first."""
    parts: dict[str, list[Span]] = {}
    for each in spans:
        if each.kind in SET_UP and each.is_main:
            parts.setdefault(each.name, []).append(each)
    found = [
        (name, sum(each.seconds for each in own), ", ".join(f"{each.kind} {shown(each.seconds)}" for each in own))
        for name, own in parts.items()
    ]
    return sorted(found, key=lambda item: -item[1])


def wall(spans: Iterable[Span]) -> float:
    """Return the seconds from the first start to the last end."""
    spans = list(spans)
    return max(each.end for each in spans) - min(each.start for each in spans) if spans else 0.0


def ran(spans: Iterable[Span]) -> float:
    """Return the seconds that all processes ran tests, added up."""
    return sum(wall(own) for own in _by_process(spans))


def waited(spans: Iterable[Span]) -> float:
    """Return the seconds that main threads waited for the library; what overlaps counts once."""
    return sum(_covered(own) for own in _by_process(spans))


def shown(seconds: float) -> str:
    """Return a time as a person reads it."""
    return f"{seconds:.2f} s" if seconds >= 1 else f"{seconds * 1000:.1f} ms"


def _by_process(spans: Iterable[Span]) -> Iterable[list[Span]]:
    found: dict[int, list[Span]] = {}
    for each in spans:
        found.setdefault(each.process, []).append(each)
    return found.values()


def _covered(spans: Iterable[Span]) -> float:
    total, reached = 0.0, float("-inf")
    for each in sorted((s for s in spans if s.is_main and s.kind in WAITING), key=lambda s: s.start):
        total += max(0.0, each.end - max(each.start, reached))
        reached = max(reached, each.end)
    return total
