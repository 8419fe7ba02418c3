"""A savepoint that goes along with the statement behind it: nobody can tell, whatever the statement does."""

from __future__ import annotations

import unittest
import warnings
from datetime import timedelta
from typing import Any

import psycopg2
import psycopg2.extensions as ext

from dbtestcase.errors import UncommittedRead
from tests.sandbox.support import SandboxCase, raw

_INSERT = "INSERT INTO shop (name, size) VALUES (%s, %s) RETURNING id"
# What the server cannot read, cannot make sense of, and cannot do; and what the driver does not even send.
_BAD: tuple[tuple[Any, ...], ...] = (
    ("SELEC 1",),
    ("SELECT 'open",),
    ("SELECT nothing FROM shop",),
    ("SELECT 1 FROM nowhere",),
    ("SELECT 'x'::int",),
    ("SELECT 1 / %s", (0,)),
    (_INSERT, ("taken", 1)),
    (_INSERT, ("new", "no number")),
    ("INSERT INTO sale (id, shop_id) VALUES (7, %s), (8, NULL)", (1,)),
    ("UPDATE shop SET size = NULL",),
    (_INSERT, ("too few",)),
    (_INSERT, ("an object", object())),
    (_INSERT, ("a zero \0", 1)),
)


def _told(connection: Any, statement: tuple[Any, ...]) -> tuple[Any, ...]:
    """Execute a statement; return all that its error says, and what the cursor says that it has sent."""
    cursor = connection.cursor()
    try:
        cursor.execute(*statement)
    except Exception as error:
        diagnostics = getattr(error, "diag", None)
        names = ("sqlstate", "message_primary", "message_detail", "statement_position", "context")
        return (
            type(error),
            str(error),
            getattr(error, "pgerror", None),
            *(getattr(diagnostics, name, None) for name in names),
            cursor.query,
            cursor.statusmessage,
        )
    return cursor.query, cursor.statusmessage, cursor.fetchall()


