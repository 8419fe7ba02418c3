"""What somebody else could have written is not used: folders, templates, kept databases, programs."""

from __future__ import annotations

import json
import os
import stat
import unittest
from pathlib import Path
from unittest import mock

from dbtestcase.errors import DBTestCaseError, PostgresNotFound
from dbtestcase.servers import (
    ThrowawayPostgres,
    cached_templates,
    doctor,
    find_programs,
    kept_instances,
    locations,
    messages,
    programs,
    running_instance,
    running_kept,
    trust,
)
from dbtestcase.servers.archive import kept_folder
from dbtestcase.servers.cache import Cache
from dbtestcase.servers.supervisor import folder
from dbtestcase.servers.supervisor import pack as packs
from tests.servers.support import ScratchTestCase, changed_environment
from tests.support import once

OPTIONS = ThrowawayPostgres()
STRANGER = 54321


class TrustTestCase(ScratchTestCase):
    def setUp(self):
        super().setUp()
        self.cache = self.scratch / "cache"
        changed_environment(self, {"DBTESTCASE_DIR": self.location, "DBTESTCASE_CACHE": self.cache})
        self.said = []
        self.enterContext(mock.patch.object(messages, "_print", self.said.append))
        self.enterContext(mock.patch.object(messages, "_printed", set()))

    def use(self) -> None:
        """Use an instance, with what this process knows of templates forgotten."""
        from dbtestcase.servers import store, template

        with mock.patch.object(template, "_store", store.Store()), running_instance(OPTIONS) as instance:
            instance.connect().close()

    def spoil(self, how: str) -> None:
        """Make the cache folder one that others could have written to."""
        if how == "mode":
            self.cache.chmod(0o777)
        elif how == "owner":
            if os.getuid() != 0:
                self.skipTest("only root can give a folder away")
            os.chown(self.cache, STRANGER, STRANGER)
        else:
            self.cache.rename(self.scratch / "elsewhere")
            self.cache.symlink_to(self.scratch / "elsewhere")


class CacheTests(TrustTestCase):
    @once
    def test_a_folder_that_others_can_write_to_is_not_used_and_named_with_the_reason(self):
        for how, reason in {"mode": "chmod go-w", "owner": "user id 54321", "link": "link"}.items():
            with self.subTest(how):
                self.use()
                (pack,) = self.cache.glob("*.pack")
                pack.write_bytes(b"")  # and what is in it would not serve
                before = sorted(self.cache.iterdir())
                self.spoil(how)

                self.use()

                self.assertEqual(cached_templates(), [])
                self.assertEqual(len(self.said), 1)
                self.assertIn(reason, self.said.pop())
                self.assertEqual(sorted(self.cache.iterdir()), before)
                messages._printed.clear()
                if self.cache.is_symlink():
                    self.cache.unlink()
                else:
                    self.cache.rename(self.scratch / how)

    def test_it_is_made_for_the_owner_alone_whoever_makes_it_first(self):
        doctor._write_problem(self.cache / "by" / "doctor")
        trust.make_folder(self.scratch / "a" / "b")
        self.use()

        for made in (self.cache, self.cache / "by", self.cache / "by" / "doctor", self.scratch / "a"):
            self.assertEqual(stat.S_IMODE(made.stat().st_mode), 0o700, made)
        for made in self.cache.glob("*.*"):
            self.assertEqual(stat.S_IMODE(made.stat().st_mode), 0o600, made)

    def test_a_lock_that_is_a_link_is_not_followed(self):
        precious = self.scratch / "precious"
        trust.make_folder(self.cache)
        (self.cache / "key.lock").symlink_to(precious)

        with self.assertRaises(OSError), Cache(self.cache).lock("key"):
            self.fail("it was followed")
        self.assertFalse(precious.exists())

    @unittest.skipIf(os.getuid() != 0, "only root can give a file away")
    def test_a_template_of_another_owner_is_not_used(self):
        self.use()
        (pack,) = self.cache.glob("*.pack")
        os.chown(pack, STRANGER, STRANGER)
        self.assertIsNone(Cache(self.cache).load(pack.stem))


