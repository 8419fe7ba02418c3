"""Random programs for several connections, run in the sandbox and on real connections; the two must agree.

Or else the sandbox must have said so. Each step's result (rows, row count, SQLSTATE and detail) is compared, then the
rows that are left. A lock wait on the real side is a difference that the sandbox must have flagged by then. Where all
is equal, the sandbox must have been silent. An exception that is no answer of the database is a verdict too: CRASHED.

Half of the programs use plain statements only; the other half also what belongs to a connection (temporary tables,
PREPARE, cursors, settings, advisory locks), locks, triggers, cascades, autocommit and other isolation levels.

Run many: ``python -m tests.sandbox.oracle --programs 20000 --seed 1``.
"""

from __future__ import annotations

import argparse
import multiprocessing
import random
import sys
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

import psycopg
import sqlalchemy as sa

from dbtestcase.errors import DBTestCaseError, LostCommit, UncommittedRead
from dbtestcase.sandbox import Sandbox
from dbtestcase.servers import ThrowawayPostgres, running_instance

SCHEMA = """
CREATE TABLE account (id int PRIMARY KEY, name text UNIQUE, n int NOT NULL DEFAULT 0);
CREATE TABLE item (id int PRIMARY KEY, account int REFERENCES account (id) DEFERRABLE INITIALLY DEFERRED, n int);
CREATE TABLE note (id int PRIMARY KEY, account int REFERENCES account (id), n int);
CREATE TABLE audited (id int PRIMARY KEY, n int);
CREATE TABLE part (id int PRIMARY KEY, audited int REFERENCES audited (id) ON DELETE CASCADE);
CREATE TABLE log (what text, id int);
CREATE VIEW rich AS SELECT id, name FROM account WHERE n > 2;
CREATE SEQUENCE number;
CREATE OR REPLACE FUNCTION audit() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  INSERT INTO log VALUES (TG_OP, NEW.id);
  RETURN NEW;
END $$;
CREATE TRIGGER audit AFTER INSERT OR UPDATE ON audited FOR EACH ROW EXECUTE FUNCTION audit();
INSERT INTO account SELECT i, 'name' || i, i FROM generate_series(1, 4) i;
INSERT INTO item SELECT i, i, i FROM generate_series(1, 3) i;
INSERT INTO note VALUES (1, 1, 1);
INSERT INTO audited VALUES (1, 1), (2, 2);
INSERT INTO part VALUES (1, 1), (2, 2);
DELETE FROM log;
"""
TABLES = ("part", "audited", "log", "note", "item", "account")
RESTORE = "".join(f"DELETE FROM {table};" for table in TABLES) + SCHEMA[SCHEMA.index("INSERT INTO account") :]
RESTORE += "SELECT setval('number', 1, false);"
RECREATE = f"DROP TABLE IF EXISTS extra; DROP TABLE {', '.join(TABLES)} CASCADE; DROP SEQUENCE number;" + SCHEMA

