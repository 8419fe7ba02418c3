"""Alembic migrations as schema: where they are and what identifies them, found out without importing Alembic."""

from __future__ import annotations

import importlib.util
import os
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import KW_ONLY, dataclass
from importlib.machinery import PathFinder
from pathlib import Path
from typing import Any

from dbtestcase.errors import SchemaError
from dbtestcase.schema.digest import file_digest, files_below
from dbtestcase.schema.sources import Mentions, Sources, data_files

_SEPARATORS = {"space": " ", "newline": "\n", "os": os.pathsep, ":": ":", ";": ";"}


@dataclass(frozen=True)
class AlembicMigrations:
    """A schema that is made by upgrading an empty database with Alembic.

    ``env.py`` runs as it is. ``config.get_main_option("sqlalchemy.url")`` gives the URL of the test database, and
    ``config.attributes["connection"]`` a connection to it. An engine that it takes from elsewhere (an environment
    variable, the application's configuration) connects to the test database too, whatever its URL says. Its set-up of
    logging is undone.

    The result is kept, and made anew when one of these changes:

    * the configuration, or one of the arguments,
    * a file below the script location or another version location,
    * code of your own packages that a *migration* imports, and what that code imports in turn,
    * a file of data (.sql, .csv, .json ...) that a migration names,
    * a module that ``env.py`` uses for more than its ``target_metadata``,
    * Alembic or SQLAlchemy.

    Name in ``depends_on`` what else the result depends on, such as a module that is found only because ``env.py`` adds
    an unusual folder to ``sys.path``.

    Args:
        config: The ini file, a ``pyproject.toml`` with a ``[tool.alembic]`` table, or the folder that holds ``env.py``
            (Flask-Migrate's ``migrations``, for example). Relative paths start at the working directory.
        script_location: The folder that holds ``env.py``, in place of what ``config`` says, or without a ``config``.
        revision: How far to upgrade. ``"heads"`` if the project has several branches on purpose.
        app: A Flask application, or a function without arguments that returns one, in whose context ``env.py`` runs.
        x: What ``context.get_x_argument()`` returns, as on the command line: ``("tenant=a",)``.
        section: The section of the ini file, as ``alembic --name``.
        depends_on: More files and folders whose changes count.
    """

    config: str | os.PathLike[str] = "alembic.ini"
    _: KW_ONLY
    script_location: str | os.PathLike[str] | None = None
    revision: str = "head"
    app: Any | Callable[[], Any] | None = None
    x: Iterable[str] = ()
    section: str = "alembic"
    depends_on: Iterable[str | os.PathLike[str]] = ()

    def __post_init__(self) -> None:
        for name, value in (("x", self.x), ("depends_on", self.depends_on)):
            object.__setattr__(self, name, (value,) if isinstance(value, str | os.PathLike) else tuple(value))


