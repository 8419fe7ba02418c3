"""Random programs for several connections, run in the sandbox and on real connections; the two must agree.

Or else the sandbox must have said so. Each step's result (rows, row count, SQLSTATE and detail) is compared, then the
rows that are left. A lock wait on the real side is a difference that the sandbox must have flagged by then. Where all
is equal, the sandbox must have been silent.

Run many: ``python -m tests.sandbox.oracle --programs 20000 --seed 1``.
"""

from __future__ import annotations

import argparse
import random
import sys
import time
import warnings
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import sqlalchemy as sa

from dbtestcase.errors import DBTestCaseError, LostCommit, UncommittedRead
from dbtestcase.postgres import ThrowawayPostgres, running_instance
from dbtestcase.sandbox import Sandbox

SCHEMA = """
CREATE TABLE account (id int PRIMARY KEY, name text UNIQUE, n int NOT NULL DEFAULT 0);
CREATE TABLE item (id int PRIMARY KEY, account int REFERENCES account (id) DEFERRABLE INITIALLY DEFERRED, n int);
CREATE TABLE note (id int PRIMARY KEY, account int REFERENCES account (id), n int);
INSERT INTO account SELECT i, 'name' || i, i FROM generate_series(1, 4) i;
INSERT INTO item SELECT i, i, i FROM generate_series(1, 3) i;
INSERT INTO note VALUES (1, 1, 1);
"""
RESTORE = "DELETE FROM note; DELETE FROM item; DELETE FROM account;" + SCHEMA[SCHEMA.index("INSERT") :]
RECREATE = "DROP TABLE IF EXISTS extra; DROP TABLE account, item, note CASCADE;" + SCHEMA

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
RARE = {"create", "drop", "use extra", "alter", "null", "update all", "delete items", "join", "select note", "upsert"}
ENDS = ("commit", "rollback", "close")
SAVEPOINTS = ("SAVEPOINT", "RELEASE", "ROLLBACK TO")

Step = tuple[int, str, tuple[Any, ...]]
Result = Any


def random_step(dice: random.Random, connections: int) -> Step:
    """Return a step that is likely enough to meet others."""
    connection = dice.randrange(connections)
    roll = dice.random()
    if roll < 0.22:
        return connection, dice.choices(ENDS, (5, 3, 1))[0], ()
    if roll < 0.36:
        return connection, dice.choice(SAVEPOINTS), (dice.choice("ab"),)
    kinds = [kind for kind in STATEMENTS if kind not in RARE or dice.random() < 0.3]
    return connection, (kind := dice.choice(kinds)), arguments_of(kind, dice)


def arguments_of(kind: str, dice: random.Random) -> tuple[Any, ...]:
    letters = STATEMENTS[kind][1]
    return tuple(f"name{dice.randint(1, 7)}" if letter == "s" else dice.randint(1, 6) for letter in letters)


def random_program(dice: random.Random) -> list[Step]:
    connections = dice.randint(2, 4)
    return [random_step(dice, connections) for _ in range(dice.randint(3, 16))]


class Side:
    """Runs programs and notes what each step gave."""

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
            else:
                cursor = connection.cursor()
                cursor.execute(STATEMENTS[kind][0], arguments)
                return sorted(cursor.fetchall(), key=repr) if cursor.description else cursor.rowcount
        except DBTestCaseError as error:
            return type(error).__name__
        except Exception as error:
            state = getattr(error, "pgcode", None) or getattr(error, "sqlstate", None)
            detail = getattr(getattr(error, "diag", None), "message_detail", None)
            return (state, detail) if detail else state or repr(error)
        return None

    def rows(self) -> list[Any]:
        connection = self.connect()
        try:
            return [
                self.step({0: connection}, 0, kind, ()) for kind in ("select all", "count", "join", "select note")
            ] + [self.step({0: connection}, 0, "use extra", (1,))]
        finally:
            self.close(connection)


