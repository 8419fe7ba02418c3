from __future__ import annotations

import time
import unittest
from itertools import pairwise
from random import Random
from typing import Any

import psycopg
import psycopg2

from dbtestcase import ThrowawayPostgres, sql
from dbtestcase.servers import EMPTY, Instance, running_instance

# Texts that are cut wrongly by whoever knows a little less than the server.
TRICKY = [
    "SELECT 'a;b'",
    "SELECT 'it''s;'",
    r"SELECT 'back\'",
    r"SELECT E'it\'s; \\'",
    "SELECT e'a'\n  'b\\'; COMMIT; --'",
    "SELECT e'a' -- a comment;\n 'b\\';'",
    r"SELECT N'a\', B'01', X'1F', U&'d\0061t;'",
    r"SELECT date'2020-01-01', 'a'e, 'a\'",
    'SELECT "a;""b" FROM (SELECT 1 AS "a;""b") x',
    "SELECT $$a;b$$",
    "SELECT $x$ $$;$y$; $x$",
    "SELECT $é$;$é$",
    "SELECT 1 AS a$b$, 2 AS c$b$",
    "SELECT /* ; /* '; */ \" */ 1",
    "SELECT 1 -- ; '\r+ 1",
    "SELECT 1 +-- ;\n 1",
    "SELECT 2 */* ; */ 3",
    "SELECT 1/**/+/***/1/*/**/*/",
    "SELECT (ARRAY[1, 2])[1:2], 1e-3, .5, 1., 1.5e+10",
    "SELECT 5 % 3",
    'SELECT U&"d\\0061t" FROM (SELECT 1 AS dat) x',
    "SELECT U&\"d!0061t\" UESCAPE '!' FROM (SELECT 1 AS dat) x",
    "SELECT 1 AS naïve\u00a0name",
]


VALUES = [
    "'a;b'", "'it''s;'", r"E'\';'", "e'a'\n'\\';'", "$$;$$", "$a$;$$;$b$ $a$", "$é$;$a$$é$", r"U&'\0061;'", ".5",
    "n'a;'", "'\\'", r"E'\\'", "'--'", "'/*'", "$_$ ' $_$", "+ - 1", "2*/*;*/3", "1--;\n+1", "ARRAY[1,2]", "'a'::text",
    "'a'\n\n--;'\n'b;'", "U&'!0061;' UESCAPE '!'", "'{}'::jsonb ? 'a'", "'{}'::jsonb ?| '{a}'", "$$$$", "$a$$a$",
    "|/ 4", "@ -5",
]  # fmt: skip
NAMES = [
    "a",
    '"a;b"',
    '"a""b"',
    '"--"',
    '"/*"',
    '"$$"',
    'U&"d\\0061;"',
    "a$b",
    "A1",
    "é",
    '"E\'"',
    "_$_",
    "u",
    "e",
    "n",
    "x",
]
SPACES = [" ", "\n", "\r\n", "\f", " /*;*/ ", " --;'\n", " /*/*;*/'*/ ", "/**/ ", " /***/ ", " --\r"]


def random_text(random: Random) -> str:
    """Return one to four statements that the server accepts."""

    def space() -> str:
        return random.choice(SPACES)

    def column() -> str:
        return f"{random.choice(VALUES)}{space()}AS{space()}{random.choice(NAMES)}"

    def statement() -> str:
        return f"{space()}SELECT{space()}" + f"{space()},{space()}".join(column() for _ in range(random.randint(1, 4)))

    return f"{space()};".join(statement() for _ in range(random.randint(1, 4))) + random.choice(["", ";", "; ;", "--x"])


def aliases_of(statement: sql.Statement) -> list[str]:
    found, _ = sql.statement_at(statement.text)
    return [name.identifier for word, name in pairwise(found) if (word.kind, word.text) == ("name", "AS")]


def kinds(text: str) -> list[tuple[str, str]]:
    return [(token.kind, token.text) for token in sql.tokens(text) if token.kind != "space"]


def only(text: str) -> sql.Statement:
    (statement,) = sql.statements(text)
    return statement


