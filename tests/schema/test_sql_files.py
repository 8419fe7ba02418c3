from __future__ import annotations

import os
import shutil
import subprocess
import unittest
from pathlib import Path

from dbtestcase.errors import SchemaError
from tests.schema.support import FolderTestCase, ServerTestCase, planned


class RunningTests(ServerTestCase):
    def test_a_script_is_run_as_it_is_written(self) -> None:
        script = self.write(
            "shop.sql",
            """
            -- everything; at once
            BEGIN;
            CREATE TABLE "group" (id int PRIMARY KEY, note text DEFAULT '100 %s; it''s');
            INSERT INTO "group" VALUES (1), (2);
            COMMIT;
            BEGIN; DELETE FROM "group"; ROLLBACK;
            CREATE FUNCTION f() RETURNS int LANGUAGE plpgsql AS $body$ BEGIN RETURN 5 % 3; END; $body$;
            CREATE FUNCTION g() RETURNS int BEGIN ATOMIC SELECT 1; SELECT CASE WHEN true THEN 7 END; END;
            CREATE INDEX CONCURRENTLY i ON "group" (note);
            VACUUM "group"
            """,
        )

        self.create(script)

        self.assertEqual(
            self.rows('SELECT id, note, f(), g() FROM "group"'), [(n, "100 %s; it's", 2, 7) for n in (1, 2)]
        )

    def test_a_relative_path_is_kept_when_the_working_directory_changes(self) -> None:
        self.write("1.sql", "CREATE TABLE shop (id int);")
        self.addCleanup(os.chdir, Path.cwd())
        os.chdir(self.folder)
        wanted = planned(Path("1.sql"))
        os.chdir("/")

        wanted.create(self.url, self.admin)

        self.assertEqual(self.tables(), ["shop"])

    def test_a_folder_is_run_in_the_order_of_names(self) -> None:
        self.write("20_rows.sql", "INSERT INTO shop VALUES (1);")
        self.write("10_tables.sql", "CREATE TABLE shop (id int);")
        self.write("notes.txt", "not SQL")
        self.write("nested/30.sql", "not SQL")
        self.write(".hidden.sql", "not SQL")

        self.create(self.folder)

        self.assertEqual(self.rows("SELECT id FROM shop"), [(1,)])

    def test_settings_of_one_file_do_not_reach_the_next(self) -> None:
        self.write("1.sql", "CREATE SCHEMA s; SELECT pg_catalog.set_config('search_path', '', false);")
        self.write("2.sql", "CREATE TABLE shop (id int);")

        self.create(self.folder)

        self.assertEqual(self.tables(), ["shop"])

    def test_a_byte_order_mark_and_windows_line_ends_are_fine(self) -> None:
        script = self.folder / "shop.sql"
        script.write_bytes("\ufeffCREATE TABLE shop (name text);\r\nINSERT INTO shop VALUES ('Ü\r\n');\r\n".encode())

        self.create(script)

        self.assertEqual(self.rows("SELECT name FROM shop"), [("Ü\r\n",)])

    def test_a_dump_of_pg_dump_is_taken_as_it_is(self) -> None:
        self.create(
            self.write(
                "shop.sql",
                r"""
                CREATE SCHEMA "Back Office";
                CREATE TYPE mood AS ENUM ('happy', 'it''s sad');
                CREATE TABLE "Back Office".shop (id serial PRIMARY KEY, name text, mood mood);
                INSERT INTO "Back Office".shop (name, mood)
                VALUES (E'tab\there; \\ and\nline', 'it''s sad'), (NULL, NULL);
                CREATE VIEW happy AS SELECT * FROM "Back Office".shop WHERE mood = 'happy';
                CREATE FUNCTION f() RETURNS int BEGIN ATOMIC SELECT 1; END;
                """,
            )
        )
        before = self.rows('SELECT id, name, mood FROM "Back Office".shop')
        dump = self.write("dump.sql", self.dump())
        self.admin("DROP DATABASE test WITH (FORCE)")
        self.admin("CREATE DATABASE test TEMPLATE template0")

        self.create([dump, self.write("later.sql", "CREATE TABLE later (id int, mood mood);")])

        self.assertEqual(self.rows('SELECT id, name, mood FROM "Back Office".shop'), before)
        self.assertEqual(self.rows("SELECT nextval('\"Back Office\".shop_id_seq')"), [(3,)])
        self.assertEqual(self.tables(), ["Back Office.shop", "later"])

    def dump(self) -> str:
        url = self.url()
        beside = Path(getattr(getattr(self.instance, "programs", None), "bin_dir", "") or "") / "pg_dump"
        program = str(beside) if beside.is_file() else shutil.which("pg_dump")
        if program is None:
            candidates = sorted(Path("/usr/lib/postgresql").glob("*/bin/pg_dump"))
            if not candidates:
                self.skipTest("there is no pg_dump")
            program = str(candidates[-1])
        arguments = ["--host", str(url.query["host"]), "--port", str(url.query.get("port", 5432)), "--user", "postgres"]
        done = subprocess.run([program, *arguments, "test"], capture_output=True, text=True, check=False)
        if done.returncode:
            self.skipTest(f"pg_dump does not work here: {done.stderr}")
        # As since the releases of August 2025, whichever is installed here.
        if "\\restrict" not in done.stdout:
            return f"\\restrict x1\n\n{done.stdout}\n\\unrestrict x1\n"
        return done.stdout

    def test_settings_that_only_later_servers_know_are_passed_over(self) -> None:
        self.create(self.write("dump.sql", "SET unheard_of_timeout = 0;\nCREATE TABLE shop (id int);"))

        self.assertEqual(self.tables(), ["shop"])


