"""The parts that need no server: the savepoint stack, the reading of SQL, settings."""

from __future__ import annotations

import unittest

from dbtestcase.sandbox.lexer import read
from dbtestcase.sandbox.settings import InForce, options_as_settings, setting_of
from dbtestcase.sandbox.shape import shape_of
from dbtestcase.sandbox.transactions import (
    GUARD,
    OPEN_SQL,
    Change,
    Doomed,
    Failed,
    NoSuchSavepoint,
    Transactions,
    VirtualTransaction,
)


def write(table: str = "t") -> Change:
    return Change("INSERT", None, frozenset({table}), is_certain=True)


class TransactionsTests(unittest.TestCase):
    def setUp(self) -> None:
        self.rules = Transactions()
        self.a, self.b = VirtualTransaction("a"), VirtualTransaction("b")

    def run_statement(self, transaction: VirtualTransaction, *, writes: bool = False) -> list[str]:
        sql = self.rules.before_statement(transaction)
        self.rules.after_statement(transaction, change=write() if writes else None)
        return sql

    def test_first_statement_opens_the_transaction_and_a_savepoint(self):
        self.assertEqual(self.run_statement(self.a), [OPEN_SQL])
        self.assertEqual(self.run_statement(self.a), [])

    def test_savepoint_of_a_reader_is_passed_on(self):
        self.run_statement(self.a)

        self.assertEqual(self.run_statement(self.b, writes=True), [])
        self.assertEqual(self.run_statement(self.a), ["SAVEPOINT dbtestcase_1"])
        self.assertEqual(self.rules.rollback(self.a), ([], []))

    def test_commit_sends_nothing_and_the_next_transaction_merges(self):
        self.run_statement(self.a, writes=True)
        self.rules.commit(self.a)

        self.assertEqual(self.run_statement(self.b, writes=True), ["SAVEPOINT dbtestcase_1"])
        self.rules.commit(self.b)
        self.assertEqual(self.run_statement(self.a), ["RELEASE dbtestcase_1", "SAVEPOINT dbtestcase_2"])
        self.assertEqual(len(self.rules.stack), 2)

    def test_rollback_returns_to_where_the_transaction_wrote_first(self):
        self.run_statement(self.a, writes=True)
        self.run_statement(self.b)
        self.run_statement(self.a, writes=True)

        self.assertEqual(self.rules.rollback(self.a), ([f"ROLLBACK TO {GUARD}"], []))
        self.assertEqual(self.run_statement(self.b), [])

    def test_rollback_beneath_a_commit_names_the_loss(self):
        self.run_statement(self.a, writes=True)
        self.run_statement(self.b, writes=True)
        self.rules.commit(self.b)
        _, (loss,) = self.rules.rollback(self.a)

        self.assertEqual((loss.victim, loss.culprit, loss.committed), (self.b, self.a, True))

    def test_rollback_beneath_open_work_dooms_it_until_it_is_rolled_back(self):
        self.run_statement(self.a, writes=True)
        self.run_statement(self.b, writes=True)
        self.assertEqual(self.rules.rollback(self.a)[1], [])

        for act in (self.rules.before_statement, self.rules.commit):
            with self.assertRaises(Doomed):
                act(self.b)
        self.assertEqual(self.rules.rollback(self.b), ([], []))

    def test_error_fails_one_and_leaves_the_other(self):
        self.run_statement(self.a, writes=True)
        self.run_statement(self.b)
        self.rules.after_error()
        self.rules.fail(self.b)

        with self.assertRaises(Failed):
            self.rules.before_statement(self.b)
        self.assertTrue(self.rules.has_work_of(self.a))

    def test_levels_of_the_user_are_undone_alone(self):
        self.run_statement(self.a, writes=True)
        self.rules.savepoint(self.a, "x")
        self.assertEqual(self.run_statement(self.a, writes=True), ["SAVEPOINT dbtestcase_1"])
        self.rules.savepoint(self.a, "y")
        self.run_statement(self.a, writes=True)

        self.assertEqual(self.rules.rollback_to(self.a, "x"), (["ROLLBACK TO dbtestcase_1"], []))
        self.assertEqual(self.a.levels, ["x"])
        self.rules.release(self.a, "x")
        with self.assertRaises(NoSuchSavepoint):
            self.rules.release(self.a, "x")

    def test_stack_does_not_grow_with_the_number_of_commits(self):
        self.run_statement(self.a, writes=True)
        for number in range(50):
            each = VirtualTransaction(str(number))
            self.run_statement(each, writes=True)
            self.rules.commit(each)

        self.assertLessEqual(len(self.rules.stack), 3)