class Project:
    """The files of one Alembic set-up.

    Attributes:
        ini: The ini file, absolute, if there is one.
        toml: The pyproject.toml with a ``[tool.alembic]`` table, if there is one.
        scripts: The folder that holds env.py.
        versions: The folders that hold the migrations.
        import_folders: What ``prepend_sys_path`` names, and the folder of the configuration.
    """

    def __init__(self, ini: Path | None, toml: Path | None, scripts: Path, settings: dict[str, str]) -> None:
        self.ini = ini
        self.toml = toml
        self.scripts = scripts
        base = (ini or toml or scripts / "x").parent
        # What a project consists of lies beside its configuration, which may be in the script location.
        self._base = base if base != scripts else scripts.parent
        self._configured = [text for _, text in sorted(settings.items())]
        listed = _listed(settings, "version_locations")
        self.versions = [_folder(name, base) for name in listed] or [scripts / "versions"]
        self.import_folders = [str(_folder(name, base)) for name in _listed(settings, "prepend_sys_path")]
        if str(base) not in self.import_folders and base != scripts:
            self.import_folders.append(str(base))

    @classmethod
    def of(cls, migrations: AlembicMigrations, owner: str) -> Project:
        """Find the files that ``migrations`` names, or raise ``SchemaError``."""
        config = Path(migrations.config).absolute()
        ini: Path | None = None
        toml: Path | None = None
        scripts = None if migrations.script_location is None else os.fspath(migrations.script_location)
        if config.is_dir():
            scripts = scripts or str(config)
            ini = config / "alembic.ini"
        elif config.suffix == ".toml":
            ini, toml = config.with_name("alembic.ini"), config
        else:
            ini, toml = config, config.with_name("pyproject.toml")
        if not config.exists() and scripts is None:
            raise SchemaError(
                f"{owner}: there is no file {config}.\n"
                "AlembicMigrations takes the path of alembic.ini, or of the folder that holds env.py. A relative path "
                "starts at the working directory; to start at the test module's folder, write "
                f'AlembicMigrations(Path(__file__).parent / "{config.name}").'
            )
        ini = ini if ini is not None and ini.is_file() else None
        try:
            table = _toml_settings(toml)
            settings = {**table, **_ini_settings(ini, migrations.section)}
        except ValueError as exc:
            raise SchemaError(f"{owner}: cannot understand {ini or toml}: {exc}") from exc
        toml = toml if table else None
        scripts = scripts or settings.get("script_location")
        if scripts is None:
            raise SchemaError(
                f"{owner}: {config} does not say where the migrations are: there is no script_location in its section "
                f"[{migrations.section}]. Add it, or pass script_location=."
            )
        folder = _folder(scripts, (ini or toml or config).parent)
        if not (folder / "env.py").is_file():
            raise SchemaError(
                f"{owner}: there is no env.py in {folder}, which is the script location.\n"
                "AlembicMigrations takes the path of alembic.ini, or of the folder that holds env.py."
            )
        return cls(ini, toml, folder, settings)

    def contents(self) -> Iterator[str]:
        """Yield texts that change whenever the project does."""
        if self.ini is not None:
            yield file_digest(self.ini)
        # Paths in there depend on where the project lies; its files count, and they follow.
        yield from self._configured if self.toml is not None else ()
        imported: set[str] = set()
        data: set[str] = set()
        for folder in (self.scripts, *(folder for folder in self.versions if self.scripts not in folder.parents)):
            if not folder.is_dir():
                continue
            for file in files_below(folder):
                if file.endswith(".mako") or os.path.basename(file) == "README":
                    continue
                content = file_digest(file)
                yield os.path.relpath(file, folder)
                yield content
                if file.endswith(".py") and os.path.dirname(file) != str(self.scripts):
                    mentions = Mentions.of(file, content)
                    imported |= mentions.packages
                    data |= mentions.data
        sources = Sources((*self.import_folders, *self._usual_additions()))
        yield from sources.packages(imported)
        yield from sources.modules_used_by(str(self.scripts / "env.py"))
        yield from data_files(data, self._base)

    def _usual_additions(self) -> Iterator[str]:
        """Yield the folders that an env.py is wont to add to sys.path."""
        base = (self.ini or self.toml or self.scripts).parent
        for folder in (self.scripts, self.scripts.parent, base):
            yield str(folder)
            yield str(folder / "src")


def _ini_settings(ini: Path | None, section: str) -> dict[str, str]:
    if ini is None:
        return {}
    from configparser import ConfigParser
    from configparser import Error as ConfigError

    parser = ConfigParser({"here": ini.parent.as_posix()})
    try:
        parser.read(ini, encoding="utf-8")
        if not parser.has_section(section):
            return {}
        wanted = (
            "script_location",
            "version_locations",
            "prepend_sys_path",
            "path_separator",
            "version_path_separator",
        )
        return {name: parser.get(section, name) for name in wanted if parser.has_option(section, name)}
    except ConfigError as exc:
        raise ValueError(str(exc)) from exc


def _toml_settings(toml: Path | None) -> dict[str, str]:
    if toml is None or not toml.is_file() or b"alembic" not in toml.read_bytes():
        return {}
    import tomllib

    with open(toml, "rb") as file:
        table = tomllib.load(file).get("tool", {}).get("alembic", {})
    settings = {}
    for name, value in table.items():
        text = "\n".join(map(str, value)) if isinstance(value, list) else str(value)
        settings[name] = text.replace("%(here)s", toml.parent.as_posix()).replace("%%", "%")
        if isinstance(value, list):
            settings["path_separator"] = "newline"
    return settings


def _listed(settings: dict[str, str], name: str) -> list[str]:
    text = settings.get(name, "")
    separator = settings.get("path_separator") or settings.get("version_path_separator", "")
    separator = (separator.split() or [""])[0]  # older templates put a comment behind it
    if separator in _SEPARATORS:
        parts = text.split(_SEPARATORS[separator])
    else:
        parts = re.split(r"[,\s]+" if name == "version_locations" else r"[,\s:]+", text)
    return [part.strip() for part in parts if part.strip()]


def _folder(name: str, base: Path) -> Path:
    """Return the folder that Alembic means by ``name``; if it is not there, the one beside the configuration."""
    if ":" in name and not os.path.isabs(name):
        package, *inner = name.split(":")
        spec = PathFinder.find_spec(package, [str(base)]) or importlib.util.find_spec(package)
        if spec is not None and spec.submodule_search_locations:
            return Path(next(iter(spec.submodule_search_locations)), *inner)
    here = Path(name).absolute()
    return here if here.exists() else base / name