class RealSide(Side):
    def __init__(self, url: sa.URL) -> None:
        self.engine = sa.create_engine(url, poolclass=sa.NullPool)
        self._dialect: Any = self.engine.dialect
        self._arguments, self._parameters = self._dialect.create_connect_args(url)
        self.has_ddl = False
        self._spare: list[Any] = []

    def connect(self) -> Any:
        if self._spare:
            return self._spare.pop()
        connection = self._dialect.connect(*self._arguments, **self._parameters)
        connection.cursor().execute("SET lock_timeout = '3ms'")
        connection.commit()
        return connection

    def close(self, connection: Any) -> None:
        connection.rollback()
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

    def connect(self) -> Any:
        return self.sandbox.engine.raw_connection()


@dataclass
class Outcome:
    verdict: str
    detail: str = ""
    flags: list[str] = field(default_factory=list)


class Oracle:
    """Both sides, ready to run programs."""

    def __init__(self, real: RealSide, virtual: SandboxSide) -> None:
        self.real = real
        self.virtual = virtual

    def judge(self, program: list[Step]) -> Outcome:
        """Run a program on both sides and compare."""
        self.real.restore()
        self.real.has_ddl = any(kind in ("create", "drop", "alter") for _, kind, _ in program)
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
            return Outcome("lost commit")
        return Outcome("FALSE ALARM", flags=flags)


@contextmanager
def running_oracle(driver: str = "psycopg2") -> Iterator[Oracle]:
    """Start a server with a private database for each side."""
    with running_instance(ThrowawayPostgres(), owner="oracle") as instance:
        url = sa.make_url(instance.url()).set(drivername=f"postgresql+{driver}")
        instance.execute("CREATE DATABASE real")
        for each in (url, url.set(database="real")):
            engine = sa.create_engine(each, poolclass=sa.NullPool)
            with engine.begin() as connection:
                connection.exec_driver_sql(SCHEMA)
        sandbox = Sandbox(url, owner="Oracle")
        real = RealSide(url.set(database="real"))
        try:
            yield Oracle(real, SandboxSide(sandbox))
        finally:
            sandbox.close()
            real.dispose()


def show(program: list[Step]) -> str:
    lines = []
    for index, (number, kind, arguments) in enumerate(program):
        text = STATEMENTS[kind][0] % tuple(map(repr, arguments)) if kind in STATEMENTS else " ".join((kind, *arguments))
        lines.append(f"  {index:2} connection {number}: {text}")
    return "\n".join(lines)


def shrink(oracle: Oracle, program: list[Step], verdict: str) -> list[Step]:
    """Leave out steps for as long as the verdict stays."""
    index = 0
    while index < len(program):
        shorter = program[:index] + program[index + 1 :]
        if oracle.judge(shorter).verdict == verdict:
            program = shorter
        else:
            index += 1
    return program


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--programs", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--driver", default="psycopg2")
    parser.add_argument("--show", type=int, default=3, help="how many bad programs to print")
    options = parser.parse_args()
    dice = random.Random(options.seed)
    verdicts: Counter[str] = Counter()
    began, shown = time.monotonic(), 0
    with running_oracle(options.driver) as oracle:
        for _ in range(options.programs):
            program = random_program(dice)
            outcome = oracle.judge(program)
            verdicts[outcome.verdict] += 1
            if outcome.verdict.isupper() and shown < options.show:
                shown += 1
                program = shrink(oracle, program, outcome.verdict)
                outcome = oracle.judge(program)
                print(f"{outcome.verdict} {outcome.detail}\n{show(program)}\n" + "\n".join(outcome.flags), flush=True)
    print(f"{options.programs} programs, seed {options.seed}, {time.monotonic() - began:.0f} s: {dict(verdicts)}")
    return any(verdict.isupper() for verdict in verdicts)


if __name__ == "__main__":
    sys.exit(main())
