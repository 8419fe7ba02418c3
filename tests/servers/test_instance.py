"""An instance as its user sees it."""

from __future__ import annotations

import os
import signal
import tempfile
import unittest
from pathlib import Path

import psycopg2
from sqlalchemy import make_url
from testing.postgresql import Postgresql

from dbtestcase.errors import DBTestCaseError, PostgresNotFound, PostgresNotReady
from dbtestcase.servers import (
    EMPTY,
    Contents,
    Instance,
    ThrowawayPostgres,
    kept_instances,
    remove_kept,
    running_instance,
    running_kept,
    start_instance,
)
from tests.servers.support import ScratchTestCase, changed_environment


def ask(instance: Instance, sql: str, database: str = "test") -> object:
    connection = instance.connect(database)
    try:
        with connection.cursor() as cursor:
            cursor.execute(sql)
            return cursor.fetchone()[0]
    finally:
        connection.close()


class RunningInstanceTests(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.instance = cls.enterClassContext(running_instance(ThrowawayPostgres()))

    def test_it_is_an_instance_of_testing_postgresql(self):
        self.assertIsInstance(self.instance, Postgresql)
        self.assertTrue(self.instance.is_alive())
        self.assertEqual(self.instance.server_pid, self.instance.child_process.pid)
        self.assertTrue(Path(self.instance.base_dir).is_dir())

    def test_dsn_is_what_psycopg2_connects_with(self):
        connection = psycopg2.connect(**self.instance.dsn())
        self.addCleanup(connection.close)

        self.assertEqual(connection.info.dbname, "test")
        self.assertEqual(connection.info.user, "postgres")

    def test_url_names_the_driver_and_the_database(self):
        url = make_url(self.instance.url(database="pläne/1"))

        self.assertEqual(url.drivername, "postgresql+psycopg2")
        self.assertEqual(url.database, "pläne/1")
        self.assertEqual(url.query["host"], str(self.instance.socket_dir))

    def test_text_beyond_ascii_comes_back_as_it_was(self):
        self.assertEqual(ask(self.instance, "SELECT upper('ärger') || '☃'"), "ÄRGER☃")
        self.assertEqual(ask(self.instance, "SHOW server_encoding"), "UTF8")

    def test_nobody_can_reach_it_over_the_network(self):
        self.assertEqual(ask(self.instance, "SHOW listen_addresses"), "")
        self.assertEqual(self.instance.socket_dir.stat().st_mode & 0o777, 0o700)

    def test_server_version_is_that_of_the_server(self):
        self.assertTrue(str(ask(self.instance, "SHOW server_version")).startswith(self.instance.server_version))

    def test_databases_that_tools_expect_exist(self):
        for name in ("postgres", "template0", "template1"):
            self.assertEqual(ask(self.instance, f"SELECT count(*) FROM pg_database WHERE datname = '{name}'"), 1, name)

    def test_a_database_is_cloned_and_dropped(self):
        self.instance.execute("CREATE DATABASE source")
        self.instance.execute("CREATE TABLE t AS SELECT 42 AS answer", database="source")

        self.instance.clone_database("source", 'a "copy"')
        answer = ask(self.instance, "SELECT answer FROM t", 'a "copy"')
        connection = self.instance.connect('a "copy"')
        self.addCleanup(connection.close)
        self.instance.drop_database('a "copy"')
        self.instance.drop_database('a "copy"')

        self.assertEqual(answer, 42)
        with self.assertRaises(psycopg2.OperationalError):
            self.instance.connect('a "copy"')


class LifeTests(ScratchTestCase):
    def setUp(self):
        super().setUp()
        changed_environment(self, {"DBTESTCASE_DIR": self.location})

    def test_it_can_be_made_without_arguments(self):
        with start_instance() as instance:
            self.assertEqual(ask(instance, "SELECT 1"), 1)

        self.assertFalse(instance.is_alive())
        self.assertIsNone(instance.server_pid)

    def test_stop_ends_the_server_and_deletes_its_folder(self):
        instance = start_instance()
        pid = instance.server_pid

        instance.stop()

        with self.assertRaises(ProcessLookupError):
            os.kill(pid, 0)
        self.assertFalse(os.path.exists(instance.base_dir))
        instance.stop()

    def test_nothing_is_left_two_seconds_after_the_block_even_when_it_raises(self):
        with self.assertRaises(ZeroDivisionError), running_instance(ThrowawayPostgres()) as instance:
            raise ZeroDivisionError

        self.assertFalse(instance.is_alive())
        self.assertSoon(lambda: not self.servers() and not self.folders(), 2, "something is left")

    def test_a_terminated_server_starts_again_with_its_data(self):
        with start_instance() as instance:
            instance.execute("CREATE TABLE t AS SELECT 7 AS x", database="test")
            instance.terminate(signal.SIGINT)
            self.assertFalse(instance.is_alive())

            instance.start()

            self.assertEqual(ask(instance, "SELECT x FROM t"), 7)

    def test_a_server_that_was_killed_is_not_alive(self):
        with running_instance(ThrowawayPostgres()) as instance:
            process = instance.child_process

            process.kill()

            self.assertEqual(process.wait(60), -signal.SIGKILL)
            self.assertFalse(instance.is_alive())

    def test_a_forked_child_that_exits_leaves_the_parents_server_alone(self):
        with running_instance(ThrowawayPostgres()) as instance:
            child = os.fork()
            if not child:
                instance.stop()
                os._exit(0)
            os.waitpid(child, 0)

            self.assertTrue(instance.is_alive())
            self.assertEqual(ask(instance, "SELECT 1"), 1)

    def test_an_instance_that_nobody_holds_any_more_ends(self):
        pid = start_instance().server_pid

        with self.assertRaises(ProcessLookupError):
            os.kill(pid, 0)

    def test_the_next_instance_has_nothing_of_the_one_before(self):
        with running_instance(ThrowawayPostgres()) as first:
            first.execute("CREATE DATABASE other")
            first.execute("CREATE ROLE somebody")
            first.execute("ALTER SYSTEM SET work_mem = '7MB'")
            first.execute("CREATE TABLE t AS SELECT generate_series(1, 10000) AS x", database="test")
            first.execute("ALTER DATABASE test SET work_mem = '9MB'")
            first.execute("UPDATE pg_type SET typname = 'int4x' WHERE typname = 'int4'", database="test")
            first.execute("VACUUM FULL", database="template1")
            (first.data_dir / "base" / "stray").write_text("not PostgreSQL's")

        with running_instance(ThrowawayPostgres()) as second:
            self.assertNotEqual(first.base_dir, second.base_dir)
            self.assertEqual(ask(second, "SELECT count(*) FROM pg_database"), 4)
            self.assertEqual(ask(second, "SELECT count(*) FROM pg_roles WHERE rolname = 'somebody'"), 0)
            self.assertEqual(ask(second, "SHOW work_mem"), "4MB")
            self.assertEqual(ask(second, "SELECT count(*) FROM pg_class WHERE relname = 't'"), 0)
            self.assertEqual(ask(second, "SELECT 1::int4"), 1)
            self.assertFalse((second.data_dir / "base" / "stray").exists())

    def test_a_kept_instance_can_be_started_again_until_it_is_removed(self):
        changed_environment(self, {"DBTESTCASE_CACHE": self.scratch / "cache"})
        with running_instance(ThrowawayPostgres(), owner="ShopTests") as instance:
            instance.execute("CREATE TABLE t AS SELECT 'a row' AS x", database="test")
            instance.keep("ShopTests.test_sale")

        (kept,) = kept_instances()
        with running_kept(kept.name) as again:
            found = ask(again, "SELECT x FROM t")
        removed = remove_kept()

        self.assertEqual(kept.owner, "ShopTests.test_sale")
        self.assertEqual(instance.open_command("test"), f"python -m dbtestcase start --psql --kept {kept.name}")
        self.assertEqual(found, "a row")
        self.assertEqual(removed, 1)
        self.assertEqual(kept_instances(), [])
        with self.assertRaisesRegex(DBTestCaseError, kept.name), running_kept(kept.name):
            pass


class OptionsTests(unittest.TestCase):
    def test_equal_options_are_equal(self):
        one = ThrowawayPostgres(settings={"work_mem": "8MB", "jit": True}, extensions=["citext"])
        other = ThrowawayPostgres(settings={"jit": True, "work_mem": "8MB"}, extensions=("citext",))

        self.assertEqual(one, other)
        self.assertEqual(hash(one), hash(other))
        self.assertNotEqual(one, ThrowawayPostgres(settings={"jit": False, "work_mem": "8MB"}, extensions=["citext"]))
        self.assertNotEqual(ThrowawayPostgres(settings={"jit": True}), ThrowawayPostgres(settings={"jit": 1}))
        self.assertEqual(repr(ThrowawayPostgres(bin_dir="/x")), "ThrowawayPostgres(bin_dir='/x')")

    def test_settings_reach_the_server(self):
        options = ThrowawayPostgres(
            settings={"work_mem": "8MB", "jit": True, "my.own": "it's \\ here", "max_wal_senders": 3}
        )
        with running_instance(options) as instance:
            self.assertEqual(ask(instance, "SHOW work_mem"), "8MB")
            self.assertEqual(ask(instance, "SHOW jit"), "on")
            self.assertEqual(ask(instance, "SHOW my.own"), "it's \\ here")
            self.assertEqual(ask(instance, "SHOW max_wal_senders"), "3")

    def test_an_unknown_setting_is_named_with_the_servers_words(self):
        with (
            self.assertRaises(PostgresNotReady) as caught,
            running_instance(ThrowawayPostgres(settings={"wrk_mem": 1})),
        ):
            pass

        self.assertIn("'wrk_mem'", str(caught.exception))
        self.assertIn("unrecognized configuration parameter", str(caught.exception))

    def test_an_impossible_value_is_named_with_the_servers_words(self):
        for name, value in (("work_mem", "lots"), ("wal_level", "logical"), ("shared_preload_libraries", "nonesuch")):
            options = ThrowawayPostgres(
                settings={name: value, **({"max_wal_senders": -1} if name == "wal_level" else {})}
            )
            with self.subTest(name), self.assertRaises(PostgresNotReady) as caught, running_instance(options):
                pass
            self.assertRegex(str(caught.exception), "max_wal_senders|lots|nonesuch")

    def test_a_setting_that_one_of_ours_would_forbid_is_heeded(self):
        with running_instance(ThrowawayPostgres(settings={"archive_mode": "on"})) as instance:
            self.assertEqual(ask(instance, "SHOW archive_mode"), "on")

    def test_settings_that_nobody_can_have_are_refused_at_once(self):
        for settings in ({"port": 1}, {"work_mem": None}, {"a b": 1}, {"work_mem": "1\n2"}, [("a", 1)]):
            with self.subTest(settings), self.assertRaisesRegex(DBTestCaseError, "settings"):
                ThrowawayPostgres(settings=settings)

    def test_options_of_a_wrong_kind_are_named_with_their_value(self):
        wrong = (("bin_dir", 5), ("extensions", 5), ("extensions", [5]), ("settings", []), ("settings", {1: 2, "a": 3}))
        for option, value in wrong:
            with self.subTest(option, value=value), self.assertRaisesRegex(DBTestCaseError, rf"{option}=.*[15\[]"):
                ThrowawayPostgres(**{option: value})

    def test_a_wrong_bin_dir_is_named(self):
        with self.assertRaisesRegex(PostgresNotFound, "bin_dir is '/nonesuch'"):
            start_instance(ThrowawayPostgres(bin_dir="/nonesuch"))

    def test_extensions_exist_in_every_database(self):
        with running_instance(ThrowawayPostgres(extensions=["plpgsql", "citext"])) as instance:
            instance.execute("CREATE DATABASE other")

            self.assertEqual(ask(instance, "SELECT 'A'::citext = 'a'"), True)
            self.assertEqual(ask(instance, "SELECT 'A'::citext = 'a'", "other"), True)

    def test_a_missing_extension_is_named_with_the_servers_words(self):
        with self.assertRaises(PostgresNotReady) as caught:
            start_instance(ThrowawayPostgres(extensions=["nonesuch"]))

        self.assertIn("'nonesuch'", str(caught.exception))
        self.assertIn("is not available", str(caught.exception))


class ContentsTests(ScratchTestCase):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        # One for all, so that there is one initdb; the tests' contents differ.
        cls.cache = Path(cls.enterClassContext(tempfile.TemporaryDirectory()))

    def setUp(self):
        super().setUp()
        changed_environment(self, {"DBTESTCASE_DIR": self.location, "DBTESTCASE_CACHE": self.cache})
        self.prepared = 0

    def contents(self, fingerprint: str | None, token: str | None = None) -> Contents:
        return Contents(
            fingerprint and f"{fingerprint} of {self.id()}", self.prepare, token=token and f"{token} of {self.id()}"
        )

    def prepare(self, instance):
        self.prepared += 1
        instance.execute("CREATE TABLE t AS SELECT 1 AS x", database="test")

    def run_with(self, *all_contents):
        for contents in all_contents:
            with running_instance(ThrowawayPostgres(), contents) as instance:
                self.assertEqual(ask(instance, "SELECT x FROM t"), 1)

    def test_contents_with_a_fingerprint_are_prepared_once(self):
        self.run_with(self.contents("a"), self.contents("a"))
        self.assertEqual(self.prepared, 1)

        self.run_with(self.contents("b"))
        self.assertEqual(self.prepared, 2)

    def test_contents_with_a_token_are_prepared_once_in_a_process(self):
        before = set(self.cache.iterdir())

        self.run_with(self.contents(None, "a"), self.contents(None, "a"))
        self.assertEqual(self.prepared, 1)

        self.run_with(self.contents(None, "b"))
        self.assertEqual(self.prepared, 2)
        self.assertEqual(
            {path for path in set(self.cache.iterdir()) - before if path.name.startswith("prepared")}, set()
        )

    def test_contents_that_nothing_identifies_are_prepared_each_time(self):
        contents = self.contents(None)

        self.run_with(contents, contents)

        self.assertEqual(self.prepared, 2)

    def test_an_error_while_preparing_comes_through_and_leaves_nothing(self):
        def prepare(instance):
            instance.execute("CREATE TABLE t ()", database="test")
            raise FileNotFoundError("schema.sql")

        before = set(self.cache.glob("*.pack"))

        for contents in (Contents("failing", prepare), Contents(None, prepare, token="x"), Contents(None, prepare)):
            with (
                self.assertRaisesRegex(FileNotFoundError, "schema.sql"),
                running_instance(ThrowawayPostgres(), contents),
            ):
                pass

        self.assertSoon(lambda: not self.servers(), 3, "a server is left")
        self.assertLessEqual({path.name.split("-")[0] for path in set(self.cache.glob("*.pack")) - before}, {"base"})

    def test_a_schema_with_a_tablespace_is_refused_in_words(self):
        target = self.scratch / "space"

        def prepare(instance):
            target.mkdir()
            os.chown(target, instance.data_dir.stat().st_uid, -1)
            instance.execute(f"CREATE TABLESPACE space LOCATION '{target}'")

        with (
            self.assertRaisesRegex(PostgresNotReady, "[Tt]ablespace"),
            running_instance(ThrowawayPostgres(), Contents("tablespace", prepare)),
        ):
            pass

    def test_empty_contents_are_the_default(self):
        with running_instance(ThrowawayPostgres(), EMPTY) as instance:
            self.assertEqual(ask(instance, "SELECT count(*) FROM pg_tables WHERE schemaname = 'public'"), 0)
