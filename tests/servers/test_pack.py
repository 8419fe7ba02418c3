"""Data folders packed into a file, unpacked, and brought back."""

from __future__ import annotations

import os
import unittest
import zlib
from pathlib import Path
from unittest import mock

from dbtestcase.servers.supervisor import pack, tree
from tests.servers.support import ScratchTestCase


def content(folder: Path) -> dict[str, bytes | None]:
    return {str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None for path in folder.rglob("*")}


class PackTests(ScratchTestCase):
    def setUp(self):
        super().setUp()
        self.source = self.scratch / "source"
        (self.source / "base" / "empty").mkdir(parents=True)
        (self.source / "base" / "zeros").write_bytes(bytes(10_000))
        (self.source / "base" / "data").write_bytes(b"x" * 9000 + bytes(9000))
        (self.source / "PG_VERSION").write_bytes(b"15\n")
        self.pack, self.base = self.scratch / "a.pack", None
        pack.write(str(self.source), str(self.pack))
        self.target = self.scratch / "target"
        self.target.mkdir()

    def unpack(self, **options):
        index, _ = pack.read(str(self.pack), self.base)
        pack.unpack(index, str(self.target), **options)

    def test_what_was_packed_is_unpacked(self):
        self.unpack()

        self.assertEqual(content(self.target), content(self.source))
        self.assertEqual((self.target / "base" / "data").stat().st_mode & 0o777, 0o600)
        self.assertEqual((self.target / "base").stat().st_mode & 0o777, 0o700)

    def test_databases_are_unpacked_by_two_processes_or_by_one(self):
        for name in "1", "4", "5", "16384":
            (self.source / "base" / name).mkdir()
            (self.source / "base" / name / "file").write_bytes(name.encode())
        self.pack = self.scratch / "b.pack"
        pack.write(str(self.source), str(self.pack))
        beside = pack._beside
        cases = {
            "by two": (beside, 2),
            "no process can be started": (lambda work: None, 2),
            "the other one fails": (lambda work: beside(self.fail), 2),
            "there is one processor": (beside, 1),
        }
        for case, (helper, processors) in cases.items():
            tree.remove(str(self.target))
            self.target.mkdir()
            with (
                self.subTest(case),
                mock.patch.object(pack, "_beside", helper),
                mock.patch.object(os, "cpu_count", return_value=processors),
                mock.patch.object(pack, "_write", wraps=pack._write) as written,
            ):
                self.unpack()

                self.assertEqual(content(self.target), content(self.source))
                here = {Path(call.args[0]).parent.name for call in written.call_args_list}
                self.assertEqual({"1", "4", "5", "16384"} <= here, case != "by two", here)

    def test_skipped_names_are_left_out(self):
        other = self.scratch / "b.pack"
        pack.write(str(self.source), str(other), skip=lambda name: name == "base/data")
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
                with self.assertRaises(pack.DamagedPack):
                    self.unpack()

    def test_a_link_cannot_be_packed(self):
        (self.source / "link").symlink_to("/etc/passwd")

        with self.assertRaisesRegex(ValueError, "link"):
            pack.write(str(self.source), str(self.scratch / "b.pack"))

    def test_a_link_to_a_folder_cannot_be_packed(self):
        (self.source / "base" / "link").symlink_to("/etc")

        with self.assertRaisesRegex(ValueError, "link"):
            pack.write(str(self.source), str(self.scratch / "b.pack"))

    def test_a_pipe_that_nobody_writes_to_cannot_be_packed_and_keeps_nobody_waiting(self):
        os.mkfifo(self.source / "pipe")

        with self.assertRaisesRegex(ValueError, "pipe"):
            pack.write(str(self.source), str(self.scratch / "b.pack"))

    @unittest.skipIf(os.getuid() != 0, "only root can give files away")
    def test_a_file_of_another_owner_cannot_be_packed(self):
        # What a hard link to a file of root's would be, in a folder of the server's user.
        os.chown(self.source, 12345, 12345)

        with self.assertRaisesRegex(ValueError, "another user"):
            pack.write(str(self.source), str(self.scratch / "b.pack"))

    def test_a_folder_that_is_swapped_for_a_link_while_it_is_packed_is_not_followed(self):
        secret = self.scratch / "secret"
        secret.mkdir()
        (secret / "data").write_text("for root's eyes only")

        def swap(name):
            if name == "PG_VERSION":  # it has been listed, and comes first
                (self.source / "base").rename(self.scratch / "away")
                (self.source / "base").symlink_to(secret)
            return False

        with self.assertRaises(ValueError):
            pack.write(str(self.source), str(self.scratch / "b.pack"), skip=swap)
        self.assertNotIn(b"root's eyes", (self.scratch / "b.pack").read_bytes())

    def test_the_same_content_is_stored_once(self):
        before = self.pack.stat().st_size
        for number in range(20):
            (self.source / "base" / f"copy{number}").write_bytes((self.source / "base" / "data").read_bytes())
        self.pack = self.scratch / "b.pack"

        pack.write(str(self.source), str(self.pack))
        self.unpack()

        self.assertLess(self.pack.stat().st_size, before + 1000)
        self.assertEqual(content(self.target), content(self.source))

    def test_a_pack_holds_only_what_its_base_has_not(self):
        base, _ = pack.read(str(self.pack))
        (self.source / "base" / "data").rename(self.source / "base" / "moved")
        (self.source / "base" / "zeros").write_bytes(b"no more")
        self.pack, self.base = self.scratch / "b.pack", str(self.pack)

        pack.write(str(self.source), str(self.pack), base=base)
        self.unpack()

        self.assertEqual(content(self.target), content(self.source))
        self.assertNotIn(b"xxxx", self.pack.read_bytes())

    def test_a_pack_is_refused_without_its_base_or_with_another(self):
        base, _ = pack.read(str(self.pack))
        first = str(self.pack)
        self.pack = self.scratch / "b.pack"
        pack.write(str(self.source), str(self.pack), base=base)
        (self.source / "PG_VERSION").write_bytes(b"18\n")
        pack.write(str(self.source), str(self.scratch / "other.pack"))

        for wrong in (None, str(self.scratch / "other.pack")):
            self.base = wrong
            with self.subTest(wrong), self.assertRaises(pack.DamagedPack):
                self.unpack()
        self.base = first
        self.unpack()

    def test_a_pack_whose_base_was_written_to_is_another(self):
        self.base = str(self.pack)
        base, _ = pack.read(self.base)
        self.pack = self.scratch / "b.pack"
        pack.write(str(self.source), str(self.pack), base=base)
        _, before = pack.read(str(self.pack), self.base)
        self.assertEqual(pack.read(str(self.pack), self.base)[1], before)

        os.utime(self.base, ns=(1, 1))

        self.assertNotEqual(pack.read(str(self.pack), self.base)[1], before)

    def test_a_pack_cannot_write_outside_of_its_folder(self):
        for name in ("../out", "/tmp/out", "base/../../out", "."):
            with self.subTest(name):
                index = zlib.compress(f"\x002\x00\n{name}\x002\x000\x000\x002\x00{zlib.crc32(b'ab')}".encode())
                self.pack = self.scratch / "evil.pack"
                self.pack.write_bytes(pack.MAGIC + b"ab" + index + len(index).to_bytes(8, "big") + pack.MAGIC)
                with self.assertRaises(pack.DamagedPack):
                    self.unpack()

    def test_files_have_their_mode_whatever_the_umask(self):
        before = os.umask(0o777)
        try:
            pack.write(str(self.source), str(self.scratch / "b.pack"))
        finally:
            os.umask(before)

        self.assertEqual((self.scratch / "b.pack").stat().st_mode & 0o777, 0o600)
