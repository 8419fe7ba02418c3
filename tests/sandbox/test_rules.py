"""What a statement may do, told by its words: of a table of statements, and of every query that SQLAlchemy compiles."""

from __future__ import annotations

import unittest
import warnings
from collections.abc import Iterable
from contextlib import suppress
from typing import Any

import sqlalchemy as sa
from sqlalchemy import event, func
from sqlalchemy.dialects import postgresql as pg
from sqlalchemy.orm import Session

from dbtestcase import DatabaseTestCase, isolate
from dbtestcase.sandbox.rules import Effects, Rules
from tests.sandbox import selects

READ = Effects(is_plain=True)

# Statements that only read, beside what SQLAlchemy compiles.
READS = """
SELECT 1
select 'COMMIT; DELETE FROM item', $$ROLLBACK$$, E'\\'; COMMIT --', $x$ BEGIN; $x$
SELECT 1 -- COMMIT
SELECT /* DELETE FROM item; /* nested */ COMMIT */ 1
SELECT "commit", "txid_current" FROM "delete from" WHERE "set" = 'for update'
SELECT set, update, delete, lock, notify FROM words
SELECT for_update FROM item ORDER BY update
SELECT t."pg_backend_pid" FROM t
(SELECT 1)
((SELECT 1) UNION (SELECT 2))
WITH a AS (SELECT 1), b (x, y) AS (SELECT 1, 2) SELECT * FROM a, b
WITH RECURSIVE t (n) AS (VALUES (1) UNION ALL SELECT n + 1 FROM t WHERE n < 9) SELECT sum(n) FROM t
WITH insert AS (SELECT 1), delete (a) AS NOT MATERIALIZED (SELECT 2) SELECT * FROM insert, delete
SELECT * FROM a JOIN (b JOIN c USING (id)) ON (a.id = b.id), LATERAL (SELECT 1) AS d (x)
SELECT a FROM b GROUP BY GROUPING SETS ((a), (a, b), ()), ROLLUP (a), CUBE (a, b)
SELECT sum(a) FILTER (WHERE b) OVER (PARTITION BY c ORDER BY d ROWS BETWEEN 1 PRECEDING AND CURRENT ROW) FROM e
SELECT CAST(a AS numeric(10, 2)), a::varchar(3), a::numeric (4, 1)[], interval(3) '1 day', timestamp(3) '2026-01-01'
SELECT count(*) FROM item TABLESAMPLE BERNOULLI (5) REPEATABLE (1)
SELECT * FROM rows FROM (generate_series(1, 2), unnest(ARRAY[1])) WITH ORDINALITY AS t (a, b, c)
SELECT a FROM b WHERE c = ANY (ARRAY[1]) AND d > ALL (SELECT 1) AND EXISTS (SELECT 1) AND e IN (1, 2)
SELECT a FROM b FETCH FIRST (2 + 1) ROWS WITH TIES
VALUES (1, 'a'), (2, 'b')
TABLE item
SHOW ALL
EXPLAIN SELECT 1
EXPLAIN (ANALYZE, BUFFERS) SELECT 1
COPY item TO '/tmp/x'
COPY (SELECT 1) TO PROGRAM 'cat'
SELECT 1; SELECT 2;
SELECT application_name FROM client WHERE 'application_name' = application_name
;
SELECT obj_description(1), pg_catalog.pg_get_viewdef(1), pg_catalog.format_type(1, 2), current_setting('a')
SELECT xmlelement(name foo, xmlattributes(1 AS a)), xmlforest(a, b)
SELECT overlay('a' placing 'b' from 1), trim(both from 'a')
SELECT position('a' in 'b'), substring('a' from 1 for 2), extract(epoch from now()), normalize('a', NFC), row(1, 2)
SELECT now(), random(), clock_timestamp(), gen_random_uuid(), pg_sleep(0), version(), timeofday()
""".strip().splitlines()