# Each: statement and how many arguments of which kind ("i": a small id, "s": a short name, "n": a number).
STATEMENTS: dict[str, tuple[str, str]] = {
    "insert account": ("INSERT INTO account (id, name, n) VALUES (%s, %s, %s)", "isn"),
    "insert item": ("INSERT INTO item (id, account, n) VALUES (%s, %s, %s)", "iin"),
    "insert note": ("INSERT INTO note (id, account, n) VALUES (%s, %s, %s)", "iin"),
    "upsert": ("INSERT INTO account (id, name) VALUES (%s, %s) ON CONFLICT (id) DO UPDATE SET n = account.n + 1", "is"),
    "update n": ("UPDATE account SET n = n + %s WHERE id = %s", "ni"),
    "update name": ("UPDATE account SET name = %s WHERE id = %s", "si"),
    "update by n": ("UPDATE account SET n = %s WHERE n = %s", "nn"),
    "update item": ("UPDATE item SET n = n + 1 WHERE account = %s", "i"),
    "move item": ("UPDATE item SET account = %s WHERE id = %s", "ii"),
    "update all": ("UPDATE item SET n = n + 1", ""),
    "delete account": ("DELETE FROM account WHERE id = %s", "i"),
    "delete item": ("DELETE FROM item WHERE id = %s", "i"),
    "delete items": ("DELETE FROM item WHERE n > %s", "n"),
    "select one": ("SELECT id, name, n FROM account WHERE id = %s", "i"),
    "select item": ("SELECT id, account, n FROM item WHERE account = %s", "i"),
    "select all": ("SELECT id, name, n FROM account ORDER BY id", ""),
    "items": ("SELECT id, account, n FROM item", ""),
    "count": ("SELECT count(*) FROM item", ""),
    "join": ("SELECT a.id, i.id FROM account a JOIN item i ON i.account = a.id ORDER BY 1, 2", ""),
    "lock": ("SELECT id FROM account WHERE id = %s FOR UPDATE", "i"),
    "nothing": ("SELECT 1", ""),
    "error": ("SELECT 1 / 0", ""),
    "null": ("INSERT INTO account (id, n) VALUES (%s, NULL)", "i"),
    "create": ("CREATE TABLE extra (id int)", ""),
    "drop": ("DROP TABLE extra", ""),
    "use extra": ("INSERT INTO extra VALUES (%s)", "i"),
    "alter": ("ALTER TABLE note ADD COLUMN more int", ""),
    "select note": ("SELECT * FROM note ORDER BY id", ""),
}
# Statements of the other half of the programs. Those with "{}" get their arguments as text.
WIDE: dict[str, tuple[str, str]] = {
    "truncate": ("TRUNCATE note", ""),
    "index": ("CREATE INDEX by_n ON item (n)", ""),
    "lock table": ("LOCK TABLE item", ""),
    "lock share": ("LOCK TABLE item IN SHARE MODE", ""),
    "for share": ("SELECT id FROM account WHERE id = %s FOR SHARE", "i"),
    "for key share": ("SELECT id FROM account WHERE id = %s FOR KEY SHARE", "i"),
    "nowait": ("SELECT id FROM account WHERE id = %s FOR UPDATE NOWAIT", "i"),
    "skip locked": ("SELECT id FROM account WHERE n = %s FOR UPDATE SKIP LOCKED", "n"),
    "temp": ("CREATE TEMP TABLE scratch (id int)", ""),
    "temp drop": ("CREATE TEMP TABLE scratch (id int) ON COMMIT DROP", ""),
    "temp delete": ("CREATE TEMP TABLE scratch (id int) ON COMMIT DELETE ROWS", ""),
    "use temp": ("INSERT INTO scratch VALUES (%s)", "n"),
    "select temp": ("SELECT id FROM scratch", ""),
    "try lock": ("SELECT pg_try_advisory_lock(%s)", "i"),
    "try xact lock": ("SELECT pg_try_advisory_xact_lock(%s)", "i"),
    "advisory lock": ("SELECT pg_advisory_xact_lock(%s)", "i"),
    "unlock": ("SELECT pg_advisory_unlock(%s)", "i"),
    "set": ("SET statement_timeout = '1{}s'", "n"),
    "set local": ("SET LOCAL statement_timeout = '1{}s'", "n"),
    "show": ("SHOW statement_timeout", ""),
    "nextval": ("SELECT nextval('number')", ""),
    "returning": ("INSERT INTO account (id, name) VALUES (%s, %s) RETURNING id, n", "is"),
    "update from": ("UPDATE item SET n = a.n FROM account a WHERE a.id = item.account AND a.id = %s", "i"),
    "cte": ("WITH gone AS (DELETE FROM note WHERE id = %s RETURNING id) SELECT id FROM gone", "i"),
    "audited": ("INSERT INTO audited VALUES (%s, %s)", "in"),
    "update audited": ("UPDATE audited SET n = %s WHERE id = %s", "ni"),
    "delete audited": ("DELETE FROM audited WHERE id = %s", "i"),
    "audits": ("SELECT id, n FROM audited", ""),
    "log": ("SELECT what, id FROM log", ""),
    "parts": ("SELECT id, audited FROM part", ""),
    "add part": ("INSERT INTO part VALUES (%s, %s)", "ii"),
    "rich": ("SELECT id, name FROM rich", ""),
    "many": ("INSERT INTO note (id, account) VALUES (%s, %s)", "iiii"),
    "declare": ("DECLARE reader CURSOR FOR SELECT id, n FROM item ORDER BY id", ""),
    "declare hold": ("DECLARE reader CURSOR WITH HOLD FOR SELECT id, n FROM item ORDER BY id", ""),
    "fetch": ("FETCH 2 FROM reader", ""),
    "close cursor": ("CLOSE reader", ""),
    "prepare": ("PREPARE grow (int) AS UPDATE account SET n = n + 1 WHERE id = $1", ""),
    "execute": ("EXECUTE grow ({})", "i"),
    "deallocate": ("DEALLOCATE grow", ""),
}
MODES = ("AUTOCOMMIT", "REPEATABLE READ", "SERIALIZABLE", "READ COMMITTED")
ALL = STATEMENTS | WIDE
RARE = {"create", "drop", "use extra", "alter", "null", "update all", "delete items", "join", "select note", "upsert"}
ENDS = ("commit", "rollback", "close")
SAVEPOINTS = ("SAVEPOINT", "RELEASE", "ROLLBACK TO")

