"""Files of SQL as schema: plain scripts and what pg_dump writes."""

from __future__ import annotations

import io
import re
from pathlib import Path
from typing import Any

import psycopg2
from psycopg2.extensions import TRANSACTION_STATUS_IDLE

from dbtestcase.errors import SchemaError
from dbtestcase.schema.connect import connect
from dbtestcase.schema.digest import digest, file_digest
from dbtestcase.schema.failure import failure
from dbtestcase.schema.parts import Part
from dbtestcase.schema.script import Statement, UnreadableScript, statements
from dbtestcase.schema.target import Target

# A dump made by a newer pg_dump sets these; psql would print an error and go on.
_SETTING_OF_LATER_SERVERS = re.compile(r"set\s+\w+_timeout\s*(?:=|to)\s*0$", re.IGNORECASE)


class SqlFilesPart(Part):
    """Runs scripts one after the other, each on a connection of its own."""

    def __init__(self, path: Path, owner: str) -> None:
        # Absolute from the start: the code under test may change the working directory.
        self._path = Path(path).absolute()
        self._owner = owner
        self._files = self._find_files()

    def fingerprint(self) -> str | None:
        texts: list[str] = []
        for file in self._files:
            texts += [file.name, self._read(file_digest, file)]
        return digest("sql", texts)

    def create(self, target: Target) -> None:
        for file in self._files:
            _run_script(file, self._read(_read_text, file), target)

    def _find_files(self) -> list[Path]:
        if self._path.is_dir():
            if (self._path / "env.py").is_file():
                raise SchemaError(
                    f"{self._owner}: {self._path} is a folder of Alembic migrations. "
                    f'Write schema = AlembicMigrations("{self._path.name}").'
                )
            files = sorted(
                (file for file in self._path.glob("*.sql") if file.is_file() and not file.name.startswith(".")),
                key=lambda file: file.name,
            )
            if not files:
                raise SchemaError(
                    f"{self._owner}: there is no .sql file directly in the folder {self._path}.\n"
                    "A folder is run file by file in name order, without the folders in it; list those one by one: "
                    'schema = [Path("a"), Path("a/b")].'
                )
            return files
        if not self._path.exists():
            raise SchemaError(
                f"{self._owner}: there is no file {self._path}.\n"
                "A relative path starts at the working directory; to start at the test module's folder, write "
                f'Path(__file__).parent / "{self._path.name}".'
            )
        if self._path.suffix.lower() in (".ini", ".toml"):
            raise SchemaError(
                f'{self._owner}: {self._path} is not SQL. Write schema = AlembicMigrations("{self._path.name}").'
            )
        return [self._path]

    def _read(self, reader: Any, file: Path) -> str:
        try:
            return str(reader(file))
        except OSError as exc:
            raise SchemaError(f"{self._owner}: cannot read {file}: {exc.strerror or exc}.") from exc
        except UnicodeDecodeError as exc:
            line = exc.object[: exc.start].count(b"\n") + 1
            raise SchemaError(
                f"{self._owner}: {file}, line {line}: byte 0x{exc.object[exc.start]:02x} is not UTF-8. "
                "Save the file as UTF-8 (for a dump: pg_dump --encoding=UTF8)."
            ) from exc


def _read_text(file: Path) -> str:
    # Decoded by hand, because text mode would change the line ends inside of strings.
    return file.read_bytes().decode("utf-8-sig")


def _run_script(file: Path, script: str, target: Target) -> None:
    connection = connect(target.url)
    try:
        # The script says where its transactions begin and end, as with psql.
        connection.autocommit = True
        for statement in statements(script):
            try:
                _run(connection, statement)
            except psycopg2.Error as exc:
                if _is_setting_of_a_later_server(statement, exc):
                    continue
                raise failure(
                    target,
                    f"run {file}",
                    exc,
                    location=f"{file}, line {_line(script, _offset(statement, exc))}",
                    statement=statement.text,
                ) from exc
        if connection.info.transaction_status != TRANSACTION_STATUS_IDLE:
            raise SchemaError(
                f"{target.owner}: {file} ends within a transaction that it began, so its work would be lost. "
                "Add COMMIT; at its end, or remove the BEGIN."
            )
    except UnreadableScript as exc:
        advice = (
            "Only SQL can be run here. A dump: make it with pg_dump in plain format, without --create; "
            'files that include others: list them in order, schema = [Path("a.sql"), Path("b.sql")].'
            if "psql" in exc.problem
            else "Close it; SQL doubles a quote within a string: 'it''s'."
        )
        raise SchemaError(
            f"{target.owner}: {file}, line {_line(script, exc.offset)}: {exc.problem}.\n{advice}"
        ) from exc
    finally:
        connection.close()


def _run(connection: Any, statement: Statement) -> None:
    with connection.cursor() as cursor:
        if statement.copy_data is None:
            cursor.execute(statement.text)  # without arguments psycopg2 leaves every % alone
        else:
            cursor.copy_expert(statement.text, io.StringIO(statement.copy_data))


def _is_setting_of_a_later_server(statement: Statement, exc: psycopg2.Error) -> bool:
    return exc.pgcode == "42704" and _SETTING_OF_LATER_SERVERS.match(statement.text) is not None


def _offset(statement: Statement, exc: psycopg2.Error) -> int:
    """Return where in the script the server found the error: its position counts characters of the statement."""
    position = exc.diag.statement_position
    return statement.start + (int(position) - 1 if position else 0)


def _line(script: str, offset: int) -> int:
    return script.count("\n", 0, offset) + 1