WRITES = """
INSERT INTO item (id) VALUES (1)
insert into "order" default values
INSERT INTO item (id) VALUES (1) ON CONFLICT (id) DO UPDATE SET n = 2 RETURNING (xmax = 0) AS is_new
UPDATE item SET n = 1
DELETE FROM item
MERGE INTO item USING b ON (a = b) WHEN MATCHED THEN DELETE
WITH gone AS (DELETE FROM item RETURNING id) SELECT * FROM gone
WITH a AS (SELECT 1) INSERT INTO item SELECT * FROM a
WITH a AS MATERIALIZED (UPDATE item SET n = 1 RETURNING n) SELECT n FROM a
SELECT id FROM item FOR UPDATE
SELECT id FROM item FOR NO KEY UPDATE SKIP LOCKED
SELECT id FROM item FOR SHARE OF item NOWAIT
SELECT id FROM item FOR KEY SHARE
EXPLAIN ANALYZE DELETE FROM item
EXPLAIN (ANALYZE) INSERT INTO item VALUES (1)
COPY item FROM '/tmp/x'
NOTIFY news
SELECT 1; DELETE FROM item; SELECT 2
/* SELECT */ DELETE FROM item
""".strip().splitlines()

ALTERS = """
CREATE TABLE item (id int)
CREATE TABLE item AS SELECT 1
SELECT 1 INTO item
ALTER TABLE item ADD COLUMN n int
DROP TABLE IF EXISTS item CASCADE
TRUNCATE item
CREATE INDEX ON item (id)
CREATE VIEW few AS SELECT 1
COMMENT ON TABLE item IS 'x'
GRANT SELECT ON item TO PUBLIC
REINDEX TABLE item
CREATE TYPE mood AS ENUM ('good')
ALTER TYPE mood ADD VALUE 'bad'
CREATE SEQUENCE number
CREATE SEQUENCE number START WITH 1 CACHE 1
CREATE TABLE cache (id int)
REFRESH MATERIALIZED VIEW few
CREATE SCHEMA other
CREATE ROLE somebody
SECURITY LABEL ON TABLE item IS 'x'
LOCK TABLE item
LOCK item IN ACCESS EXCLUSIVE MODE
""".strip().splitlines()

SAVEPOINTS = """
SAVEPOINT a
RELEASE SAVEPOINT a
release a
ROLLBACK TO SAVEPOINT a
ROLLBACK TRANSACTION TO a
""".strip().splitlines()

# What stays with a connection.
PRIVATE = """
SET search_path = other
SET timezone TO 'UTC'
SET SESSION work_mem = '1MB'
RESET search_path
RESET ALL
CREATE TEMP TABLE scratch (id int)
CREATE TEMPORARY TABLE scratch AS SELECT 1
CREATE LOCAL TEMP TABLE scratch (id int)
CREATE OR REPLACE TEMP VIEW few AS SELECT 1
SELECT 1 INTO TEMP scratch
SELECT 1 INTO TEMPORARY TABLE scratch
INSERT INTO pg_temp.scratch VALUES (1)
PREPARE plan AS SELECT 1
EXECUTE plan (1)
DEALLOCATE plan
SELECT pg_advisory_lock(1)
SELECT pg_advisory_lock(1), pg_advisory_xact_lock(2)
SELECT pg_try_advisory_lock(1, 2)
SELECT pg_advisory_unlock_all()
SELECT setseed(0.5)
""".strip().splitlines()
# What ends with a transaction, and what it is.
UNTIL_COMMIT = {
    "SET LOCAL search_path = other": "SET LOCAL",
    "SET CONSTRAINTS ALL DEFERRED": "SET CONSTRAINTS",
    "CREATE TEMP TABLE scratch (id int) ON COMMIT DROP": "a temporary table",
    "CREATE TEMP TABLE scratch (id int) ON COMMIT DELETE ROWS": "a temporary table",
    "DECLARE reader CURSOR FOR SELECT 1": "a cursor",
    "SELECT pg_advisory_xact_lock(1)": "pg_advisory_xact_lock",
    "SELECT pg_try_advisory_xact_lock_shared(1)": "pg_try_advisory_xact_lock_shared",
    "LOCK TABLE item IN SHARE MODE": "a table lock",
    "SAVEPOINT a": "savepoints",
}