class FailureTests(ServerTestCase):
    def test_the_line_of_the_error_is_named_with_the_statement_and_the_servers_words(self) -> None:
        script = self.write("shop.sql", "SELECT 1;\n\nCREATE TABLE shop (\n  id int,\n  name nonsense\n);\n")

        message = self.failure(script)

        self.assertIn("ShopTests.schema: could not run", message)
        self.assertIn(f"{script}, line 5", message)
        self.assertIn("CREATE TABLE shop (", message)
        self.assertIn('ERROR:  type "nonsense" does not exist', message)

    def test_the_first_line_of_a_statement_is_named_if_the_server_names_none(self) -> None:
        script = self.write("shop.sql", "CREATE TABLE a (id int UNIQUE);\n\nINSERT INTO a\nVALUES (1), (1);")

        message = self.failure(script)

        self.assertIn(f"{script}, line 3", message)
        self.assertIn("DETAIL:  Key (id)=(1) already exists.", message)

    def test_values_of_hidden_columns_are_not_shown(self) -> None:
        table = "CREATE TABLE account (id int NOT NULL, iban text, password text);\n"
        for script in (
            f"{table}INSERT INTO account VALUES (NULL, 's3cr3t', NULL);",
            f"{table}INSERT INTO account (iban) VALUES ('s3cr3t');",
            f"{table}COPY account FROM stdin;\n\\N\ts3cr3t\t\\N\n\\.\n",
            "CREATE ROLE shop PASSWORD 's3cr3t' IN ROLE nobody_there;",
        ):
            with self.subTest(script), self.assertRaises(SchemaError) as caught:
                self.admin("DROP DATABASE test WITH (FORCE)")
                self.admin("CREATE DATABASE test TEMPLATE template0")
                self.create(self.write("shop.sql", script), hidden=["iban"])
            said = f"{caught.exception} {caught.exception.__cause__}"
            self.assertIn("(values hidden)", said)
            self.assertNotIn("s3cr3t", said)

    def test_a_bad_line_of_copied_data_is_told_with_its_context(self) -> None:
        script = self.write("shop.sql", "CREATE TABLE a (id int);\nCOPY a FROM stdin;\n1\nx\n\\.\n")

        message = self.failure(script)

        self.assertIn(f"{script}, line 2", message)
        self.assertIn('COPY a, line 2, column id: "x"', message)

    def test_commands_to_psql_are_refused_with_file_and_line(self) -> None:
        script = self.write("shop.sql", "SELECT 1;\n\\i other.sql\n")

        message = self.failure(script)

        self.assertIn(f"{script}, line 2", message)
        self.assertIn("other.sql", message)
        self.assertIn("command to psql", message)

    def test_a_string_without_end_is_refused_with_file_and_line(self) -> None:
        self.assertIn("line 2: the string that begins with ' has no end", self.failure(
            self.write("shop.sql", "SELECT 1;\nSELECT 'it's';\n")
        ))  # fmt: skip

    def test_a_transaction_left_open_is_refused(self) -> None:
        self.assertIn("Add COMMIT;", self.failure(self.write("shop.sql", "BEGIN;\nCREATE TABLE a ();")))

    def test_a_missing_role_leads_to_a_dump_without_owners(self) -> None:
        script = self.write("shop.sql", "CREATE TABLE a ();\nALTER TABLE a OWNER TO daniel;")

        message = self.failure(script)

        self.assertIn("--no-owner", message)
        self.assertIn("'daniel'", message)

    def test_a_missing_function_leads_to_its_extension(self) -> None:
        script = self.write("shop.sql", "CREATE TABLE a (id uuid DEFAULT uuid_generate_v4());")

        self.assertIn("extensions=('uuid-ossp',)", self.failure(script))

    def test_other_encodings_are_refused_with_file_and_line(self) -> None:
        script = self.folder / "shop.sql"
        script.write_bytes("SELECT 1;\nSELECT 'Ü';".encode("latin-1"))

        message = self.failure(script)

        self.assertIn(f"{script}, line 2", message)
        self.assertIn("UTF-8", message)