Step = tuple[int, str, tuple[Any, ...]]
Result = Any


def random_step(dice: random.Random, connections: int, more: tuple[str, ...] = ()) -> Step:
    """Return a step that is likely enough to meet others.

    Args:
        more: Kinds beside the plain ones, which get half of the statements.
    """
    connection = dice.randrange(connections)
    roll = dice.random()
    if more and roll > 0.96:
        return connection, dice.choice(MODES), ()
    if more and roll > 0.6:
        return connection, (kind := dice.choice(more)), arguments_of(kind, dice)
    if roll < 0.22:
        return connection, dice.choices(ENDS, (5, 3, 1))[0], ()
    if roll < 0.36:
        return connection, dice.choice(SAVEPOINTS), (dice.choice("ab"),)
    kinds = [kind for kind in STATEMENTS if kind not in RARE or dice.random() < 0.3]
    return connection, (kind := dice.choice(kinds)), arguments_of(kind, dice)


def arguments_of(kind: str, dice: random.Random) -> tuple[Any, ...]:
    letters = ALL[kind][1]
    return tuple(f"name{dice.randint(1, 7)}" if letter == "s" else dice.randint(1, 6) for letter in letters)


def random_program(dice: random.Random) -> list[Step]:
    connections = dice.randint(2, 4)
    # A few kinds per program, so that they meet each other.
    more = tuple(dice.sample(sorted(WIDE), 6)) if dice.random() < 0.5 else ()
    if set(more) & {"use temp", "select temp", "fetch", "execute", "set", "declare", "temp drop", "temp delete"}:
        more += ("temp", "declare", "prepare", "execute", "fetch", "show")
    return [random_step(dice, connections, more) for _ in range(dice.randint(3, 16))]


class Side:
    """Runs programs and notes what each step gave."""

    levels: dict[str, Any]
    # What the driver raises. Anything else is a fault of the sandbox, or of this module, and is not caught.
    database_error: type[Exception]

    def connect(self) -> Any:
        raise NotImplementedError

    def run(self, program: list[Step]) -> Iterator[Result]:
        connections: dict[int, Any] = {}
        try:
            for number, kind, arguments in program:
                if number not in connections:
                    connections[number] = self.connect()
                yield self.step(connections, number, kind, arguments)
        finally:
            for connection in connections.values():
                self.close(connection)

    def close(self, connection: Any) -> None:
        connection.close()

    def step(self, connections: dict[int, Any], number: int, kind: str, arguments: tuple[Any, ...]) -> Result:
        connection = connections[number]
        try:
            if kind == "close":
                self.close(connections.pop(number))
            elif kind in ENDS:
                getattr(connection, kind)()
            elif kind in SAVEPOINTS:
                connection.cursor().execute(f"{kind} {arguments[0]}")
            elif kind in MODES:
                self.set_mode(connection, kind)
            elif kind == "many":
                connection.cursor().executemany(ALL[kind][0], [arguments[:2], arguments[2:]])
            else:
                cursor, sql = connection.cursor(), ALL[kind][0]
                if "{}" in sql:
                    cursor.execute(sql.format(*arguments))
                else:
                    cursor.execute(sql, arguments or None)
                if not cursor.description and kind in WIDE and cursor.rowcount <= 0:
                    return None
                return sorted(cursor.fetchall(), key=repr) if cursor.description else cursor.rowcount
        except DBTestCaseError as error:
            return type(error).__name__
        except self.database_error as error:
            state = getattr(error, "pgcode", None) or getattr(error, "sqlstate", None)
            detail = getattr(getattr(error, "diag", None), "message_detail", None)
            return (state, detail) if detail else state or type(error).__name__
        return None

    def set_mode(self, connection: Any, mode: str) -> None:
        connection.autocommit = mode == "AUTOCOMMIT"
        if mode != "AUTOCOMMIT":
            connection.isolation_level = self.levels[mode]

    def rows(self) -> list[Any]:
        connection = self.connect()
        try:
            return [
                self.step({0: connection}, 0, kind, ())
                for kind in ("select all", "items", "select note", "audits", "log", "parts", "nextval")
            ] + [self.step({0: connection}, 0, "use extra", (1,))]
        finally:
            self.close(connection)