# The statement, and the word that decides.
REAL = {
    "COMMIT": "COMMIT",
    "commit and chain": "COMMIT",
    "END": "END",
    "ABORT": "ABORT",
    "BEGIN": "BEGIN",
    "START TRANSACTION READ ONLY": "START",
    "ROLLBACK": "ROLLBACK",
    "ROLLBACK AND CHAIN": "ROLLBACK",
    "UPDATE item SET n = 1; COMMIT": "COMMIT",
    "CALL work()": "CALL",
    "EXPLAIN ANALYZE CREATE TABLE a AS SELECT 1": "EXPLAIN CREATE",
    "EXPLAIN (ANALYZE) EXECUTE prepared": "EXPLAIN EXECUTE",
    "SAVEPOINT dbt1": "a savepoint called as one of ours",
    'SAVEPOINT "dbt1"': "a savepoint called as one of ours",
    "SELECT query_to_xml('SELECT set_config(1)', true, true, '')": "query_to_xml()",
    "SELECT * FROM ts_stat('SELECT work()')": "ts_stat()",
    "DO $$ BEGIN END $$": "DO",
    "LISTEN news": "LISTEN",
    "UNLISTEN *": "UNLISTEN",
    "VACUUM item": "VACUUM",
    "ANALYZE item": "ANALYZE",
    "CHECKPOINT": "CHECKPOINT",
    "DISCARD ALL": "DISCARD",
    "CREATE DATABASE other": "CREATE DATABASE",
    "CREATE SEQUENCE number CACHE 10": "CACHE",
    "ALTER TABLE item ALTER COLUMN id SET CACHE 5": "CACHE",
    "DROP DATABASE other": "DROP DATABASE",
    "ALTER SYSTEM SET work_mem = '1MB'": "ALTER SYSTEM",
    "ALTER DATABASE test SET timezone = 'UTC'": "ALTER DATABASE",
    "ALTER ROLE somebody SET timezone = 'UTC'": "ALTER ROLE SET",
    "ALTER USER CURRENT_USER RESET ALL": "ALTER ROLE SET",
    "CREATE INDEX CONCURRENTLY ON item (id)": "concurrently",
    "DROP INDEX CONCURRENTLY few": "concurrently",
    "REINDEX TABLE CONCURRENTLY item": "concurrently",
    "PREPARE TRANSACTION 'x'": "PREPARE TRANSACTION",
    "COMMIT PREPARED 'x'": "COMMIT",
    "DECLARE reader CURSOR WITH HOLD FOR SELECT 1": "DECLARE HOLD",
    "SET ROLE somebody": "SET ROLE",
    "SET LOCAL ROLE somebody": "SET ROLE",
    "RESET ROLE": "RESET ROLE",
    "SET SESSION AUTHORIZATION somebody": "SET AUTHORIZATION",
    "RESET SESSION AUTHORIZATION": "RESET AUTHORIZATION",
    "SET SESSION CHARACTERISTICS AS TRANSACTION READ ONLY": "SET CHARACTERISTICS",
    "SET TRANSACTION ISOLATION LEVEL SERIALIZABLE": "SET TRANSACTION",
    "SET default_transaction_read_only = on": "SET DEFAULT_TRANSACTION_READ_ONLY",
    "SET default_transaction_isolation TO serializable": "SET DEFAULT_TRANSACTION_ISOLATION",
    "SET transaction_read_only = on": "SET TRANSACTION_READ_ONLY",
    "COPY item FROM STDIN": "COPY STDIN",
    "COPY item TO STDOUT": "COPY STDOUT",
    "CREATE FUNCTION f() RETURNS int LANGUAGE sql AS 'SELECT 1'": "CREATE FUNCTION",
    "CREATE OR REPLACE FUNCTION f() RETURNS int LANGUAGE sql AS 'SELECT 1'": "CREATE FUNCTION",
    "CREATE TRIGGER t AFTER INSERT ON item EXECUTE FUNCTION f()": "CREATE TRIGGER",
    "CREATE RULE r AS ON INSERT TO item DO NOTHING": "CREATE RULE",
    "CREATE EXTENSION hstore": "CREATE EXTENSION",
    "CREATE POLICY p ON item": "CREATE POLICY",
    "SELECT set_config('app.x', '1', false)": "set_config()",
    "SELECT pg_catalog.set_config('app.x', '1', true)": "set_config()",
    "SELECT txid_current()": "txid_current()",
    "SELECT pg_current_xact_id()": "pg_current_xact_id()",
    "SELECT pg_backend_pid()": "pg_backend_pid()",
    'SELECT "pg_backend_pid"()': "pg_backend_pid()",
    "SELECT xmin FROM item": "xmin",
    "SELECT item.xmin::text FROM item": "xmin",
    "UPDATE item SET n = 1 RETURNING xmax": "xmax",
    "SELECT * FROM pg_locks": "pg_locks",
    "SELECT count(*) FROM pg_catalog.pg_stat_activity": "pg_stat_activity",
    "SELECT n_tup_ins FROM pg_stat_xact_user_tables": "pg_stat_xact_user_tables",
    "UPDATE pg_settings SET setting = '1MB' WHERE name = 'work_mem'": "UPDATE PG_SETTINGS",
    "SHOW application_name": "application_name",
    "SELECT current_setting('application_name')": "application_name",
    "SELECT pg_create_physical_replication_slot('x')": "pg_create_physical_replication_slot()",
    "SELECT currval('number')": "currval()",
    "SELECT lastval()": "lastval()",
    "SELECT setval('number', 1)": "setval()",
    "SELECT lo_create(0)": "lo_create()",
    "SELECT pg_terminate_backend(1)": "pg_terminate_backend()",
    "SELECT * FROM dblink('dbname=x', 'SELECT 1') AS t (a int)": "dblink()",
    "INSERT INTO item SELECT txid_current()": "txid_current()",
    "WITH a AS (SELECT pg_backend_pid()) SELECT * FROM a": "pg_backend_pid()",
}


