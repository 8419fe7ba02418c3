from __future__ import annotations

import unittest

from dbtestcase.schema.script import UnreadableScript, statements


def texts(script: str) -> list[str]:
    return [statement.text for statement in statements(script)]


class StatementTests(unittest.TestCase):
    def test_semicolons_separate_and_the_last_may_be_missing(self) -> None:
        self.assertEqual(texts("SELECT 1; SELECT 2;;\n SELECT 3 "), ["SELECT 1", "SELECT 2", "SELECT 3"])

    def test_nothing_but_comments_is_no_statement(self) -> None:
        self.assertEqual(texts("-- a; b\n/* c; /* d; */ e; */ ;"), [])

    def test_semicolons_in_strings_and_names_belong_to_them(self) -> None:
        for script in (
            "SELECT 'a;b'",
            "SELECT 'it''s;'",
            r"SELECT 'back\'",
            r"SELECT E'it\'s; \\'",
            'SELECT "a;""b"',
            "SELECT $$a;b$$",
            "SELECT $x$ $$;$y$; $x$",
            "SELECT U&'d;'",
            "CREATE RULE r AS ON INSERT TO t DO ALSO (DELETE FROM a; DELETE FROM b)",
        ):
            with self.subTest(script):
                self.assertEqual(texts(f"{script}; SELECT 1"), [script, "SELECT 1"])

    def test_a_dollar_within_a_name_begins_no_string(self) -> None:
        self.assertEqual(texts("SELECT a$b$ FROM t; SELECT $1"), ["SELECT a$b$ FROM t", "SELECT $1"])

    def test_a_name_that_ends_in_e_makes_no_escaped_string(self) -> None:
        self.assertEqual(texts(r"SELECT date'2020\'; SELECT 1"), [r"SELECT date'2020\'", "SELECT 1"])

    def test_a_routine_with_a_body_in_sql_is_one_statement(self) -> None:
        body = (
            "CREATE OR REPLACE FUNCTION f() RETURNS int BEGIN ATOMIC "
            "SELECT CASE WHEN true THEN 1 ELSE 2 END; SELECT 2; END"
        )

        self.assertEqual(texts(f"{body}; BEGIN; COMMIT"), [body, "BEGIN", "COMMIT"])

    def test_case_and_end_elsewhere_separate_as_usual(self) -> None:
        self.assertEqual(texts("SELECT CASE WHEN a THEN 1 END; END; SELECT 1"), [
            "SELECT CASE WHEN a THEN 1 END", "END", "SELECT 1",
        ])  # fmt: skip

    def test_lines_after_copy_from_stdin_are_data(self) -> None:
        script = "COPY t (a) FROM stdin;\nit's; \\N\n\\\\.\n\\.\n\nSELECT 1;"

        copy, select = statements(script)

        self.assertEqual(copy.copy_data, "it's; \\N\n\\\\.\n")
        self.assertEqual(select.text, "SELECT 1")

    def test_each_statement_knows_where_it_begins(self) -> None:
        script = "-- first\nSELECT 1;\n\n/* second */ SELECT 2;\n+3"

        self.assertEqual([script[s.start :].split(";")[0] for s in statements(script)], ["SELECT 1", "SELECT 2", "+3"])

    def test_the_brackets_that_pg_dump_puts_around_its_output_are_passed_over(self) -> None:
        self.assertEqual(texts("\\restrict abc\n\nSELECT 1;\n\\unrestrict abc\n"), ["SELECT 1"])

    def test_commands_that_change_nothing_are_passed_over(self) -> None:
        script = "\\set ON_ERROR_STOP on\n\\echo it's; 'on'\n\\timing\nSELECT 1; \\warn done\nSELECT 2"

        self.assertEqual(texts(script), ["SELECT 1", "SELECT 2"])
        for line in ("\\set name 'x'", "\\echo a \\quit", "SELECT 1\n\\echo a\n", "SELECT 1 \\gexec"):
            with self.subTest(line), self.assertRaises(UnreadableScript):
                texts(line)

    def test_other_commands_to_psql_are_refused(self) -> None:
        with self.assertRaises(UnreadableScript) as caught:
            texts("SELECT 1;\n  \\connect shop\n")

        self.assertIn(r"\\connect shop", caught.exception.problem)
        self.assertEqual(caught.exception.offset, 12)

    def test_what_has_no_end_is_refused(self) -> None:
        for script in ("SELECT 'a", 'SELECT "a', "SELECT $$a", "/* a", "COPY t FROM stdin;\n1\n", r"SELECT E'a\'"):
            with self.subTest(script), self.assertRaises(UnreadableScript):
                texts(script)
