"""Deleting folders."""

from __future__ import annotations

import os

from dbtestcase.servers.supervisor import tree
from tests.servers.support import ScratchTestCase


class TreeTests(ScratchTestCase):
    def setUp(self):
        super().setUp()
        self.source = self.scratch / "source"
        (self.source / "base").mkdir(parents=True)
        (self.source / "PG_VERSION").write_bytes(b"15\n")
        self.target = self.scratch / "target"
        self.target.mkdir()

    def test_removing_follows_no_link(self):
        outside = self.scratch / "outside"
        outside.mkdir()
        (outside / "precious").write_text("x")
        (self.target / "link").symlink_to(outside)
        os.link(outside / "precious", self.target / "hard")

        tree.remove(str(self.target))
        tree.remove(str(self.target))

        self.assertFalse(self.target.exists())
        self.assertEqual((outside / "precious").read_text(), "x")

    def test_a_link_in_the_folders_place_is_not_followed(self):
        link = self.scratch / "link"
        link.symlink_to(self.source)

        with self.assertRaises(OSError):
            tree.remove(str(link))

        self.assertTrue((self.source / "PG_VERSION").exists())
