"""The sentences: what happened, why one undone transaction cannot carry it, what to do."""

from __future__ import annotations

from collections.abc import Iterable
from time import monotonic
from typing import TYPE_CHECKING

from dbtestcase.frames import Origin

from . import transactions
from .run import Run, shorten
from .transactions import VirtualTransaction, describe

if TYPE_CHECKING:
    from .channel import Channel
    from .lexer import Text

transactions.shown = shorten

CLONE = 'set isolation = "clone" on the test class: each test then gets a private database and commits for real'


def forked(owner: str) -> str:
    return (
        f"{owner}: a child process used the test's database connection, which belongs to the process that made it. "
        "PostgreSQL cannot serve two processes on one connection. Let the child make its own engine, and "
        f"{CLONE}, so that it sees the test's rows."
    )


def outlived(owner: str, channel: Channel) -> str:
    where = f", opened at {channel.opened}," if channel.opened else ""
    test = f" ({channel.run.name})" if channel.run is not None else ""
    return (
        f"{owner}: a database connection{where} was used after its test was over{test}. What it held has been undone, "
        "and it takes no part in other tests. Close connections, and join threads, before the test ends."
    )


def ended(owner: str, run: Run, error: BaseException | None = None) -> str:
    said = f" ({' '.join(str(error).split())})" if error is not None else ""
    return (
        f"{owner}: something in {run.name} ended the transaction that undoes the test{said}, so its rows may have been "
        f"committed for real. The last statements were:\n{run.recent()}\n"
        f"Use connection.commit() and connection.rollback() instead of SQL text, or {CLONE}."
    )


def connection_lost(owner: str, run: Run, error: BaseException) -> str:
    return (
        f"{owner}: the server ended the connection of {run.name}: {' '.join(str(error).split())}\n"
        "With it went the test's transaction, and all that the test had written. The last statements were:\n"
        f"{run.recent()}\n"
        f"Code that ends connections or restarts the server needs real ones: {CLONE}."
    )


def refused(owner: str, text: Text, sql: str, origin: Origin) -> str:
    if text.verb == "LISTEN":
        why = "was refused: notifications are sent at a real commit, and a test in a savepoint has none"
        instead = ""
    elif text.mixed_savepoints:
        why = "was refused: savepoints must be sent one statement at a time here, or they cannot be told apart"
        instead = "Send the statements one by one, or "
    else:
        verb = text.ending.verb if text.ending is not None else ""
        why = f"was refused: {verb} as SQL text would end or replace the transaction that undoes the test"
        instead = "Use connection.begin(), connection.commit() or connection.rollback(), which are undone, or "
    remedy = instead + CLONE
    return f"{owner}: the statement {shorten(sql)!r} at {origin} {why}.\n{remedy[0].upper()}{remedy[1:]}."


def needs_own_transaction(owner: str, sql: str, said: str) -> str:
    return (
        f"{owner}: {shorten(sql)!r} cannot run inside a transaction, and the test is one ({' '.join(said.split())}). "
        f"For tests of such statements {CLONE}."
    )


def thread_outlived(owner: str, run: Run) -> str:
    return (
        f"{owner}: another thread was still executing a statement when {run.name} ended; it was cancelled. "
        f"Join your threads before the test ends. The last statements were:\n{run.recent()}"
    )


def two_drivers(owner: str, ours: str, other: str) -> str:
    return (
        f"{owner}: an engine uses {other}, but the class's engines use {ours}; connections of two drivers cannot share "
        "the one transaction of a test. Give all engines of the class the same driver (the first one that is "
        "redirected decides), or test the others in a class of their own."
    )


def uncommitted(owner: str, origin: str) -> str:
    return (
        f"{owner}: the connection opened at {origin} was left open with uncommitted changes when the first test began; "
        "they would be lost. Commit and close it in setUpClass, or use setUpTestData(), which commits for you."
    )


def left_open(owner: str, origin: str, when: str, details: Iterable[str] = ()) -> str:
    """What is said of a connection that nobody closed.

    Args:
        when: How long it was open: "in the test".
        details: Lines on its process, state and last statement.
    """
    said = "".join(f"\n  {line}" for line in details)
    return (
        f"{owner}: the connection opened at {origin} was left open {when} and has been closed.{said}\n"
        "Close it where it is opened: 'with engine.connect() as connection:', connection.close(), session.close()."
    )