class StatementTests(unittest.TestCase):
    """The table, without any facts of a schema."""

    rules = Rules()

    def check(self, texts: Iterable[str], **wanted: Any) -> None:
        for text in texts:
            for written in (text, text.encode(), f"  {text}\n"):
                with self.subTest(written):
                    effects = self.rules.of(written)
                    self.assertEqual({name: getattr(effects, name) for name in wanted}, wanted)

    def test_a_query_reads(self) -> None:
        self.check(READS, real="", private="", writes=False, alters=False, savepoints=False, is_plain=True)

    def test_what_changes_or_locks_rows_writes(self) -> None:
        self.check(WRITES, real="", private="", writes=True, alters=False, is_plain=True)

    def test_what_readers_would_wait_for_alters(self) -> None:
        self.check(ALTERS, real="", private="", writes=True, alters=True, is_plain=False)

    def test_only_some_changes_of_the_schema_wait_for_readers(self) -> None:
        for text in (
            "ALTER TABLE type ALTER COLUMN n TYPE text",
            "DROP TABLE IF EXISTS item CASCADE",
            "TRUNCATE item",
            "LOCK TABLE item",
            "REINDEX TABLE item",
            "CREATE OR REPLACE VIEW few AS SELECT 1",
        ):
            self.check([text], alters=True, excludes_readers=True)
        for text in (
            "CREATE TABLE view (id int)",
            "CREATE INDEX ON item (id)",
            "COMMENT ON TABLE item IS 'x'",
            "GRANT SELECT ON item TO PUBLIC",
            "ALTER TYPE mood ADD VALUE 'bad'",
            "DROP ROLE somebody",
        ):
            self.check([text], alters=True, excludes_readers=False)
        self.check(["LOCK TABLE item NOWAIT"], alters=True, excludes_readers=True, never_waits=True)

    def test_a_weaker_lock_of_a_table_lets_readers_pass_but_wants_a_transaction(self) -> None:
        texts = ("LOCK TABLE item IN SHARE MODE", "LOCK access IN ROW EXCLUSIVE MODE", "LOCK item IN ACCESS SHARE MODE")
        self.check(texts, writes=True, alters=False, is_plain=False)

    def test_savepoints_are_seen(self) -> None:
        self.check(SAVEPOINTS, real="", private="", savepoints=True, is_plain=False)

    def test_state_of_a_connection_is_private(self) -> None:
        for text in PRIVATE:
            with self.subTest(text):
                effects = self.rules.of(text)
                self.assertTrue(effects.private and not effects.real)
                self.assertFalse(effects.is_plain)

    def test_state_that_ends_with_its_transaction_is_told_from_what_stays(self) -> None:
        for text, word in UNTIL_COMMIT.items():
            with self.subTest(text):
                effects = self.rules.of(text)
                self.assertEqual((effects.until_commit, effects.real, effects.is_plain), ((word,), "", False))
                self.assertEqual(effects.private, word if word == "a temporary table" else "")

    def test_what_needs_real_connections_is_named(self) -> None:
        for text, word in REAL.items():
            with self.subTest(text):
                self.assertEqual(self.rules.of(text).real, word)

    def test_a_text_does_what_any_of_its_statements_does(self) -> None:
        effects = self.rules.of("SELECT 1; SET x.y = 1; SAVEPOINT a; DROP TABLE item")

        self.assertEqual((effects.private, effects.savepoints, effects.alters), ("set", True, True))
        self.assertFalse(effects.is_query)

    def test_only_one_query_that_reads_is_for_a_server_side_cursor(self) -> None:
        for text in ("SELECT 1", "VALUES (1)", "WITH a AS (SELECT 1) SELECT 2", "TABLE item"):
            self.assertTrue(self.rules.of(text).is_query, text)
        for text in ("DELETE FROM item", "SHOW ALL", "EXPLAIN SELECT 1", "SELECT 1; SELECT 2", "SELECT 1 FOR UPDATE"):
            self.assertFalse(self.rules.of(text).is_query, text)

    def test_a_cursor_method_for_copy_has_its_own_data(self) -> None:
        self.assertEqual(self.rules.of_copy("COPY item (a, b) FROM STDIN"), Effects(writes=True, is_plain=True))
        self.assertEqual(self.rules.of_copy("COPY (SELECT 1) TO STDOUT WITH CSV"), Effects(is_plain=True))
        self.assertTrue(self.rules.of_copy("COPY (DELETE FROM item RETURNING id) TO STDOUT").writes)
        self.assertEqual(self.rules.of_copy("COPY (SELECT txid_current()) TO STDOUT").real, "txid_current()")

    def test_a_text_is_read_once(self) -> None:
        text = "SELECT 'once'"

        self.assertIs(self.rules.of(text), self.rules.of(text))


