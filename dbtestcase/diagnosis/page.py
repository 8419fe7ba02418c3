"""The report as a page: the shares, a row of the timeline for each class, what took longest. It loads nothing.

The markup around these parts and its style are in ``page.html``.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from html import escape
from importlib.resources import files
from string import Template

from dbtestcase.diagnosis.spans import (
    KINDS,
    SET_UP,
    WAITING,
    SecondRun,
    Span,
    ran,
    set_ups,
    shown,
    totals,
    waited,
    wall,
)

# What a class waits for is drawn over what its tests do, and that over the class itself.
_OF_A_CLASS = ("class", "test", "data", *WAITING)
_BACKGROUND = ("boot", "template", "clone")
_MOST_SPANS = 20_000  # the longest are kept
_SLOWEST = 8
_TICKS = 10

_LEGEND = {
    "test": "tests",
    "data": "setUpTestData",
    "wait": "waiting for the library",
    "class": "the class's own fixtures, the runner",
    "boot": "instance booting",
    "template": "template being made",
    "clone": "clone being made",
}


def page(spans: Sequence[Span], second_runs: Sequence[SecondRun] = ()) -> str:
    """Return the whole page."""
    template = Template(files(__package__).joinpath("page.html").read_text(encoding="utf-8"))
    shares = _shares(spans)
    timeline = sorted(spans, key=lambda each: -each.seconds)[:_MOST_SPANS]
    start, length = min((each.start for each in timeline), default=0.0), wall(timeline) or 1.0
    return template.substitute(
        facts="".join(f"<div><b>{number}</b>{what}</div>" for number, what in _facts(spans)),
        shares="".join(
            f'<span style="--c:var(--{colour});flex:{seconds:.4f}" title="{_LEGEND[colour]}: {shown(seconds)}"></span>'
            for colour, seconds in shares.items()
        ),
        share_keys="".join(
            _key(colour, f" {shown(seconds)}, {100 * seconds / (ran(spans) or 1):.0f} %")
            for colour, seconds in shares.items()
        ),
        timeline_keys="".join(map(_key, filter({_colour(each.kind) for each in timeline}.__contains__, _LEGEND))),
        axis=_axis(length),
        rows="".join(_rows(timeline, start, length)),
        second_runs=_second_runs(second_runs),
        set_ups=_set_ups(spans),
        numbers="".join(_numbers(spans)),
    )


def _colour(kind: str) -> str:
    return "wait" if kind in WAITING else kind


def _key(colour: str, more: str = "") -> str:
    return f'<span style="--c:var(--{colour})">{_LEGEND[colour]}{more}</span>'


def _facts(spans: Sequence[Span]) -> Iterator[tuple[str, str]]:
    yield shown(wall(spans)), "from the first class to the last"
    yield f"{100 * waited(spans) / (ran(spans) or 1):.1f} %", "of it waiting for the library"
    for kind, what in (("class", "classes"), ("test", "tests"), ("boot", "instances booted"), ("clone", "clones made")):
        yield str(sum(each.kind == kind for each in spans)), what
    processes = len({each.process for each in spans if each.kind == "class"})
    if processes > 1:
        yield str(processes), "processes"


def _shares(spans: Sequence[Span]) -> dict[str, float]:
    """Return seconds by colour."""
    cost, data = waited(spans), sum(each.seconds for each in spans if each.kind == "data")
    # What a test waits for stands inside of it and is not its own.
    within = sum(each.seconds for each in spans if each.kind == "handover" and each.is_main)
    tests = max(0.0, sum(each.seconds for each in spans if each.kind == "test") - within)
    parts = {"test": tests, "data": data, "wait": cost, "class": max(0.0, ran(spans) - tests - data - cost)}
    return {colour: seconds for colour, seconds in parts.items() if seconds > 0}


def _rows(spans: Sequence[Span], start: float, length: float) -> Iterator[str]:
    for of in sorted((each for each in spans if each.kind == "class"), key=lambda each: each.start):
        own = [
            each
            for each in spans
            if each.process == of.process and each.kind in _OF_A_CLASS and of.start <= each.start and each.end <= of.end
        ]
        own.sort(key=lambda each: _OF_A_CLASS.index(each.kind))
        yield _row(of.name, own, start, length)
    caption = "in the background"
    for own in _stacked([each for each in spans if each.kind in _BACKGROUND]):
        yield _row(caption, own, start, length, style="name caption")
        caption = ""


def _stacked(spans: Iterable[Span]) -> list[list[Span]]:
    """Divide what overlaps into rows."""
    rows: list[list[Span]] = []
    for each in sorted(spans, key=lambda each: each.start):
        free = next((row for row in rows if row[-1].end <= each.start), None)
        if free is None:
            rows.append([each])
        else:
            free.append(each)
    return rows


def _row(name: str, own: Iterable[Span], start: float, length: float, style: str = "name") -> str:
    bars = "".join(_bar(each, start, length) for each in own)
    return f'<div class="row"><div class="{style}"{_named(name)}</div><div class="track">{bars}</div></div>'


def _bar(each: Span, start: float, length: float) -> str:
    left, width = 100 * (each.start - start) / length, 100 * each.seconds / length
    name = "" if each.kind == "boot" else f"{each.name} · "
    tip = escape(f"{name}{KINDS[each.kind]} · {shown(each.seconds)}")
    position = f"left:{left:.3f}%;width:{width:.3f}%"
    return f'<div class="bar" style="{position};--c:var(--{_colour(each.kind)})" title="{tip}"></div>'


def _axis(length: float) -> str:
    step = next(s * 10**e for e in range(-6, 6) for s in (1, 2, 5) if length / (s * 10**e) <= _TICKS)
    digits = max(0, next((d for d in range(7) if round(step, d) == step), 6))
    return "".join(
        f'<span style="left:{100 * i * step / length:.3f}%">{i * step:.{digits}f} s</span>'
        for i in range(int(length / step) + 1)
        if i * step / length < 0.97
    )


def _second_runs(second_runs: Sequence[SecondRun]) -> str:
    if not second_runs:
        return ""
    rows = "".join(
        f'<tr><td class="long"{_named(each.test)}</td><td class="text">{escape(each.reason)}</td>'
        f"<td>{escape(each.outcome)}</td></tr>"
        for each in second_runs
    )
    head = '<tr><th>test</th><th class="text">what one transaction could not carry</th><th>second run</th></tr>'
    return f"<section><h2>Tests that ran twice</h2><table>{head}{rows}</table></section>"


def _set_ups(spans: Sequence[Span]) -> str:
    found = set_ups(spans)[:_SLOWEST]
    longest = found[0][1] or 1.0 if found else 1.0
    return "".join(
        f'<tr><td class="long"{_named(name)}</td><td>{shown(seconds)}</td><td class="long">{escape(parts)}</td>'
        f'<td class="gauge">{_gauge(name, spans, longest)}</td></tr>'
        for name, seconds, parts in found
    )


def _gauge(name: str, spans: Iterable[Span], longest: float) -> str:
    own = (each for each in spans if each.name == name and each.kind in SET_UP and each.is_main)
    return "".join(
        f'<i style="width:{100 * each.seconds / longest:.1f}%;--c:var(--{_colour(each.kind)})"></i>' for each in own
    )


def _numbers(spans: Sequence[Span]) -> Iterator[str]:
    for each in totals(spans):
        hidden = "<small> in the background</small>" if each.is_background else ""
        cells = (each.times, shown(each.seconds), shown(each.longest))
        numbers = "".join(f"<td>{cell}</td>" for cell in cells)
        yield f'<tr><td>{each.title}{hidden}</td>{numbers}<td class="long"{_named(each.name)}</td></tr>'


def _named(name: str) -> str:
    """Return the rest of an opening tag and its text: the last part of a dotted name, the whole as a tip."""
    return f' title="{escape(name)}">{escape(name.rpartition(".")[2])}'
