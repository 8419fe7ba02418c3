from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path

import psycopg2
from sqlalchemy import make_url

from tests.support import of_throwaway_servers, once

ROOT = Path(__file__).parent.parent


def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "dbtestcase", *arguments],
        cwd=ROOT,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=120,
    )


@of_throwaway_servers
class DoctorTests(unittest.TestCase):
    @once
    def test_a_healthy_machine_is_told_what_was_found_and_how_long_a_boot_takes(self):
        result = run("doctor")

        self.assertEqual(result.returncode, 0, result.stderr)
        self.assertRegex(result.stdout, r"programs +PostgreSQL \d+")
        self.assertRegex(result.stdout, r"next class +\d+ ms")
        self.assertNotIn("DBTESTCASE_RUN", result.stdout)  # nobody has set it but the command itself

    @once
    def test_templates_that_are_damaged_are_named(self):
        with tempfile.TemporaryDirectory() as cache:
            run("doctor", DBTESTCASE_CACHE=cache)
            [pack] = Path(cache).glob("*.pack")
            os.truncate(pack, 1000)

            result = run("doctor", DBTESTCASE_CACHE=cache)

            self.assertEqual(result.returncode, 0, result.stderr)
            self.assertIn(f"damaged     {pack}: its first or last bytes are wrong", result.stdout)
            self.assertIn("made anew", result.stdout)

    @once
    def test_a_cache_folder_that_cannot_be_written_to_is_advised_against(self):
        result = run("doctor", DBTESTCASE_CACHE="/proc/nowhere")

        self.assertEqual(result.returncode, 0, result.stderr)
        self.assertRegex(result.stdout, r"- The cache folder '/proc/nowhere' cannot be used \(.+\)")
        self.assertNotIn("All is well", result.stdout)

    @once
    def test_a_folder_for_instances_that_is_not_there_is_a_sentence(self):
        result = run("doctor", DBTESTCASE_DIR="/nowhere/at/all")

        self.assertEqual(result.returncode, 1)
        self.assertIn("DBTESTCASE_DIR is '/nowhere/at/all'", result.stdout)
        self.assertNotIn("Traceback", result.stderr)

    @once
    def test_a_place_that_is_too_small_is_said_so(self):
        with tempfile.TemporaryDirectory() as cache:
            run("doctor", DBTESTCASE_CACHE=cache)
            # A folder on a file system with no room at all.
            result = run("doctor", DBTESTCASE_CACHE=cache, DBTESTCASE_DIR="/proc/self")

        self.assertEqual(result.returncode, 1)
        self.assertIn("Tests cannot run", result.stdout)
        self.assertNotIn("Traceback", result.stderr)

    @once
    def test_without_programs_it_says_where_was_looked_and_exits_with_1(self):
        result = run("doctor", DBTESTCASE_BIN_DIR="/nowhere")

        self.assertEqual(result.returncode, 1)
        self.assertIn("'/nowhere'", result.stdout)


class StartTests(unittest.TestCase):
    @once
    def test_a_server_runs_until_ctrl_c_with_the_schema_it_was_asked_for(self):
        command = [sys.executable, "-m", "dbtestcase", "start", "--schema", "tests.support:Base"]
        with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
            url = make_url(process.stdout.readline().strip())
            connection = psycopg2.connect(url.set(drivername="postgresql").render_as_string())
            cursor = connection.cursor()
            cursor.execute("SELECT count(*) FROM customer")
            count = cursor.fetchone()[0]
            connection.close()
            process.send_signal(signal.SIGINT)
            rest = process.stdout.read()

        self.assertEqual(count, 0)
        self.assertEqual(rest, "")
        self.assertEqual(process.returncode, 0)
        with self.assertRaises(psycopg2.OperationalError):
            psycopg2.connect(url.set(drivername="postgresql").render_as_string())

    @once
    def test_sigterm_ends_it_as_ctrl_c_does(self):
        command = [sys.executable, "-m", "dbtestcase", "start"]
        with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
            url = make_url(process.stdout.readline().strip()).set(drivername="postgresql").render_as_string()
            process.terminate()
            process.wait(120)

        self.assertEqual(process.returncode, 0)
        with self.assertRaises(psycopg2.OperationalError):
            psycopg2.connect(url)

    @once
    def test_ctrl_c_in_psql_leaves_the_server_running(self):
        command = [sys.executable, "-m", "dbtestcase", "start", "--psql"]
        with subprocess.Popen(
            command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True
        ) as process:
            process.stdin.write("\\echo ready\n")
            process.stdin.flush()
            self.assertEqual(process.stdout.readline(), "ready\n")
            process.send_signal(signal.SIGINT)
            process.stdin.write("SELECT 'still ' || 'there' AS here \\gset\n\\echo :here\n")
            process.stdin.close()
            rest = process.stdout.read()

        self.assertIn("still there", rest)
        self.assertEqual(process.returncode, 0)

    @once
    def test_a_schema_that_cannot_be_imported_is_a_sentence(self):
        result = run("start", "--schema", "nowhere:Base")

        self.assertEqual(result.returncode, 1)
        self.assertIn("nowhere:Base", result.stderr)
        self.assertNotIn("Traceback", result.stderr)


@of_throwaway_servers
class CleanTests(unittest.TestCase):
    @once
    def test_clean_deletes_the_cached_templates(self):
        with tempfile.TemporaryDirectory() as cache:
            self.assertEqual(run("doctor", DBTESTCASE_CACHE=cache).returncode, 0)
            self.assertNotEqual(list(Path(cache).rglob("*.pack")), [])

            result = run("clean", DBTESTCASE_CACHE=cache)

            self.assertEqual(result.returncode, 0, result.stderr)
            self.assertTrue(re.search(r"[1-9]\d* cached template", result.stdout), result.stdout)
            self.assertEqual(list(Path(cache).rglob("*.pack")), [])


class CommandLineTests(unittest.TestCase):
    @once
    def test_help_names_every_command(self):
        result = run("--help")

        self.assertEqual(result.returncode, 0)
        for command in ("doctor", "start", "clean"):
            self.assertIn(command, result.stdout)

    @once
    def test_an_unknown_command_exits_with_2(self):
        self.assertEqual(run("frobnicate").returncode, 2)