class SchemaTests(unittest.TestCase):
    """Facts of a schema, as they are kept with its template."""

    def rules(self, body: str = "", **facts: Any) -> Rules:
        return Rules(
            {"volatile": ["work"], "functions": {"work": {"volatile": True, "body": body, "calls": []}}, **facts}
        )

    def test_a_volatile_function_writes(self) -> None:
        self.assertTrue(self.rules().of("SELECT work(1)").writes)
        self.assertFalse(self.rules().of("SELECT worker(1), \"Work\"(2), 'work(1)' FROM work").writes)

    def test_a_stable_function_writes_if_it_calls_a_volatile_one(self) -> None:
        functions = {
            "work": {"volatile": True, "body": "INSERT INTO item VALUES (1)", "calls": []},
            "asks": {"volatile": False, "body": "SELECT work()", "calls": ["work"]},
            "looks": {"volatile": False, "body": "SELECT clock_timestamp()", "calls": []},
        }
        rules = Rules({"volatile": ["work", "clock_timestamp"], "functions": functions})

        self.assertTrue(rules.of("SELECT asks()").writes)
        self.assertFalse(rules.of("SELECT looks()").writes)

    def test_a_function_does_what_its_body_does(self) -> None:
        for body in (
            "SELECT txid_current()",
            "EXECUTE 'SELECT txid_current()'",
            "begin perform set_config(a, b, c); end",
            "BEGIN SET work_mem = '5MB'; END",
            "BEGIN PERFORM 1; SET LOCAL work_mem = '5MB'; END",
            "BEGIN EXECUTE format('SET LOCAL app.user = %L', name); END",
            "BEGIN EXECUTE format('SET app.name = %L', name); END",
            "BEGIN EXECUTE concat('SET app.name = ', quote_literal(name)); END",
            "BEGIN PERFORM pg_advisory_xact_lock(1); END",
            "BEGIN OPEN reader FOR SELECT 1; RETURN reader; END",
            "BEGIN IF true THEN OPEN reader; END IF; RETURN reader; END",
            "BEGIN EXECUTE statement; END",
            "BEGIN EXECUTE statement USING 1; END",
        ):
            self.assertIn("work(), which uses ", self.rules(body).of("SELECT work()").real, body)
        body = "BEGIN INSERT INTO item VALUES (1) ON CONFLICT (id) DO UPDATE SET n = 1; UPDATE item SET n = 1; END"
        self.assertEqual(self.rules(body).of("SELECT work()").real, "")
        self.assertEqual(self.rules(body).of("SELECT work()").alters, False)
        body = "BEGIN OPEN reader; FETCH reader INTO row; CLOSE reader; SELECT open INTO price FROM shop; END"
        self.assertEqual(self.rules(body).of("SELECT work()").real, "")
        self.assertTrue(self.rules("BEGIN EXECUTE 'CREATE TABLE other ()'; END").of("SELECT work()").alters)

    def test_a_function_is_called_by_its_bare_name_where_the_schema_says_so(self) -> None:
        for text in ("SELECT item.work FROM item", 'SELECT (i)."work" FROM item AS i', "SELECT 1::work"):
            self.assertTrue(self.rules(bare=["work"]).of(text).writes, text)
            self.assertFalse(self.rules().of(text).writes, text)
            self.assertIn("txid", self.rules("SELECT txid_current()", bare=["work"]).of(text).real, text)

    def test_numbers_that_a_connection_keeps(self) -> None:
        for text in ("INSERT INTO item VALUES (1)", "SELECT nextval('number')", "SELECT work()"):
            effects = self.rules(caches=True).of(text)
            self.assertEqual((effects.numbers, effects.is_plain, effects.is_query), (True, False, False), text)
            self.assertFalse(self.rules().of(text).numbers, text)
        self.assertTrue(self.rules(caches=True).of("SELECT last_value FROM number").is_plain)

    def test_what_runs_unasked_and_needs_real_connections_is_named(self) -> None:
        rules = self.rules(implicit=[{"what": "default of item.transaction", "text": "txid_current()"}])

        self.assertEqual(rules.always_real, "the default of item.transaction uses txid_current()")
        self.assertEqual(self.rules(implicit=[{"what": "default of item.at", "text": "now()"}]).always_real, "")

    def test_a_view_with_a_volatile_function_needs_real_connections(self) -> None:
        seen = {"what": "view working", "text": "SELECT work()"}

        self.assertEqual(self.rules(implicit=[seen]).always_real, "the view working uses work")
        self.assertIn("CREATE VIEW", self.rules().of("CREATE VIEW working AS SELECT work()").real)


