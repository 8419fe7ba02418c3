from __future__ import annotations

import json
from contextlib import closing
from typing import Any

from dbtestcase.schema import effects
from tests.schema.support import ServerTestCase


class EffectsTests(ServerTestCase):
    def read(self, script: str = "") -> dict[str, Any]:
        """Return the facts of a database in which a script was run."""
        with closing(self.instance.connect("test")) as connection:
            connection.autocommit = True
            with connection.cursor() as cursor:
                if script:
                    cursor.execute(script)
            facts = effects.read(connection)
        self.assertEqual(json.loads(json.dumps(facts)), facts)
        return facts

    def implicit(self, script: str) -> dict[str, str]:
        return {each["what"]: each["text"] for each in self.read(script)["implicit"]}

    def test_an_empty_database(self) -> None:
        facts = self.read()

        volatile = set(facts.pop("volatile"))
        self.assertLessEqual(
            {"nextval", "random", "set_config", "pg_advisory_lock", "pg_notify", "lo_create"}, volatile
        )
        self.assertEqual(volatile & {"lower", "now", "count", "sum", "format", "current_setting"}, set())
        self.assertEqual(
            facts,
            {
                "functions": {}, "implicit": [], "bare": [], "deferrable": [], "initially_deferred": [],
                "policies": False, "foreign_tables": [], "caches": False, "sequences": {},
            },
        )  # fmt: skip

    def test_functions_with_their_overloads_and_languages(self) -> None:
        facts = self.read(
            """
            CREATE SCHEMA shop;
            CREATE FUNCTION shop.price(int) RETURNS int LANGUAGE sql IMMUTABLE AS 'SELECT $1 * 2';
            CREATE FUNCTION price(text) RETURNS int LANGUAGE plpgsql AS 'BEGIN RETURN txid_current(); END';
            CREATE PROCEDURE "Settle"() LANGUAGE sql AS 'DELETE FROM pg_class WHERE false';
            CREATE FUNCTION add_up(int, int) RETURNS int LANGUAGE plpgsql
                AS 'BEGIN PERFORM price(''x''); RETURN 1; END';
            CREATE AGGREGATE total (int) (SFUNC = add_up, STYPE = int);
            """
        )

        self.assertEqual(facts["functions"]["price"], {
            "volatile": True,
            "language": "plpgsql",
            "body": "SELECT $1 * 2\nBEGIN RETURN txid_current(); END",
            "calls": [],
        })  # fmt: skip
        self.assertEqual(facts["functions"]["Settle"]["language"], "sql")
        self.assertIn("price('x')", facts["functions"]["total"]["body"])
        self.assertEqual(facts["functions"]["total"]["calls"], ["price"])
        self.assertLessEqual({"price", "Settle", "add_up", "total"}, set(facts["volatile"]))

    def test_functions_that_are_called_by_those_that_are_called(self) -> None:
        functions = self.read(
            """
            CREATE FUNCTION first() RETURNS int LANGUAGE plpgsql AS 'BEGIN RETURN "Second" (1); END';
            CREATE FUNCTION "Second"(int) RETURNS int LANGUAGE plpgsql AS 'BEGIN EXECUTE ''SELECT third()''; END';
            CREATE FUNCTION third() RETURNS int LANGUAGE plpgsql AS 'BEGIN RETURN first() + lower(''A'')::int; END';
            """
        )["functions"]

        self.assertEqual(functions["first"]["calls"], ["Second", "third", "first"])
        self.assertEqual(functions["third"]["calls"], ["first", "Second", "third"])

    def test_a_body_in_standard_sql(self) -> None:
        if self.instance.server_version < "14":
            self.skipTest("PostgreSQL 13 has no such bodies")

        facts = self.read("CREATE FUNCTION number() RETURNS bigint BEGIN ATOMIC SELECT txid_current(); END")

        self.assertIn("txid_current()", facts["functions"]["number"]["body"])

    def test_functions_of_extensions(self) -> None:
        facts = self.read("CREATE EXTENSION tablefunc; CREATE EXTENSION citext")

        self.assertEqual(
            facts["functions"]["normal_rand"], {"volatile": True, "language": "c", "body": None, "calls": []}
        )
        self.assertEqual(facts["functions"]["split_part"]["language"], "sql")
        # Reads only, and says no more.
        self.assertNotIn("citext_eq", facts["functions"])

    def test_whatever_runs_without_being_named(self) -> None:
        found = self.implicit(
            """
            CREATE FUNCTION number() RETURNS bigint LANGUAGE sql AS 'SELECT txid_current()';
            CREATE FUNCTION is_fine(text) RETURNS bool LANGUAGE plpgsql IMMUTABLE AS 'BEGIN RETURN lock_it($1); END';
            CREATE FUNCTION lock_it(text) RETURNS bool LANGUAGE sql
                AS 'SELECT pg_advisory_xact_lock(1) IS NULL; SELECT is_fine($1)';
            CREATE DOMAIN code AS text DEFAULT md5(random()::text) CHECK (is_fine(VALUE));
            CREATE TABLE outbox (
                id serial PRIMARY KEY, tx bigint DEFAULT number(), code code, kind varchar(10) DEFAULT 'a',
                at date DEFAULT now(), size int GENERATED ALWAYS AS (length(kind)) STORED,
                twice int GENERATED ALWAYS AS (1 + 1) STORED,
                CONSTRAINT fine CHECK (is_fine(kind)), CONSTRAINT plain CHECK (id > 0)
            );
            CREATE INDEX by_fine ON outbox (is_fine(kind));
            CREATE INDEX of_fine ON outbox (id) WHERE is_fine(kind);
            CREATE TABLE parts (a text, b text) PARTITION BY LIST (is_fine(a));
            CREATE VIEW busy AS SELECT 1 AS a FROM pg_locks;
            CREATE MATERIALIZED VIEW sums AS SELECT sum(id) FROM outbox;
            CREATE RULE also AS ON INSERT TO outbox DO ALSO SELECT pg_notify('a', 'b');
            ALTER TABLE outbox ENABLE ROW LEVEL SECURITY;
            CREATE POLICY own ON outbox USING (kind = current_setting('app.tenant')) WITH CHECK (is_fine(kind));
            """
        )

        body = "SELECT pg_advisory_xact_lock(1) IS NULL"
        for what, word in {
            "default of outbox.tx": "txid_current",
            "default of outbox.at": "now()",
            "default of domain code": "random",
            "constraint code_check of code": body,
            "constraint fine of outbox": body,
            "generated column outbox.size": "length",
            "partition key of parts": body,
            "view busy": "pg_locks",
            "materialized view sums": "sum",
            "rule also of outbox": "pg_notify",
            "policy own of outbox": "current_setting",
        }.items():
            with self.subTest(what):
                self.assertIn(word, found.pop(what))
        # The same text is there once.
        self.assertIn(body, found.pop("index by_fine, index of_fine"))
        self.assertEqual(found, {})

    def test_triggers_bring_the_bodies_of_their_functions(self) -> None:
        found = self.implicit(
            """
            CREATE TABLE a (x text); CREATE TABLE b (x text); CREATE TABLE parts (x int) PARTITION BY LIST (x);
            CREATE TABLE part PARTITION OF parts FOR VALUES IN (1);
            CREATE FUNCTION "Audit"() RETURNS trigger LANGUAGE plpgsql
                AS 'BEGIN EXECUTE ''SELECT number()''; RETURN NEW; END';
            CREATE FUNCTION number() RETURNS bigint LANGUAGE sql AS 'SELECT txid_current()';
            CREATE FUNCTION ended() RETURNS event_trigger LANGUAGE plpgsql AS 'BEGIN NOTIFY ddl; END';
            CREATE TRIGGER audit AFTER INSERT ON a FOR EACH ROW EXECUTE FUNCTION "Audit"();
            CREATE TRIGGER audit AFTER INSERT ON b FOR EACH ROW EXECUTE FUNCTION "Audit"();
            CREATE TRIGGER audit AFTER INSERT ON parts FOR EACH ROW EXECUTE FUNCTION "Audit"();
            CREATE CONSTRAINT TRIGGER late AFTER UPDATE ON a DEFERRABLE INITIALLY DEFERRED FOR EACH ROW
                WHEN (OLD.x <> md5(NEW.x)) EXECUTE FUNCTION "Audit"();
            CREATE TRIGGER same BEFORE UPDATE ON b FOR EACH ROW EXECUTE FUNCTION suppress_redundant_updates_trigger();
            CREATE EVENT TRIGGER ended ON ddl_command_end EXECUTE FUNCTION ended();
            """
        )

        self.assertEqual(found, {
            "event trigger ended": "BEGIN NOTIFY ddl; END",
            "trigger audit of a, trigger audit of b, trigger audit of parts":
                "BEGIN EXECUTE 'SELECT number()'; RETURN NEW; END\nSELECT txid_current()",
            "trigger late of a":
                "WHEN ((old.x <> md5(new.x)))\nBEGIN EXECUTE 'SELECT number()'; RETURN NEW; END\nSELECT txid_current()",
            "trigger same of b": '"suppress_redundant_updates_trigger"()',
        })  # fmt: skip

    def test_operators_and_casts_run_functions(self) -> None:
        found = self.implicit(
            """
            CREATE FUNCTION joined(int, int) RETURNS bool LANGUAGE plpgsql AS 'BEGIN RETURN txid_current() = 1; END';
            CREATE OPERATOR === (LEFTARG = int, RIGHTARG = int, FUNCTION = joined);
            CREATE TYPE pair AS (a int, b int);
            CREATE FUNCTION paired(text) RETURNS pair LANGUAGE sql AS 'SELECT 1, pg_backend_pid()';
            CREATE CAST (text AS pair) WITH FUNCTION paired(text) AS ASSIGNMENT;
            CREATE EXTENSION hstore;
            """
        )

        self.assertIn("txid_current", found.pop("operator ==="))
        self.assertIn("pg_backend_pid", found.pop("cast from text to pair"))
        self.assertEqual(found, {})

    def test_many_places_with_the_same_text_are_listed_in_short(self) -> None:
        (what,) = self.implicit("".join(f"CREATE TABLE t{i} (x text DEFAULT lower('A'));" for i in range(5)))

        self.assertEqual(what, "default of t0.x, default of t1.x, default of t2.x and 2 more")

    def test_what_calls_functions_without_a_parenthesis(self) -> None:
        facts = self.read(
            """
            CREATE TABLE item (id int);
            CREATE FUNCTION visit(item) RETURNS int LANGUAGE plpgsql AS 'BEGIN RETURN 1; END';
            CREATE FUNCTION "Show"(item, int DEFAULT 1) RETURNS int LANGUAGE sql AS 'SELECT $1.visit';
            CREATE FUNCTION twice(int) RETURNS int LANGUAGE sql AS 'SELECT 2 * $1';
            CREATE FUNCTION pair(item, item) RETURNS int LANGUAGE sql AS 'SELECT 1';
            CREATE FUNCTION is_fine(int) RETURNS bool LANGUAGE sql AS 'SELECT $1 > 0';
            CREATE DOMAIN price AS int CHECK (is_fine(VALUE));
            CREATE DOMAIN low_price AS price;
            CREATE DOMAIN name AS text CHECK (length(VALUE) > 0);
            """
        )

        self.assertEqual(facts["bare"], ["Show", "visit", "low_price", "price"])
        self.assertEqual(facts["functions"]["Show"]["calls"], ["visit"])
        self.assertEqual(facts["functions"]["low_price"]["calls"], ["is_fine"])

    def test_whether_connections_keep_numbers_of_sequences(self) -> None:
        self.assertFalse(self.read("CREATE SEQUENCE plain")["caches"])
        self.assertTrue(self.read("CREATE TABLE item (id int GENERATED ALWAYS AS IDENTITY (CACHE 10))")["caches"])

    def test_deferrable_constraints(self) -> None:
        facts = self.read(
            """
            CREATE SCHEMA "My shop";
            CREATE TABLE "My shop".a (x int PRIMARY KEY, CONSTRAINT one UNIQUE (x) DEFERRABLE);
            CREATE TABLE b (x int CONSTRAINT fk REFERENCES "My shop".a DEFERRABLE INITIALLY DEFERRED);
            CREATE FUNCTION f() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END';
            CREATE CONSTRAINT TRIGGER late AFTER INSERT ON b DEFERRABLE INITIALLY DEFERRED
                FOR EACH ROW EXECUTE FUNCTION f();
            """
        )

        self.assertEqual(facts["deferrable"], ['"My shop".one', "public.fk", "public.late"])
        self.assertEqual(facts["initially_deferred"], ["public.fk", "public.late"])

    def test_policies_and_foreign_tables(self) -> None:
        facts = self.read(
            """
            CREATE TABLE a (x int); ALTER TABLE a ENABLE ROW LEVEL SECURITY;
            CREATE EXTENSION postgres_fdw;
            CREATE SERVER other FOREIGN DATA WRAPPER postgres_fdw;
            CREATE FOREIGN TABLE far (x int) SERVER other;
            """
        )

        self.assertTrue(facts["policies"])
        self.assertEqual(facts["foreign_tables"], ["public.far"])