class RealSide(Side):
    def __init__(self, url: sa.URL) -> None:
        self.engine = sa.create_engine(url, poolclass=sa.NullPool)
        self._dialect: Any = self.engine.dialect
        self._arguments, self._parameters = self._dialect.create_connect_args(url)
        self.levels = levels_of(self._dialect)
        self.database_error = self._dialect.loaded_dbapi.Error
        self.has_ddl = self.is_wide = False
        self._spare: list[Any] = []

    def connect(self) -> Any:
        if self._spare:
            return self._spare.pop()
        connection = self._dialect.connect(*self._arguments, **self._parameters)
        self._prepare(connection)
        return connection

    def _prepare(self, connection: Any) -> None:
        connection.cursor().execute("SET lock_timeout = '3ms'")
        connection.commit()

    def close(self, connection: Any) -> None:
        connection.rollback()
        if self.is_wide:
            # As good as new.
            connection.autocommit = True
            connection.cursor().execute("DISCARD ALL")
            connection.autocommit = False
            connection.isolation_level = None
            self._prepare(connection)
        self._spare.append(connection)

    def restore(self) -> None:
        connection = self.connect()
        connection.cursor().execute(RECREATE if self.has_ddl else RESTORE)
        connection.commit()
        self.close(connection)

    def dispose(self) -> None:
        for connection in self._spare:
            connection.close()


class SandboxSide(Side):
    def __init__(self, sandbox: Sandbox) -> None:
        self.sandbox = sandbox
        self.levels = levels_of(sandbox.engine.dialect)
        self.database_error = sandbox.engine.dialect.loaded_dbapi.Error
        self.is_wide = False

    def connect(self) -> Any:
        connection: Any = self.sandbox.engine.raw_connection()
        if self.is_wide:
            connection.detach()  # closing it is the end of it
            return connection.dbapi_connection
        return connection


def levels_of(dialect: Any) -> dict[str, Any]:
    if dialect.driver == "psycopg":
        return {mode: psycopg.IsolationLevel[mode.replace(" ", "_")] for mode in MODES[1:]}
    return {mode: mode for mode in MODES[1:]}


@dataclass
class Outcome:
    verdict: str
    detail: str = ""
    flags: list[str] = field(default_factory=list)


class Oracle:
    """Both sides, ready to run programs: a server with a private database for each."""

    real: RealSide
    virtual: SandboxSide

    def __init__(self, driver: str) -> None:
        self._driver = driver
        self._running = ExitStack()
        self._start()

    def _start(self) -> None:
        with ExitStack() as running:
            instance = running.enter_context(running_instance(ThrowawayPostgres(), owner="oracle"))
            url = sa.make_url(instance.url()).set(drivername=f"postgresql+{self._driver}")
            instance.execute("CREATE DATABASE real")
            for each in (url, url.set(database="real")):
                engine = sa.create_engine(each, poolclass=sa.NullPool)
                with engine.begin() as connection:
                    connection.exec_driver_sql(SCHEMA)
            self.real = RealSide(url.set(database="real"))
            running.callback(self.real.dispose)
            sandbox = Sandbox(url, owner="Oracle")
            running.callback(sandbox.close)
            with closing(instance.connect("test")) as connection:
                sandbox.restart_sequences(connection)
            self.virtual = SandboxSide(sandbox)
            self._running = running.pop_all()

    def close(self) -> None:
        self._running.close()

    def judge(self, program: list[Step]) -> Outcome:
        """Run a program on both sides and compare; after a crash, be as good as new."""
        try:
            return self._judge(program)
        except Exception:
            outcome = Outcome("CRASHED", traceback.format_exc())
        # Whatever state the crash left the sides in, it must not decide about the next program, or about this one's
        # shrinking; nor is it to hide the crash by failing once more.
        with suppress(Exception):
            self.close()
        self._start()
        return outcome

    def _judge(self, program: list[Step]) -> Outcome:
        self.real.restore()
        self.real.has_ddl = any(kind in ("create", "drop", "alter", "index") for _, kind, _ in program)
        self.real.is_wide = self.virtual.is_wide = any(kind in WIDE or kind in MODES for _, kind, _ in program)
        expected = list(self.real.run(program))
        wait = next((i for i, result in enumerate(expected) if result == "55P03"), None)
        rows = self.real.rows() if wait is None else None
        self.virtual.sandbox.begin_test("program")
        flagged_at: int | None = None
        problems: list[Exception] = []
        got: list[Result] = []
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            try:
                for index, result in enumerate(self.virtual.run(program)):
                    got.append(result)
                    run = self.virtual.sandbox._core.run
                    if flagged_at is None and (run.problems or any(w.category is UncommittedRead for w in caught)):
                        flagged_at = index
                virtual_rows = self.virtual.rows()
            finally:
                problems = self.virtual.sandbox.end_test()
        flags = [str(w.message) for w in caught if w.category is UncommittedRead] + [str(p) for p in problems]
        if wait is not None:
            expected = expected[:wait]
        for index, (mine, real) in enumerate(zip(got, expected, strict=False)):
            if mine != real:
                if flagged_at is not None and flagged_at <= index:
                    return Outcome("flagged", flags=flags)
                return Outcome("DIFFERENT", f"step {index}: real {real!r}, sandbox {mine!r}", flags)
        if wait is not None:
            if flagged_at is not None and flagged_at <= wait:
                return Outcome("flagged wait", flags=flags)
            return Outcome("UNFLAGGED WAIT", f"step {wait}", flags)
        if virtual_rows != rows:
            return Outcome("flagged" if flags else "DIFFERENT ROWS", f"{rows}\n{virtual_rows}", flags)
        if not flags:
            return Outcome("equal")
        if any(isinstance(problem, LostCommit) for problem in problems):
            return Outcome("lost commit", flags=flags)
        return Outcome("FALSE ALARM", flags=flags)


