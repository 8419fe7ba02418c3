"""Understands what ``schema`` was set to."""

from __future__ import annotations

import os
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, TypeAlias, runtime_checkable

from sqlalchemy import URL, Connection, MetaData

from dbtestcase.errors import SchemaError
from dbtestcase.schema.alembic import AlembicPart
from dbtestcase.schema.digest import digest, version_of
from dbtestcase.schema.metadata import MetaDataPart
from dbtestcase.schema.migrations import AlembicMigrations
from dbtestcase.schema.parts import CallablePart, Part
from dbtestcase.schema.sql_files import SqlFilesPart
from dbtestcase.schema.target import Target
from dbtestcase.sql import LONGEST_NAME, quoted_identifier

MAIN_DATABASE = "test"
_RESERVED = {"postgres", "template0", "template1"}
_ACCEPTED = (
    "Accepted are: a MetaData, a declarative base, a Flask-SQLAlchemy db, a pathlib.Path to a .sql file or to a folder "
    'of them, AlembicMigrations("alembic.ini"), a callable taking a Connection, a sequence of these, a mapping of '
    "database names to these, or None for an empty database."
)


@runtime_checkable
class HasMetaData(Protocol):
    """A declarative base, or the ``db`` of Flask-SQLAlchemy."""

    @property
    def metadata(self) -> MetaData: ...


# Callable[..., object] for a function that takes a Connection: type checkers take one that is set on a class for a
# method, without its first argument. plan() checks its signature.
SchemaStep: TypeAlias = (
    "MetaData | HasMetaData | type[Any] | os.PathLike[str] | AlembicMigrations | Callable[..., object]"
)
SchemaLike: TypeAlias = (
    "SchemaStep | Sequence[SchemaStep | Sequence[Any]] | Mapping[str, SchemaStep | Sequence[Any] | None]"
)


class SchemaPlan:
    """What is to be created, in which databases, and whether the result may be kept.

    Attributes:
        databases: The databases, the class's main one first.
        fingerprint: Identifies the content in any process. None: it depends on what the user's code does when it is
            called, so the result is good for this process only.
        token: Identifies the content within this process.
        background: May :meth:`create` be called from another thread than the main one?
        is_empty: Is there nothing to create?
    """

    def __init__(
        self,
        owner: str,
        steps: Mapping[str, Sequence[Part]],
        extensions: tuple[str, ...],
        hidden: tuple[str, ...] = (),
    ) -> None:
        self._owner = owner
        self._hidden = hidden
        self._steps = {name: tuple(parts) for name, parts in steps.items()}
        self._extensions = extensions
        self.databases: tuple[str, ...] = tuple(self._steps)
        self.is_empty = self.databases == (MAIN_DATABASE,) and not any(self._parts())
        self.fingerprint = self._fingerprint()
        self.background = all(part.background for part in self._parts())
        self.token: Hashable = self.fingerprint or tuple(
            (name, tuple(part.fingerprint() or part.token() for part in parts)) for name, parts in self._steps.items()
        )

    def __repr__(self) -> str:
        return f"<SchemaPlan of {self._owner}: {', '.join(self.databases)}>"

    def create(self, url_for: Callable[[str], URL], create_database: Callable[[str], None]) -> None:
        """Create everything, committed, in an instance that holds an empty database "test".

        What was created when this raises is of no use: throw the instance away.

        Args:
            url_for: Returns the URL of a database of the instance.
            create_database: Makes an empty database of the instance.

        Raises:
            SchemaError: The server or the user's code refused; or the schema changed meanwhile.
        """
        for name, parts in self._steps.items():
            url = url_for(name)
            if name != MAIN_DATABASE:
                create_database(name)
                _add_extensions(self._owner, url, self._extensions)
            for part in parts:
                part.create(Target(self._owner, url, self._extensions, self._hidden))
        if self.fingerprint != self._fingerprint():
            raise SchemaError(
                f"{self._owner} changed while it was being created (a file was edited, or a module that defines "
                "models was imported). What was made fits neither; run the tests again."
            )

    def _parts(self) -> Iterator[Part]:
        for parts in self._steps.values():
            yield from parts

    def _fingerprint(self) -> str | None:
        texts = [f"dbtestcase {version_of('dbtestcase')}"]
        for name, parts in self._steps.items():
            texts += ["database", name]
            for part in parts:
                fingerprint = part.fingerprint()
                if fingerprint is None:
                    return None
                texts.append(fingerprint)
            if name != MAIN_DATABASE:
                texts += self._extensions
        return digest("schema", texts)


def plan(
    schema: SchemaLike | None, *, owner: str, extensions: Sequence[str] = (), hidden: Iterable[str] = ()
) -> SchemaPlan:
    """Understand ``schema`` and find its files; nothing is created yet.

    Args:
        owner: How to name it in messages: "ShopTests.schema".
        extensions: The extensions that the instance is made with.
        hidden: Names of columns and settings whose values no message may show, beside those that are always hidden.

    Raises:
        SchemaError: It is none of the accepted kinds, or a file does not exist.
    """
    reader = _Reader(owner)
    if isinstance(schema, Mapping):
        steps = reader.read_mapping(schema)
    else:
        steps = {MAIN_DATABASE: reader.read(schema), **reader.bound}
    return SchemaPlan(owner, steps, tuple(extensions), tuple(hidden))


def metadata_of(thing: object) -> MetaData | None:
    """Return the MetaData that ``thing`` is or carries, or None."""
    if isinstance(thing, MetaData):
        return thing
    by_bind = getattr(thing, "metadatas", None)  # Flask-SQLAlchemy 3
    found = by_bind.get(None) if isinstance(by_bind, Mapping) else getattr(thing, "metadata", None)
    return found if isinstance(found, MetaData) else None


