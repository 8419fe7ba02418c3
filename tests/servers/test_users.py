"""Users, homes, modes and paths that are not as usual: the server starts, or a sentence says why not."""

from __future__ import annotations

import os
import stat
import subprocess
import unittest
from pathlib import Path
from unittest import mock

from dbtestcase.servers import ThrowawayPostgres, running_instance, user
from dbtestcase.servers.cache import cache_folder
from dbtestcase.servers.environment import server_environment
from tests.servers.support import ScratchTestCase, changed_environment
from tests.support import once

USE = """
import os
from dbtestcase.servers import *
with running_instance(ThrowawayPostgres()) as instance:
    connection = instance.connect()
    connection.close()
    print("used", instance.socket_dir)
"""
STRANGER = 54321


class StrangerTests(ScratchTestCase):
    """Users without an entry in the list of users, as in ``docker run -u``."""

    def setUp(self):
        super().setUp()
        os.chmod(self.location, 0o777)
        self.cache = self.scratch / "cache"
        self.cache.mkdir(mode=0o700)

    def own_cache(self) -> Path:
        os.chown(self.cache, STRANGER, STRANGER)
        return self.cache

    def test_one_without_an_entry_initializes_and_starts_a_server(self):
        if subprocess.run(["unshare", "--user", "true"], check=False, capture_output=True).returncode:
            self.skipTest("user namespaces are not allowed here")

        result = self.python_as(STRANGER, USE, DBTESTCASE_CACHE=self.own_cache())

        self.assertTrue(result.stdout.startswith("used"), result.stderr)
        self.assertTrue(list(self.cache.glob("base-*.pack")))
        self.assertSoon(lambda: not self.servers() and not self.folders(), 5, "something is left")

    def test_where_none_can_be_pretended_a_sentence_says_what_is_missing(self):
        no_namespaces = "from dbtestcase.servers import directory, environment\nimport ctypes\n"
        folder = self.scratch / "preload"
        folder.mkdir()
        # The supervisor's own child makes the namespace, so it is the limit of the kernel that has to say no.
        code = no_namespaces + USE
        result = self.python_as(
            STRANGER,
            code,
            prefix=[
                "unshare",
                "--user",
                "--map-root-user",
                "sh",
                "-c",
                'echo 0 > /proc/sys/user/max_user_namespaces && exec setpriv --reuid=0 "$@"',
                "sh",
            ],
            DBTESTCASE_CACHE=self.own_cache(),
        )
        if "max_user_namespaces" in result.stderr:
            self.skipTest("the number of user namespaces cannot be limited here")

        self.assertIn("entry in the list of users", result.stderr)

    def test_without_a_home_the_cache_is_off_and_nothing_is_written_here(self):
        here = self.scratch / "here"
        here.mkdir(mode=0o777)
        os.chmod(here, 0o777)
        code = "import os\nos.environ.pop('HOME', None)\n" + f"os.chdir({str(here)!r})\n"
        code += "from dbtestcase.servers.cache import cache_folder\nprint(cache_folder())\n" + USE

        result = self.python_as(STRANGER, code, HOME="", XDG_CACHE_HOME="")

        self.assertEqual(result.stdout.split()[:2], ["None", "used"], result.stderr)
        self.assertEqual(os.listdir(here), [])

    def test_an_umask_that_takes_every_right_does_not_matter(self):
        result = self.python_as(
            STRANGER, "import os\nos.umask(0o777)\n" + USE * 2, DBTESTCASE_CACHE=self.own_cache() / "made"
        )

        self.assertEqual(result.stdout.count("used"), 2, result.stderr)
        self.assertEqual(result.stderr, "")
        self.assertEqual(stat.S_IMODE((self.cache / "made").stat().st_mode), 0o700)
        self.assertEqual({stat.S_IMODE(path.stat().st_mode) for path in (self.cache / "made").iterdir()}, {0o600})

    def test_root_in_a_namespace_of_a_single_user_starts_a_server(self):
        single = ["unshare", "--user", "--map-root-user"]
        if subprocess.run([*single, "true"], check=False, capture_output=True).returncode:
            self.skipTest("user namespaces are not allowed here")

        result = self.python_as(STRANGER, USE, prefix=single, DBTESTCASE_CACHE=self.own_cache())

        self.assertTrue(result.stdout.startswith("used"), result.stderr)
        self.assertSoon(lambda: not self.servers() and not self.folders(), 5, "something is left")


