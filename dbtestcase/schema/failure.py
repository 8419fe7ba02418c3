"""What a SchemaError says: whose schema, which statement, the server's words, the line of the user's code."""

from __future__ import annotations

import os
import re
import traceback
from contextlib import closing, suppress
from typing import Any

import psycopg2
from sqlalchemy.exc import DBAPIError

from dbtestcase.diagnosis.backends import columns_of
from dbtestcase.diagnosis.database_errors import redact
from dbtestcase.diagnosis.messages import EXTENSION, EXTENSION_WITH
from dbtestcase.diagnosis.redaction import Redaction
from dbtestcase.diagnosis.sqltext import fingerprint
from dbtestcase.diagnosis.statement import Statement
from dbtestcase.diagnosis.tracebacks import chain
from dbtestcase.errors import SchemaError
from dbtestcase.frames import UNKNOWN, is_users
from dbtestcase.schema import extensions
from dbtestcase.schema.connect import connect
from dbtestcase.schema.target import Target

_LONGEST_STATEMENT = 20  # lines

_MISSING = re.compile(
    r'(?:type|function|operator class|text search dictionary) "?(?:[\w$]+\.)?([\w$]+)"?.*(?:does not exist)', re.DOTALL
)
# Before PostgreSQL 15 the control file was named, and the line that it could not be opened.
_UNAVAILABLE = re.compile(
    r'extension "([^"]+)" is not available|could not open extension control file ".*/([^"/]+)\.control"'
)
_MISSING_ROLE = re.compile(r'role "(.+)" does not exist')


def database_error(exc: BaseException) -> Any:
    """Return the driver's error inside ``exc``, or None if the database did not refuse anything."""
    return next((each for each in chain(exc) if getattr(each, "diag", None) is not None), None)


def server_words(exc: BaseException) -> str:
    """Return what the server said: its message, detail, hint and context."""
    error = database_error(exc)
    if error is None or not error.diag.message_primary:
        return f"{type(exc).__name__}: {exc}".strip()
    diag = error.diag
    words = [f"{diag.severity or 'ERROR'}:  {diag.message_primary}"]
    for title, text in (("DETAIL", diag.message_detail), ("HINT", diag.message_hint), ("CONTEXT", diag.context)):
        if text:
            words.append(f"{title}:  {text}")
    return "\n".join(words)


def failure(
    target: Target,
    what: str,
    exc: BaseException,
    *,
    location: str = "",
    statement: str | None = None,
    advice: str = "",
) -> SchemaError:
    """Return the error to raise from ``exc``.

    Args:
        what: What was being done, to follow "could not": "create table 'shop'".
        location: Where the user wrote it.
        advice: The next step, if the caller knows better than the hints here.
    """
    lines = [f"{target.owner}: could not {what}"]
    if location:
        lines.append(f"  at {location}")
    if statement is None and isinstance(exc, DBAPIError):
        statement = exc.statement
    redaction = Redaction(target.hidden, lambda: columns_of(target.url))
    error = database_error(exc)
    sent = Statement("", UNKNOWN, statement or "", error=error, redaction=redaction)
    hides = redact(exc, [sent], redaction)
    is_hidden = error is not None and hides(error)
    lines.append(_indented(f"ERROR:  {error}" if is_hidden else server_words(exc)))
    if statement:
        lines += ["The statement:", _indented(fingerprint(statement) if is_hidden else _shortened(statement))]
    lines.append(advice or _hint(exc, target))
    return SchemaError("\n".join(line for line in lines if line))


def location_of(exc: BaseException, *folders: str) -> str:
    """Return "file:line in function" of the innermost frame of ``exc`` in user code (below ``folders``, if given)."""
    best = ""
    for frame in traceback.extract_tb(exc.__traceback__):
        if any(_is_below(frame.filename, folder) for folder in folders) or (not folders and is_users(frame.filename)):
            best = f"{frame.filename}:{frame.lineno} in {frame.name}"
    return best


def _is_below(filename: str, folder: str) -> bool:
    return os.path.abspath(filename).startswith(os.path.join(os.path.abspath(folder), ""))


def _hint(exc: BaseException, target: Target) -> str:
    error = database_error(exc)
    if error is None:
        return ""
    message = str(error.diag.message_primary or "")
    role = _MISSING_ROLE.search(message)
    if role:
        return (
            f"The instance is new and has no role {role[1]!r}. A dump made with pg_dump --no-owner --no-privileges "
            f"needs none; or create it first: schema = [lambda c: c.exec_driver_sql('CREATE ROLE \"{role[1]}\"'), ...]."
        )
    unavailable = _UNAVAILABLE.search(message)
    if unavailable:
        with suppress(psycopg2.Error), closing(connect(target.url)) as connection:
            return extensions.advice(connection, unavailable[1] or unavailable[2])
    missing = _MISSING.search(message)
    if missing and error.diag.sqlstate in ("42704", "42883"):
        extension = EXTENSION_WITH.get(missing[1].lower())
        if extension is not None:
            wanted = ", ".join(map(repr, (*target.extensions, extension)))
            return EXTENSION.format(name=missing[1], extensions=wanted)
        return (
            "If an extension brings it, name that extension: postgres = ThrowawayPostgres(extensions=(...,)); "
            "if an earlier step makes it, put that step before this one: schema = [earlier, later]."
        )
    return ""


def _shortened(statement: str) -> str:
    lines = [line.rstrip() for line in statement.strip().splitlines()]
    if len(lines) > _LONGEST_STATEMENT:
        lines = [*lines[:_LONGEST_STATEMENT], f"... ({len(lines) - _LONGEST_STATEMENT} more lines)"]
    return "\n".join(lines)


def _indented(text: str) -> str:
    return "\n".join(f"    {line.rstrip()}" for line in text.splitlines() if line.strip())
