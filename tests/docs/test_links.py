"""Links between the documents of the repository lead somewhere, headings included."""

from __future__ import annotations

import re
import unittest
from pathlib import Path

from tests.docs.blocks import ROOT

_LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")


def links(text: str) -> list[str]:
    without_code = re.sub(r"^```.*?^```$", "", text, flags=re.M | re.S)
    return [link for link in _LINK.findall(without_code) if "://" not in link]


def anchors(path: Path) -> set[str]:
    """Return the anchors of a document's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.*)$", path.read_text(), re.M)
    return {re.sub(r"[^\w\- ]", "", each.lower()).replace(" ", "-") for each in headings}


class LinkTests(unittest.TestCase):
    def test_every_link_leads_somewhere(self) -> None:
        documents = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *ROOT.glob("*/README.md")]
        documents += ROOT.glob("examples/*/README.md")
        count = 0
        for document in documents:
            for link in links(document.read_text()):
                count += 1
                name, _, anchor = link.partition("#")
                target = document if not name else document.parent / name
                with self.subTest(document=document.name, link=link):
                    self.assertTrue(target.exists())
                    if anchor:
                        self.assertIn(anchor, anchors(target))
        self.assertGreater(count, 30)

    def test_every_link_has_a_text(self) -> None:
        # Sphinx would fill it in; a repository's own view of the page shows nothing.
        for document in [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")]:
            with self.subTest(document=document.name):
                self.assertNotIn("[](", document.read_text())

    def test_a_heading_becomes_an_anchor(self) -> None:
        self.assertIn("why-did-my-test-run-twice", anchors(ROOT / "docs" / "isolation.md"))


if __name__ == "__main__":
    unittest.main()