class PathTests(ScratchTestCase):
    @once
    def test_paths_with_characters_that_mean_something_to_somebody(self):
        for name in ("a,b", "a'b", 'a"b', "a\\b", "a b", "a@b", "a%20b", "-D", "größe", "$(id)"):
            odd = self.scratch / name
            odd.mkdir()
            with self.subTest(name):
                output = self.run_well(USE, DBTESTCASE_DIR=odd, DBTESTCASE_CACHE=odd / "cache")

                self.assertTrue(output.startswith("used"))
                self.assertTrue(list((odd / "cache").glob("base-*.pack")))

    @once
    @unittest.skipIf(os.getuid() != 0, "only root can mount something over /dev/shm")
    def test_a_tiny_shared_memory_is_left_as_it_was(self):
        script = 'mount -t tmpfs -o size=1m tmpfs /dev/shm && "$@"; ls -A /dev/shm; echo size $?'
        command = ["unshare", "--mount", "sh", "-c", script, "sh", *self.command(USE)]
        location = Path(self.enterContext(_folder_on_disk()))
        environment = self.environment(DBTESTCASE_CACHE=location / "cache")
        del environment["DBTESTCASE_DIR"]

        result = subprocess.run(
            command, env=environment, cwd="/", capture_output=True, text=True, timeout=180, check=False
        )
        if "mount" in result.stderr or "unshare" in result.stderr:
            self.skipTest("nothing can be mounted here")

        self.assertEqual(result.stderr, "")
        self.assertRegex(result.stdout, r"^used [^\n]+\nsize 0\n$")

    def test_a_root_folder_without_proc_is_enough(self):
        script = 'mount -t tmpfs tmpfs /proc && exec "$@"'
        command = ["unshare", "--mount", "sh", "-c", script, "sh", *self.command(USE)]

        result = subprocess.run(
            command, env=self.environment(), cwd="/", capture_output=True, text=True, timeout=180, check=False
        )
        if "mount" in result.stderr or "unshare" in result.stderr:
            self.skipTest("nothing can be mounted here")

        self.assertEqual((result.stderr, result.stdout[:5]), ("", "used "))


def _folder_on_disk():
    import tempfile

    return tempfile.TemporaryDirectory(prefix="dbtc-", dir="/var/tmp")


class EnvironmentOfServersTests(ScratchTestCase):
    def test_a_server_sees_of_the_environment_what_it_needs(self):
        changed_environment(
            self, {"AWS_SECRET_ACCESS_KEY": "secret", "DATABASE_URL": "postgresql://u:p@h/d", "FOO": "1"}
        )

        seen = server_environment()

        self.assertLess(
            set(seen), {"LC_ALL", "PATH", "TMPDIR", "LD_LIBRARY_PATH", "LD_PRELOAD", "ICU_DATA", "OPENSSL_CONF"}
        )
        with running_instance(ThrowawayPostgres()) as instance:
            instance.execute("CREATE TABLE seen (line text); COPY seen FROM PROGRAM 'env'", database="test")
            connection = instance.connect()
            self.addCleanup(connection.close)
            with connection.cursor() as cursor:
                cursor.execute("SELECT string_agg(line, E'\\n') FROM seen")
                (lines,) = cursor.fetchone()
        self.assertNotIn("secret", lines)
        self.assertNotIn("DATABASE_URL", lines)


@unittest.skipIf(os.getuid() != 0, "these are about running as root")
class RootTests(ScratchTestCase):
    def test_it_is_not_the_user_whose_a_real_cluster_may_be(self):
        with running_instance(ThrowawayPostgres()) as instance:
            owner = instance.data_dir.stat().st_uid

        import pwd

        names = {entry.pw_uid: entry.pw_name for entry in pwd.getpwall()}
        self.assertNotEqual(names.get(owner), "postgres")

    def test_root_without_a_capability_that_it_takes_is_told_so_and_starts_nothing(self):
        lacking = ["setpriv", "--bounding-set=-kill", "--inh-caps=-kill"]
        if subprocess.run([*lacking, "true"], check=False, capture_output=True).returncode:
            self.skipTest("no capability can be given up here")

        result = self.python_as(0, USE, prefix=lacking)

        self.assertIn("may not run it as an ordinary user: it lacks CAP_KILL.\nRun the tests as", result.stderr)
        self.assertEqual((self.servers(), self.folders()), ([], []))

    def test_an_account_made_for_it_comes_first(self):
        def lookup(name):
            entries = {"dbtestcase": mock.Mock(pw_uid=777, pw_gid=778), "nobody": mock.Mock(pw_uid=65534, pw_gid=65534)}
            return entries[name]

        with mock.patch("pwd.getpwnam", lookup):
            self.assertEqual(next(user._users()), (777, 778))

    def test_the_log_is_not_for_others_to_read(self):
        with running_instance(ThrowawayPostgres()) as instance:
            self.assertEqual(stat.S_IMODE((Path(instance.base_dir) / "server.log").stat().st_mode), 0o600)

    def test_the_cache_of_root_is_not_in_the_home_of_somebody_else(self):
        home = self.scratch / "home"
        home.mkdir()
        os.chown(home, STRANGER, STRANGER)
        changed_environment(self, {"HOME": home})
        os.environ.pop("DBTESTCASE_CACHE", None)

        self.assertFalse(str(cache_folder()).startswith(str(home)))
