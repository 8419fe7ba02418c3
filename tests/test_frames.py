from __future__ import annotations

import io
import json
import os
import shutil
import subprocess
import sys
import tempfile
import unittest
from concurrent.futures import ThreadPoolExecutor
from contextlib import redirect_stdout
from functools import singledispatch

import flask
import greenlet
import sqlalchemy

import dbtestcase
from dbtestcase.frames import UNKNOWN, is_users, user_origin, usual_call, usual_origin
from tests.support import once

# Each puts one more frame of the standard library between the user's line and the question.
_once = singledispatch(usual_origin)
_twice = singledispatch(_once)


class UsersFilesTests(unittest.TestCase):
    def test_layers_between_an_application_and_its_database_are_not_the_users(self):
        for filename in (
            json.__file__,
            dbtestcase.__file__,
            sqlalchemy.__file__,
            flask.__file__,
            "/usr/lib/python3/dist-packages/sqlalchemy/engine/base.py",
            "/srv/venv/lib/python3.11/site-packages/asyncpg/connection.py",
            "<frozen importlib._bootstrap>",
            "<string>",
        ):
            self.assertFalse(is_users(filename), filename)

    @once
    def test_a_layer_is_known_wherever_it_is_loaded_from(self):
        with tempfile.TemporaryDirectory() as folder:
            shutil.copytree(os.path.dirname(greenlet.__file__), os.path.join(folder, "greenlet"))
            script = (
                "import greenlet; from dbtestcase.frames import is_users;"
                "print(is_users(greenlet.__file__), is_users(greenlet.__file__.replace('greenlet', 'shop')))"
            )

            said = subprocess.run(
                [sys.executable, "-c", script],
                env={**os.environ, "PYTHONPATH": folder},
                capture_output=True,
                check=True,
            )

        self.assertEqual(said.stdout.split(), [b"False", b"True"])

    @once
    def test_a_working_directory_that_was_deleted_does_not_matter(self):
        code = compile("from dbtestcase.frames import *\nprint(user_origin(), is_users('shop.py'))", "shop.py", "exec")

        def run() -> None:
            os.chdir(tempfile.mkdtemp())
            os.rmdir(os.getcwd())
            exec(code, {})

        here = os.getcwd()
        self.addCleanup(os.chdir, here)
        with redirect_stdout(io.StringIO()) as said:
            run()

        self.assertEqual(said.getvalue(), "shop.py:2 in <module> True\n")

    def test_an_application_is_the_users_also_where_it_is_installed(self):
        for filename in (
            __file__,
            "shop/models.py",
            "/srv/venv/lib/python3.11/site-packages/shop/models.py",
            "/srv/venv/lib/python3.11/site-packages/shop.py",
            "/srv/venv/lib/python3.11/site-packages/flask_shop/models.py",
            os.path.join(os.path.dirname(os.__file__), "site-packages", "shop", "models.py"),
            "/usr/lib/python3/dist-packages/shop/models.py",
            "/home/ada/flask/app.py",
            "/home/ada/factory/models.py",
            "<stdin>",
        ):
            self.assertTrue(is_users(filename), filename)


class UsualOriginTests(unittest.TestCase):
    def test_each_line_is_named_that_asks_from_the_same_distance(self):
        self.assertEqual(_once("one key"), user_origin())
        self.assertEqual(_once("one key"), user_origin())

    def test_line_is_named_that_is_nearer_or_further_than_the_last_time(self):
        for ask in (_once, _twice, usual_origin, _twice, _once):
            self.assertEqual(ask("another key"), user_origin())

    def test_nearest_line_is_named_when_there_are_several(self):
        def helper():
            return _once("a third key"), user_origin()

        self.assertEqual(_twice("a third key"), user_origin())
        self.assertEqual(*helper())
        self.assertEqual(_twice("a third key"), user_origin())

    def test_a_stack_that_is_lower_than_the_last_time_is_no_error(self):
        far = usual_origin
        for _ in range(20):
            far = singledispatch(far)
        self.assertEqual(far("a fourth key"), user_origin())
        with ThreadPoolExecutor(1) as threads:
            self.assertIs(threads.submit(usual_origin, "a fourth key").result(), UNKNOWN)

    def test_call_is_the_one_that_the_line_made(self):
        outermost = singledispatch(usual_call)

        for _ in range(2):
            called, origin = outermost("a fifth key")
            self.assertEqual((called.f_code.co_name, origin.function), ("wrapper", self._testMethodName))


if __name__ == "__main__":
    unittest.main()
