"""Forked children of a test: the one transaction is their parent's, so what uses the database in a child runs again."""

from __future__ import annotations

import os
import unittest
from collections.abc import Callable
from contextlib import suppress
from typing import Any
from unittest import mock

import sqlalchemy as sa

from dbtestcase import isolate
from dbtestcase.sandbox import attempt, forks
from tests.sandbox.support import DRIVERS, Items, add, application_engine, count, run_noting_reasons
from tests.support import problems, run_case


def in_child(engine: sa.Engine, act: Callable[[], Any]) -> str:
    """Call a function in a forked child, which opens connections of its own; return its result or the error's name."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        said = ""
        try:
            engine.dispose(close=False)
            said = repr(act())
        except BaseException as error:
            said = type(getattr(error, "orig", None) or error).__name__
        finally:
            os.write(writer, said.encode())
            os._exit(0)
    os.waitpid(child, 0)
    os.close(writer)
    with os.fdopen(reader) as file:
        return file.read()


def add_and_change_ones_mind(engine: sa.Engine, number: int) -> None:
    with engine.connect() as connection:
        connection.execute(sa.text("INSERT INTO item VALUES (:number)"), {"number": number})
        connection.rollback()


class ForkTests(unittest.TestCase):
    def test_what_a_child_commits_is_not_undone_by_its_parent(self) -> None:
        for driver in DRIVERS:
            engine = application_engine(driver)

            class Shop(Items):
                app_engines = [engine]

                def test_it(self) -> None:
                    count(engine)
                    self.said = in_child(engine, lambda: add(engine, 1))
                    add_and_change_ones_mind(engine, 2)
                    self.assertEqual((count(engine), self.said), (1, "None"))

            with self.subTest(driver):
                result, reasons = run_noting_reasons(Shop)

                self.assertEqual(problems(result), [])
                self.assertEqual(reasons, {"test_it": "used the database in a forked child process"})

    def test_a_test_that_leaves_its_database_to_a_child_runs_again(self) -> None:
        engine = application_engine()
        found: list[str] = []

        class Shop(Items):
            app_engines = [engine]

            def test_1_a_child_writes(self) -> None:
                found.append(in_child(engine, lambda: add(engine, 1)))

            def test_2_nothing_is_left(self) -> None:
                self.assertEqual(count(engine), 0)

        self.assertEqual(problems(run_case(Shop)), [])
        self.assertEqual(found, ["IsolationBroken", "None"])

    def test_one_that_may_not_run_twice_is_told(self) -> None:
        engine = application_engine()

        class Shop(Items):
            app_engines = [engine]
            isolation = "savepoint"

            def test_1_a_child_writes(self) -> None:
                in_child(engine, lambda: add(engine, 1))

            def test_2_a_child_does_something_else(self) -> None:
                self.assertEqual(in_child(engine, lambda: 1), "1")
                self.assertEqual(count(engine), 0)

        [said] = problems(run_case(Shop))

        self.assertIn("Shop: one undone transaction cannot give this test", said)
        self.assertIn("used the database in a forked child process", said)

    def test_connections_that_lie_ready_are_the_parents(self) -> None:
        engine = application_engine()

        class Shop(Items):
            app_engines = [engine]

            @isolate("clone")
            def test_1(self) -> None:
                pid = sa.text("SELECT pg_backend_pid()")
                with engine.connect() as connection:
                    connection.execute(pid)

            @isolate("clone")
            def test_2(self) -> None:
                def server_process() -> int:
                    with engine.connect() as connection:
                        return connection.connection.driver_connection.info.backend_pid

                self.assertNotEqual(in_child(engine, server_process), repr(server_process()))

        self.assertEqual(problems(run_case(Shop)), [])

    def test_who_waits_for_a_child_that_was_refused_is_interrupted(self) -> None:
        engine = application_engine()
        for kind in ("auto", "savepoint"):
            with self.subTest(kind), mock.patch.multiple(attempt, _BOUND=0.2, _BETWEEN=10):

                class Shop(Items):
                    app_engines = [engine]
                    isolation = kind

                    def test_it(self) -> None:
                        count(engine)
                        kept_open, waits = os.pipe()  # by the parent too, so that the end of a child is not seen
                        child = os.fork()
                        if child == 0:
                            with suppress(BaseException):
                                engine.dispose(close=False)
                                os.write(waits, str(count(engine)).encode())
                            os._exit(0)
                        self.addCleanup(os.waitpid, child, 0)
                        for end in (kept_open, waits):  # what lies between their numbers is not the test's
                            self.addCleanup(os.close, end)
                        self.assertEqual(os.read(kept_open, 1), b"0")

                said = problems(run_case(Shop))

                self.assertEqual(len(said), kind == "savepoint", said)
                for each in said:
                    self.assertIn(forks.RULE, each)