class TokenTests(unittest.TestCase):
    def test_tokens_leave_no_gap(self) -> None:
        for text in (*TRICKY, "a 'b", "{[}]\\x\0;", "/* /* */", '""', "$a$b$", "%(", "e'", "U&'", "?-?", "::::=::"):
            with self.subTest(text):
                found = list(sql.tokens(text))

                self.assertEqual("".join(token.text for token in found), text)
                self.assertEqual([token.start for token in found][1:], [token.end for token in found][:-1])

    def test_kinds(self) -> None:
        self.assertEqual(
            kinds("""SELECT a."B", 'c', 1.5 <> $1 || %s -- d"""),
            [
                ("name", "SELECT"), ("name", "a"), ("punctuation", "."), ("quoted", '"B"'), ("punctuation", ","),
                ("string", "'c'"), ("punctuation", ","), ("number", "1.5"), ("operator", "<>"), ("parameter", "$1"),
                ("operator", "||"), ("parameter", "%s"), ("comment", "-- d"),
            ],
        )  # fmt: skip

    def test_the_parameters_of_each_driver(self) -> None:
        for parameter in ("%s", "%b", "%t", "%(a b)s", "%(a)b", "$1", "$12", ":name", "?"):
            for text in (f"a={parameter}", f"f({parameter})", f"({parameter}::int)", f"a > {parameter} AND b"):
                with self.subTest(text):
                    self.assertEqual([each for kind, each in kinds(text) if kind == "parameter"], [parameter])

    def test_what_only_looks_like_a_parameter(self) -> None:
        for text in ("a %% 3", "a::text", "a := 1", "a[1:f(2)]", "a[1:s.f(2)]", "a ?| b", "a ?& b", "a @? b", "a % b"):
            with self.subTest(text):
                self.assertNotIn("parameter", [kind for kind, _ in kinds(text)])

    def test_what_has_no_end_goes_to_the_end(self) -> None:
        for text in ("'a; b", '"a; b', "$$a; b", "$a$ $b$", "/* a; /* b */", r"E'a\'; b", "U&'a", "n'a", "'a''"):
            with self.subTest(text):
                self.assertEqual(kinds(f"SELECT {text}"), [("name", "SELECT"), ("unclosed", text)])

    def test_a_command_of_psql_goes_to_the_end_of_its_line(self) -> None:
        self.assertEqual(kinds("\\connect a;\nb")[0], ("command", "\\connect a;"))

    def test_begins_where_it_is_told(self) -> None:
        self.assertEqual([token.start for token in sql.tokens("'a' b", 4)], [4])


class IdentifierTests(unittest.TestCase):
    def test_names_are_folded_as_the_server_does(self) -> None:
        for written, meant in (
            ("Shop", "shop"),
            ("ÄPFEL", "Äpfel"),
            ("a$B", "a$b"),
            ('"Shop"', "Shop"),
            ('"a""b"', 'a"b'),
            ('U&"d\\0061t\\+000061 \\\\"', "data \\"),
            ("u&\"d!0061\" UESCAPE '!'", "da"),
            ("x" * 70, "x" * 63),
            ('"' + "ä" * 40 + '"', "ä" * 31),
        ):
            with self.subTest(written):
                (token,) = sql.tokens(written)

                self.assertEqual(token.identifier, meant)

    def test_quoted_identifier(self) -> None:
        for name in ("shop", 'a"b', "Ä ;", "'"):
            (token,) = sql.tokens(sql.quoted_identifier(name))

            self.assertEqual((token.kind, token.identifier), ("quoted", name))

    def test_quoted_literal(self) -> None:
        self.assertEqual(sql.quoted_literal("it's"), "'it''s'")
        self.assertEqual(sql.quoted_literal("a\\'b"), "E'a\\\\''b'")


