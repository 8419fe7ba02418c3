"""Folders of ours among those of others: which ones a sweep takes for dead."""

from __future__ import annotations

import os
import unittest
from pathlib import Path

from dbtestcase.servers.supervisor import folder
from tests.servers.support import ScratchTestCase


class SweepTests(ScratchTestCase):
    def dead(self):
        found = folder.dead(str(self.location))
        for _, lock in found:
            os.close(lock)
        return [path for path, _ in found]

    def made(self, name: str = f"dbtestcase-{os.getuid()}-0123456789") -> Path:
        path = self.location / name
        path.mkdir(mode=0o700)
        return path

    def test_a_folder_is_alive_as_long_as_its_lock_is_held(self):
        path, lock = folder.make(str(self.location), 0o700)

        self.assertEqual(self.dead(), [])
        os.close(lock)
        self.assertEqual(self.dead(), [path])

    def test_a_child_that_inherited_the_lock_keeps_the_folder_alive(self):
        path, lock = folder.make(str(self.location), 0o700)
        read_end, write_end = os.pipe()
        child = os.fork()
        if not child:
            os.close(write_end)
            os.read(read_end, 1)
            os._exit(0)
        os.close(read_end)
        os.close(lock)

        alive = self.dead()
        os.close(write_end)
        os.waitpid(child, 0)

        self.assertEqual(alive, [])
        self.assertEqual(self.dead(), [path])

    def test_a_folder_whose_maker_died_before_it_took_the_lock_is_dead(self):
        path = self.made()

        self.assertEqual(self.dead(), [str(path)])

    def test_a_folder_with_another_name_is_left_alone(self):
        for name in (
            "dbtestcase",
            f"dbtestcase-{os.getuid()}",
            f"dbtestcase-{os.getuid()}-mine",
            f"dbtestcase-{os.getuid() + 1}-0123456789",
            f"dbtestcase-{os.getuid()}-0123456789-more",
        ):
            self.made(name)

        self.assertEqual(self.dead(), [])

    def test_a_folder_that_others_filled_is_left_alone(self):
        (self.made() / "precious").write_text("x")

        self.assertEqual(self.dead(), [])

    def test_a_lock_file_that_is_not_ours_protects_its_folder(self):
        (self.made() / "lock").write_text("somebody else's lock")

        self.assertEqual(self.dead(), [])

    def test_a_link_is_not_followed(self):
        target = self.scratch / "target"
        target.mkdir()
        (self.location / f"dbtestcase-{os.getuid()}-0123456789").symlink_to(target)

        self.assertEqual(self.dead(), [])
        self.assertEqual(list(target.iterdir()), [])

    def test_a_lock_that_is_a_link_protects_its_folder(self):
        target = self.scratch / "target"
        target.write_bytes(folder.MARK)
        (self.made() / "lock").symlink_to(target)

        self.assertEqual(self.dead(), [])

    @unittest.skipIf(os.getuid() != 0, "only root can make a folder that belongs to somebody else")
    def test_a_folder_of_another_user_is_left_alone(self):
        path = self.made()
        os.chown(path, 12345, 12345)

        self.assertEqual(self.dead(), [])

    def test_a_place_that_does_not_exist_has_nothing_in_it(self):
        self.assertEqual(folder.dead(str(self.scratch / "nonesuch")), [])

    def test_a_folder_cannot_be_made_where_there_is_no_place(self):
        with self.assertRaises(FileNotFoundError):
            folder.make(str(self.scratch / "nonesuch"), 0o700)
