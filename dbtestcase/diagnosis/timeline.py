"""The report as a page: the shares, a row of the timeline for each class, the slowest set-ups. It loads nothing."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape

from dbtestcase.diagnosis.report import KINDS, SET_UP, Span, set_ups, share, visible, wall

# What a class waits for is drawn over what its tests do, and that over the class itself.
_OF_A_CLASS = ("class", "test", "data", "wait", "schema", "handover", "begin", "undo", "stop")
_BACKGROUND = ("boot", "template", "clone")
_MOST_SPANS = 20_000  # the longest are kept
_SLOWEST = 8
_TICKS = 10

_COLOURS = {
    "class": "rest",
    "test": "test",
    "data": "data",
    "wait": "wait",
    "schema": "wait",
    "handover": "wait",
    "begin": "wait",
    "undo": "wait",
    "stop": "wait",
    "boot": "boot",
    "template": "template",
    "clone": "clone",
}
_LEGEND = (
    ("test", "tests"),
    ("data", "setUpTestData"),
    ("wait", "waiting for the library"),
    ("rest", "the class's own fixtures, the runner"),
    ("boot", "instance booting"),
    ("template", "template being made"),
    ("clone", "clone being made"),
)

_STYLE = """
:root { color-scheme: light dark; --ink: #1c2430; --soft: #5d6b7e; --paper: #f6f7f9; --card: #fff; --line: #e3e7ed;
  --test: #3f9d74; --data: #8f63c9; --wait: #d9483b; --rest: #cdd5e0; --boot: #4a9cc4; --template: #c78b3b;
  --clone: #7aa83a }
@media (prefers-color-scheme: dark) { :root { --ink: #e6e9ef; --soft: #9aa6b8; --paper: #12161c; --card: #1a1f28;
  --line: #2b333f; --test: #4fb388; --data: #a885dd; --wait: #ec6a5e; --rest: #3b4656; --boot: #5aaed6;
  --template: #d29f57; --clone: #93c250 } }
* { box-sizing: border-box }
body { margin: 0 auto; max-width: 1500px; padding: 1.5rem; background: var(--paper); color: var(--ink);
  font: 15px/1.5 system-ui, sans-serif }
h1 { font-size: 1.35rem; margin: 0 0 1rem } h2 { font-size: 1rem; margin: 0 0 .7rem }
section { background: var(--card); border: 1px solid var(--line); border-radius: 10px; padding: 1rem 1.2rem;
  margin-bottom: 1rem }
.facts { display: flex; flex-wrap: wrap; gap: .6rem 2.4rem; margin: 0 0 1rem }
.facts div { color: var(--soft); font-size: 13px } .facts b { display: block; font-size: 1.5rem; color: var(--ink);
  font-weight: 600; line-height: 1.25; font-variant-numeric: tabular-nums }
.share { display: flex; height: 26px; border-radius: 6px; overflow: hidden }
.share span { background: var(--c); min-width: 2px }
.keys { display: flex; flex-wrap: wrap; gap: .2rem 1.3rem; color: var(--soft); font-size: 13px; margin: .6rem 0 0 }
.keys span::before { content: ""; display: inline-block; width: .8em; height: .8em; border-radius: 3px;
  margin-right: .45em; background: var(--c); vertical-align: -1px }
.head { display: flex; flex-wrap: wrap; justify-content: space-between; gap: .3rem 1rem; align-items: center }
.head label { color: var(--soft); font-size: 13px; display: flex; gap: .5rem; align-items: center }
.scroll { overflow: auto; max-height: 80vh; margin-top: .8rem }
.wide { position: relative; min-width: 100% }
.row { display: flex; height: 20px; align-items: center; border-bottom: 1px solid var(--line) }
.row:hover { background: color-mix(in srgb, var(--boot) 12%, transparent) }
.name { position: sticky; left: 0; z-index: 3; flex: none; width: 13rem; padding-right: .6rem; font-size: 12px;
  overflow: hidden; text-overflow: ellipsis; white-space: nowrap; background: var(--card) }
.track { position: relative; flex: 1; height: 100% }
.bar { position: absolute; top: 4px; height: 11px; min-width: 2px; border-radius: 2px; background: var(--c) }
.bar.of-class { top: 4px } .bar:hover { outline: 2px solid var(--ink); z-index: 2 }
.axis { position: sticky; top: 0; z-index: 4; background: var(--card); color: var(--soft); font-size: 12px }
.axis .track span { position: absolute; border-left: 1px solid var(--line); padding-left: 4px; height: 100% }
.caption { color: var(--soft) }
.tables { display: grid; gap: 1rem; grid-template-columns: repeat(auto-fit, minmax(min(100%, 30rem), 1fr)) }
.tables section { margin: 0; overflow-x: auto }
table { border-collapse: collapse; width: 100%; font-size: 13px; font-variant-numeric: tabular-nums }
td, th { padding: .25rem .6rem .25rem 0; text-align: right; white-space: nowrap; border-bottom: 1px solid var(--line) }
th { color: var(--soft); font-weight: 500 } td:first-child, th:first-child { text-align: left }
td.long { text-align: left; max-width: 16rem; overflow: hidden; text-overflow: ellipsis } td.gauge { width: 30% }
td.gauge i { display: inline-block; height: 9px; background: var(--c) }
small { color: var(--soft) }
@media (max-width: 700px) { body { padding: .8rem } section { padding: .8rem } .name { width: 7.5rem }
  .facts b { font-size: 1.2rem } }
"""
_SCRIPT = """
const zoom = document.getElementById("zoom"), wide = document.querySelector(".wide");
zoom.addEventListener("input", () => { wide.style.width = 100 * Math.pow(2, zoom.value) + "%"; });
"""


def page(spans: Sequence[Span]) -> str:
    """Return the whole page."""
    title = "dbtestcase: where the time went"
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{title}</title><style>{_STYLE}</style></head><body><h1>{title}</h1>"
        f'{_shares(spans)}{_timeline(spans)}<div class="tables">{_set_ups(spans)}{_numbers(spans)}</div>'
        f"<script>{_SCRIPT}</script></body></html>\n"
    )


def _shares(spans: Sequence[Span]) -> str:
    ran = sum(wall([each for each in spans if each.process == number]) for number in {each.process for each in spans})
    data = sum(each.seconds for each in spans if each.kind == "data")
    cost = visible(spans)
    # What a test waits for stands inside of it and is not its own.
    within = sum(each.seconds for each in spans if each.kind in ("handover", "begin", "undo") and each.is_main)
    tests = max(0.0, sum(each.seconds for each in spans if each.kind == "test") - within)
    parts = {"test": tests, "data": data, "wait": cost, "rest": max(0.0, ran - tests - data - cost)}
    bar = "".join(
        f'<span style="--c:var(--{kind});flex:{seconds:.4f}" title="{escape(_title(kind))}: {_time(seconds)}"></span>'
        for kind, seconds in parts.items()
        if seconds > 0
    )
    keys = "".join(
        f'<span style="--c:var(--{kind})">{escape(_title(kind))} {_time(seconds)}, '
        f"{100 * seconds / (ran or 1):.0f} %</span>"
        for kind, seconds in parts.items()
        if seconds > 0
    )
    facts = [
        (_time(wall(spans)), "from the first class to the last"),
        (f"{100 * share(spans):.1f} %", "of it waiting for the library"),
        (str(_count(spans, "class")), "classes"),
        (str(_count(spans, "test")), "tests"),
        (str(_count(spans, "boot")), "instances booted"),
        (str(_count(spans, "clone")), "clones made"),
    ]
    processes = len({each.process for each in spans if each.kind == "class"})
    if processes > 1:
        facts.append((str(processes), "processes"))
    shown = "".join(f"<div><b>{escape(number)}</b>{escape(what)}</div>" for number, what in facts)
    return (
        f'<section><div class="facts">{shown}</div><div class="share">{bar}</div>'
        f'<div class="keys">{keys}</div></section>'
    )


def _timeline(spans: Sequence[Span]) -> str:
    if len(spans) > _MOST_SPANS:
        spans = sorted(spans, key=lambda each: -each.seconds)[:_MOST_SPANS]
    start, length = min(each.start for each in spans), wall(spans) or 1.0
    used = {_COLOURS[each.kind] for each in spans}
    keys = "".join(f'<span style="--c:var(--{kind})">{escape(title)}</span>' for kind, title in _LEGEND if kind in used)
    classes = sorted((each for each in spans if each.kind == "class"), key=lambda each: each.start)
    rows = "".join(_class_row(each, spans, start, length) for each in classes)
    background = "".join(
        _row("in the background" if first else "", own, start, length, caption=True)
        for first, own in _stacked([each for each in spans if each.kind in _BACKGROUND])
    )
    return (
        f'<section><div class="head"><h2>Timeline</h2><label>zoom <input id="zoom" type="range" min="0" max="8" '
        f'step="0.1" value="0"></label></div><div class="keys">{keys}</div><div class="scroll"><div class="wide">'
        f"{_axis(length)}{rows}{background}</div></div></section>"
    )


def _class_row(of: Span, spans: Iterable[Span], start: float, length: float) -> str:
    own = [
        each
        for each in spans
        if each.process == of.process and each.kind in _OF_A_CLASS and of.start <= each.start and each.end <= of.end
    ]
    own.sort(key=lambda each: _OF_A_CLASS.index(each.kind))
    return _row(of.name, own, start, length)


def _stacked(spans: Iterable[Span]) -> Iterable[tuple[bool, list[Span]]]:
    """Divide what overlaps into rows."""
    rows: list[list[Span]] = []
    for each in sorted(spans, key=lambda each: each.start):
        free = next((row for row in rows if row[-1].end <= each.start), None)
        if free is None:
            rows.append([each])
        else:
            free.append(each)
    return ((number == 0, row) for number, row in enumerate(rows))


def _row(name: str, own: Iterable[Span], start: float, length: float, *, caption: bool = False) -> str:
    bars = "".join(_bar(each, start, length) for each in own)
    kind = "name caption" if caption else "name"
    return (
        f'<div class="row"><div class="{kind}" title="{escape(name)}">{escape(name.rpartition(".")[2])}</div>'
        f'<div class="track">{bars}</div></div>'
    )


def _bar(each: Span, start: float, length: float) -> str:
    left, width = 100 * (each.start - start) / length, 100 * each.seconds / length
    name = "" if each.kind == "boot" else f"{each.name} · "
    tip = escape(f"{name}{KINDS.get(each.kind, each.kind)} · {_time(each.seconds)}")
    colour = _COLOURS[each.kind]
    return f'<div class="bar" style="left:{left:.3f}%;width:{width:.3f}%;--c:var(--{colour})" title="{tip}"></div>'


def _axis(length: float) -> str:
    step = next(s * 10**e for e in range(-6, 6) for s in (1, 2, 5) if length / (s * 10**e) <= _TICKS)
    count = int(length / step) + 1
    digits = max(0, next((d for d in range(7) if round(step, d) == step), 6))
    marks = "".join(
        f'<span style="left:{100 * i * step / length:.3f}%">{i * step:.{digits}f} s</span>'
        for i in range(count)
        if i * step / length < 0.97
    )
    return f'<div class="row axis"><div class="name"></div><div class="track">{marks}</div></div>'


def _set_ups(spans: Sequence[Span]) -> str:
    found = set_ups(spans)[:_SLOWEST]
    if not found:
        return ""
    longest = found[0][1] or 1.0
    rows = "".join(
        f'<tr><td class="long" title="{escape(name)}">{escape(name)}</td><td>{_time(seconds)}</td>'
        f'<td class="long">{escape(parts)}</td><td class="gauge">{_gauge(name, spans, longest)}</td></tr>'
        for name, seconds, parts in found
    )
    return f"<section><h2>Slowest set-ups</h2><table>{rows}</table></section>"


def _gauge(name: str, spans: Iterable[Span], longest: float) -> str:
    own = (each for each in spans if each.name == name and each.kind in SET_UP and each.is_main)
    return "".join(
        f'<i style="width:{100 * each.seconds / longest:.1f}%;--c:var(--{_COLOURS[each.kind]})"></i>' for each in own
    )


def _numbers(spans: Sequence[Span]) -> str:
    rows = []
    for kind, title in KINDS.items():
        own = [each for each in spans if each.kind == kind]
        if own and kind != "class":
            longest = max(own, key=lambda each: each.seconds)
            aside = "" if any(each.is_main for each in own) else "<small> in the background</small>"
            name = "" if kind in _BACKGROUND else longest.name
            rows.append(
                f"<tr><td>{escape(title)}{aside}</td><td>{len(own)}</td>"
                f"<td>{_time(sum(each.seconds for each in own))}</td><td>{_time(longest.seconds)}</td>"
                f'<td class="long" title="{escape(name)}">{escape(name.rpartition(".")[2])}</td></tr>'
            )
    head = "<tr><th>what</th><th>times</th><th>together</th><th>longest</th><th></th></tr>"
    return f"<section><h2>All of it</h2><table>{head}{''.join(rows)}</table></section>"


def _title(kind: str) -> str:
    return dict(_LEGEND)[kind]


def _count(spans: Iterable[Span], kind: str) -> int:
    return sum(each.kind == kind for each in spans)


def _time(seconds: float) -> str:
    return f"{seconds:.2f} s" if seconds >= 1 else f"{1000 * seconds:.1f} ms"
