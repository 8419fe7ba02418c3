"""The report as a page: the table, and a timeline of classes, boots and waits. One file that loads no other."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape

from dbtestcase.diagnosis.report import KINDS, Span, wall

# A lane of the timeline: its title, and the kinds of spans in it. Background work may overlap and gets several rows.
_LANES = (
    ("classes", ("class",)),
    ("tests", ("test",)),
    ("library, waited for", ("wait", "schema", "handover", "begin", "undo", "stop")),
    ("setUpTestData", ("data",)),
    ("in the background", ("boot", "template", "clone")),
)
_MOST_SPANS = 20_000  # per lane; the longest are kept

_STYLE = """
:root { color-scheme: light dark; --ink: #1c2430; --soft: #5d6b7e; --paper: #fbfbfc; --card: #fff; --line: #e2e6ec;
  --class: #5b8def; --test: #7cc4a1; --wait: #e5645c; --schema: #e79a3c; --data: #b48ae0; --boot: #6fb7d6;
  --template: #d6a76f; --clone: #8fc95f; --handover: #e5645c; --begin: #c9a227; --undo: #c9a227; --stop: #a0a7b3 }
@media (prefers-color-scheme: dark) { :root { --ink: #e6e9ef; --soft: #97a3b6; --paper: #14181f; --card: #1b2029;
  --line: #2c3440; --class: #4a78d0; --test: #4f9a76; --data: #9069c0 } }
* { box-sizing: border-box }
body { margin: 0 auto; max-width: 1400px; padding: 2rem; background: var(--paper); color: var(--ink);
  font: 15px/1.5 system-ui, sans-serif }
h1 { font-size: 1.4rem; margin: 0 0 1rem }
pre, .chart { background: var(--card); border: 1px solid var(--line); border-radius: 10px; padding: 1rem;
  overflow-x: auto }
pre { font: 13px/1.55 ui-monospace, monospace; margin: 0 0 1.5rem }
.tools { display: flex; gap: 1.2rem; flex-wrap: wrap; align-items: center; margin-bottom: .8rem; color: var(--soft) }
.key::before { content: ""; display: inline-block; width: .8em; height: .8em; border-radius: 3px; margin-right: .4em;
  background: var(--colour) }
.scroll { overflow-x: auto }
.wide { position: relative; min-width: 100% }
.lane { position: relative; border-top: 1px solid var(--line); padding-top: 1.5rem; margin-bottom: .4rem }
.lane > b { position: sticky; left: 0; display: inline-block; margin-top: -1.4rem; font-weight: 500; font-size: 12px;
  color: var(--soft) }
.row { position: relative; height: 20px; margin-bottom: 3px }
.bar { position: absolute; height: 100%; min-width: 1.5px; border-radius: 3px; background: var(--colour);
  overflow: hidden; white-space: nowrap; font-size: 11px; line-height: 20px; padding: 0; text-indent: 4px; color: #fff }
.bar:hover { outline: 2px solid var(--ink); z-index: 2 }
.axis { position: relative; height: 1.4em; color: var(--soft); font-size: 12px }
.axis span { position: absolute; border-left: 1px solid var(--line); padding-left: 4px }
"""
_SCRIPT = """
const zoom = document.getElementById("zoom"), wide = document.querySelector(".wide");
zoom.addEventListener("input", () => { wide.style.width = 100 * Math.pow(2, zoom.value) + "%"; });
"""


def page(spans: Sequence[Span], lines: Iterable[str]) -> str:
    """Return the whole page."""
    start, length = min((each.start for each in spans), default=0.0), wall(spans) or 1.0
    used = [kind for kind in KINDS if any(each.kind == kind for each in spans)]
    keys = "".join(f'<span class="key" style="--colour: var(--{kind})">{KINDS[kind]}</span>' for kind in used)
    lanes = "".join(_lane(title, kinds, spans, start, length) for title, kinds in _LANES)
    title, *rest = lines
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>{_STYLE}</style></head><body>"
        f"<h1>{escape(title)}</h1><pre>{escape(_dedented(rest))}</pre>"
        f'<div class="chart"><div class="tools">{keys}<label>zoom <input id="zoom" type="range" min="0" max="8" '
        f'step="0.1" value="0"></label></div><div class="scroll"><div class="wide">{_axis(length)}{lanes}</div></div>'
        f"</div><script>{_SCRIPT}</script></body></html>\n"
    )


def _lane(title: str, kinds: tuple[str, ...], spans: Iterable[Span], start: float, length: float) -> str:
    own = [each for each in spans if each.kind in kinds]
    if not own:
        return ""
    if len(own) > _MOST_SPANS:
        own = sorted(own, key=lambda each: -each.seconds)[:_MOST_SPANS]
    rows: list[list[Span]] = []
    for each in sorted(own, key=lambda each: each.start):
        free = next((row for row in rows if row[-1].end <= each.start), None)
        if free is None:
            rows.append([each])
        else:
            free.append(each)
    drawn = "".join(f'<div class="row">{"".join(_bar(each, start, length) for each in row)}</div>' for row in rows)
    return f'<div class="lane"><b>{escape(title)}</b>{drawn}</div>'


def _bar(each: Span, start: float, length: float) -> str:
    left, width = 100 * (each.start - start) / length, 100 * each.seconds / length
    tip = escape(f"{each.name or KINDS.get(each.kind, each.kind)} · {each.kind} · {1000 * each.seconds:.1f} ms")
    label = escape(each.name.rpartition(".")[2]) if width > 3 else ""
    return (
        f'<div class="bar" style="left:{left:.4f}%;width:{width:.4f}%;--colour:var(--{escape(each.kind)})" '
        f'title="{tip}">{label}</div>'
    )


def _axis(length: float) -> str:
    marks = "".join(f'<span style="left:{10 * i}%">{length * i / 10:.2f} s</span>' for i in range(10))
    return f'<div class="axis">{marks}</div>'


def _dedented(lines: Iterable[str]) -> str:
    return "\n".join(line.removeprefix("  ") for line in lines)
