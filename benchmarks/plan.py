"""The vocabulary in which a group says what it measures and shows: contenders, rows, targets, tables."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Contender:
    """One program that is measured, always in a process of its own.

    Args:
        name: Unique within its group.
        function: ``"module:function"`` below ``benchmarks``; returns a mapping of series to samples in seconds.
        arguments: Its keyword arguments.
        unprivileged: Run it as another user if the user is root: what it starts refuses root.
        in_memory: Its temporary folder is in ``/dev/shm``.
        empty_cache: dbtestcase finds an empty cache folder each time; else one for all, filled by a run that does not
            count.
        whole: What counts is the process itself, from start to end, as series ``"process"``.
        less: Arguments of a second run, right after, whose time is subtracted; needs ``whole``.
        rounds: At most so many rounds, for what takes very long.
        huge_pages: Its memory lies in huge pages, where the system gives them (Linux, glibc 2.35 or later): the
            processor finds all of it without looking addresses up.
    """

    name: str
    function: str
    arguments: Mapping[str, Any] = field(default_factory=dict)
    unprivileged: bool = False
    in_memory: bool = False
    empty_cache: bool = False
    whole: bool = False
    less: Mapping[str, Any] | None = None
    rounds: int = 1000
    huge_pages: bool = False

    @property
    def keeps_cache(self) -> bool:
        """Whether it finds the cache that runs before it filled."""
        return not self.empty_cache and not self.unprivileged


@dataclass(frozen=True)
class Row:
    """A line of a table: a series of a contender, under the contender's name if it has no other."""

    contender: str
    series: str
    label: str = ""

    @property
    def title(self) -> str:
        """What stands at the start of the line."""
        return self.label or self.contender


@dataclass(frozen=True)
class Target:
    """What the project promised of a row, on its own in seconds or against another row.

    Args:
        row: Title of the row.
        over: Title of the row to compare with; "" to look at the row alone.
        at_most: Seconds; with ``over`` so many times as long, or with ``extra`` so many seconds longer.
        at_least: With ``over``: at least so many times as long.
        extra: See ``at_most``.
    """

    row: str
    at_most: float | None = None
    over: str = ""
    extra: bool = False
    at_least: float | None = None


@dataclass(frozen=True)
class Table:
    """Rows that are shown together, as ratios to one of them."""

    title: str
    rows: tuple[Row, ...]
    reference: str
    targets: tuple[Target, ...] = ()


@dataclass(frozen=True)
class Group:
    """What is measured together, turn by turn.

    Args:
        pinned: Contenders, with the servers that they start, run on one processor: the wall time is then the work of
            both. On two idle ones a round trip is mostly the waking of the other.
    """

    name: str
    summary: str
    contenders: tuple[Contender, ...]
    tables: tuple[Table, ...]
    rounds: int = 5
    pinned: bool = False