class StatementTests(unittest.TestCase):
    def test_semicolons_separate_and_the_last_may_be_missing(self) -> None:
        found = sql.statements(" SELECT 1; ;-- a\n COMMIT /* b */ ")

        self.assertEqual([(each.text, each.start) for each in found], [("SELECT 1", 1), ("COMMIT", 18)])

    def test_nothing_is_no_statement(self) -> None:
        for text in ("", " ", ";;", "-- a", "/* a */;"):
            self.assertEqual(sql.statements(text), [], text)

    def test_tricky_texts_are_one_statement(self) -> None:
        for text in TRICKY:
            with self.subTest(text):
                self.assertEqual([each.verb for each in sql.statements(f"{text}\n; COMMIT")], ["select", "commit"])

    def test_semicolons_within_a_rule_and_the_body_of_a_routine(self) -> None:
        for text in (
            "CREATE RULE r AS ON INSERT TO t DO ALSO (DELETE FROM a; DELETE FROM b)",
            "CREATE OR REPLACE FUNCTION f() RETURNS int BEGIN ATOMIC SELECT CASE WHEN true THEN 1 END; SELECT 2; END",
            "create procedure p(atomic int) /* a */ begin atomic insert into t values (1); end",
        ):
            with self.subTest(text):
                self.assertEqual([each.text for each in sql.statements(f"{text}; BEGIN; END")], [text, "BEGIN", "END"])

    def test_case_and_end_elsewhere(self) -> None:
        self.assertEqual(
            [each.verb for each in sql.statements("SELECT CASE WHEN a THEN 1 END; END; SELECT 1")],
            ["select", "end", "select"],
        )

    def test_verb(self) -> None:
        for text, verb in (
            ("select 1", "select"),
            ("/* a */ -- b\n ((SELECT 1) UNION (SELECT 2))", "select"),
            ("WITH a AS (SELECT 1) SELECT * FROM a", "select"),
            ("WITH a AS (SELECT 1), b (c) AS MATERIALIZED (SELECT 1) INSERT INTO t SELECT * FROM a", "insert"),
            ("(WITH a AS (SELECT 1) SELECT 1) UNION ALL TABLE t", "select"),
            ("WITH a AS (SELECT 1) (SELECT * FROM a)", "select"),
            ("WITH insert AS (SELECT 1), update AS (SELECT 2) SELECT * FROM insert", "select"),
            ("WITH RECURSIVE delete (n) AS (SELECT 1) UPDATE t SET a = n FROM delete", "update"),
            ("WITH RECURSIVE a AS (SELECT 1 AS n) SEARCH DEPTH FIRST BY n, update SET insert DELETE FROM t", "delete"),
            ("WITH a AS (SELECT 1) VALUES (1)", "values"),
            ("WITH a AS (SELECT 1) MERGE INTO t USING a ON true WHEN MATCHED THEN DELETE", "merge"),
            ("Explain ANALYZE DELETE FROM t", "explain"),
            ("%s", ""),
            ('"select" 1', '"select"'),
        ):
            with self.subTest(text):
                self.assertEqual(only(text).verb, verb)

    def test_writing_verbs_within(self) -> None:
        for text, verbs in (
            ("WITH a AS (DELETE FROM t RETURNING *) SELECT * FROM a", ("delete",)),
            ("WITH a AS (WITH b AS (SELECT 1) INSERT INTO t TABLE b RETURNING 1) SELECT 1", ("insert",)),
            ('WITH a AS (UPDATE ONLY t SET x = 1), b AS (UPDATE "T" SET x = 1) TABLE a', ("update", "update")),
            ("COPY (DELETE FROM t RETURNING *) TO STDOUT", ("delete",)),
            ("WITH a AS (SELECT 1) DELETE FROM t", ()),
            ("WITH a AS (SELECT 1 FOR UPDATE) SELECT * FROM a", ()),
            ("INSERT INTO t (update, delete) VALUES (1, 2) ON CONFLICT (update) DO UPDATE SET delete = 1", ()),
            ("SELECT (update IS NULL), (update = 1), (delete), extract(update FROM x) FROM t", ()),
        ):
            with self.subTest(text):
                self.assertEqual(only(text).with_verbs, verbs)

    def test_words(self) -> None:
        statement = only("SELECT t.\"commit\", 'rollback' /* begin */ FROM Shop AS t WHERE a = :b AND c = %(d)s -- end")

        self.assertEqual(
            statement.words,
            ("select", "t", '"commit"', "from", "shop", "as", "t", "where", "a", "and", "c"),
        )  # fmt: skip

    def test_calls(self) -> None:
        for text, *calls in (
            ('SELECT lower(a), s.Upper (b), "My Func"(c)', "lower", "upper", "My Func"),
            ("SELECT pg_catalog . now /* a */ ()", "now"),
            ("SELECT 'f(1)', \"f(2)\", -- f(3)\n $$f(4)$$, f5(6)", "f5"),
            ("INSERT INTO shop.orders (a) VALUES (f(1)) ON CONFLICT (a) DO UPDATE SET (a, b) = (1, 2)", "f"),
            ("SELECT x::character varying(10), x::bit varying (3)",),
            ("SELECT x::numeric(10, 2)::public.vector(3), CAST(y AS geometry(Point, 4326))",),
            ("WITH a (b) AS (SELECT f()), c(d) AS NOT MATERIALIZED (VALUES (1)) SELECT 1", "f"),
            ("WITH a AS (SELECT 1) SELECT * FROM a, f(1) AS (b int)", "f"),
            ("SELECT count(*) FILTER (WHERE a) OVER (PARTITION BY (b) ORDER BY (c))", "count"),
            ("SELECT * FROM unnest(a) b(c)", "unnest"),
            ("SELECT * FROM f(1) WITH ORDINALITY AS b(c, d), g(1, 2) WITH ORDINALITY e(h)", "f", "g"),
            ("SELECT DISTINCT ON (a) f(b), c OPERATOR(pg_catalog.+) g(d) FROM e", "f", "g"),
            ("SELECT a FROM b JOIN (SELECT 1) c USING (d) GROUP BY GROUPING SETS ((a), ROLLUP (b))",),
            ("SELECT a IN (1), NOT EXISTS (SELECT 1), ARRAY(SELECT 1), ROW(1), coalesce(f(1), 2)", "f"),
            ('SELECT "select"(1), pg_catalog.left(a, 1), s."overlay"(b)', "select", "left", "overlay"),
            ("SELECT a[1:f(2)], b ->> g('c')", "f", "g"),
            ("SELECT INTO v txid_current()", "txid_current"),
        ):
            with self.subTest(text):
                self.assertEqual(only(text).calls, set(calls))

    def test_an_unbalanced_text_is_read_all_the_same(self) -> None:
        self.assertEqual(only("SELECT f((1").calls, {"f"})
        self.assertEqual([each.verb for each in sql.statements("a) ; COMMIT")], ["a", "commit"])

    def test_long_lists_take_time_in_proportion(self) -> None:
        text = "WITH a AS (SELECT 1) INSERT INTO t VALUES " + ", ".join(["(%s, f(1), 'a')"] * 5000)

        started = time.process_time()
        statement = only(text)

        self.assertEqual(statement.calls, {"f"})
        self.assertLess(time.process_time() - started, 3)