class ReadingTests(unittest.TestCase):
    def test_only_statements_end_a_transaction(self):
        for sql in ("COMMIT", "-- x\ncommit;", "/* /* */ */ END", "select 1; rollback", "start transaction"):
            self.assertIsNotNone(read(sql).ending, sql)
        for sql in (
            "select 'commit'",
            "select $a$; commit; $a$",
            'select "commit" from t',
            "-- commit",
            "rollback to x",
            "create function f() returns int begin atomic select 1; end",
            "select e'\\'; commit'",
        ):
            self.assertIsNone(read(sql).ending, sql)

    def test_tables_are_told_from_columns(self):
        text = read('UPDATE ONLY a."B c" SET account = 1 FROM other o, "third" WHERE a.account = o.id')

        self.assertEqual(text.written, {"B c"})
        self.assertEqual(text.tables, {"B c", "other", "third"})

    def test_data_changing_ctes_write(self):
        self.assertTrue(read("WITH x AS (DELETE FROM t RETURNING *) SELECT * FROM x").writes)
        self.assertFalse(read("WITH x AS (SELECT 1) SELECT * FROM x").writes)

    def test_simple_statements_have_a_shape(self):
        shape = shape_of("UPDATE t AS x SET a = 'b', c = c + 1 WHERE x.id = 3 AND d = 'e' RETURNING a")

        self.assertEqual((shape.kind, shape.name, shape.alias), ("update", "t", "x"))
        self.assertEqual(shape.columns, {"a", "c"})
        self.assertEqual(shape.assigned, {("a", "b")})
        self.assertEqual(shape.equal, {("id", "3"), ("d", "e")})
        self.assertEqual(shape.where, "x.id = 3 AND d = 'e'")

    def test_inserted_literals_are_known_by_column(self):
        shape = shape_of("INSERT INTO t (a, b) VALUES (1, NULL), (2, 'x'::text) ON CONFLICT (a) DO NOTHING")

        self.assertEqual((shape.kind, shape.arbiter), ("upsert", {"a"}))
        self.assertEqual(shape.rows, ({"a": "1", "b": None}, {"a": "2", "b": "x"}))

    def test_statements_on_several_tables_have_none(self):
        for sql in ("SELECT * FROM a JOIN b ON true", "SELECT * FROM a, b", "DELETE FROM a USING b", "SELECT 1"):
            self.assertIsNone(shape_of(sql), sql)


class SettingsTests(unittest.TestCase):
    def test_what_is_set_and_how(self):
        found = [
            setting_of(read(sql).statements[0], sql)
            for sql in ("SET a.b TO 1", "SET LOCAL TIME ZONE 'UTC'", "RESET role", "SET TRANSACTION READ ONLY")
        ]

        self.assertEqual([each and (each.name, each.is_local) for each in found], [
            ("a.b", False), ("timezone", True), ("role", False), None
        ])  # fmt: skip

    def test_only_differences_are_sent(self):
        in_force = InForce()

        self.assertEqual(in_force.change_to({"x": "SET x = 1"}), ["SET x = 1"])
        self.assertEqual(in_force.change_to({"x": "SET x = 1"}), [])
        self.assertEqual(in_force.change_to({}), ["RESET x"])

    def test_options_of_libpq_are_understood(self):
        self.assertEqual(
            options_as_settings("-c search_path=a,b -cwork_mem=1MB --geqo=off").keys(),
            {"search_path", "work_mem", "geqo"},
        )


if __name__ == "__main__":
    unittest.main()