class PlanTests(FolderTestCase):
    def test_a_path_to_nothing_says_where_it_was_looked_for(self) -> None:
        message = self.planning_error(Path("no/such.sql"))

        self.assertIn(str(Path.cwd() / "no/such.sql"), message)
        self.assertIn('Path(__file__).parent / "such.sql"', message)

    def test_a_folder_without_scripts_is_refused(self) -> None:
        self.assertIn("no .sql file", self.planning_error(self.folder))

    def test_a_folder_of_migrations_leads_to_alembic(self) -> None:
        self.write("env.py", "")

        self.assertIn("AlembicMigrations(", self.planning_error(self.folder))
        self.assertIn("AlembicMigrations(", self.planning_error(self.write("alembic.ini", "")))

    def test_a_change_of_content_names_or_order_changes_the_fingerprint(self) -> None:
        first, second = self.write("1.sql", "SELECT 1;"), self.write("2.sql", "SELECT 2;")
        seen = [planned(self.folder).fingerprint, planned([second, first]).fingerprint, planned(first).fingerprint]

        first.write_text("SELECT 3;")
        seen.append(planned(self.folder).fingerprint)
        second.rename(self.folder / "0.sql")
        seen.append(planned(self.folder).fingerprint)
        self.write("3.sql", "SELECT 3;")
        seen.append(planned(self.folder).fingerprint)

        self.assertEqual(len(set(seen)), len(seen))

    def test_a_change_that_keeps_size_and_time_is_seen_soon_after_the_last_one(self) -> None:
        script = self.write("1.sql", "SELECT 1;")
        before = planned(script).fingerprint
        found = script.stat()
        script.write_text("SELECT 2;")
        os.utime(script, ns=(found.st_atime_ns, found.st_mtime_ns))

        self.assertNotEqual(planned(script).fingerprint, before)

    def test_the_same_files_elsewhere_have_the_same_fingerprint(self) -> None:
        self.write("a/1.sql", "SELECT 1;")
        self.write("b/1.sql", "SELECT 1;")

        self.assertEqual(planned(self.folder / "a").fingerprint, planned(self.folder / "b").fingerprint)


if __name__ == "__main__":
    unittest.main()