class ServerTests(unittest.TestCase):
    cursor: Any
    instance: Instance

    @classmethod
    def setUpClass(cls) -> None:
        super().setUpClass()
        cls.instance = cls.enterClassContext(running_instance(ThrowawayPostgres(), EMPTY))
        connection = psycopg2.connect(**cls.instance.dsn())
        cls.addClassCleanup(connection.close)
        connection.autocommit = True
        cls.cursor = connection.cursor()

    def test_the_server_takes_the_tricky_texts_for_one_statement(self) -> None:
        for text in TRICKY:
            with self.subTest(text):
                # The answer of a text of several statements is that of the last.
                self.cursor.execute(f"{text}\n; SELECT 'last'")

                self.assertEqual(self.cursor.fetchall(), [("last",)])

    def test_the_server_divides_random_texts_in_the_same_way(self) -> None:
        random = Random(20)
        dsn = self.instance.dsn()
        connection = psycopg.connect(host=dsn["host"], port=dsn["port"], user=dsn["user"], dbname="test")
        self.addCleanup(connection.close)

        for _ in range(300):
            text = random_text(random)
            connection.pgconn.send_query(text.encode())
            results = []
            while result := connection.pgconn.get_result():
                names = [(result.fname(i) or b"").decode() for i in range(result.nfields)]
                results.append((result.error_message.decode(), names))

            self.assertEqual([("", aliases_of(each)) for each in sql.statements(text)], results, text)

    def test_literals_arrive(self) -> None:
        self.addCleanup(self.cursor.execute, "RESET ALL")
        for setting in ("on", "off"):
            self.cursor.execute(f"SET standard_conforming_strings = {setting}")
            for text in ("it's", "a\\b", "\\'; --", "ä%s"):
                self.cursor.execute(f"SELECT {sql.quoted_literal(text)}")

                self.assertEqual(self.cursor.fetchone(), (text,))

    def test_names_arrive(self) -> None:
        for written in (
            "ÄPFEL",
            "a$B",
            'U&"d\\0061t\\+000061"',
            "U&\"d!0061\" UESCAPE '!'",
            "x" * 70,
            '"' + "ä" * 40 + '"',
        ):
            (token,) = sql.tokens(written)
            self.cursor.execute(f"SELECT 1 AS {written}")

            self.assertEqual(self.cursor.description[0].name, token.identifier)

    def test_reserved_words_are_no_calls(self) -> None:
        self.cursor.execute("SELECT word FROM pg_get_keywords() WHERE catcode IN ('R', 'T')")
        words = [word for (word,) in self.cursor.fetchall()]

        self.assertGreater(len(words), 90)
        for word in words:
            if word == "system_user":
                continue  # since PostgreSQL 16; before, it may name a function
            self.assertEqual(only(f"SELECT {word} (1)").calls, set(), word)
