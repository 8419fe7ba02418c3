"""The two ways through the rooms that docs/architecture.md describes are those that calls take."""

from __future__ import annotations

import gc
import re
import sys
import threading
import unittest
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

from sqlalchemy import create_engine
from sqlalchemy.orm import Session

import dbtestcase
from dbtestcase import DatabaseTestCase, ThrowawayPostgres
from dbtestcase.sandbox.transaction import SharedTransaction
from dbtestcase.servers.supervisor_client import SupervisorClient
from tests.docs.blocks import ROOT
from tests.support import Base, Customer, problems, run_case

PACKAGE = Path(dbtestcase.__file__).parent
PAGE = (ROOT / "docs" / "architecture.md").read_text()


def described(heading: str) -> list[str]:
    """Return the files of the numbered list below a heading."""
    section = PAGE.partition(f"## {heading}\n")[2].partition("\n## ")[0]
    return re.findall(r"^\d+\. `([\w/]+\.py)`", section, re.M)


def files_on(frame: FrameType | None) -> list[str]:
    """Return our files on a stack, from the top down, each once."""
    found: list[str] = []
    while frame is not None:
        path = Path(frame.f_code.co_filename)
        if path.is_relative_to(PACKAGE):
            found.insert(0, str(path.relative_to(PACKAGE)))
        frame = frame.f_back
    return list(dict.fromkeys(found))


class Way:
    """Notes our files that are on the stack of this thread when a function is called, while it is a profiler.

    Args:
        from_within: A function; all that is called on its behalf is noted too.
    """

    def __init__(self, *functions: Callable[..., Any], from_within: Callable[..., Any] | None = None) -> None:
        self._codes = {function.__code__ for function in functions}
        self._caller = from_within.__code__ if from_within is not None else None
        self.files: list[str] = []

    def __call__(self, frame: FrameType, event: str, _: Any) -> None:
        if event == "call" and (frame.f_code in self._codes or self._is_within(frame)):
            self.files += [name for name in files_on(frame) if name not in self.files]

    def _is_within(self, frame: FrameType | None) -> bool:
        while frame is not None and frame.f_code is not self._caller:
            frame = frame.f_back
        return frame is not None

    def __enter__(self) -> Way:
        gc.disable()  # what ends the garbage of earlier tests would be on the stack, too
        sys.setprofile(self)
        return self

    def __exit__(self, *_: object) -> None:
        sys.setprofile(None)
        gc.enable()


class ArchitectureTests(unittest.TestCase):
    def test_from_set_up_class_to_a_running_server(self) -> None:
        way = Way(SupervisorClient.request)

        class Shop(DatabaseTestCase):
            schema = Base
            # Options of its own: nobody has a server for them.
            postgres = ThrowawayPostgres(settings={"application_name": f"architecture {threading.get_ident()}"})

            @classmethod
            def setUpClass(cls) -> None:
                with way:
                    super().setUpClass()

            def test(self) -> None: ...

        self.assertEqual(problems(run_case(Shop)), [])

        files = described("From `setUpClass` to a running server")
        self.assertEqual([name for name in files if name in way.files], files[:-1])
        self.assertTrue((PACKAGE / files[-1]).is_file())
        self.assertLessEqual(len(files), 9)

    def test_from_commit_to_a_savepoint(self) -> None:
        way = Way(SharedTransaction.end, from_within=SharedTransaction.ready)
        engine = create_engine("postgresql+psycopg://production.invalid/shop")

        class Shop(DatabaseTestCase):
            schema = Base
            app_engines = [engine]

            def test(self) -> None:
                with way:
                    for name in ("Ada", "Grace"):
                        with Session(engine) as session:
                            session.add(Customer(name=name))
                            session.commit()

        self.assertEqual(problems(run_case(Shop)), [])

        files = described("From `session.commit()` to a savepoint")
        self.assertEqual(sorted(name for name in way.files if name.startswith("sandbox/")), sorted(files))
        self.assertLessEqual(len(files), 5)

    def test_every_room_is_described(self) -> None:
        rooms = {path.name for path in PACKAGE.iterdir() if path.is_dir() and (path / "__init__.py").exists()}
        rooms |= {path.name for path in PACKAGE.glob("*.py")} - {"__init__.py"}

        named = set(re.findall(r"`(\w+)/`|`(\w+\.py)`", PAGE.partition("## From")[0]))

        self.assertLessEqual(rooms, {name or other for name, other in named})

    def test_every_file_that_is_named_exists(self) -> None:
        for name in re.findall(r"`(\w+/[\w/]+\.py)`", PAGE):
            with self.subTest(name):
                self.assertTrue((PACKAGE / name).is_file() or (ROOT / name).is_file())


if __name__ == "__main__":
    unittest.main()
