"""Odd machines and odd environments: the server starts, or a sentence says why not."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
import tempfile
import unittest
from pathlib import Path
from unittest import mock

from dbtestcase.errors import PostgresNotReady
from dbtestcase.servers import (
    ThrowawayPostgres,
    find_programs,
    locations,
    programs,
    running_instance,
    start_instance,
    user,
)
from tests.servers.support import ScratchTestCase, changed_environment

ROUND_TRIP = """
import os
from dbtestcase.servers import *
with running_instance(ThrowawayPostgres()) as instance:
    connection = instance.connect()
    with connection.cursor() as cursor:
        cursor.execute("SELECT %s || current_setting('server_encoding') || current_setting('work_mem')", ["aé☃ "])
        assert cursor.fetchone()[0] == "aé☃ UTF84MB", cursor.fetchone()
    connection.close()
    print(instance.socket_dir)
"""


class EnvironmentTests(ScratchTestCase):
    def test_variables_of_libpq_do_not_bend_connections(self):
        self.run_well(
            ROUND_TRIP + "assert os.environ['PGSERVICE'] == 'nonesuch'",
            PGHOST="192.0.2.1",
            PGHOSTADDR="192.0.2.1",
            PGPORT="1",
            PGUSER="somebody",
            PGDATABASE="elsewhere",
            PGPASSWORD="secret",
            PGOPTIONS="-c work_mem=9MB",
            PGSERVICE="nonesuch",
            PGSERVICEFILE="/nonesuch",
            PGREQUIREPEER="nobody",
            PGGSSENCMODE="require",
            PGSSLMODE="verify-full",
            PGSSLCERTMODE="require",
            PGCHANNELBINDING="require",
            PGCLIENTENCODING="LATIN1",
            PGTARGETSESSIONATTRS="standby",
            PGDATA="/nonesuch",
            PGTZ="Nowhere/Nothing",
        )

    def test_a_working_directory_that_was_deleted_does_not_matter(self):
        gone = "import os, tempfile; os.chdir(tempfile.mkdtemp()); os.rmdir(os.getcwd())\n"
        if "SystemError" in self.python(gone + "import socket").stderr:
            self.skipTest("this interpreter itself can import little in such a folder: CPython 3.13.0")
        self.run_well(gone + ROUND_TRIP, PATH=f"{os.pathsep}relative{os.pathsep}{os.environ['PATH']}")

    def test_where_there_are_no_temporary_files_a_named_folder_is_enough(self):
        nowhere = "import tempfile; tempfile._candidate_tempdir_list = lambda: ['/nonexistent']\n"
        self.assertIn(str(self.location), self.run_well(nowhere + ROUND_TRIP, DBTESTCASE_CACHE="off"))

    def test_the_users_home_may_be_written_as_in_a_shell(self):
        self.assertIn(str(self.location), self.run_well(ROUND_TRIP, HOME=self.scratch, DBTESTCASE_DIR="~/location"))

    def test_the_locale_does_not_matter(self):
        for locale in ("C", "de_DE.ISO-8859-1"):
            with self.subTest(locale):
                self.run_well(ROUND_TRIP, LC_ALL=locale, LANG=locale, PYTHONUTF8="1")

    def test_a_very_long_temporary_folder_does(self):
        long = self.scratch / ("x" * 120)
        long.mkdir()

        socket_dir = self.run_well(ROUND_TRIP, DBTESTCASE_DIR=long)

        self.assertLess(len(socket_dir), 90)
        self.assertFalse(os.path.exists(socket_dir))
        self.assertFalse(os.path.exists(os.path.dirname(socket_dir)))
        self.assertEqual(os.listdir(long), [])

    def test_a_folder_whose_name_the_locale_cannot_spell_does(self):
        odd = self.scratch / "größe 1"
        odd.mkdir()

        code = ROUND_TRIP.replace("é☃", r"\xe9\u2603")
        self.run_well(code, DBTESTCASE_DIR=odd, LC_ALL="C", PYTHONUTF8="0", PYTHONCOERCECLOCALE="0")

        self.assertEqual(os.listdir(odd), [])

    def test_no_site_packages_variable_reaches_the_keeper(self):
        broken = self.scratch / "broken"
        broken.mkdir()
        for name in ("os", "select", "mmap", "site"):
            (broken / f"{name}x.py").write_text("raise SystemExit")
        (broken / "sitecustomize.py").write_text("")

        self.run_well(ROUND_TRIP, PYTHONSTARTUP=broken / "osx.py", PYTHONHASHSEED="1")


class PlacesTests(ScratchTestCase):
    def test_memory_is_taken_when_there_is_room_for_what_is_planned(self):
        with mock.patch.object(locations, "_free", return_value=10**10):
            self.assertIn(locations.MEMORY, locations.instance_locations(10**7, None)[:1])
        with mock.patch.object(locations, "_free", return_value=64 * 1024**2):
            self.assertNotIn(locations.MEMORY, locations.instance_locations(10**7, None))

    def test_memory_that_a_container_may_not_use_is_no_room(self):
        with mock.patch.object(locations, "_free_memory", return_value=64 * 1024**2):
            self.assertNotIn(locations.MEMORY, locations.instance_locations(10**7, None))

    def test_a_machine_without_memory_to_write_to_uses_its_disk(self):
        with mock.patch.object(locations, "MEMORY", "/nonesuch"), running_instance(ThrowawayPostgres()) as instance:
            self.assertEqual(os.path.dirname(instance.base_dir), tempfile.gettempdir())
            instance.connect().close()

    def test_a_folder_that_the_servers_user_cannot_reach_is_not_taken(self):
        closed = self.scratch / "closed"
        (closed / "tmp").mkdir(parents=True)
        closed.chmod(0o700)

        self.assertFalse(locations.reachable(str(closed / "tmp"), (12345, 12345)))
        closed.chmod(0o711)
        self.assertTrue(locations.reachable(str(closed / "tmp"), (12345, 12345)))

    def test_nowhere_to_write_is_said_in_words(self):
        changed_environment(self, {"DBTESTCASE_DIR": self.scratch / "nonesuch"})

        with self.assertRaisesRegex(PostgresNotReady, "DBTESTCASE_DIR"):
            start_instance()

    def test_a_full_place_is_left_for_the_next_one(self):
        small = self.small_place("12m")
        with (
            mock.patch.object(locations, "MEMORY", str(small)),
            mock.patch.object(locations, "_free", return_value=10**10),
            running_instance(ThrowawayPostgres()) as instance,
        ):
            self.assertEqual(os.path.dirname(instance.base_dir), tempfile.gettempdir())
            instance.connect().close()
        self.assertSoon(lambda: os.listdir(small) == [], 3, "something is left in the full location")

    def test_a_full_place_without_another_is_said_in_words(self):
        changed_environment(self, {"DBTESTCASE_DIR": self.small_place("12m")})

        with self.assertRaisesRegex(PostgresNotReady, "no room"):
            start_instance()

    def small_place(self, size: str) -> Path:
        location = self.scratch / "small"
        location.mkdir()
        mounted = (
            os.getuid() == 0
            and not subprocess.run(
                ["mount", "-t", "tmpfs", "-o", f"size={size},mode=1777", "tmpfs", location],
                capture_output=True,
                check=False,
            ).returncode
        )
        if not mounted:
            self.skipTest("only root can mount a small file system, and not everywhere")
        self.addCleanup(subprocess.run, ["umount", "-l", location], check=True)
        return location


@unittest.skipIf(os.getuid() != 0, "these are about running as root")
class RootTests(ScratchTestCase):
    def test_the_server_runs_as_somebody_without_rights(self):
        with running_instance(ThrowawayPostgres()) as instance:
            status = Path(f"/proc/{instance.server_pid}/status").read_text()

        uids = next(line.split()[1:] for line in status.splitlines() if line.startswith("Uid:"))
        self.assertNotIn("0", uids)
        self.assertIn("CapEff:\t0000000000000000", status)

    def test_nobody_else_can_look_into_an_instance(self):
        with running_instance(ThrowawayPostgres()) as instance:
            self.assertEqual(stat.S_IMODE(os.stat(instance.base_dir).st_mode), 0o711)
            self.assertEqual(stat.S_IMODE(os.stat(instance.data_dir).st_mode), 0o700)
            self.assertEqual(stat.S_IMODE(os.stat(instance.socket_dir).st_mode), 0o700)

    def test_programs_that_only_root_can_read_are_copied_once(self):
        source = self.relocatable_programs()
        closed = self.scratch / "closed"
        closed.mkdir(mode=0o700)
        # The programs of a wheel find their libraries beside the package, so these move along.
        libraries = user._libraries_of_wheel(source.parent)
        below = source.parent.relative_to(libraries.parent) if libraries is not None else Path("pg")
        ignored = shutil.ignore_patterns("include", "doc")
        shutil.copytree(source.parent, closed / below, symlinks=True, ignore=ignored)
        if libraries is not None:
            shutil.copytree(libraries, closed / libraries.name)
        cache = self.scratch / "cache"
        changed_environment(self, {"DBTESTCASE_CACHE": cache, "DBTESTCASE_DIR": self.location})
        self.addCleanup(user._launches.clear)

        for _ in range(2):
            with running_instance(ThrowawayPostgres(bin_dir=closed / below / "bin")) as instance:
                instance.connect().close()

        copies = self.scratch / "cache-programs"
        self.assertTrue(instance.postgres.startswith(str(copies)))
        self.assertEqual(len(list(copies.glob("programs-*"))), 1)
        self.assertEqual(stat.S_IMODE(closed.stat().st_mode), 0o700)

    def test_programs_that_cannot_be_copied_are_named(self):
        closed = self.scratch / "closed"
        closed.mkdir(mode=0o700)
        for program in ("initdb", "postgres"):
            shutil.copy("/bin/true", closed / program)

        with self.assertRaisesRegex(PostgresNotReady, "root only"):
            start_instance(ThrowawayPostgres(bin_dir=closed))

    def relocatable_programs(self) -> Path:
        with (
            mock.patch.object(programs, "USUAL_LOCATIONS", ()),
            mock.patch.dict(os.environ, {"PATH": ""}),
        ):
            try:
                return find_programs().bin_dir
            except programs.PostgresNotFound:
                self.skipTest("needs a wheel with server programs, which can be moved")
                raise
