"""Packing, unpacking, bringing back and deleting folders."""

from __future__ import annotations

import os
from pathlib import Path

from dbtestcase.servers.supervisor import tree
from tests.servers.support import ScratchTestCase


def content(folder: Path) -> dict[str, bytes | None]:
    return {str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None for path in folder.rglob("*")}


class TreeTests(ScratchTestCase):
    def setUp(self):
        super().setUp()
        self.source = self.scratch / "source"
        (self.source / "base" / "empty").mkdir(parents=True)
        (self.source / "base" / "zeros").write_bytes(bytes(10_000))
        (self.source / "base" / "data").write_bytes(b"x" * 9000 + bytes(9000))
        (self.source / "PG_VERSION").write_bytes(b"15\n")
        self.pack = self.scratch / "a.pack"
        tree.pack(str(self.source), str(self.pack))
        self.target = self.scratch / "target"
        self.target.mkdir()

    def unpack(self, **options):
        with open(self.pack, "rb") as file:
            tree.unpack(file.fileno(), str(self.target), **options)

    def test_what_was_packed_is_unpacked(self):
        self.unpack()

        self.assertEqual(content(self.target), content(self.source))
        self.assertEqual((self.target / "base" / "data").stat().st_mode & 0o777, 0o600)
        self.assertEqual((self.target / "base").stat().st_mode & 0o777, 0o700)

    def test_skipped_names_are_left_out(self):
        other = self.scratch / "b.pack"
        tree.pack(str(self.source), str(other), skip=lambda name: name == "base/data")
        self.pack = other

        self.unpack()

        self.assertFalse((self.target / "base" / "data").exists())

    def test_a_used_folder_is_brought_back(self):
        self.unpack()
        untouched = (self.target / "base" / "zeros").stat().st_ino
        with open(self.target / "base" / "data", "r+b") as file:
            file.write(b"y")
        (self.target / "PG_VERSION").unlink()
        (self.target / "base" / "new").write_text("new")
        (self.target / "more" / "folders").mkdir(parents=True)
        (self.target / "base" / "empty").rmdir()
        (self.target / "base" / "empty").symlink_to("/")
        (self.target / "mine").write_text("kept")

        self.unpack(keep=["mine"])

        self.assertEqual(content(self.target), {**content(self.source), "mine": b"kept"})
        self.assertFalse((self.target / "base" / "empty").is_symlink())
        self.assertEqual((self.target / "base" / "zeros").stat().st_ino, untouched)

    def test_a_write_that_leaves_size_and_content_is_noticed(self):
        self.unpack()
        path = self.target / "PG_VERSION"
        before = path.stat()
        path.write_bytes(b"15\n")

        self.assertNotEqual(path.stat().st_mtime_ns, before.st_mtime_ns)

    def test_a_damaged_pack_is_refused(self):
        whole = self.pack.read_bytes()
        wrong_byte = bytearray(whole)
        wrong_byte[whole.index(b"xxx")] ^= 1
        wrong_index = bytearray(whole)
        wrong_index[-40] ^= 0xFF
        for name, damaged in {
            "empty": b"",
            "cut": whole[:-1],
            "half": whole[: len(whole) // 2],
            "another file": b"something else" * 100,
            "index": bytes(wrong_index),
            "byte": bytes(wrong_byte),
        }.items():
            with self.subTest(name):
                self.pack = self.scratch / f"{name}.pack"
                self.pack.write_bytes(damaged)
                tree.remove(str(self.target))
                self.target.mkdir()
                with self.assertRaises(tree.DamagedPack):
                    self.unpack()

    def test_a_link_cannot_be_packed(self):
        (self.source / "link").symlink_to("/etc/passwd")

        with self.assertRaisesRegex(ValueError, "link"):
            tree.pack(str(self.source), str(self.scratch / "b.pack"))

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
