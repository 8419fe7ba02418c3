"""The blocks of code in a document, and what each of them is for.

A line before a block says so, in a comment that readers do not see::

    <!-- runs: test_shop -->      Python: written to test_shop.py; its tests must pass, if it has any
    <!-- file: schema.sql -->     written to that file
    <!-- run -->                  shell: must succeed (``<!-- run: 1 -->``: must end with that exit code)
    <!-- output -->               what the ``run`` block before it prints; ``python -m tests.docs.outputs`` writes it
    <!-- shown: REASON -->        not run, because of what it needs; Python must compile

The files and commands of one document share a folder.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

__all__ = ["ROOT", "Block", "blocks", "documents"]

ROOT = Path(__file__).parent.parent.parent
# Written by a program that has a test of its own.
_GENERATED = {ROOT / "docs" / "failures.md"}
_BLOCK = re.compile(
    r"^(?:<!-- (?P<verb>\w+)(?:: (?P<argument>.*?))? -->\n\n?)?```(?P<language>\w+)\n(?P<code>.*?)^```$", re.M | re.S
)


@dataclass(frozen=True)
class Block:
    """One block of code.

    Attributes:
        verb: What it is for, "" if nothing says so.
        argument: What stands behind the verb.
        line: Where it begins in its document.
        span: Where its code stands in the document's text.
    """

    verb: str
    argument: str
    language: str
    code: str
    line: int
    span: tuple[int, int]


def documents() -> list[Path]:
    """Return the documents with blocks of code in them."""
    found = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")]
    return sorted(path for path in found if path not in _GENERATED and blocks(path.read_text()))


def blocks(text: str) -> list[Block]:
    """Return the fenced blocks of a document, without directives of the documentation's generator."""
    return [
        Block(
            verb=found["verb"] or "",
            argument=found["argument"] or "",
            language=found["language"],
            code=found["code"],
            line=text.count("\n", 0, found.start()) + 1,
            span=found.span("code"),
        )
        for found in _BLOCK.finditer(text)
    ]
