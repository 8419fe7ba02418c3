"""The language of the random programs: what several connections of a test may do, one step after the other.

A program is a list of steps and a list of *actors*: the connections that take them, each in a way of its own (an
SQLAlchemy connection, an ORM session, the driver's connection and cursors), some in threads of their own.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Any

__all__ = ["ALL", "ENDS", "SCHEMA", "Actor", "Program", "Step", "random_program", "shortened", "show"]

SCHEMA = """
CREATE TABLE account (id int PRIMARY KEY, name text UNIQUE, n int NOT NULL DEFAULT 0);
CREATE TABLE item (id int PRIMARY KEY, account int REFERENCES account (id) DEFERRABLE INITIALLY DEFERRED, n int);
CREATE TABLE note (id int PRIMARY KEY, account int REFERENCES account (id), n int);
CREATE TABLE audited (id int PRIMARY KEY, n int);
CREATE TABLE part (id int PRIMARY KEY, audited int REFERENCES audited (id) ON DELETE CASCADE);
CREATE TABLE log (what text, id int);
CREATE TABLE rank (id int PRIMARY KEY, place int, CONSTRAINT one_place UNIQUE (place) DEFERRABLE);
CREATE TABLE secret (id int PRIMARY KEY, owner text);
ALTER TABLE secret ENABLE ROW LEVEL SECURITY;
CREATE POLICY own ON secret USING (owner = current_setting('app.owner', true));
CREATE VIEW rich AS SELECT id, name FROM account WHERE n > 2;
CREATE SEQUENCE number;
CREATE TYPE mood AS ENUM ('good', 'bad');
CREATE FUNCTION audit() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  INSERT INTO log VALUES (TG_OP, NEW.id);
  RETURN NEW;
END $$;
CREATE TRIGGER audit AFTER INSERT OR UPDATE ON audited FOR EACH ROW EXECUTE FUNCTION audit();
CREATE FUNCTION twice(int) RETURNS int LANGUAGE sql IMMUTABLE AS 'SELECT 2 * $1';
CREATE FUNCTION remark(int) RETURNS int LANGUAGE sql AS 'INSERT INTO log VALUES (''remark'', $1) RETURNING id';
CREATE FUNCTION grow(int) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
  UPDATE account SET n = n + 1 WHERE id = $1;
EXCEPTION WHEN others THEN NULL;
END $$;
INSERT INTO account SELECT i, 'name' || i, i FROM generate_series(1, 4) i;
INSERT INTO item SELECT i, i, i FROM generate_series(1, 3) i;
INSERT INTO note VALUES (1, 1, 1);
INSERT INTO audited VALUES (1, 1), (2, 2);
INSERT INTO part VALUES (1, 1), (2, 2);
INSERT INTO rank SELECT i, i FROM generate_series(1, 3) i;
INSERT INTO secret VALUES (1, 'ada'), (2, 'bob');
DELETE FROM log;
DO $$ BEGIN
  IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'reader') THEN CREATE ROLE reader; END IF;
