"""A statement or message that names a hidden column or setting shows none of its values; others show theirs."""

from __future__ import annotations

import unittest

from psycopg2 import OperationalError
from psycopg2.extras import Json

from dbtestcase.diagnosis.redaction import HIDDEN, Redaction, without_values
from dbtestcase.diagnosis.sqltext import render
from dbtestcase.diagnosis.statements import StatementLog
from dbtestcase.frames import UNKNOWN
from tests.diagnosis import failing
from tests.support import run_case

COLUMNS = [("account", "id"), ("account", "name"), ("account", "password"), ("plain", "id"), ("plain", "name")]
REDACTION = Redaction(["iban", "pin", "taxNumber"], lambda: COLUMNS)

# Each with the value that must not be shown: s3cr3t.
NAMED_IN_THE_TEXT = """
SELECT 1 FROM account WHERE password = 's3cr3t'
SELECT 1 FROM account WHERE 's3cr3t' = password
SELECT 1 FROM account WHERE lower(account.password) = 's3cr3t'
SELECT 1 FROM account WHERE password = crypt('s3cr3t', 'x')
SELECT 1 FROM account WHERE (name, password) = ('a', 's3cr3t')
SELECT 1 FROM account WHERE password BETWEEN 'a' AND 's3cr3t'
SELECT 1 FROM account WHERE password IN ('a', 'b', 's3cr3t')
SELECT 1 FROM account WHERE "Password" = E'\\'s3cr3t'
SELECT 1 FROM account WHERE password = $$s3cr3t$$
SELECT 1 FROM account WHERE password = $body$s3cr3t$body$
SELECT 1 FROM account WHERE password = "s3cr3t"
SELECT 1 FROM account WHERE password LIKE "s3cr3t"
SELECT 1 FROM account WHERE name = 'a' /* s3cr3t */ AND password IS NULL
SELECT 's3cr3t' AS password
SELECT 's3cr3t'::text AS "userPassword"
SELECT CAST('s3cr3t' AS text) AS "passwordHash"
SELECT 1 FROM account WHERE passwordhash = 's3cr3t'
SELECT 1 FROM account WHERE "accessToken" = 's3cr3t'
SELECT 1 FROM account WHERE tokens @> ARRAY['s3cr3t']
SELECT 1 FROM account WHERE secrets ->> 'a' = 's3cr3t'
SELECT 1 FROM account WHERE "apiKeys"[1] = 's3cr3t'
SELECT 1 FROM account WHERE API_KEY = 's3cr3t'
SELECT 1 FROM account WHERE user_pwd = 's3cr3t'
SELECT 1 FROM account WHERE "userPwd" = 's3cr3t'
SELECT 1 FROM account WHERE ibans = 's3cr3t'
SELECT 1 FROM account WHERE "customerIban" = 's3cr3t'
SELECT 1 FROM account WHERE pins = 's3cr3t'
SELECT 1 FROM account WHERE tax_number = 's3cr3t'
SELECT 1 FROM account WHERE "taxNumber" = 's3cr3t'
UPDATE account SET password = CASE WHEN id = 1 AND true THEN 's3cr3t' ELSE 'other' END
UPDATE account SET password = v.p FROM (VALUES (1, 's3cr3t')) AS v(id, p) WHERE v.id = account.id
UPDATE account SET (name, password) = ROW('a', 's3cr3t')
INSERT INTO account (name, password) SELECT 'a', 's3cr3t'
INSERT INTO account AS a (name, password) VALUES ('a', 'x'), ('b', 's3cr3t') ON CONFLICT DO NOTHING
INSERT INTO account (name, password) VALUES ('a', "s3cr3t")
INSERT INTO plain (name) VALUES ('a') ON CONFLICT (name) DO UPDATE SET name = 's3cr3t' RETURNING token
WITH new AS (INSERT INTO account (password) VALUES ('s3cr3t') RETURNING id) SELECT id FROM new
MERGE INTO account a USING b ON true WHEN NOT MATCHED THEN INSERT (password) VALUES ('s3cr3t')
CREATE ROLE r PASSWORD 's3cr3t'
ALTER USER r WITH ENCRYPTED PASSWORD 's3cr3t'
CREATE USER MAPPING FOR r SERVER s OPTIONS (user 'a', password 's3cr3t')
CREATE SUBSCRIPTION s CONNECTION 'host=h password=s3cr3t' PUBLICATION p
SELECT set_config('app.token', 's3cr3t', true)
SET app.token = 's3cr3t'
SET app.token = s3cr3t
SET LOCAL app.user_token TO s3cr3t
ALTER ROLE r SET app.secret = s3cr3t
/* traced */ SET LOCAL app.token = s3cr3t
SELECT 1; SET LOCAL app.token = s3cr3t
SET LOCAL app.token = a, s3cr3t
SET "app"."token" = s3cr3t
CREATE FUNCTION f() RETURNS int LANGUAGE sql SET app.token = s3cr3t AS 'SELECT 1'
SELECT dblink_connect('postgresql://app:s3cr3t@db/x')
SELECT dblink('host=db password=s3cr3t', 'SELECT 1')
INSERT INTO plain (name) VALUES ('https://user:s3cr3t@example.com/hook')
INSERT INTO plain (name) VALUES ('{"a": {"password": "s3cr3t"}}')
INSERT INTO plain (name) VALUES ('s3cr3t is my password')
SELECT jsonb_set(doc, '{password}', '"s3cr3t"') FROM plain
SELECT doc -> 'auth' ->> 'accessToken' = 's3cr3t' FROM plain
COMMENT ON COLUMN account.password IS 's3cr3t'
SELECT 1 FROM account WHERE password = 's3cr3t … and the text was cut here
"""

