"""The server processes behind the connections of a test class: whose they are, and what the server says of them.

A connection is known here by its process id, as in ``pg_stat_activity``. What the user wants to read is where in his
code it was opened and where its transaction began; that only we can know, and note when it happens.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Any, NamedTuple

import psycopg2
from sqlalchemy import URL
from sqlalchemy.orm import session

from dbtestcase.diagnosis.listing import duration
from dbtestcase.diagnosis.redaction import Redaction
from dbtestcase.diagnosis.sqltext import fingerprint, render
from dbtestcase.frames import UNKNOWN, Origin, comes_from

_PATIENCE = 5  # seconds; longest time that asking the server may take

_LONGEST_QUERY = 1000  # characters; track_activity_query_size is 1,024 bytes

_SESSION_MODULE = session.__file__

_COLUMNS = """
SELECT c.relname::text, concat_ws(' ', a.attname, (
    SELECT string_agg(f.attname, ' ') FROM pg_type t JOIN pg_attribute f ON f.attrelid = t.typrelid
    WHERE t.oid = a.atttypid
)) FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
LEFT JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
WHERE c.relkind IN ('r', 'p', 'v', 'm', 'f') AND n.nspname <> 'information_schema' AND n.nspname NOT LIKE 'pg\\_%'
"""

_ACTIVITY = """
SELECT a.pid, coalesce(a.state, ''), coalesce(a.query, ''), coalesce(a.application_name, ''),
       extract(epoch FROM clock_timestamp() - a.xact_start)::float,
       extract(epoch FROM clock_timestamp() - a.state_change)::float,
       pg_blocking_pids(a.pid)
FROM pg_stat_activity a
"""


@dataclass(slots=True)
class Backend:
    """What we know of one connection."""

    pid: int
    label: str
    opened: Origin
    began: Origin = UNKNOWN
    kind: str = "connection"
    thread_ident: int = 0
    thread_name: str = ""  # of other threads than the main one
    sql: Any = None
    parameters: Any = None

    def statement(self, redaction: Redaction) -> str:
        """Return the statement it sent last."""
        return render(self.sql, self.parameters, redaction) if self.sql is not None else ""


class Activity(NamedTuple):
    """What the server says of one process."""

    pid: int
    state: str
    query: str
    application: str
    transaction_age: float | None
    state_age: float | None
    blocked_by: list[int]


class Backends:
    """All connections of one test class, by process id. Filled by the sandbox from any thread."""

    def __init__(self, redaction: Redaction) -> None:
        self.redaction = redaction
        self._main = threading.main_thread().ident
        self._known: dict[int, Backend] = {}

    def opened(self, pid: int, label: str, origin: Origin) -> None:
        """A connection was opened for this line of the user's code."""
        self._known[pid] = Backend(pid, label, origin)

    def checked_out(self, pid: int, origin: Origin) -> None:
        """A pool has handed out a connection that it had kept."""
        known = self._known.get(pid)
        if known is not None:
            known.opened = origin

    def closed(self, pid: int) -> None:
        """The connection is gone; process ids are used again."""
        self._known.pop(pid, None)

    def sends(self, pid: int, sql: object, parameters: object, origin: Origin, *, begins: bool) -> None:
        """Note what a connection sends, and if it was in no transaction before, where and for whom it begins one."""
        known = self._known.get(pid)
        if known is None:
            known = self._known[pid] = Backend(pid, "connection", origin)
        known.sql, known.parameters = sql, parameters
        if begins:
            known.began = origin
            known.thread_ident = threading.get_ident()
            known.thread_name = "" if known.thread_ident == self._main else threading.current_thread().name
            known.kind = "session" if comes_from(_SESSION_MODULE) else "connection"

    def get(self, pid: int) -> Backend | None:
        """Return what is known of a process."""
        return self._known.get(pid)

    def name(self, pid: int) -> str:
        """Return a process as a person would name it."""
        known = self._known.get(pid)
        if known is None:
            return f"process {pid}"
        return f"{'a Session on ' if known.kind == 'session' else ''}{known.label} (process {pid})"

    def describe(self, pid: int, activity: Activity | None = None) -> list[str]:
        """Return lines on a process: who, its state and age, where it was opened and began, its last statement."""
        known = self._known.get(pid)
        lines = [f"{self.name(pid)}{_state(activity)}"]
        if known is None:
            lines.append(_stranger(activity))
        else:
            thread = f", in thread {known.thread_name!r}" if known.thread_name else ""
            lines.append(f"  opened at {known.opened}{thread}")
            if known.began is not UNKNOWN:
                lines.append(f"  its transaction began at {known.began}")
        last = known.statement(self.redaction) if known is not None else ""
        if not last and activity is not None:
            # The server keeps the beginning of a text only, in which the name of what is to be hidden may be missing.
            is_whole = len(activity.query) < _LONGEST_QUERY
            last = render(activity.query, None, self.redaction) if is_whole else fingerprint(activity.query)
        if last:
            running = activity is not None and activity.state == "active"
            lines.append(f"  {'its statement' if running else 'last statement'}: {last}")
        return [line for line in lines if line]


def ask_server(url: URL, query: str, parameters: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
    """Run one query on a connection of its own, within a bound, whatever the others hold."""
    arguments: dict[str, Any] = url.translate_connect_args(username="user", database="dbname")
    arguments |= {key: value for key, value in url.query.items() if key in ("host", "port", "password", "sslmode")}
    arguments["options"] = f"-c statement_timeout={_PATIENCE}s -c lock_timeout={_PATIENCE}s"
    connection = psycopg2.connect(**arguments, connect_timeout=_PATIENCE, application_name="dbtestcase diagnosis")
    with closing(connection):
        connection.autocommit = True
        with connection.cursor() as cursor:
            cursor.execute(query, tuple(parameters) or None)
            return cursor.fetchall() if cursor.description else []


def columns_of(url: URL) -> list[tuple[str, str]] | None:
    """Return all columns of a database with their tables, ``None`` if it does not answer.

    Behind the name of a column of a composite type stand those of its attributes.
    """
    try:
        return [(table, column) for table, column in ask_server(url, _COLUMNS)]
    except psycopg2.Error:
        return None


def activities(url: URL, pids: Iterable[int]) -> list[Activity]:
    """Return what the server says of these processes."""
    return [Activity(*row) for row in ask_server(url, f"{_ACTIVITY} WHERE a.pid = ANY(%s)", (list(pids),))]


def _state(activity: Activity | None) -> str:
    if activity is None:
        return ""
    if activity.state.startswith("idle in transaction"):
        begun = activity.transaction_age
        return f", {activity.state}" + (f", begun {duration(begun)} ago" if begun is not None else "")
    if activity.state == "active" and activity.state_age is not None:
        what = "waiting" if activity.blocked_by else "running its statement"
        return f", {what} for {duration(activity.state_age)}"
    return f", {activity.state}" if activity.state else ""


def _stranger(activity: Activity | None) -> str:
    application = f" (application {activity.application!r})" if activity is not None and activity.application else ""
    return f"  not opened through an engine of the class{application}"