END $$;
GRANT SELECT ON ALL TABLES IN SCHEMA public TO reader;
"""

# Each: statement and which arguments it takes ("i": a small id, "s": a short name, "n": a number). Those with "{}" get
# them as text. Kinds in capitals are no statements; see oracle.py.
PLAIN: dict[str, tuple[str, str]] = {
    "insert account": ("INSERT INTO account (id, name, n) VALUES (%s, %s, %s)", "isn"),
    "insert item": ("INSERT INTO item (id, account, n) VALUES (%s, %s, %s)", "iin"),
    "insert note": ("INSERT INTO note (id, account, n) VALUES (%s, %s, %s)", "iin"),
    "upsert": ("INSERT INTO account (id, name) VALUES (%s, %s) ON CONFLICT (id) DO UPDATE SET n = account.n + 1", "is"),
    "insert select": ("INSERT INTO note (id, account, n) SELECT id + 10, id, n FROM account WHERE id = %s", "i"),
    "update n": ("UPDATE account SET n = n + %s WHERE id = %s", "ni"),
    "update name": ("UPDATE account SET name = %s WHERE id = %s", "si"),
    "update by n": ("UPDATE account SET n = %s WHERE n = %s", "nn"),
    "update item": ("UPDATE item SET n = n + 1 WHERE account = %s", "i"),
    "update nothing": ("UPDATE item SET n = 0 WHERE false", ""),
    "move item": ("UPDATE item SET account = %s WHERE id = %s", "ii"),
    "update all": ("UPDATE item SET n = n + 1", ""),
    "update from": ("UPDATE item SET n = a.n FROM account a WHERE a.id = item.account AND a.id = %s", "i"),
    "delete account": ("DELETE FROM account WHERE id = %s", "i"),
    "delete item": ("DELETE FROM item WHERE id = %s", "i"),
    "delete items": ("DELETE FROM item WHERE n > %s", "n"),
    "returning": ("INSERT INTO account (id, name) VALUES (%s, %s) RETURNING id, n", "is"),
    "cte": ("WITH gone AS (DELETE FROM note WHERE id = %s RETURNING id) SELECT id FROM gone", "i"),
    "audited": ("INSERT INTO audited VALUES (%s, %s)", "in"),
    "update audited": ("UPDATE audited SET n = %s WHERE id = %s", "ni"),
    "delete audited": ("DELETE FROM audited WHERE id = %s", "i"),
    "add part": ("INSERT INTO part VALUES (%s, %s)", "ii"),
    "swap": ("UPDATE rank SET place = %s - place", "n"),
    "place": ("UPDATE rank SET place = %s WHERE id = %s", "ii"),
    "select one": ("SELECT id, name, n FROM account WHERE id = %s", "i"),
    "select item": ("SELECT id, account, n FROM item WHERE account = %s", "i"),
    "select all": ("SELECT id, name, n FROM account ORDER BY id", ""),
    "items": ("SELECT id, account, n FROM item", ""),
    "count": ("SELECT count(*) FROM item", ""),
    "join": ("SELECT a.id, i.id FROM account a JOIN item i ON i.account = a.id ORDER BY 1, 2", ""),
    "select note": ("SELECT * FROM note ORDER BY id", ""),
    "audits": ("SELECT id, n FROM audited", ""),
    "log": ("SELECT what, id FROM log", ""),
    "parts": ("SELECT id, audited FROM part", ""),
    "rich": ("SELECT id, name FROM rich", ""),
    "ranks": ("SELECT id, place FROM rank", ""),
    "twice": ("SELECT twice(n) FROM account WHERE id = %s", "i"),
    "nothing": ("SELECT 1", ""),
    "division": ("SELECT 1 / 0", ""),
    "null": ("INSERT INTO account (id, n) VALUES (%s, NULL)", "i"),
    "syntax": ("SELEKT 1", ""),
    "unknown": ("SELECT id FROM nowhere", ""),
    "value": ("SELECT id FROM account WHERE id = 'one'", ""),
}
LOCKING: dict[str, tuple[str, str]] = {
    "lock": ("SELECT id FROM account WHERE id = %s FOR UPDATE", "i"),
    "for share": ("SELECT id FROM account WHERE id = %s FOR SHARE", "i"),
    "for key share": ("SELECT id FROM account WHERE id = %s FOR KEY SHARE", "i"),
    "nowait": ("SELECT id FROM account WHERE id = %s FOR UPDATE NOWAIT", "i"),
    "skip locked": ("SELECT id FROM account WHERE n = %s FOR UPDATE SKIP LOCKED", "n"),
    "lock table": ("LOCK TABLE item", ""),
    "lock share": ("LOCK TABLE item IN SHARE MODE", ""),
    "lock nowait": ("LOCK TABLE account IN ACCESS EXCLUSIVE MODE NOWAIT", ""),
    "try lock": ("SELECT pg_try_advisory_lock(%s)", "i"),
    "try xact lock": ("SELECT pg_try_advisory_xact_lock(%s)", "i"),
    "advisory lock": ("SELECT pg_advisory_xact_lock(%s)", "i"),
    "unlock": ("SELECT pg_advisory_unlock(%s)", "i"),
    "unlock all": ("SELECT pg_advisory_unlock_all()", ""),
}
SCHEMA_CHANGES: dict[str, tuple[str, str]] = {
    "create": ("CREATE TABLE extra (id int)", ""),
    "drop": ("DROP TABLE extra", ""),
    "drop if": ("DROP TABLE IF EXISTS extra", ""),
    "use extra": ("INSERT INTO extra VALUES (%s)", "i"),
    "extra": ("SELECT id FROM extra", ""),
    "select into": ("SELECT id INTO extra FROM account", ""),
    "create as": ("CREATE TABLE extra AS SELECT id FROM item", ""),
    "alter": ("ALTER TABLE note ADD COLUMN more int", ""),
    "retype": ("ALTER TABLE note ALTER COLUMN n TYPE text", ""),
    "truncate": ("TRUNCATE note", ""),
    "index": ("CREATE INDEX by_n ON item (n)", ""),
    "comment": ("COMMENT ON TABLE note IS 'noted'", ""),
    "enum": ("ALTER TYPE mood ADD VALUE 'calm'", ""),
    "use enum": ("SELECT 'calm'::mood", ""),
    "deferred": ("ALTER TABLE note ADD CONSTRAINT late UNIQUE (n) DEFERRABLE INITIALLY DEFERRED", ""),
    "cursor": ("CREATE VIEW poor AS SELECT id FROM account WHERE n < 2", ""),
    "poor": ("SELECT id FROM poor", ""),
}
OWN_STATE: dict[str, tuple[str, str]] = {
    "temp": ("CREATE TEMP TABLE scratch (id int)", ""),
    "temp drop": ("CREATE TEMP TABLE scratch (id int) ON COMMIT DROP", ""),
    "temp delete": ("CREATE TEMP TABLE scratch (id int) ON COMMIT DELETE ROWS", ""),
    "use temp": ("INSERT INTO scratch VALUES (%s)", "n"),
    "select temp": ("SELECT id FROM scratch", ""),
    "hide": ("CREATE TEMP TABLE note (id int)", ""),
    "set": ("SET statement_timeout = '1{}s'", "n"),
    "set local": ("SET LOCAL statement_timeout = '1{}s'", "n"),
    "reset": ("RESET statement_timeout", ""),
    "show": ("SHOW statement_timeout", ""),
    "search path": ("SET search_path = pg_catalog", ""),
    "set owner": ("SET app.owner = 'ada'", ""),
    "owner": ("SELECT current_setting('app.owner', true)", ""),
    "secrets": ("SELECT id FROM secret", ""),
    "constraints": ("SET CONSTRAINTS ALL DEFERRED", ""),
    "immediate": ("SET CONSTRAINTS ALL IMMEDIATE", ""),
    "declare": ("DECLARE reader CURSOR FOR SELECT id, n FROM item ORDER BY id", ""),
    "fetch": ("FETCH 2 FROM reader", ""),
    "close cursor": ("CLOSE reader", ""),
    "prepare": ("PREPARE grow (int) AS UPDATE account SET n = n + 1 WHERE id = $1", ""),
    "execute": ("EXECUTE grow ({})", "i"),
    "deallocate": ("DEALLOCATE grow", ""),
    "nextval": ("SELECT nextval('number')", ""),
    "remark": ("SELECT remark(%s)", "i"),
    "grow": ("SELECT grow(%s)", "i"),
}
NEEDS_REAL: dict[str, tuple[str, str]] = {
    "set config": ("SELECT set_config('app.owner', 'bob', false)", ""),
    "set config local": ("SELECT set_config('app.owner', 'bob', true)", ""),
    "role": ("SET ROLE reader", ""),
    "local role": ("SET LOCAL ROLE reader", ""),
    "no role": ("RESET ROLE", ""),
    "user": ("SELECT current_user", ""),
    "authorization": ("SET SESSION AUTHORIZATION reader", ""),
    "read only": ("SET default_transaction_read_only = on", ""),
    "characteristics": ("SET SESSION CHARACTERISTICS AS TRANSACTION READ ONLY", ""),
    "set transaction": ("SET TRANSACTION ISOLATION LEVEL SERIALIZABLE", ""),
    "declare hold": ("DECLARE reader CURSOR WITH HOLD FOR SELECT id, n FROM item ORDER BY id", ""),
    "begin": ("BEGIN", ""),
    "commit text": ("COMMIT", ""),
    "rollback text": ("ROLLBACK", ""),
    "commit and chain": ("COMMIT AND CHAIN", ""),
    "two": ("UPDATE account SET n = 9 WHERE id = 1; COMMIT; SELECT n FROM account WHERE id = 1", ""),
    "discard": ("DISCARD ALL", ""),
    "do": ("DO $$ BEGIN PERFORM set_config('app.owner', 'ada', false); END $$", ""),
    "currval": ("SELECT currval('number')", ""),
    "setval": ("SELECT setval('number', 7)", ""),
    "xmin": ("SELECT count(DISTINCT xmin) FROM account", ""),
    "concurrently": ("CREATE INDEX CONCURRENTLY by_n ON item (n)", ""),
    "vacuum": ("VACUUM note", ""),
    "listen": ("LISTEN news", ""),
    "notify": ("NOTIFY news", ""),
}
ALL = PLAIN | LOCKING | SCHEMA_CHANGES | OWN_STATE | NEEDS_REAL

MODES = ("AUTOCOMMIT", "REPEATABLE READ", "SERIALIZABLE", "READ COMMITTED", "READ ONLY")
ENDS = ("COMMIT", "ROLLBACK", "CLOSE")
SAVEPOINTS = ("SAVEPOINT", "RELEASE", "ROLLBACK TO")
NESTED = ("NEST", "NEST END", "NEST UNDO")
MANY = ("MANY", "COPY IN", "COPY OUT")
STREAMS = ("STREAM", "NEXT", "STREAM END")
OBJECTS = ("ADD", "GET", "CHANGE", "REMOVE", "FLUSH", "EXPIRE", "QUERY")
POOL = ("INVALIDATE", "DISPOSE", "DETACH", "PING")
DRIVER = ("WITH", "COMPOSED", "CLOSED")
# What the driver's own connection does and one transaction never carries; as rare as NEEDS_REAL.
DRIVER_NEEDS_REAL = ("AUTOCOMMIT ON", "AUTOCOMMIT OFF", "NAMED", "CALLPROC", "STATUS")
# Which groups of kinds an actor of each way of connecting understands, beside statements.
UNDERSTOOD = {
    "core": (*SAVEPOINTS, *NESTED, *MANY, *STREAMS, *POOL),
    "raw": (*SAVEPOINTS, *MANY, *DRIVER),
    "session": (*SAVEPOINTS, *NESTED, *OBJECTS, *MANY[:1]),
}
_RARE = frozenset({
    "null", "update all", "delete items", "join", "select note", "upsert", "syntax", "unknown", "value", "swap",
    "DISPOSE", "INVALIDATE", "DETACH",
})  # fmt: skip
_ARGUMENTS = {"MANY": "iiii", "COPY IN": "ii", "ADD": "is", "GET": "i", "CHANGE": "in", "REMOVE": "i"}
ENGINES = ("plain", "plain", "plain", "other", "null", "auto", "serial", "optioned", "listening", "prepared")


@dataclass(frozen=True)
class Actor:
    """One connection of a program.

    Attributes:
        way: "core" for an SQLAlchemy connection, "session" for an ORM session, "raw" for the driver's own connection.
        engine: Which of the engines (see oracle.py) it comes from.
        has_thread: Whether it lives in a thread of its own, which takes its steps while the test waits.
    """

    way: str = "core"
    engine: str = "plain"
    has_thread: bool = False


@dataclass(frozen=True)
class Step:
    """What one actor does next: a kind of statement or of something else, with its arguments."""

    actor: int
    kind: str
    arguments: tuple[Any, ...] = ()


@dataclass(frozen=True)
class Program:
    actors: tuple[Actor, ...]
    steps: tuple[Step, ...]


def random_program(dice: random.Random, *, connections: int = 0, raw: bool = False) -> Program:
    """Return a program whose connections are likely to meet each other.

    Args:
        connections: How many there are; two to four if 0.
        raw: Whether all of them are the driver's own.
    """
    count = connections or dice.randint(2, 4)
    is_mixed = dice.random() < 0.4
    actors = tuple(
        Actor(
            "raw" if raw else dice.choice(("core", "core", "session", "raw")) if is_mixed else "core",
            dice.choice(ENGINES) if is_mixed and dice.random() < 0.3 else "plain",
            is_mixed and dice.random() < 0.1,
        )
        for _ in range(count)
    )
    # A few kinds beside the plain ones for each program, so that they meet each other.
    more: list[str] = []
    if dice.random() < 0.6:
        more = dice.sample(sorted(LOCKING | OWN_STATE), 5)
        if dice.random() < 0.5:
            more += dice.sample(sorted(SCHEMA_CHANGES), 3)
        if set(more) & {"use temp", "select temp", "fetch", "execute", "set", "declare", "temp drop", "temp delete"}:
            more += ["temp", "declare", "prepare", "execute", "fetch", "show"]
        if dice.random() < (0.05 if connections == 1 else 0.2):
            more += dice.sample([*sorted(NEEDS_REAL), *MODES, *DRIVER_NEEDS_REAL], 2)
    # Some take turns, as a test and the code under test do: one goes on until its transaction ends.
    is_polite = dice.random() < 0.5
    steps: list[Step] = []
    actor = dice.randrange(count)
    for _ in range(dice.randint(3, 16)):
        if not is_polite or dice.random() < 0.07 or (steps and steps[-1].kind in ENDS):
            actor = dice.randrange(count)
        steps.append(_random_step(dice, actor, actors[actor], more, is_mixed=is_mixed or raw))
    return Program(actors, tuple(steps))


def shortened(program: Program, index: int) -> Program:
    """Return a program without one of its steps."""
    return Program(program.actors, program.steps[:index] + program.steps[index + 1 :])


def show(program: Program) -> str:
    """Return a program as text."""
    used = {step.actor for step in program.steps}
    lines = [f"  {i}: {actor}" for i, actor in enumerate(program.actors) if i in used and actor != Actor()]
    for index, step in enumerate(program.steps):
        text = step.kind
        if step.kind in ALL:
            sql = ALL[step.kind][0]
            text = sql.format(*step.arguments) if "{}" in sql else sql % tuple(map(repr, step.arguments))
        elif step.arguments:
            text += f" {step.arguments!r}"
        lines.append(f"  {index:2} connection {step.actor}: {text}")
    return "\n".join(lines)


def _random_step(dice: random.Random, number: int, actor: Actor, more: list[str], *, is_mixed: bool) -> Step:
    roll = dice.random()
    if roll < 0.22:
        return Step(number, dice.choices(ENDS, (5, 3, 1))[0])
    if roll < 0.32:
        kind = dice.choice(SAVEPOINTS if dice.random() < 0.5 or actor.way == "raw" else NESTED)
        return Step(number, kind, (dice.choice("ab"),) if kind in SAVEPOINTS else ())
    if is_mixed and roll < 0.55:
        kind = _often(dice, UNDERSTOOD[actor.way])
        if kind in SAVEPOINTS:
            return Step(number, kind, (dice.choice("ab"),))
        return Step(number, kind, _arguments(_ARGUMENTS.get(kind, ""), dice))
    kind = dice.choice(more) if more and roll > 0.65 else _often(dice, tuple(PLAIN))
    return Step(number, kind, _arguments(ALL[kind][1] if kind in ALL else "", dice))


def _often(dice: random.Random, kinds: tuple[str, ...]) -> str:
    while (kind := dice.choice(kinds)) in _RARE and dice.random() < 0.7:
        pass
    return kind


def _arguments(letters: str, dice: random.Random) -> tuple[Any, ...]:
    return tuple(f"name{dice.randint(1, 7)}" if letter == "s" else dice.randint(1, 6) for letter in letters)