class JoinedTests(SandboxCase):
    def setUp(self) -> None:
        super().setUp()
        self.real: Any = self.plain.raw_connection()
        self.addCleanup(self.real.close)
        with self.in_test():
            self.engine.raw_connection()  # the first test of a class connects, and SQLAlchemy asks the server who it is
        self.sent: list[str] = []
        physical: Any = self.sandbox._core.physical
        send, query = physical.send, physical.query
        physical.send = lambda sql: (self.sent.append(sql), send(sql))[1]
        physical.query = lambda sql: (self.sent.append(sql), query(sql))[1]

    def tearDown(self) -> None:
        raw(self.real, "TRUNCATE shop, sale RESTART IDENTITY")
        self.real.commit()

    def take(self) -> None:
        """Make the row that others collide with."""
        raw(self.real, _INSERT, ("taken", 1))
        self.real.commit()

    def compare_bad_ones(self, *committed: str) -> None:
        """Let each bad statement fail, in a test that has committed these, as it does on a real connection."""
        self.take()
        for statement in _BAD:
            with self.subTest(statement), self.in_test():
                connection = self.engine.raw_connection()
                for name in committed:
                    raw(connection, _INSERT, (name, 1))
                    connection.commit()

                self.assertEqual(_told(connection, statement), _told(self.real, statement))

                connection.rollback()
                names = raw(connection, "SELECT name FROM shop ORDER BY id")
                self.assertEqual(names, [("taken",), *((name,) for name in committed)])
            self.real.rollback()

    def test_error_of_the_first_statement_reads_as_on_a_real_connection(self):
        self.compare_bad_ones()

    def test_error_after_a_commit_reads_as_on_a_real_connection_and_loses_nothing(self):
        self.compare_bad_ones("mine")

    def test_statement_that_is_known_fails_after_a_commit_and_loses_nothing(self):
        known = ((_INSERT, ("once", 1)), ("SELECT 1 / %s", (1,)), ("SELECT %s::text::int", ("1",)))
        fails = ((_INSERT, ("mine", 1)), ("SELECT 1 / %s", (0,)), ("SELECT %s::text::int", ("one",)))
        for good, bad in zip(known, fails, strict=True):
            with self.subTest(bad), self.in_test():
                connection = self.engine.raw_connection()
                raw(connection, _INSERT, ("mine", 1))
                connection.commit()
                raw(connection, *good)
                connection.commit()
                self.sent.clear()

                with self.assertRaises(psycopg2.Error):
                    raw(connection, *bad)

                self.assertEqual([sql for sql in self.sent if "SAVEPOINT" in sql and "ROLLBACK" not in sql], [])
                connection.rollback()
                self.assertIn(("mine",), raw(connection, "SELECT name FROM shop"))

    def test_statement_whose_table_was_dropped_since_names_its_own_text(self):
        with self.in_test():
            connection = self.engine.raw_connection()
            raw(connection, "CREATE TABLE short_lived (id int)")
            connection.commit()
            raw(connection, "SELECT * FROM short_lived")
            raw(connection, "DROP TABLE short_lived")
            connection.commit()

            told = _told(connection, ("SELECT * FROM short_lived",))

            self.assertEqual(told[1:], _told(self.real, ("SELECT * FROM short_lived",))[1:])
        self.real.rollback()

    def test_failing_insert_takes_one_number_of_its_sequence(self):
        self.take()
        with self.in_test():
            connection = self.engine.raw_connection()
            with self.assertRaises(psycopg2.errors.UniqueViolation):
                raw(connection, _INSERT, ("taken", 1))
            connection.rollback()

            self.assertEqual(raw(connection, _INSERT, ("free", 1)), [(3,)])

    def test_words_that_were_read_with_other_values_go_along_with_nothing(self):
        with self.in_test():
            connection = self.engine.raw_connection()
            sql = "SELECT 1 WHERE now() > timestamp %s"
            raw(connection, sql, ("2026-01-01",))
            raw(connection, _INSERT, ("mine", 1))
            connection.commit()

            with self.assertRaises(psycopg2.errors.SyntaxError):
                raw(connection, sql, (None,))

            connection.rollback()
            self.assertEqual(raw(connection, "SELECT name FROM shop"), [("mine",)])

    def test_value_that_an_adapter_of_the_user_writes_goes_along_with_nothing(self):
        with self.in_test():
            connection = self.engine.raw_connection()
            raw(connection, "SELECT %s", (ext.AsIs("1"),))
            raw(connection, _INSERT, ("mine", 1))
            connection.commit()

            with self.assertRaises(psycopg2.errors.SyntaxError):
                raw(connection, "SELECT %s", (ext.AsIs("1 1 1"),))

            connection.rollback()
            self.assertEqual(raw(connection, "SELECT name FROM shop"), [("mine",)])

    def test_user_reads_only_what_he_has_sent(self):
        class Noting(ext.cursor):
            noted: list[Any]

            def execute(self, query: Any, vars: Any = None) -> Any:
                type(self).noted.append(query)
                return super().execute(query, vars)

        Noting.noted = []
        with self.in_test():
            connection = self.engine.raw_connection()
            cursor = connection.cursor()
            cursor.execute("SELECT %s::interval", (timedelta(1),))
            self.assertEqual(cursor.query, b"SELECT '1 days 0.000000 seconds'::interval::interval")
            connection.commit()
            self.assertEqual(raw(connection, "SELECT current_query()"), [("SELECT current_query()",)])

        with self.in_test():
            connection = self.engine.raw_connection()
            self.assertEqual(raw(connection, "SELECT current_query()"), [("SELECT current_query()",)])

        with self.in_test(), self.engine.raw_connection().cursor(cursor_factory=Noting) as noting:
            noting.execute("SELECT 1")

        self.assertEqual(Noting.noted, ["SELECT 1"])

    def test_statement_that_is_refused_before_it_is_sent_loses_nothing(self):
        with self.in_test(), warnings.catch_warnings():
            warnings.simplefilter("error", UncommittedRead)
            one, other = self.engine.raw_connection(), self.engine.raw_connection()
            raw(other, _INSERT, ("mine", 1))
            raw(other, "SELECT lastval()")
            other.commit()
            raw(one, _INSERT, ("one", 1))
            one.commit()

            with self.assertRaises(UncommittedRead):
                raw(other, "SELECT lastval()")
            with self.assertRaises(psycopg2.errors.SyntaxError):
                raw(other, "SELEC 1")

            other.rollback()
            self.assertEqual(raw(other, "SELECT name FROM shop"), [("mine",), ("one",)])

    def test_what_is_asked_in_between_is_asked_behind_the_savepoint(self):
        with self.in_test(), warnings.catch_warnings():
            warnings.simplefilter("ignore", UncommittedRead)
            one, other = self.engine.raw_connection(), self.engine.raw_connection()
            raw(other, "SELECT name FROM shop")
            other.commit()
            raw(one, _INSERT, ("mine", 1))
            self.sent.clear()

            raw(other, "SELECT name FROM shop")

            self.assertRegex(self.sent[0], r"^SAVEPOINT dbtestcase_\d+$")
            self.assertGreater(len(self.sent), 1)

    def test_several_connections_pay_no_more_than_one(self):
        with self.in_test():
            one, other = self.engine.raw_connection(), self.engine.raw_connection()
            for connection in (one, other, one, other):
                raw(connection, "SELECT name FROM shop")
                raw(connection, _INSERT, (str(len(raw(connection, "SELECT name FROM shop"))), 1))
                connection.commit()
            self.sent.clear()

            raw(one, "SELECT name FROM shop")

            self.assertEqual(self.sent, [])

    def test_words_that_were_read_under_another_setting_go_along_with_nothing(self):
        with self.in_test():
            connection = self.engine.raw_connection()
            raw(connection, r"SELECT '\'")
            raw(connection, "SET standard_conforming_strings = off")
            raw(connection, _INSERT, ("mine", 1))
            connection.commit()

            with self.assertRaises(psycopg2.errors.SyntaxError):
                raw(connection, r"SELECT '\'")

            connection.rollback()
            self.assertEqual(raw(connection, "SELECT name FROM shop"), [("mine",)])


if __name__ == "__main__":
    unittest.main()
