"""Who has committed past the engines: told, unless it was this library itself; asked only where somebody could have."""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
import unittest
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import psycopg2
from sqlalchemy import Connection, create_engine, func, insert, select, text
from sqlalchemy.exc import DBAPIError

from dbtestcase import DatabaseTestCase, ThrowawayPostgres, isolate
from tests.support import Base, Customer, of_throwaway_servers, problems, run_case

# What the class's only connection to its database was sent last.
_LAST = "SELECT query FROM pg_stat_activity WHERE datname = 'test'"
_OTHER_PROGRAM = """
import psycopg2, sys
connection = psycopg2.connect(sys.argv[1])
print("connected", flush=True)
for line in sys.stdin:
    with connection, connection.cursor() as cursor:
        cursor.execute("INSERT INTO customer (name) VALUES ('by another program')")
    print("written", flush=True)
"""


class ShopTestCase(DatabaseTestCase):
    """What the tests of the classes below do; each says in which order."""

    schema = Base

    def commit(self) -> None:
        self.session.add(Customer(name="Ada"))
        self.session.commit()

    def count(self) -> None:
        self.assertEqual(self.session.scalar(select(func.count()).select_from(Customer)), 0)


class ForeignCommitTests(unittest.TestCase):
    def test_copies_that_are_made_while_tests_commit_are_no_commits_of_others(self) -> None:
        class Shop(ShopTestCase):
            def test_0_meets_and_so_makes_copies(self) -> None:
                with self.engine.connect() as one, self.engine.connect() as other:
                    one.execute(text("SELECT pg_advisory_lock(1)"))
                    self.assertFalse(other.scalar(text("SELECT pg_try_advisory_lock(1)")))

            def test_1_commits(self) -> None:
                self.commit()

            test_2 = test_3 = test_4 = test_5 = test_6 = test_7 = test_1_commits

        for _ in range(4):  # the copies come at another moment each time
            self.assertEqual(problems(run_case(Shop)), [])

    def test_a_commit_is_the_same_in_another_time_zone(self) -> None:
        engine = create_engine("postgresql+psycopg2://shop.invalid/shop", connect_args={"options": "-c timezone=Japan"})

        class Shop(ShopTestCase):
            app_engines = [engine]

            @isolate("clone")
            def test_1_lets_copies_be_made(self) -> None:
                self.commit()

            def test_2_commits(self) -> None:
                self.commit()

            def test_3_lives_elsewhere(self) -> None:
                with engine.connect() as connection:
                    self.assertEqual(connection.scalar(text("SHOW timezone")), "Japan")

        self.assertEqual(problems(run_case(Shop)), [])

    def test_sequences_of_another_database_that_are_set_back_are_no_commits_of_others(self) -> None:
        class Shop(DatabaseTestCase):
            schema = {"billing": None, "shop": Base, "audit": None}
            restart_identities = True

            def test_1(self) -> None:
                for name in self.schema:
                    with self.engine_for(name).connect() as connection:
                        connection.execute(text("SELECT 1"))
                with self.engine_for("shop").begin() as connection:
                    added = connection.execute(insert(Customer).values(name="Ada").returning(Customer.id))
                    self.assertEqual(added.scalar(), 1)

            test_2 = test_3 = test_4 = test_1

        self.assertEqual(problems(run_case(Shop)), [])