class PackTests(TrustTestCase):
    def write(self, path: Path, said: object) -> None:
        """Write a pack of which this is said, as JSON unless it is a text."""
        path.unlink(missing_ok=True)
        packs.write(str(self.source), str(path), said if isinstance(said, str) else json.dumps(said))

    def setUp(self):
        super().setUp()
        self.source = self.scratch / "source"
        self.source.mkdir()

    @once
    def test_one_that_cannot_be_understood_is_made_anew_whatever_is_wrong_with_it(self):
        self.use()
        (path,) = self.cache.glob("base-*.pack")
        whole = json.loads(packs.about(str(path)).text)
        wrong = [
            *({**whole, "server_version": value} for value in ("x", "", "15.x", "1" * 50, 15, None, ["15"], "-1")),
            *({**whole, "notes": value} for value in ("[]", "no JSON", "[" * 100_000, None)),
            *(
                {name: whole[name] for name in whole if name != left_out}
                for left_out in ("server_version", "notes", "base")
            ),
            {**whole, "base": "nonesuch"},
            *([], None, "template", 1, {}),
        ]
        for said in (*wrong, "", "{", "[" * 100_000, '{"a":' * 100_000, "\0", "\udcff"):
            with self.subTest(str(said)[:80]):
                self.write(path, said)

                self.assertIsNone(Cache(self.cache).load(path.stem))

        self.use()
        self.assertIsNotNone(Cache(self.cache).load(path.stem))

    def test_one_that_is_a_pipe_or_a_link_keeps_nobody_waiting(self):
        self.use()
        (path,) = self.cache.glob("base-*.pack")
        whole = path.rename(self.scratch / "elsewhere")
        os.mkfifo(path)
        self.assertIsNone(Cache(self.cache).load(path.stem))

        path.unlink()
        path.symlink_to(whole)
        self.assertIsNone(Cache(self.cache).load(path.stem))


class KeptTests(TrustTestCase):
    def keep(self) -> None:
        with running_instance(OPTIONS, owner="ShopTests") as instance:
            instance.keep()

    def test_nothing_is_read_from_or_written_to_a_folder_that_others_can_write_to(self):
        self.keep()
        (kept,) = kept_instances()
        kept_folder().chmod(0o777)

        self.assertEqual(kept_instances(), [])
        with self.assertRaises(DBTestCaseError), running_kept(kept.name):
            pass
        with self.assertRaisesRegex(DBTestCaseError, "ShopTests cannot be kept.*others can write"):
            self.keep()

    def test_without_a_cache_a_folder_that_somebody_else_made_is_refused(self):
        if os.getuid() != 0:
            self.skipTest("only root can make a folder for somebody else")
        changed_environment(self, {"DBTESTCASE_CACHE": "off"})
        with mock.patch("tempfile.gettempdir", return_value=str(self.scratch)):
            kept_folder().mkdir(mode=0o700)
            os.chown(kept_folder(), STRANGER, STRANGER)

            with self.assertRaisesRegex(DBTestCaseError, "user id 54321"):
                self.keep()

    def test_what_is_kept_is_for_the_owner_alone(self):
        self.keep()

        self.assertEqual(stat.S_IMODE(kept_folder().stat().st_mode), 0o700)
        self.assertEqual({stat.S_IMODE(path.stat().st_mode) for path in kept_folder().iterdir()}, {0o600})

    def test_one_that_cannot_be_understood_is_passed_over(self):
        self.keep()
        (path,) = kept_folder().glob("*.pack")
        source = self.scratch / "source"
        source.mkdir()
        whole = json.loads(packs.about(str(path)).text)
        wrong = (json.dumps({**whole, "settings": 1}), json.dumps({**whole, "server_version": 1}))
        for text in ("", "[]", "{}", "[" * 100_000, *wrong):
            path.unlink()
            packs.write(str(source), str(path), text)
            with self.subTest(text[:20]):
                self.assertEqual(kept_instances(), [])
                with self.assertRaises(DBTestCaseError), running_kept(path.stem):
                    pass


