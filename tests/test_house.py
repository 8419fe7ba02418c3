"""The rooms of the package: imports point down only, and nothing outgrows a reader."""

from __future__ import annotations

import ast
import statistics
import unittest
from collections.abc import Iterator
from pathlib import Path

from tests.support import once

PACKAGE = Path(__file__).parent.parent / "dbtestcase"

# From the top down; a room may import from those below it. `errors` stands below all.
ROOMS = (
    "__main__",
    "flask",
    "aio",
    "case",
    "assertions",
    "lifecycle",
    "servers",
    "sandbox",
    "schema",
    "diagnosis",
    "libpq",
    "native",
    "frames",
    "sql",
    "errors",
)
SAME_HEIGHT = {frozenset({"flask", "aio"})}

# Words that a manual of PostgreSQL, SQLAlchemy or unittest would not use for what they once named here.
OWN_WORDS = {
    "aside", "belongings", "endings", "equip", "evidence", "furnish", "ghost", "ghosts", "greeting", "hear",
    "instead", "introductions", "keeper", "lodging", "moment", "obey", "ownership", "places", "press", "proven",
    "refusal", "retire", "spare", "surroundings", "suspicions", "telling", "upcoming", "workshop",
}  # fmt: skip


def modules() -> dict[str, Path]:
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def imports_of(name: str, path: Path, known: dict[str, Path]) -> Iterator[str]:
    """Yield the modules of ours that a module imports, also within functions and for types."""
    package = name if path.name == "__init__.py" else name.rpartition(".")[0]
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                above = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join([*above, base]).rstrip(".")
            names = [f"{base}.{alias.name}" if f"{base}.{alias.name}" in known else base for alias in node.names]
        else:
            continue
        for imported in names:
            if imported in known and imported != name:
                yield imported


def room_of(name: str) -> str:
    return name.split(".")[1] if "." in name else "errors" if name == "dbtestcase.errors" else ""


@once
class HouseTests(unittest.TestCase):
    def setUp(self) -> None:
        self.modules = modules()
        self.graph = {name: set(imports_of(name, path, self.modules)) for name, path in self.modules.items()}

    def test_there_is_no_circle_of_imports(self) -> None:
        done: set[str] = set()

        def follow(name: str, way: tuple[str, ...]) -> None:
            if name in way:
                self.fail(f"a circle of imports: {' -> '.join((*way[way.index(name) :], name))}")
            if name in done:
                return
            for imported in sorted(self.graph[name]):
                if not name.startswith(f"{imported}."):  # a package's own __init__ is imported with it anyway
                    follow(imported, (*way, name))
            done.add(name)

        for name in self.graph:
            follow(name, ())

    def test_imports_point_down_only(self) -> None:
        wrong = []
        for name, imported in self.graph.items():
            for other in imported:
                here, there = room_of(name), room_of(other)
                if not here or not there or here == there or here == "__main__":
                    continue
                if ROOMS.index(there) < ROOMS.index(here) or frozenset({here, there}) in SAME_HEIGHT:
                    wrong.append(f"{name} imports {other}")

        self.assertEqual(wrong, [])

    def test_every_room_says_what_it_is_for(self) -> None:
        silent = [name for name, path in self.modules.items() if not ast.get_docstring(ast.parse(path.read_text()))]

        self.assertEqual(silent, [])

    def test_names_are_those_of_the_field(self) -> None:
        found = set()
        for name, path in self.modules.items():
            names = set(name.split("."))
            for node in ast.walk(ast.parse(path.read_text())):
                names.update(getattr(node, field, None) or "" for field in ("name", "id", "attr", "arg"))
            found |= {f"{name}: {each}" for each in names if OWN_WORDS & set(each.lower().split("_"))}

        self.assertEqual(sorted(found), [])

    def test_no_file_class_or_function_outgrows_a_reader(self) -> None:
        too_large = []
        lengths = []
        for name, path in self.modules.items():
            text = path.read_text()
            lengths.append(len(text.splitlines()))
            if lengths[-1] > 450:
                too_large.append(f"{name} has {lengths[-1]} lines")
            for node in ast.walk(ast.parse(text)):
                if isinstance(node, ast.ClassDef):
                    methods = sum(isinstance(each, ast.FunctionDef | ast.AsyncFunctionDef) for each in node.body)
                    if methods > 40:
                        too_large.append(f"{name}.{node.name} has {methods} methods")
                elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                    parameters = [each.arg for each in (*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs)]
                    number = len(parameters) - (parameters[:1] in (["self"], ["cls"]))
                    if number > 6:
                        too_large.append(f"{name}.{node.name} has {number} parameters")

        self.assertEqual(too_large, [])
        self.assertLess(statistics.median(lengths), 200)
