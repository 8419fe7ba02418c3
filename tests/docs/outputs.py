"""Writes the outputs that the documents show: ``python -m tests.docs.outputs [DOCUMENT ...]``."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from tests.docs.blocks import documents
from tests.docs.runs import outputs, same


def write(path: Path) -> None:
    """Put into a document what its commands print today, where that is not what it shows."""
    with tempfile.TemporaryDirectory() as folder:
        found = outputs(path, Path(folder))
    text = path.read_text()
    for block, printed in reversed(found):
        if not same(block.code, printed):
            begin, end = block.span
            text = text[:begin] + printed + text[end:]
            print(f"{path.name}:{block.line}: written")
    path.write_text(text)


if __name__ == "__main__":
    chosen = {Path(name).resolve() for name in sys.argv[1:]}
    for document in documents():
        if not chosen or document in chosen:
            write(document)