class ProgramsTests(ScratchTestCase):
    def make(self) -> Path:
        bin_dir = self.scratch / "bin"
        bin_dir.mkdir()
        for name in ("initdb", "postgres"):
            (bin_dir / name).write_text("#!/bin/sh\n")
            (bin_dir / name).chmod(0o755)
        return bin_dir

    def test_a_named_folder_in_which_everybody_can_write_is_refused(self):
        bin_dir = self.make()
        bin_dir.chmod(0o777)

        with self.assertRaisesRegex(PostgresNotFound, "everybody can write"):
            find_programs(bin_dir)

    def test_a_program_that_everybody_can_write_is_refused(self):
        bin_dir = self.make()
        (bin_dir / "postgres").chmod(0o777)

        with self.assertRaisesRegex(PostgresNotFound, "everybody can write"):
            find_programs(bin_dir)

    def test_such_a_one_on_path_is_passed_over(self):
        bin_dir = self.make()
        bin_dir.chmod(0o777)
        changed_environment(self, {"PATH": str(bin_dir)})
        os.environ.pop("DBTESTCASE_BIN_DIR", None)

        with (
            mock.patch.object(programs, "USUAL_LOCATIONS", ()),
            mock.patch.object(programs, "WHEELS", ()),
            self.assertRaisesRegex(PostgresNotFound, "not used: everybody can write"),
        ):
            find_programs()

    @unittest.skipIf(os.getuid() != 0, "only root can give a file away")
    def test_a_program_of_another_user_is_refused(self):
        bin_dir = self.make()
        os.chown(bin_dir / "initdb", STRANGER, STRANGER)

        with self.assertRaisesRegex(PostgresNotFound, "user id 54321"):
            find_programs(bin_dir)


class FolderTests(ScratchTestCase):
    def test_a_folder_with_our_kind_of_name_that_somebody_else_made_is_left_alone(self):
        name = f"{folder.PREFIX}{os.getuid()}-0123456789"
        elsewhere = self.scratch / "elsewhere"
        elsewhere.mkdir()
        (elsewhere / folder.LOCK).write_bytes(folder.MARK)
        (self.location / name).symlink_to(elsewhere)

        self.assertEqual(folder.dead(str(self.location)), [])
        if os.getuid() == 0:
            (self.location / name).unlink()
            elsewhere.rename(self.location / name)
            os.chown(self.location / name, STRANGER, STRANGER)
            self.assertEqual(folder.dead(str(self.location)), [])

    def test_the_names_of_folders_cannot_be_foretold(self):
        paths = []
        for _ in range(20):
            path, lock = folder.make(str(self.location), 0o700)
            os.close(lock)
            paths.append(path)

        self.assertEqual(len(set(paths)), 20)
        self.assertTrue(all(len(path.rpartition("-")[2]) >= 10 for path in paths))
        self.assertTrue(locations.reachable(str(self.location), None))


@unittest.skipIf(os.getuid() != 0, "these are about running as root")
class SwappedLinkTests(ScratchTestCase):
    """The code under test runs as the server's user, who owns the data folder that root packs."""

    @once
    def test_a_link_in_the_data_folder_puts_nothing_of_roots_into_a_template(self):
        from dbtestcase.errors import PostgresNotReady
        from dbtestcase.servers import Contents

        secret = self.scratch / "secret"
        secret.write_text("for root's eyes only")
        secret.chmod(0o600)
        changed_environment(self, {"DBTESTCASE_DIR": self.location, "DBTESTCASE_CACHE": self.scratch / "cache"})
        for command in (f"ln -s {secret} stray", f"ln -s {self.scratch} pg_notify/stray", "mkfifo stray"):

            def prepare(instance, command=command):
                instance.execute(f"COPY (SELECT 1) TO PROGRAM 'cat >/dev/null; {command}'")

            with (
                self.subTest(command),
                self.assertRaisesRegex(PostgresNotReady, "stray"),
                running_instance(OPTIONS, Contents(command, prepare)),
            ):
                self.fail("it was packed")
        for pack in (self.scratch / "cache").glob("*.pack"):
            self.assertNotIn(b"root's eyes", pack.read_bytes())
        self.assertSoon(lambda: not self.folders(), 5, "something is left")

    def test_a_pipe_in_place_of_the_pid_file_does_not_stop_the_supervisor(self):
        changed_environment(self, {"DBTESTCASE_DIR": self.location})
        with running_instance(OPTIONS) as instance:
            pipe = "rm postmaster.pid postgresql.conf && mkfifo postmaster.pid"
            for command in (pipe, "ln -s /etc/passwd postgresql.conf"):
                instance.execute(f"COPY (SELECT 1) TO PROGRAM 'cat >/dev/null; {command}'")

            with running_instance(OPTIONS) as other:
                self.assertTrue(other.answers())
            self.assertTrue(Path("/etc/passwd").read_text().startswith("root"))