@contextmanager
def running_oracle(driver: str = "psycopg2") -> Iterator[Oracle]:
    """Start an oracle, and its server with it."""
    with closing(Oracle(driver)) as oracle:
        yield oracle


def show(program: list[Step]) -> str:
    lines = []
    for index, (number, kind, arguments) in enumerate(program):
        text = " ".join((kind, *map(str, arguments))) if kind not in ALL else ALL[kind][0].format(*arguments)
        if kind in ALL and arguments and "{}" not in ALL[kind][0]:
            text += f" {arguments!r}"
        lines.append(f"  {index:2} connection {number}: {text}")
    return "\n".join(lines)


def shrink(oracle: Oracle, program: list[Step], outcome: Outcome) -> tuple[list[Step], Outcome]:
    """Leave out steps for as long as the verdict stays."""
    index = 0
    while index < len(program):
        shorter = program[:index] + program[index + 1 :]
        if (found := oracle.judge(shorter)).verdict == outcome.verdict:
            program, outcome = shorter, found
        else:
            index += 1
    return program, outcome


def run_programs(options: argparse.Namespace, part: int) -> Counter[str]:
    """Run every n-th of the programs, where n is the number of processes; print the first bad ones."""
    dice = random.Random(options.seed)
    verdicts: Counter[str] = Counter()
    shown = 0
    with running_oracle(options.driver) as oracle:
        for number in range(options.programs):
            program = random_program(dice)
            if number and number % 1000 == 0 and part == 0 and sys.stderr.isatty():
                print(f"{number} of {options.programs} programs", file=sys.stderr, flush=True)
            if number % options.processes != part:
                continue
            outcome = oracle.judge(program)
            verdicts[outcome.verdict] += 1
            if outcome.verdict.isupper() and shown < options.show:
                shown += 1
                program, outcome = shrink(oracle, program, outcome)
                print(f"{outcome.verdict} {outcome.detail}\n{show(program)}\n" + "\n".join(outcome.flags), flush=True)
    return verdicts


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--programs", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--driver", default="psycopg2")
    parser.add_argument("--show", type=int, default=3, help="how many bad programs to print, for each process")
    parser.add_argument("--processes", type=int, default=1, help="how many share the programs")
    options = parser.parse_args()
    began = time.monotonic()
    with ProcessPoolExecutor(options.processes, multiprocessing.get_context("spawn")) as pool:
        parts = pool.map(run_programs, [options] * options.processes, range(options.processes))
        verdicts = sum(parts, Counter())
    print(
        f"{options.programs} programs, seed {options.seed}, {options.driver}, SQLAlchemy {sa.__version__}, "
        f"{time.monotonic() - began:.0f} s: {dict(verdicts)}"
    )
    return any(verdict.isupper() for verdict in verdicts)


if __name__ == "__main__":
    sys.exit(main())