def virtual_details(pid: int | None, transaction: VirtualTransaction | None) -> list[str]:
    """Return lines on a virtual connection: its process, its transaction and that one's last statement."""
    process = f"process {pid}" if pid is not None else "no process"
    if transaction is None:
        return [f"{process}, in no transaction"]
    age = monotonic() - transaction.begun
    lines = [f"{process}, idle in transaction for {age:.1f} s, begun at {transaction.origin}"]
    if transaction.last_statement:
        lines.append(f"last statement: {shorten(transaction.last_statement)}")
    return lines


def with_cursors(opened: Iterable[Origin]) -> list[str]:
    """Return a line on each cursor that is open on a connection."""
    return [f"with an open cursor, opened at {origin}" for origin in opened]


def busy(owner: str, sql: str, origin: Origin) -> str:
    return (
        f"{owner}: a statement at {origin} was sent while {shorten(sql)!r} was under way. In production they would use "
        f"two connections; the test has one, and it is busy until the COPY is done. Finish the COPY first, or {CLONE}."
    )


def uncommitted_read(owner: str, mine: VirtualTransaction, other: VirtualTransaction, sql: str, table: str) -> str:
    return (
        f"{owner}: {shorten(sql)!r} of {mine.label} meets rows of {table} that {describe(other)} has changed or locked "
        "and not committed. In production it would not see them, or would wait for the other's commit; here both run "
        f"on one connection. Commit first, or {CLONE}."
    )


def committed_meanwhile(owner: str, mine: VirtualTransaction, other: VirtualTransaction, sql: str, table: str) -> str:
    return (
        f"{owner}: {shorten(sql)!r} of {mine.label} meets rows of {table} that {describe(other)} committed after "
        f"{mine.label} began its {mine.isolation} transaction. In production it would go on seeing the rows as "
        f"they were, or fail to serialize. To test that, {CLONE}."
    )


def would_wait(owner: str, mine: VirtualTransaction, other: VirtualTransaction, sql: str, table: str) -> str:
    return (
        f"{owner}: {shorten(sql)!r} of {mine.label} needs {table} for itself, and {describe(other)} has used it in a "
        "transaction that is still open. In production it would wait until that one ends; here both run on one "
        f"connection. End the other transaction first, or {CLONE}."
    )


def not_shared(owner: str, mine: Channel, other: Channel, sql: str, what: str, origin: Origin) -> str:
    return (
        f"{owner}: {shorten(sql)!r} of {mine.label} at {origin} meets the {what} of {other.label}, opened at "
        f"{other.opened}. In production it belongs to that connection alone; here all run on one. Give the connections "
        f"different names for it, or {CLONE}."
    )


def advisory_lock(owner: str, mine: Channel, other: Channel, sql: str) -> str:
    return (
        f"{owner}: {shorten(sql)!r} of {mine.label} asks for an advisory lock that {other.label}, opened at "
        f"{other.opened}, holds. In production it would wait; here both run on one connection, which never waits for "
        f"itself. Let the lock go first, or {CLONE}."
    )


def recalls_sequence(owner: str, mine: Channel, other: Channel | None, sql: str) -> str:
    label = other.label if other is not None else "another connection"
    return (
        f"{owner}: {shorten(sql)!r} of {mine.label} asks for the last value of a sequence, and {label} has used one "
        "since. In production each connection remembers its own; here all share one. Use RETURNING, which names the "
        f"row that was inserted, or {CLONE}."
    )


def notify(owner: str, sql: str, origin: Origin) -> str:
    return (
        f"{owner}: the notification of {shorten(sql)!r} at {origin} cannot be delivered: what it says depends on rows, "
        f"and here it is sent once more at the commit, on another connection. Use NOTIFY with plain values, or {CLONE}."
    )


def kept(owner: str) -> str:
    """What a statement after the failure of a test is told whose database is kept."""
    return (
        f"{owner}: the test had failed, and its database was kept as it was then (DBTESTCASE_KEEP). Nothing more is "
        "sent to it, by tearDown or others."
    )


def committed_elsewhere(owner: str) -> str:
    return (
        f"{owner}: somebody has committed a transaction in the class's instance for real, in this test or since the "
        "one before: over a connection of their own, made from instance.url() or instance.dsn(), say, or in another "
        "process. Nothing undoes that, so the next test gets a fresh instance.\n"
        f'Give the code under test {owner}.url or an engine of app_engines; or set isolation = "clone", then each '
        "test has a database of its own and everybody may commit."
    )
