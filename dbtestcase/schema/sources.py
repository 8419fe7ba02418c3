"""What migrations are made of beyond their own folder: the code they import, the files of data they name.

All is read, nothing is run or imported.
"""

from __future__ import annotations

import ast
import importlib.util
import os
import re
import sys
from collections.abc import Iterable, Iterator
from importlib.machinery import ModuleSpec, PathFinder
from itertools import islice
from pathlib import Path

from dbtestcase.schema.digest import file_digest, files_below

_IMPORT = re.compile(rb"^[ \t]*(?:from[ \t]+([A-Za-z_]\w*)[\w.]*[ \t]+import\b|import[ \t]+([^\n#;]+))", re.MULTILINE)
_DATA = re.compile(rb"""["']([^"'\n{}]*\.(?:sql|csv|tsv|json|jsonl|ya?ml|toml|txt|xml))["']""", re.IGNORECASE)
_LIBRARIES = re.compile(r"[\\/](?:site|dist)-packages[\\/]")
_NOT_OURS = sys.stdlib_module_names | {"alembic", "sqlalchemy"}
# Where a project keeps what is not its own.
_FOREIGN_FOLDERS = {"node_modules", "site-packages", "__pycache__"}
_MOST_FOLDERS = 2000
# Mentions by the digest of the file that has them.
_read: dict[str, Mentions] = {}
_specs: dict[tuple[str, ...], ModuleSpec | None] = {}


class Mentions:
    """What a source file mentions.

    Attributes:
        packages: The first names of what it imports.
        data: The names of files of data, without their folders.
    """

    def __init__(self, source: bytes) -> None:
        packages: set[str] = set()
        for one, several in _IMPORT.findall(source):
            for name in (one or several).decode("utf-8", "replace").split(","):
                first = name.split()[0] if name.split() else ""
                packages.add(first.split(".")[0])
        self.packages = frozenset(packages - {""} - _NOT_OURS)
        self.data = frozenset(os.path.basename(name.decode("utf-8", "replace")) for name in _DATA.findall(source))

    @classmethod
    def of(cls, file: str, digest: str) -> Mentions:
        """Return those of a file with this digest."""
        known = _read.get(digest)
        if known is None:
            with open(file, "rb") as source:
                known = _read[digest] = cls(source.read())
        return known


class Sources:
    """The user's code as migrations find it, in ``import_folders`` and in what is importable here."""

    def __init__(self, import_folders: Iterable[str]) -> None:
        self._import_folders = list(import_folders)

    def packages(self, names: Iterable[str]) -> Iterator[str]:
        """Yield texts that change with the code of these packages, and of those of the user's that they import."""
        waiting, seen = sorted(names), set(names)
        while waiting:
            name = waiting.pop(0)
            yield name
            spec = self._find(name)
            if spec is None:
                continue
            origin = spec.origin if spec.origin is not None and os.path.exists(spec.origin) else None
            folders = list(spec.submodule_search_locations or ())
            if _is_library(origin, *folders):
                # Installing another version writes its files anew.
                if origin is not None:
                    found = os.stat(origin)
                    yield f"{found.st_mtime_ns} {found.st_size}"
                continue
            more: set[str] = set()
            for folder in folders:
                for file in files_below(folder, suffixes=(".py", ".sql")):
                    yield os.path.relpath(file, folder)
                    yield from _content(file, more)
            if not folders and origin is not None:
                yield from _content(origin, more)
            waiting = sorted({*waiting, *(more - seen)})
            seen |= more

    def modules_used_by(self, env: str) -> Iterator[str]:
        """Yield texts that change with the user's modules that an env.py uses for more than its target_metadata."""
        with open(env, "rb") as source:
            try:
                tree = ast.parse(source.read())
            except (SyntaxError, ValueError):
                return  # to run it will say so
        for name in sorted(_modules_used(tree)):
            file = self._file_of(name)
            if file is not None:
                yield name
                yield file_digest(file)

    def _file_of(self, module: str) -> str | None:
        first, *inner = module.split(".")
        spec = None if first in _NOT_OURS else self._find(first)
        if spec is None or _is_library(spec.origin, *(spec.submodule_search_locations or ())):
            return None
        if not inner:
            return spec.origin if spec.origin is not None and os.path.exists(spec.origin) else None
        for folder in spec.submodule_search_locations or ():
            path = os.path.join(folder, *inner)
            for file in (f"{path}.py", os.path.join(path, "__init__.py")):
                if os.path.isfile(file):
                    return file
        return None

    def _find(self, name: str) -> ModuleSpec | None:
        # Once per process: an env.py that adds to sys.path lets more be found after it ran than before.
        key = (name, *self._import_folders)
        if key not in _specs:
            _specs[key] = PathFinder.find_spec(name, self._import_folders) or self._find_anywhere(name)
        return _specs[key]

    @staticmethod
    def _find_anywhere(name: str) -> ModuleSpec | None:
        try:
            return importlib.util.find_spec(name)
        except (ImportError, ValueError):  # __main__, for example, has no spec
            return None


def data_files(names: Iterable[str], folder: Path) -> Iterator[str]:
    """Yield texts that change with the files of these names, wherever they are below the folder of a project."""
    wanted = frozenset(names)
    if not wanted:
        return
    for path, folders, files in islice(os.walk(folder), _MOST_FOLDERS):
        folders[:] = sorted(
            name
            for name in folders
            if not name.startswith(".")
            and name not in _FOREIGN_FOLDERS
            and not os.path.exists(os.path.join(path, name, "pyvenv.cfg"))
        )
        for name in sorted(wanted.intersection(files)):
            file = os.path.join(path, name)
            yield os.path.relpath(file, folder)
            yield file_digest(file)


def _content(file: str, imported: set[str]) -> Iterator[str]:
    digest = file_digest(file)
    yield digest
    if file.endswith(".py"):
        imported |= Mentions.of(file, digest).packages


def _is_library(*paths: str | None) -> bool:
    return any(_LIBRARIES.search(path) for path in paths if path is not None)


def _modules_used(tree: ast.Module) -> set[str]:
    modules: dict[str, set[str]] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                local = alias.asname or alias.name.split(".")[0]
                modules.setdefault(local, set()).add(alias.name)
        elif isinstance(node, ast.ImportFrom) and node.module is not None and node.level == 0:
            for alias in node.names:
                found = modules.setdefault(alias.asname or alias.name, set())
                found |= {node.module, f"{node.module}.{alias.name}"}
    used = _names_used(tree)
    return {name for local, names in modules.items() if local in used or local == "*" for name in names}


def _names_used(node: ast.AST) -> set[str]:
    # What the models are is no matter to an upgrade; they change more often than anything else.
    if isinstance(node, ast.keyword) and node.arg == "target_metadata":
        return set()
    if isinstance(node, ast.Assign) and [getattr(each, "id", "") for each in node.targets] == ["target_metadata"]:
        return set()
    if isinstance(node, ast.Name):
        return {node.id}
    return {name for child in ast.iter_child_nodes(node) for name in _names_used(child)}