class CompiledTests(DatabaseTestCase):
    """What SQLAlchemy compiles and its inspector asks, with the facts of the instance and without any."""

    schema = selects.Base
    isolation = "savepoint"  # what needs real connections is an error
    sent: list[str]

    @classmethod
    def setUpTestData(cls, session: Session) -> None:
        session.add(selects.Customer(id=1, name="Ada"))

    def setUp(self) -> None:
        self.sent = []
        self.rules = (Rules(), Rules(self.instance.notes["effects"]["test"]))
        self.enterContext(warnings.catch_warnings())
        warnings.filterwarnings("ignore", ".*cartesian product", sa.exc.SAWarning)
        event.listen(self.engine, "before_cursor_execute", self.note)
        self.addCleanup(event.remove, self.engine, "before_cursor_execute", self.note)

    def note(self, connection: Any, cursor: Any, statement: str, *_: Any) -> None:
        self.sent.append(statement)

    def check_sent_only_reads(self) -> None:
        self.assertTrue(self.sent)
        for text in self.sent:
            for rules in self.rules:
                effects = rules.of(text)
                self.assertFalse(effects.writes or effects.real or effects.private or not effects.is_plain, text)

    def test_every_form_of_query_reads(self) -> None:
        for name, query in selects.queries().items():
            with self.subTest(name), Session(self.engine) as session:
                self.sent.clear()
                result = session.execute(query)
                (result.unique() if name == "eager join" else result).all()
                self.check_sent_only_reads()

    @isolate("clone")
    def test_every_form_of_query_leaves_no_transaction_number(self) -> None:
        for name, query in selects.queries().items():
            with self.subTest(name), Session(self.engine) as session:
                session.execute(query)
                number = session.scalar(sa.text("SELECT pg_current_xact_id_if_assigned()::text"))

                self.assertIsNone(number)

    def test_reflection_reads(self) -> None:
        inspector = sa.inspect(self.engine)

        for name in [name for name in dir(inspector) if name.startswith(("get_multi_", "get_schema_names"))]:
            with self.subTest(name), suppress(NotImplementedError):  # get_multi_table_options, before 2.1
                getattr(inspector, name)()
        self.assertTrue(inspector.has_table("customer") and not inspector.has_table("nowhere"))
        self.assertFalse(inspector.has_sequence("number") or inspector.has_schema("nowhere"))
        inspector.get_view_names(), inspector.get_temp_table_names(), inspector.get_enums(), inspector.get_domains()
        inspector.get_materialized_view_names(), inspector.get_sequence_names()
        sa.MetaData().reflect(self.engine, views=True)
        self.check_sent_only_reads()

    def test_rows_in_portions_are_read(self) -> None:
        with Session(self.engine) as session:
            for options in ({"yield_per": 1}, {"stream_results": True, "max_row_buffer": 2}):
                session.execute(sa.select(selects.Customer), execution_options=options).all()
        self.check_sent_only_reads()

    def test_what_the_orm_writes_is_seen_to_write(self) -> None:
        with Session(self.engine) as session:
            customer = selects.Customer(id=2, name="Bob")
            session.add(customer)
            session.flush()
            customer.name = "Bert"
            session.flush()
            session.delete(customer)
            session.flush()
            session.execute(sa.select(selects.Customer).with_for_update())
            session.execute(pg.insert(selects.Customer).values(id=1, name="x").on_conflict_do_nothing())
            session.execute(sa.update(selects.Customer).values(name=func.upper(selects.c.name)))
            session.execute(sa.delete(selects.Customer).where(selects.c.id > 5).returning(selects.c.id))
            changed = sa.update(selects.customer).values(name="y").returning(selects.c.id).cte("changed")
            session.execute(sa.select(changed))

        # Before the upsert, the ORM reads what a refresh needs.
        written = [text for text in self.sent if self.rules[1].of(text).writes]
        self.assertEqual(len(written), 8, self.sent)
        self.assertTrue(all(self.rules[0].of(text).writes for text in written))


if __name__ == "__main__":
    unittest.main()