class _Reader:
    """Turns one value of ``schema`` into parts; ``bound`` holds those of a Flask-SQLAlchemy ``db``'s other binds."""

    def __init__(self, owner: str, bound: dict[str, list[Part]] | None = None) -> None:
        self._owner = owner
        self.bound = {} if bound is None else bound

    def read_mapping(self, schema: Mapping[Any, Any]) -> dict[str, list[Part]]:
        if not schema:
            raise SchemaError(f"{self._owner}: the mapping names no database. Write None for an empty database.")
        steps: dict[str, list[Part]] = {}
        for name, value in schema.items():
            self._check_name(name)
            reader = _Reader(f"{self._owner}[{name!r}]")
            steps[name] = reader.read(value)
            # A mapping says all there is to say: the tables of other binds belong to entries of their own.
        return steps

    def read(self, value: object) -> list[Part]:
        if value is None:
            return []
        if isinstance(value, (list, tuple)):
            parts: list[Part] = []
            for number, item in enumerate(value):
                reader = _Reader(f"{self._owner}[{number}]", self.bound)
                if item is None:
                    raise reader._not_accepted(item)
                parts += reader.read(item)
            return parts
        return list(self._parts(value))

    def _parts(self, value: object) -> Iterator[Part]:
        value = _owner_of_create_all(value)
        metadata = metadata_of(value)
        if metadata is not None:
            self._read_binds(value)
            part = MetaDataPart(metadata, _name_of(value), _registry_of(value))
            # All models may belong to other binds.
            if not (self.bound and part.is_empty()):
                yield part
        elif isinstance(value, AlembicMigrations):
            yield AlembicPart(value, self._owner)
        elif isinstance(value, os.PathLike):
            yield SqlFilesPart(Path(value), self._owner)
        elif callable(value) and not isinstance(value, type):
            yield CallablePart(value, self._owner)
        else:
            raise self._not_accepted(value)

    def _read_binds(self, db: object) -> None:
        by_bind = getattr(db, "metadatas", None)
        if not isinstance(by_bind, Mapping):
            return
        for key, metadata in by_bind.items():
            # The extension makes a MetaData for each configured bind; without models there is nothing to create.
            if key is None or not isinstance(metadata, MetaData) or not metadata.tables:
                continue
            if key == MAIN_DATABASE:
                raise SchemaError(
                    f"{self._owner}: the bind key {key!r} is also the name of the main database. Name both yourself: "
                    f"schema = {{'main': db, 'other': db.metadatas[{key!r}]}}."
                )
            self._check_name(key)
            self.bound.setdefault(key, []).append(MetaDataPart(metadata, f"bind {key!r}"))

    def _check_name(self, name: object) -> None:
        if isinstance(name, str) and name and name not in _RESERVED and "\0" not in name:
            if len(name.encode()) <= LONGEST_NAME:
                return
            raise SchemaError(f"{self._owner}: {name!r} is too long for a database, {LONGEST_NAME} bytes at most.")
        raise SchemaError(
            f"{self._owner}: {name!r} cannot name a database. Take a str that is not empty and none of "
            f"{', '.join(sorted(_RESERVED))}; the first name is the class's main database."
        )

    def _not_accepted(self, value: object) -> SchemaError:
        problem = f"{self._owner} is {_described(value)}, which cannot be a schema."
        return SchemaError(f"{problem}\n{_advice(value)}{_ACCEPTED}")


def _owner_of_create_all(value: object) -> object:
    """Read ``Base.metadata.create_all`` and ``db.create_all`` as what they belong to, which can be kept."""
    belongs_to = getattr(value, "__self__", None)
    if getattr(value, "__name__", "") == "create_all" and metadata_of(belongs_to) is not None:
        return belongs_to
    return value


def _registry_of(value: object) -> object:
    """Return the registry of the models of a declarative base or of Flask-SQLAlchemy's ``db``, if it has one."""
    return getattr(value, "registry", None) or getattr(getattr(value, "Model", None), "registry", None)


def _name_of(value: object) -> str:
    if isinstance(value, type):
        return value.__qualname__
    return "the MetaData" if isinstance(value, MetaData) else "db"


def _described(value: object) -> str:
    text = repr(value)
    text = text if len(text) <= 80 else text[:77] + "..."
    return f"the class {value.__qualname__}" if isinstance(value, type) else f"{text} ({type(value).__qualname__})"


def _advice(value: object) -> str:
    if isinstance(value, (str, bytes)):
        text = value if isinstance(value, str) else value.decode("utf-8", "replace")
        if text.endswith((".ini", ".toml")) or os.path.isfile(os.path.join(text, "env.py")):
            return f'For Alembic write AlembicMigrations("{text}").\n'
        if "\n" in text or ";" in text or " " in text.strip():
            return "For SQL in the code write lambda connection: connection.exec_driver_sql(...).\n"
        return f'A str may be a path or SQL, so say which: Path("{text}").\n'
    if type(value).__module__.startswith("flask_sqlalchemy_lite"):
        return "The db of Flask-SQLAlchemy-Lite has no metadata: give the declarative base of your models.\n"
    if isinstance(value, Mapping):
        return "A mapping of database names cannot stand within a sequence or another mapping.\n"
    if isinstance(value, (set, frozenset)) or hasattr(value, "__next__"):
        return "It has no order that can be relied on, or can be read once only: give a list or a tuple.\n"
    return ""


def _add_extensions(owner: str, url: URL, extensions: tuple[str, ...]) -> None:
    if not extensions:
        return

    def create_extensions(connection: Connection) -> None:
        for name in extensions:
            connection.exec_driver_sql(f"CREATE EXTENSION IF NOT EXISTS {quoted_identifier(name)} CASCADE")

    CallablePart(create_extensions, owner).create(Target(owner, url, extensions))