GIVEN_BY_POSITION = """
INSERT INTO account VALUES (1, 'a', 's3cr3t')
INSERT INTO public.account VALUES (1, 'a', 's3cr3t')
INSERT INTO "account" AS a VALUES (1, 'a', 's3cr3t')
INSERT /* into plain */ INTO account -- (id)
INSERT INTO account SELECT 1, 'a', 's3cr3t'
INSERT INTO account (SELECT 1, 'a', 's3cr3t')
INSERT INTO account OVERRIDING SYSTEM VALUE VALUES (1, 'a', 's3cr3t')
INSERT INTO unknown VALUES (1, 's3cr3t')
WITH x AS (SELECT 1) INSERT INTO account VALUES (1, 'a', 's3cr3t')
MERGE INTO account a USING b ON true WHEN NOT MATCHED THEN INSERT VALUES (1, 'a', 's3cr3t')
EXECUTE new_account(1, 's3cr3t')
"""

SHOWN = """
SELECT id FROM account WHERE name = 'shown'
UPDATE account SET name = 'shown' WHERE id = 1
INSERT INTO account (name) VALUES ('shown')
INSERT INTO plain VALUES (1, 'shown')
INSERT INTO plain SELECT 1, 'shown'
SELECT 'shown' FROM shipping WHERE spinning
SELECT 'shown' AS opinion
"""


def shown(sql: str, parameters: object = None) -> str:
    return render(sql, parameters, REDACTION)


def lines(text: str) -> list[str]:
    return text.strip().splitlines()


class RenderTests(unittest.TestCase):
    def test_a_statement_that_names_a_hidden_column_or_setting_shows_no_value(self):
        for sql in lines(NAMED_IN_THE_TEXT):
            with self.subTest(sql=sql):
                self.assertNotIn("s3cr3t", shown(sql))
                self.assertIn("(values hidden)", shown(sql))

    def test_a_row_that_is_given_by_position_is_hidden_if_its_table_has_such_a_column(self):
        for sql in lines(GIVEN_BY_POSITION):
            with self.subTest(sql=sql):
                self.assertNotIn("s3cr3t", shown(sql))
                self.assertIn("(values hidden)", shown(sql))

    def test_a_row_that_is_given_by_position_is_hidden_if_nobody_knows_its_columns(self):
        self.assertNotIn("s3cr3t", render("INSERT INTO plain VALUES (1, 's3cr3t')", None, Redaction()))

    def test_other_statements_show_their_values(self):
        for sql in lines(SHOWN):
            with self.subTest(sql=sql):
                self.assertIn("'shown'", shown(sql))

    def test_what_is_left_of_a_statement_is_its_shape(self):
        self.assertEqual(
            shown("INSERT INTO account (name, password) VALUES (%s, %s), (%s, 'x')", ("a", "s3cr3t", 3)),
            "INSERT INTO account (name, password) VALUES (?, ...), (?, ...)  (values hidden)",
        )

    def test_parameters_are_hidden_with_the_statement_and_where_they_name_something_themselves(self):
        for sql, parameters in (
            ("SELECT 1 WHERE lower(password) = %(p_1)s", {"p_1": "s3cr3t"}),
            ("SELECT check(%(iban)s)", {"iban": "s3cr3t"}),
            ("SELECT check($1)", ("password=s3cr3t",)),
            ("INSERT INTO account VALUES (%s, %s, %s)", (1, "a", "s3cr3t")),
            ("SELECT set_config(%s, %s, true)", ("app.token", "s3cr3t")),
            ("INSERT INTO plain (doc) VALUES (%s)", ('{"userPassword": "s3cr3t"}',)),
            ("INSERT INTO plain (doc) VALUES (%s)", (Json({"tokens": ["s3cr3t"]}),)),
            ("INSERT INTO plain (doc) VALUES (%s)", ({"auth": {"pin": "s3cr3t"}},)),
            ("INSERT INTO plain (doc) VALUES (%s)", (["a", {"secret": "s3cr3t"}],)),
            ("INSERT INTO plain (doc) VALUES (%s)", ("<password>s3cr3t</password>",)),
            ("INSERT INTO plain (url) VALUES (%s)", ("postgresql://app:s3cr3t@db/x",)),
            ("INSERT INTO plain (doc) VALUES (%s)", ('[{"key": "password", "value": "s3cr3t"}]',)),
            ("INSERT INTO plain (doc) VALUES (%s)", ("{password, s3cr3t, and others}",)),
            ("INSERT INTO plain (doc) VALUES (%s)", ("id,password\n1,s3cr3t\n",)),
            ("SELECT %s", (Json([["password", "s3cr3t"]]),)),
            ("INSERT INTO plain (kind, value) VALUES (%s, %s)", ("password", "s3cr3t")),
        ):
            with self.subTest(sql=sql, parameters=parameters):
                self.assertNotIn("s3cr3t", shown(sql, parameters))

    def test_parameters_that_only_speak_of_such_things_are_shown(self):
        self.assertIn(
            "'I forgot my password'", shown("INSERT INTO plain (name) VALUES (%s)", ("I forgot my password",))
        )
        self.assertIn("'http://example.com/a@b'", shown("SELECT %s", ("http://example.com/a@b",)))


