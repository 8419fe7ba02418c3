"""What docs/isolation.md says of the one transaction is what happens."""

from __future__ import annotations

import re
import threading
import unittest
import warnings
from collections.abc import Callable

from sqlalchemy import text
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from dbtestcase import DatabaseTestCase, ThrowawayPostgres
from dbtestcase.errors import IsolationWarning
from tests.docs.blocks import ROOT, blocks
from tests.support import Base, Customer, problems, run_case

PAGE = (ROOT / "docs" / "isolation.md").read_text()


class OneTransaction(DatabaseTestCase):
    """With "savepoint", what would run again is an error."""

    schema = Base
    isolation = "savepoint"

    @classmethod
    def setUpTestData(cls, session):
        session.add(Customer(name="Ada"))

    def send(self, *statements: str) -> None:
        with self.engine.begin() as connection:
            for each in statements:
                connection.execute(text(each))


class RunsAgainTests(unittest.TestCase):
    def assert_run_again(self, *acts: Callable[[OneTransaction], object]) -> None:
        """Each act, as the whole of a test."""
        tests = {f"test_{number}": lambda test, act=act: act(test) for number, act in enumerate(acts)}
        result = run_case(type("Refused", (OneTransaction,), tests))

        broken = [test.id() for test, told in result.errors if "IsolationBroken" in told]
        self.assertEqual(len(broken), len(acts), problems(result))

    def test_a_connection_that_speaks_while_another_has_written(self) -> None:
        def two_at_once(test: OneTransaction) -> None:
            with test.engine.connect() as one, test.engine.connect() as other:
                one.execute(text("UPDATE customer SET name = 'Grace'"))
                other.execute(text("SELECT 1"))

        self.assert_run_again(two_at_once)

    def test_state_of_one_of_two_connections(self) -> None:
        def beside_another(statement: str) -> Callable[[OneTransaction], None]:
            def act(test: OneTransaction) -> None:
                with test.engine.connect() as one, test.engine.connect() as other:
                    one.execute(text(statement))
                    other.execute(text("SELECT 1"))

            return act

        self.assert_run_again(
            beside_another("SET work_mem = '1MB'"),
            beside_another("CREATE TEMPORARY TABLE t (id int)"),
            beside_another("PREPARE p AS SELECT 1"),
            beside_another("DECLARE c CURSOR FOR SELECT 1"),
            beside_another("SELECT pg_advisory_lock(1)"),
        )

    def test_statements_that_one_transaction_cannot_carry(self) -> None:
        statements = [
            *("COMMIT", "VACUUM customer", "CREATE INDEX CONCURRENTLY i ON customer (name)", "LISTEN news", "CALL p()"),
            *("DO 'BEGIN END'", "SET ROLE postgres", "SELECT set_config('a.b', '', true)", "PREPARE TRANSACTION 'x'"),
            *("SET TRANSACTION ISOLATION LEVEL SERIALIZABLE", "SELECT pg_backend_pid()", "SELECT txid_current()"),
            *("SELECT * FROM pg_locks", "CREATE POLICY p ON customer", "CREATE EXTENSION citext"),
            "CREATE FUNCTION f() RETURNS int LANGUAGE sql AS 'SELECT 1'",
            "CREATE TRIGGER t AFTER INSERT ON customer EXECUTE FUNCTION f()",
        ]

        self.assert_run_again(*(lambda test, each=each: test.send(each) for each in statements))

    def test_the_address_of_the_database(self) -> None:
        self.assert_run_again(lambda test: print(test.external_url), lambda test: print(test.instance.url()))


class DoesNotRunAgainTests(OneTransaction):
    def test_connections_in_turn(self) -> None:
        for number in range(5):
            with Session(self.engine) as session:
                session.add(Customer(name=str(number)))
                session.commit()

        self.assertRowCount(Customer, 6)

    def test_open_readers_beside_a_writer(self) -> None:
        with self.engine.connect() as one, self.engine.connect() as other:
            one.execute(text("SELECT * FROM customer"))
            other.execute(text("SELECT * FROM customer"))
            self.send("UPDATE customer SET name = 'Grace'")

        self.assertRowExists(Customer, name="Grace")

    def test_errors_of_constraints(self) -> None:
        with self.assertRaises(IntegrityError):
            self.send("INSERT INTO customer (name) VALUES ('Ada')")

        self.assertRowCount(Customer, 1)

    def test_tables_that_are_made_altered_and_dropped(self) -> None:
        self.send("CREATE TABLE t (id int)", "ALTER TABLE t ADD words text", "TRUNCATE t", "DROP TABLE t")

    def test_threads_that_take_turns(self) -> None:
        for number in range(3):
            sql = f"INSERT INTO customer (name) VALUES ('{number}')"
            thread = threading.Thread(target=self.send, args=(sql,))
            thread.start()
            thread.join()

        self.assertRowCount(Customer, 4)


class DifferenceTests(OneTransaction):
    def test_now_stands_still(self) -> None:
        def times(function: str) -> list[object]:
            found = []
            for _ in range(2):
                with self.engine.connect() as connection:
                    found.append(connection.scalar(text(f"SELECT {function}")))
            return found

        self.assertEqual(*times("now()"))
        self.assertNotEqual(*times("clock_timestamp()"))

    def test_ddl_goes_on_beside_an_open_reader(self) -> None:
        with self.engine.connect() as reader, self.assertWarns(IsolationWarning):
            reader.execute(text("SELECT * FROM customer"))
            self.send("ALTER TABLE customer ADD words text")

    def test_a_notification_is_not_delivered_and_no_error(self) -> None:
        self.send("NOTIFY news", "SELECT pg_notify('news', '')")

    def test_server_side_cursors_of_sqlalchemy(self) -> None:
        rows = self.session.scalars(text("SELECT generate_series(1, 3)").execution_options(yield_per=1))

        self.assertEqual(list(rows), [1, 2, 3])


class PictureTests(DatabaseTestCase):
    schema = Base
    postgres = ThrowawayPostgres(settings={"log_statement": "all"})

    def test_1_what_the_picture_shows(self) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            with Session(self.engine) as one:
                one.add(Customer(name="Ada"))
                one.commit()
            with Session(self.engine) as other:
                other.query(Customer.name).all()
                other.add(Customer(name="Ada"))
                with self.assertRaises(IntegrityError):
                    other.flush()
                other.rollback()

    def test_2_is_what_the_server_was_sent(self) -> None:
        picture = next(each.code for each in blocks(PAGE) if each.argument == "a picture")
        shown = re.findall(r"\b(BEGIN|INSERT|SAVEPOINT dbt\d|SELECT|ROLLBACK TO dbt\d|ROLLBACK)(?=\s|$)",
                           "\n".join(line[31:] for line in picture.splitlines()))  # fmt: skip
        log = self.instance.read_bootlog().rpartition("LOG:  statement: BEGIN\n")[2]
        sent = ["BEGIN", *(line.strip(";") for line in re.findall(r"LOG:  statement: (.*)", log))]
        words = [each if "SAVEPOINT" in each or " TO " in each else each.partition(" ")[0] for each in sent]

        self.assertEqual([each.strip(";") for each in words if each], shown)


if __name__ == "__main__":
    unittest.main()
