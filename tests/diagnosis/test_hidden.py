"""Values of hidden columns are shown nowhere, and others are."""

from __future__ import annotations

import unittest

from dbtestcase.diagnosis.hidden import HiddenNames
from dbtestcase.diagnosis.sqltext import redacted, render
from tests.diagnosis import failing
from tests.support import run_case


def shown(sql: str, parameters: object = None) -> str:
    columns = {"account": ["id", "name", "password"], "plain": ["id", "name"]}
    return render(sql, parameters, HiddenNames(["iban"], columns.get))


class RenderTests(unittest.TestCase):
    def test_values_are_hidden_wherever_they_stand_beside_a_hidden_column(self):
        for sql in (
            "SELECT 1 FROM account WHERE password = 's3cr3t'",
            "SELECT 1 FROM account WHERE 's3cr3t' = password",
            "SELECT 1 FROM account WHERE lower(account.password) = 's3cr3t'",
            "SELECT 1 FROM account WHERE password = crypt('s3cr3t', 'x')",
            "SELECT 1 FROM account WHERE (name, password) = ('a', 's3cr3t')",
            "SELECT 1 FROM account WHERE password BETWEEN 'a' AND 's3cr3t' AND name = 'shown'",
            "SELECT 1 FROM account WHERE password IN ('a', 'b', 's3cr3t')",
            "SELECT 's3cr3t' AS password",
            "UPDATE account SET password = CASE WHEN id = 1 AND true THEN 's3cr3t' ELSE 'other' END",
            "INSERT INTO account (name, password) SELECT 'a', 's3cr3t'",
            "INSERT INTO account AS a (name, password) VALUES ('a', 'x'), ('b', 's3cr3t') ON CONFLICT DO NOTHING",
            "INSERT INTO account VALUES (1, 'a', 's3cr3t')",
            "INSERT INTO unknown VALUES (1, 's3cr3t')",
            "WITH new AS (INSERT INTO account (password) VALUES ('s3cr3t') RETURNING id) SELECT id FROM new",
            "MERGE INTO account a USING b ON true WHEN NOT MATCHED THEN INSERT (password) VALUES ('s3cr3t')",
            "CREATE ROLE r PASSWORD 's3cr3t'",
            'INSERT INTO plain (name) VALUES (\'{"a": {"password": "s3cr3t"}}\')',
            "SELECT 1 FROM account WHERE password = 's3cr3t … and the text was cut here",
        ):
            with self.subTest(sql=sql):
                self.assertNotIn("s3cr3t", shown(sql))
                self.assertNotIn("s3cr3t", redacted(sql, HiddenNames((), {"account": ["a", "b", "password"]}.get)))

    def test_values_of_other_columns_are_shown(self):
        for sql in (
            "SELECT id, password FROM account WHERE name = 'shown' AND password = 'x'",
            "SELECT id, password FROM account WHERE (name = 'shown' OR password = 'x')",
            "SELECT id, password FROM account WHERE lower(name) = 'shown'",
            "UPDATE account SET password = 'x', name = 'shown'",
            "INSERT INTO account (name, password) VALUES ('shown', 'x')",
            "INSERT INTO account VALUES (1, 'shown', 'x')",
            "SELECT * FROM token WHERE token.name = 'shown'",
            "SELECT 1 FROM a WHERE id IN (SELECT id FROM account WHERE password = 'x') AND name = 'shown'",
        ):
            with self.subTest(sql=sql):
                self.assertIn("'shown'", shown(sql))

    def test_parameters_are_hidden_by_their_place_and_by_their_name(self):
        self.assertNotIn("s3cr3t", shown("SELECT 1 WHERE lower(password) = %(p_1)s", {"p_1": "s3cr3t"}))
        self.assertNotIn("s3cr3t", shown("SELECT check(%(iban)s)", {"iban": "s3cr3t"}))
        self.assertEqual(
            shown("INSERT INTO account VALUES (%s, %s, %s)", (1, "a", "s3cr3t")),
            "INSERT INTO account VALUES (1, 'a', '(hidden)')",
        )


class FailureTests(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        result = run_case(failing.Failing, failing.FailingInSetUpClass, failing.KeyIsASecret)
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

    def test_every_one_was_explained(self):
        wanted = {name for name in dir(failing.Failing) if name.startswith("test_")} | {"test_assertion"}

        self.assertLessEqual(wanted, set(self.texts))
        self.assertNotIn("could not explain", "".join(self.texts.values()))

    def test_row_that_was_refused_shows_its_other_columns(self):
        self.assertIn("Failing row contains (9, null, (hidden), (hidden), null)", str(self.texts))
        self.assertIn("Key (iban)=((hidden)) already exists", self.texts["test_short_key_taken"])

    def test_error_in_set_up_class_is_explained_too(self):
        said = next(said for said in self.texts.values() if "in setUpClass" in said)

        self.assertIn("What to do: account.name got no value", said)
        self.assertIn("VALUES (NULL, '(hidden)')", said)


if __name__ == "__main__":
    unittest.main()