class WithoutValuesTests(unittest.TestCase):
    def test_that_a_server_has_ended_is_told(self):
        lost = "server closed the connection unexpectedly\n\tThis probably means the server terminated abnormally\n"

        self.assertEqual(without_values(OperationalError(lost)), "server closed the connection unexpectedly")
        self.assertEqual(without_values(OperationalError(f"consuming input failed: {lost}")).splitlines(), [
            "consuming input failed: server closed the connection unexpectedly"
        ])  # fmt: skip

    def test_other_words_without_an_sqlstate_are_hidden(self):
        self.assertEqual(without_values(OperationalError("server closed the connection unexpectedly: s3cr3t")), HIDDEN)


class CutTests(unittest.TestCase):
    def test_what_is_cut_while_it_is_kept_is_judged_as_a_whole(self):
        log = StatementLog(Redaction(), mode="failed")
        padding = "x" * 30_000

        log.statement_started("c", UNKNOWN, f"SELECT 's3cr3t' FROM a WHERE b = '{padding}' AND password = 1", None)
        log.statement_started("d", UNKNOWN, "SELECT %s", (f'{{"a": "s3cr3t", "b": "{padding}", "password": 1}}',))

        self.assertNotIn("s3cr3t", log.note())
        self.assertEqual(log.note(), None)


class FailureTests(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cases = (failing.Failing, failing.FailingTwice, failing.FailingInSetUpClass, failing.KeyIsASecret)
        result = run_case(*cases, failing.FailingWithAsyncpg)
        cls.texts: dict[str, str] = {}
        for test, said in result.errors + result.failures:
            name = test.id().rpartition(".")[2].partition(" ")[0]
            # What the user wrote himself stands in the traceback's source lines.
            cls.texts[name] = cls.texts.get(name, "") + "\n".join(
                line for line in said.splitlines() if not line.startswith("    ") or line.lstrip()[:1].isdigit()
            )

    def test_no_failure_shows_a_secret(self):
        for name, said in self.texts.items():
            with self.subTest(name):
                self.assertNotIn(failing.SECRET[:8], said)

    def test_what_made_a_test_run_twice_is_told_without_values(self):
        self.assertIn(
            "it first met: SELECT ? FROM account WHERE password = ? at tests/diagnosis/failing.py",
            self.texts["test_second_run"],
        )

    def test_every_one_was_explained(self):
        cases = failing.Failing, failing.FailingWithAsyncpg, failing.KeyIsASecret
        wanted = {name for case in cases for name in dir(case) if name.startswith("test_")}

        self.assertLessEqual(wanted, set(self.texts))
        self.assertNotIn("could not explain", "".join(self.texts.values()))

    def test_messages_keep_the_names_in_them(self):
        self.assertIn(
            'null value in column "name" of relation "account" violates not-null constraint\n(values hidden)',
            self.texts["test_row_refused_that_was_there_before"],
        )
        self.assertIn("account_iban_key", self.texts["test_short_key_taken"])
        self.assertIn("login_pkey", self.texts["test_key_with_asyncpg"])
        self.assertIn("function no_such_function(unknown) does not exist", self.texts["test_text_stumbled_over"])

    def test_row_of_a_table_without_hidden_columns_is_shown(self):
        self.assertIn("Failing row contains (9, null)", self.texts["test_row_of_another_table"])

    def test_frames_whose_arguments_pytest_would_show_are_left_out(self):
        self.assertNotIn("in do_execute", self.texts["test_row_refused"])
        self.assertIn("in do_execute", self.texts["test_row_of_another_table"])

    def test_error_in_set_up_class_is_explained_too(self):
        said = next(said for said in self.texts.values() if "in setUpClass" in said)

        self.assertIn("What to do: account.name got no value", said)
        self.assertIn("VALUES (?, ...)", said)


if __name__ == "__main__":
    unittest.main()