@of_throwaway_servers
class LogTests(unittest.TestCase):
    """The server's log tells whether anybody else has connected."""

    def last_statements(self, **attributes: object) -> list[str]:
        """Run a class of tests that count; return what each but the first found to have been sent before it began."""
        found: list[str] = []

        class Shop(ShopTestCase):
            def test_1(self) -> None:
                found.append("".join(query for (query,) in self.instance.query(_LAST)))
                self.count()

            test_2 = test_3 = test_4 = test_1

        for name, value in attributes.items():
            setattr(Shop, name, value)
        self.assertEqual(problems(run_case(Shop)), [])
        return found[1:]

    def assertAccused(self, case: type[DatabaseTestCase], *names: str) -> None:
        """Assert that only these tests are errors, because somebody has committed while they ran."""
        result = run_case(case)
        self.assertEqual([test.id().rpartition(".")[2] for test, _ in result.errors], list(names), problems(result))
        for _, said in result.errors:
            self.assertIn("somebody has committed into this class's server for real", said)

    def test_where_nobody_else_has_connected_the_next_test_undoes_the_one_before(self) -> None:
        asked, *others = self.last_statements()

        self.assertIn("ROLLBACK; SELECT", asked)
        self.assertEqual([each[:12] for each in others], ["SELECT count"] * 2)

    def test_a_log_that_the_class_has_changed_is_not_believed(self) -> None:
        for settings in ({"log_connections": "off"}, {"log_min_messages": "fatal"}):
            with self.subTest(settings):
                sent = self.last_statements(postgres=ThrowawayPostgres(settings=settings))

                self.assertTrue(all("ROLLBACK; SELECT" in each for each in sent), sent)

    def test_so_is_one_of_which_the_server_was_told_otherwise_or_that_somebody_has_taken_away(self) -> None:
        def alter(cls: type[DatabaseTestCase]) -> None:
            cls.instance.execute("ALTER SYSTEM SET log_connections = off")

        def replace(cls: type[DatabaseTestCase]) -> None:
            log = Path(cls.instance.base_dir, "server.log")
            log.rename(log.with_suffix(".old"))
            log.touch()

        for change in (alter, replace):
            with self.subTest(change.__name__):

                def set_up_class(cls: type[DatabaseTestCase], change: Callable[[Any], None] = change) -> None:
                    super(cls, cls).setUpClass()
                    change(cls)

                sent = self.last_statements(setUpClass=classmethod(set_up_class))

                self.assertTrue(all("ROLLBACK; SELECT" in each for each in sent), sent)

    def test_so_is_one_whose_template_says_otherwise(self) -> None:
        def schema(connection: Connection) -> None:
            Base.metadata.create_all(connection)
            connection.commit()
            raw = connection.connection.driver_connection
            raw.autocommit = True
            raw.cursor().execute("ALTER SYSTEM SET log_min_messages = 'panic'")
            raw.autocommit = False

        sent = self.last_statements(schema=schema)

        self.assertTrue(all("ROLLBACK; SELECT" in each for each in sent), sent)

    def test_where_others_know_the_address_a_test_is_undone_at_once(self) -> None:
        class Shop(ShopTestCase):
            @classmethod
            def setUpClass(cls) -> None:
                super().setUpClass()
                cls.address = cls.instance.dsn()

            def test_1(self) -> None:
                self.commit()

            test_2 = test_3 = test_1

            def test_4(self) -> None:
                other = psycopg2.connect(**self.address, options="-c lock_timeout=5s")
                with other.cursor() as cursor:
                    cursor.execute("INSERT INTO customer (name) VALUES ('Ada')")
                other.close()

        self.assertEqual(problems(run_case(Shop)), [])

    def test_where_the_server_ends_what_idles_in_a_transaction_a_test_is_undone_at_once(self) -> None:
        sent = self.last_statements(postgres=ThrowawayPostgres(settings={"idle_in_transaction_session_timeout": "1h"}))

        self.assertTrue(all("ROLLBACK; SELECT" in each for each in sent), sent)

    def test_a_connection_that_is_lost_between_two_tests_concerns_one_test_at_most(self) -> None:
        ran: list[str] = []

        class Shop(ShopTestCase):
            def test_1(self) -> None:
                ran.append(self._testMethodName)
                self.commit()

            test_2 = test_3 = test_5 = test_6 = test_1

            def test_4_the_server_hangs_up(self) -> None:
                self.instance.query(
                    "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE datname = 'test'"
                )

        class InSavepoint(Shop):
            isolation = "savepoint"

        self.assertEqual(problems(run_case(Shop)), [])
        self.assertEqual(ran, ["test_1", "test_2", "test_3", "test_5", "test_5", "test_6"])
        self.assertEqual(len(problems(run_case(InSavepoint))), 1)

    def test_a_program_that_has_connected_before_the_tests_is_watched(self) -> None:
        class Shop(ShopTestCase):
            isolation = "savepoint"

            @classmethod
            def setUpClass(cls) -> None:
                super().setUpClass()
                address = cls.engine.url.set(drivername="postgresql", query={
                    name: value for name, value in cls.engine.url.query.items() if name != "plugin"
                }).render_as_string()  # fmt: skip
                cls.program = subprocess.Popen(
                    [sys.executable, "-c", _OTHER_PROGRAM, address],
                    stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
                )  # fmt: skip
                cls.addClassCleanup(cls.program.communicate)
                cls.program.stdout.readline()

            def test_1(self) -> None:
                self.count()

            test_2 = test_3 = test_5 = test_6 = test_1

            def test_4(self) -> None:
                self.count()
                self.program.stdin.write("go\n")
                self.program.stdin.flush()
                self.assertEqual(self.program.stdout.readline(), "written\n")

        self.assertAccused(Shop, "test_4")

    def test_what_others_commit_in_the_first_test_that_uses_a_database_is_noticed(self) -> None:
        class Shop(ShopTestCase):
            isolation = "savepoint"

            def test_1_others_commit(self) -> None:
                self.count()
                address = self.engine.url.query
                own = psycopg2.connect(host=address["host"], port=address["port"], user="postgres", dbname="test")
                with own, own.cursor() as cursor:
                    cursor.execute("INSERT INTO customer (name) VALUES ('past the engines')")
                own.close()

            def test_2(self) -> None:
                self.count()

            @isolate("clone")
            def test_3_is_on_a_copy(self) -> None:
                self.count()

            test_4_others_commit = test_1_others_commit
            test_5 = test_2

        for restarts in (False, True):
            with self.subTest(restart_identities=restarts):
                Shop.restart_identities = restarts

                result = run_case(Shop)

                self.assertEqual(result.failures, [])
                accused = {test.id().rpartition(".")[2] for test, _ in result.errors}
                # After a test on a copy, what is committed may be this library's own: no word, but a fresh database.
                self.assertIn("test_1_others_commit", accused)
                self.assertLessEqual(accused, {"test_1_others_commit", "test_4_others_commit"})

    def test_a_test_that_uses_no_database_is_watched_where_others_may_come(self) -> None:
        class Known(ShopTestCase):
            @classmethod
            def setUpClass(cls) -> None:
                super().setUpClass()
                cls.address = cls.instance.dsn()

            def others_commit(self) -> None:
                own = psycopg2.connect(**self.address)
                with own, own.cursor() as cursor:
                    cursor.execute("INSERT INTO customer (name) VALUES ('past the engines')")
                own.close()

            def test_1_others_commit(self) -> None:
                self.others_commit()

            def test_2(self) -> None:
                self.count()

            def test_3_uses_nothing(self) -> None:
                pass

            test_4 = test_2

        class Forked(Known):
            @classmethod
            def setUpClass(cls) -> None:
                super(Known, cls).setUpClass()
                cls.pipe, of_child = multiprocessing.Pipe()
                child = os.fork()
                if child == 0:
                    with suppress(BaseException):
                        of_child.recv()
                        with cls.engine.begin() as connection:
                            connection.execute(insert(Customer).values(name="by a child"))
                        of_child.send("written")
                    os._exit(0)
                cls.addClassCleanup(os.waitpid, child, 0)

            def others_commit(self) -> None:
                self.pipe.send("go")
                self.assertEqual(self.pipe.recv(), "written")

        for case in (Known, Forked):
            for isolation in ("auto", "savepoint"):
                with self.subTest(case.__name__, isolation=isolation):
                    case.isolation = isolation

                    self.assertAccused(case, "test_1_others_commit")

    def test_what_others_commit_while_a_test_is_on_a_copy_does_not_reach_the_next(self) -> None:
        for stays in (False, True):

            class Shop(ShopTestCase):
                isolation = "savepoint"  # one that failed would pass on a copy

                @classmethod
                def setUpClass(cls) -> None:
                    super().setUpClass()
                    cls.address = cls.instance.dsn()

                @isolate("clone")
                def test_1(self, stays: bool = stays) -> None:
                    self.count()
                    own = psycopg2.connect(**self.address)
                    with own, own.cursor() as cursor:
                        cursor.execute("INSERT INTO customer (name) VALUES ('past the engines')")
                    self.addClassCleanup(own.close)
                    if not stays:
                        own.close()

                def test_2(self) -> None:
                    self.count()

            with self.subTest(stays=stays):
                self.assertEqual(problems(run_case(Shop)), [])

    def test_a_connection_that_a_test_opens_itself_is_watched_from_then_on(self) -> None:
        class Shop(ShopTestCase):
            isolation = "savepoint"

            @classmethod
            def setUpClass(cls) -> None:
                super().setUpClass()
                cls.address = cls.instance.dsn()

            def test_1(self) -> None:
                self.count()

            test_2 = test_4 = test_6 = test_1

            def test_3(self) -> None:
                self.count()
                type(self).own = psycopg2.connect(**self.address)
                self.addClassCleanup(self.own.close)

            def test_5(self) -> None:
                self.count()
                with self.own, self.own.cursor() as cursor:
                    cursor.execute("INSERT INTO customer (name) VALUES ('past the engines')")

        self.assertAccused(Shop, "test_5")

    def test_a_server_process_of_a_copy_that_ends_late_is_nobody_else(self) -> None:
        # One that has temporary tables commits their end in its own database, whenever it comes to that.
        class Shop(ShopTestCase):
            @classmethod
            def setUpClass(cls) -> None:
                super().setUpClass()
                cls.instance.execute("CREATE DATABASE dbtestcase_late")
                cls.late = psycopg2.connect(host=cls.instance.socket_dir, user="postgres", dbname="dbtestcase_late")
                cls.addClassCleanup(cls.late.close)

            def test_1(self) -> None:
                self.commit()

            test_2 = test_3 = test_4 = test_1

            def test_5_meets_a_late_commit(self) -> None:
                self.session.scalar(select(func.count()).select_from(Customer))
                with self.late, self.late.cursor() as cursor:
                    cursor.execute("CREATE TEMP TABLE t (x int)")
                with self.assertRaises(DBAPIError):
                    self.session.execute(text("SELECT 1 / 0"))  # the log grows

        self.assertEqual(problems(run_case(Shop)), [])

    def test_a_test_that_undoes_the_one_before_begins_at_a_time_of_its_own(self) -> None:
        times: list[object] = []

        class Shop(ShopTestCase):
            def test_1(self) -> None:
                before = self.instance.query("SELECT clock_timestamp()")[0][0]
                times.append((before, self.session.scalar(select(func.now()))))

            test_2 = test_3 = test_4 = test_1

        self.assertEqual(problems(run_case(Shop)), [])
        self.assertEqual(len(times), 4)
        for before, began in times:  # type: ignore[misc]
            self.assertLess(before, began)

    def test_the_last_test_of_a_class_leaves_nothing_to_tear_down(self) -> None:
        class Shop(ShopTestCase):
            def test_1(self) -> None:
                self.commit()

            test_2 = test_3 = test_1

            @classmethod
            def tearDownClass(cls) -> None:
                with cls.engine.begin() as connection:
                    cls.left = connection.scalar(select(func.count()).select_from(Customer))
                Base.metadata.drop_all(cls.engine)
                super().tearDownClass()

        self.assertEqual(problems(run_case(Shop)), [])
        self.assertEqual(Shop.left, 0)
