"""Templates: made once, shared, believed only when whole."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
import tempfile
import time
import unittest
from contextlib import redirect_stderr
from io import StringIO
from pathlib import Path
from unittest import mock

from dbtestcase.servers import (
    EMPTY,
    ThrowawayPostgres,
    cached_templates,
    clear_cache,
    expect,
    find_programs,
    messages,
    running_instance,
    template,
)
from dbtestcase.servers.cache import Cache, write_pack
from dbtestcase.servers.store import Store
from tests.servers.support import ScratchTestCase, changed_environment
from tests.support import once

BOOT = """
from dbtestcase.servers import *
with running_instance(ThrowawayPostgres()) as instance:
    connection = instance.connect()
    with connection.cursor() as cursor:
        cursor.execute("SELECT 'up'")
        print(*cursor.fetchone())
    connection.close()
"""

PREPARED = """
from dbtestcase.servers import *
def prepare(instance):
    print("prepared")
    instance.execute("CREATE TABLE t AS SELECT 'there' AS x", database="test")
with running_instance(ThrowawayPostgres(), Contents("fp", prepare)) as instance:
    connection = instance.connect()
    with connection.cursor() as cursor:
        cursor.execute("SELECT x FROM t")
        print(*cursor.fetchone())
    connection.close()
"""


class TemplateTestCase(ScratchTestCase):
    def setUp(self):
        super().setUp()
        self.cache = self.scratch / "cache"
        self.calls = self.scratch / "calls"
        self.calls.touch()
        self.calls.chmod(0o666)
        self.bin_dir = self.scratch / "bin"
        self.make_bin_dir()

    def make_bin_dir(self):
        """Programs that count how often initdb is called to make a cluster."""
        self.bin_dir.mkdir()
        real = find_programs()
        (self.bin_dir / "postgres").symlink_to(real.postgres)
        self.initdb = self.bin_dir / "initdb"
        self.initdb.write_text(f'#!/bin/sh\n[ "$1" = --show ] || echo call >> {self.calls}\nexec {real.initdb} "$@"\n')
        self.initdb.chmod(0o755)

    def environment(self, **variables):
        return super().environment(**{"DBTESTCASE_CACHE": self.cache, "DBTESTCASE_BIN_DIR": self.bin_dir, **variables})

    def initdb_calls(self) -> int:
        return len(self.calls.read_text().splitlines())

    def packs(self, kind: str = "") -> list[Path]:
        return sorted(self.cache.glob(f"{kind}*.pack"))


class SharedTests(TemplateTestCase):
    @once
    def test_eight_processes_on_an_empty_cache_run_initdb_once(self):
        processes = [
            subprocess.Popen(
                self.command(BOOT),
                env=self.environment(),
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
            for _ in range(int(os.environ.get("DBTESTCASE_AT_ONCE", "8")))
        ]
        results = [(*process.communicate(timeout=120), process.returncode) for process in processes]

        self.assertEqual(results, [("up\n", "", 0)] * len(processes))
        self.assertEqual(self.initdb_calls(), 1)
        self.assertEqual(self.folders(), [])

    @once
    def test_a_second_run_makes_nothing(self):
        self.assertEqual(self.run_well(PREPARED), "prepared\nthere")

        self.assertEqual(self.run_well(PREPARED), "there")

        self.assertEqual(self.initdb_calls(), 1)
        self.assertEqual([path.suffix for path in self.cache.glob("*.part")], [])

    @once
    def test_the_files_of_the_cache_are_for_the_owner_alone(self):
        self.run_well(BOOT)

        for path in (self.cache, *self.cache.iterdir()):
            self.assertEqual(stat.S_IMODE(path.stat().st_mode) & 0o022, 0, path)
        self.assertEqual(stat.S_IMODE(self.cache.stat().st_mode), 0o700)

    @once
    def test_without_a_cache_everything_works_and_nothing_is_written(self):
        output = self.run_well(PREPARED + PREPARED, DBTESTCASE_CACHE="off", HOME=self.scratch / "home")

        self.assertEqual(output, "prepared\nthere\nthere")
        self.assertFalse((self.scratch / "home").exists())
        self.assertEqual(self.folders(), [])

    @once
    def test_a_cache_that_cannot_be_written_costs_a_word_and_no_more(self):
        self.cache.write_text("a file, so that even root cannot make a folder of it")

        result = self.python(PREPARED + PREPARED)

        self.assertEqual((result.returncode, result.stdout), (0, "prepared\nthere\nthere\n"), result.stderr)
        self.assertEqual(len(result.stderr.splitlines()), 1, result.stderr)
        self.assertIn("DBTESTCASE_CACHE", result.stderr)

    @unittest.skipIf(os.getuid() == 0, "root may write everywhere")
    def test_a_read_only_cache_is_read(self):
        self.run_well(BOOT)
        self.cache.chmod(0o500)
        self.addCleanup(self.cache.chmod, 0o700)

        self.assertEqual(self.run_well(BOOT), "up")
        self.assertEqual(self.initdb_calls(), 1)

    def test_a_failing_initdb_is_quoted(self):
        self.initdb.write_text("#!/bin/sh\necho 'the disk is on fire' >&2\nexit 3\n")

        result = self.python(BOOT)

        self.assertIn("PostgresNotReady", result.stderr)
        self.assertIn("the disk is on fire", result.stderr)
        self.assertIn("exit status 3", result.stderr)
        self.assertEqual(self.packs(), [])
        self.assertEqual(self.folders(), [])

    @once
    def test_a_slow_first_run_says_so_to_a_terminal_and_not_to_a_pipe(self):
        self.initdb.write_text(self.initdb.read_text().replace("exec", "sleep 1.1\nexec"))
        self.assertEqual(self.python(BOOT).stderr, "")
        clear = [path.unlink() for path in self.cache.iterdir()]
        self.assertTrue(clear)

        terminal, other_end = os.openpty()
        process = subprocess.run(
            self.command(BOOT), env=self.environment(), stderr=other_end, stdout=subprocess.PIPE, check=False
        )
        os.close(other_end)
        said = os.read(terminal, 4096).decode()
        os.close(terminal)

        self.assertEqual(process.returncode, 0)
        self.assertEqual(len(said.strip().splitlines()), 1, said)
        self.assertIn("PostgreSQL", said)


class DamageTests(TemplateTestCase):
    """In this process, with a store that begins as empty as that of a new one, and a cache that is full."""

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.shared = Path(cls.enterClassContext(tempfile.TemporaryDirectory(dir="/tmp")))
        cls.shared.chmod(0o755)

    def setUp(self):
        super().setUp()
        # The programs in the same location for all tests, so that one cache does for them.
        self.bin_dir = self.shared / "bin"
        self.calls = self.shared / "calls"
        if not self.bin_dir.exists():
            self.calls.touch()
            self.calls.chmod(0o666)
            self.make_bin_dir()
        self.options = ThrowawayPostgres(bin_dir=self.bin_dir)
        changed_environment(self, {"DBTESTCASE_CACHE": self.shared / "cache", "DBTESTCASE_DIR": self.location})
        self.boot()
        shutil.copytree(self.shared / "cache", self.cache)
        os.environ["DBTESTCASE_CACHE"] = str(self.cache)
        self.calls.write_text("call\n")
        (self.pack,) = self.packs()

    def boot(self) -> str:
        """Boot as a new process would; return what was told."""
        with (
            mock.patch.object(template, "_store", Store()),
            mock.patch.object(messages, "_printed", set()),
            redirect_stderr(StringIO()) as told,
            running_instance(self.options) as instance,
        ):
            instance.connect().close()
        return told.getvalue()

    def assertRebuilt(self) -> str:
        before = self.initdb_calls()
        told = self.boot()
        self.assertEqual(self.initdb_calls(), before + 1)
        self.assertEqual(self.boot(), "")
        self.assertEqual(self.initdb_calls(), before + 1)
        return told

    def test_a_template_cut_short_is_made_anew_with_a_word(self):
        os.truncate(self.pack, self.pack.stat().st_size // 2)

        self.assertRegex(self.assertRebuilt(), "damaged .*made anew")

    def test_a_template_with_wrong_bytes_is_made_anew_with_a_word(self):
        with open(self.pack, "r+b") as file:
            file.seek(1_000_000)
            file.write(b"wrong" * 1000)

        self.assertRegex(self.assertRebuilt(), "damaged .*made anew")

    def test_damage_that_keeps_the_time_stamp_is_found_too(self):
        about = self.pack.stat()
        with open(self.pack, "r+b") as file:
            file.seek(about.st_size // 2)
            (byte,) = file.read(1)
            file.seek(-1, os.SEEK_CUR)
            file.write(bytes([byte ^ 1]))
        os.utime(self.pack, ns=(about.st_atime_ns, about.st_mtime_ns))

        self.assertRegex(self.assertRebuilt(), "damaged .*made anew")

    def test_a_template_that_was_never_finished_is_made_anew(self):
        self.pack.unlink()
        (self.cache / f"{self.pack.stem}.123-abc.part").write_text("half")

        self.assertEqual(self.assertRebuilt(), "")
        self.assertEqual(list(self.cache.glob("*.part")), [])

    @once
    def test_a_missing_template_is_made_anew(self):
        self.pack.unlink()

        self.assertEqual(self.assertRebuilt(), "")

    def test_a_template_that_was_only_copied_is_believed(self):
        os.utime(self.pack)

        self.assertEqual(self.boot(), "")

        self.assertEqual(self.initdb_calls(), 1)

    def test_one_whose_base_was_damaged_or_made_anew_is_made_anew_too(self):
        self.options = ThrowawayPostgres(bin_dir=self.bin_dir, extensions=("tablefunc",))
        self.boot()
        with open(self.pack, "r+b") as file:
            file.seek(1_000_000)
            file.write(b"wrong" * 1000)

        told = self.assertRebuilt()

        self.assertIn(str(self.pack), told)
        self.assertEqual(len(told.splitlines()), 1, told)

    def test_a_template_that_is_deleted_while_a_run_uses_it_is_made_anew(self):
        with running_instance(self.options):
            for path in self.cache.iterdir():
                path.unlink()

        with running_instance(self.options) as instance:
            instance.connect().close()

        self.assertEqual(self.initdb_calls(), 2)

    def test_a_template_that_is_deleted_while_the_spare_boots_is_made_anew(self):
        expect(self.options, EMPTY)
        for path in self.cache.iterdir():
            path.unlink(missing_ok=True)  # it may be what the standby has just renamed

        with running_instance(self.options) as instance:
            instance.connect().close()

    def test_another_build_of_postgresql_has_another_template(self):
        other = shutil.copytree(self.bin_dir, self.scratch / "other", symlinks=True)

        with running_instance(ThrowawayPostgres(bin_dir=other)):
            pass

        self.assertEqual(len(self.packs("base-")), 2)


class CacheTests(ScratchTestCase):
    def setUp(self):
        super().setUp()
        self.folder = self.scratch / "cache"
        self.folder.mkdir()
        self.cache = Cache(self.folder)
        changed_environment(self, {"DBTESTCASE_CACHE": self.folder})

        self.source = self.scratch / "source"
        self.source.mkdir()

    def publish(self, key: str, days_ago: float = 0) -> int:
        """Publish a template that was used last so many days ago; return its size."""
        with self.cache.lock(key):
            made = write_pack(self.source, self.cache.private_path(key), "15", {"description": f"about {key}"})
            self.cache.publish(key, made)
        used = time.time() - days_ago * 86400
        os.utime(self.folder / f"{key}.lock", (used, used))
        return self.cache.pack_path(key).stat().st_size

    def keys(self):
        return sorted(template.path.stem for template in self.cache.templates())

    def test_what_was_not_used_for_a_month_is_pruned(self):
        self.publish("old", days_ago=31)
        self.publish("young", days_ago=29)

        self.cache.prune()

        self.assertEqual(self.keys(), ["young"])

    def test_the_longest_unused_goes_when_there_is_too_much(self):
        for days, key in enumerate(("a", "b", "c")):
            size = self.publish(key, days_ago=days)

        with mock.patch("dbtestcase.servers.cache.KEEP_BYTES", 2 * size + size // 2):
            self.cache.prune("c")
            self.assertEqual(self.keys(), ["a", "b", "c"])
            self.cache.prune()

        self.assertEqual(self.keys(), ["a", "b"])

    def test_using_a_template_makes_it_young(self):
        self.publish("old", days_ago=20)

        self.cache.load("old")

        self.assertLess(time.time() - self.cache.templates()[0].last_used, 60)

    def test_the_cache_is_listed_and_cleared(self):
        self.publish("one", days_ago=1)
        self.publish("two")
        (self.folder / "somebody-elses.txt").write_text("x")

        self.assertEqual([template.description for template in cached_templates()], ["about two", "about one"])
        clear_cache()

        self.assertEqual(os.listdir(self.folder), ["somebody-elses.txt"])
