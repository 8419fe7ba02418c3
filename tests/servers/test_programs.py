"""Where the server programs are found, and what is said when they are not."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from unittest import mock

from dbtestcase.errors import PostgresNotFound
from dbtestcase.servers import find_programs, programs
from tests.servers.support import ScratchTestCase, changed_environment


class FindProgramsTests(ScratchTestCase):
    def setUp(self):
        super().setUp()
        changed_environment(self, {"PATH": self.scratch / "path"})
        os.environ.pop("DBTESTCASE_BIN_DIR", None)
        self.enterContext(mock.patch.object(programs, "USUAL_LOCATIONS", (str(self.scratch / "usual" / "*" / "bin"),)))
        self.enterContext(mock.patch.object(programs, "WHEELS", (("some_wheel", "some-wheel", ("pg*/bin",)),)))
        self.enterContext(mock.patch.object(sys, "path", [str(self.scratch / "site")]))

    def programs_in(self, name: str) -> Path:
        folder = self.scratch / name
        folder.mkdir(parents=True)
        for program in ("initdb", "postgres"):
            (folder / program).write_text("#!/bin/sh\necho 'postgres (PostgreSQL) 17.1 (Somewhere)'\n")
            (folder / program).chmod(0o755)
        return folder

    def test_nothing_found_is_one_error_that_lists_the_places_and_the_remedies(self):
        with self.assertRaises(PostgresNotFound) as caught:
            find_programs()

        for word in ("PATH", str(self.scratch / "usual"), "some-wheel", "pip install", "apt-get", "DBTESTCASE_BIN_DIR"):
            self.assertIn(word, str(caught.exception))

    def test_path_comes_before_the_usual_places_and_those_before_a_wheel(self):
        for name in ("site/some_wheel/pg18/bin", "usual/15/bin", "path"):
            folder = self.programs_in(name)
            self.assertEqual(find_programs().bin_dir, folder)

    def test_of_several_versions_the_newest_is_taken(self):
        for version in ("9.6", "16", "12"):
            self.programs_in(f"usual/{version}/bin")

        self.assertEqual(find_programs().bin_dir, self.scratch / "usual/16/bin")

    def test_of_several_servers_in_a_wheel_the_newest_is_taken(self):
        self.programs_in("site/some_wheel/pg/bin")
        newest = self.programs_in("site/some_wheel/pg18/bin")

        self.assertEqual(find_programs().bin_dir, newest)

    def test_links_on_path_lead_to_the_folder_of_the_programs(self):
        real = self.programs_in("cellar/postgresql@17/bin")
        (self.scratch / "path").mkdir()
        (self.scratch / "path" / "initdb").symlink_to(real / "initdb")

        self.assertEqual(find_programs().bin_dir, real)

    def test_initdb_without_postgres_does_not_do(self):
        (self.programs_in("path") / "postgres").unlink()

        with self.assertRaises(PostgresNotFound):
            find_programs()

    def test_a_given_folder_is_the_only_one_searched(self):
        self.programs_in("path")
        given = self.programs_in("given/bin")

        self.assertEqual(find_programs(given).bin_dir, given)
        self.assertEqual(find_programs(str(given.parent)).bin_dir, given)
        with self.assertRaisesRegex(PostgresNotFound, "bin_dir is .*nonesuch.*not a folder"):
            find_programs(self.scratch / "nonesuch")
        with self.assertRaisesRegex(PostgresNotFound, "no program 'initdb'"):
            find_programs(self.scratch)

    def test_the_environment_variable_comes_before_the_option(self):
        given, other = self.programs_in("given"), self.programs_in("other")
        os.environ["DBTESTCASE_BIN_DIR"] = str(other)

        self.assertEqual(find_programs(given).bin_dir, other)

        os.environ["DBTESTCASE_BIN_DIR"] = str(self.scratch / "nonesuch")
        with self.assertRaisesRegex(PostgresNotFound, "DBTESTCASE_BIN_DIR is"):
            find_programs(given)

    def test_the_version_is_what_the_program_says(self):
        self.programs_in("path")

        self.assertEqual(find_programs().version, "17.1")

    def test_replaced_programs_have_another_fingerprint(self):
        folder = self.programs_in("path")
        before = find_programs().fingerprint

        (folder / "postgres").write_text("#!/bin/sh\necho newer\n")

        self.assertNotEqual(find_programs().fingerprint, before)
