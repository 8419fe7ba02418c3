"""A test that one transaction cannot carry runs again by itself, and the runner sees one test."""

from __future__ import annotations

import contextlib
import io
import logging
import signal
import threading
import time
import unittest
from concurrent.futures import ThreadPoolExecutor
from contextvars import ContextVar
from typing import Any, ClassVar
from unittest import mock

from sqlalchemy import create_engine, func, select, text
from sqlalchemy.exc import StatementError
from sqlalchemy.orm import Session, scoped_session, sessionmaker

from dbtestcase import DatabaseTestCase, ThrowawayPostgres, isolate
from dbtestcase.errors import IsolationBroken
from dbtestcase.sandbox import attempt
from tests.support import Base, Customer, once, problems, run_case


class ShopTestCase(DatabaseTestCase):
    schema = Base
    calls: ClassVar[list[str]]

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        cls.calls = []

    def need_real_connections(self) -> None:
        """Do what one transaction cannot carry: look at another connection's uncommitted work."""
        with self.engine.connect() as one, self.engine.connect() as other:
            one.execute(Customer.__table__.insert(), {"name": "uncommitted"})
            other.scalar(select(func.count()).select_from(Customer))
            self.calls.append("passed")


class RecordingResult(unittest.TestResult):
    """Writes down all that it is told."""

    def __init__(self) -> None:
        super().__init__()
        self.told: list[tuple[str, str]] = []

    def __getattribute__(self, name: str) -> Any:
        found = super().__getattribute__(name)
        if not name.startswith(("add", "startTest", "stopTest")) or name.endswith(("Run", "Duration")):
            return found

        def recorded(test: Any, *more: Any) -> Any:
            self.told.append((name, name_of(test)))
            return found(test, *more)

        return recorded


def name_of(test: unittest.TestCase) -> str:
    return test.id().rpartition(".")[2]


def run_recorded(case: type[unittest.TestCase]) -> RecordingResult:
    result = RecordingResult()
    unittest.defaultTestLoader.loadTestsFromTestCase(case).run(result)
    return result


class OneTestTests(unittest.TestCase):
    def test_a_test_that_needs_real_connections_runs_twice_and_is_told_once(self):
        class Shop(ShopTestCase):
            def setUp(self):
                self.calls.append("setUp")
                self.addCleanup(self.calls.append, "cleanup")

            def tearDown(self):
                self.calls.append("tearDown")

            def test_it(self):
                self.need_real_connections()

        result = run_recorded(Shop)

        self.assertEqual(problems(result), [])
        self.assertEqual(result.told, [("startTest", "test_it"), ("addSuccess", "test_it"), ("stopTest", "test_it")])
        self.assertEqual(Shop.calls, ["setUp", "tearDown", "cleanup", "setUp", "passed", "tearDown", "cleanup"])

    def test_one_that_needs_none_runs_once(self):
        class Shop(ShopTestCase):
            def test_it(self):
                self.calls.append("begun")
                self.session.add(Customer(name="Ada"))
                self.session.commit()

        self.assertEqual(problems(run_case(Shop)), [])
        self.assertEqual(Shop.calls, ["begun"])

    def test_one_that_fails_runs_again_and_only_that_counts(self):
        class Shop(ShopTestCase):
            def test_it(self):
                self.calls.append("begun")
                self.session.execute(select(Customer)).all()
                if len(self.calls) == 1:
                    self.fail("in the one transaction only")

        result = run_recorded(Shop)

        self.assertEqual(problems(result), [])
        self.assertEqual([name for name, _ in result.told], ["startTest", "addSuccess", "stopTest"])
        self.assertEqual(len(Shop.calls), 2)

    def test_one_that_fails_without_a_database_runs_once(self):
        class Shop(ShopTestCase):
            def test_it(self):
                self.calls.append("begun")
                self.fail("on purpose")

        result = run_case(Shop)

        self.assertEqual(len(result.failures), 1)
        self.assertNotIn("ran twice", result.failures[0][1])
        self.assertEqual(Shop.calls, ["begun"])

    def test_a_second_failure_of_another_kind_tells_of_the_first(self):
        class Shop(ShopTestCase):
            def test_it(self):
                self.calls.append("run")
                self.session.execute(select(Customer)).all()
                if len(self.calls) > 1:
                    raise FileExistsError("made by the first run")
                self.fail("the true one")

        told = problems(run_case(Shop))[0]

        self.assertIn("FileExistsError", told)
        self.assertIn("The first run failed otherwise: AssertionError: the true one at tests/lifecycle", told)

    def test_what_is_told_of_a_first_failure_has_no_value_of_a_database_in_it(self):
        class Shop(ShopTestCase):
            def test_it(self):
                self.calls.append("run")
                if len(self.calls) == 1:
                    self.session.execute(text("SELECT CAST(:it AS integer) AS password"), {"it": "s3cr3t"})
                self.fail("on purpose")

        told = problems(run_case(Shop))[0]

        self.assertIn("The first run failed otherwise: DataError: invalid input syntax for type integer", told)
        self.assertNotIn("s3cr3t", told)

    def test_a_test_may_use_the_name_id_for_something_else(self):
        class Shop(ShopTestCase):
            def test_it(self):
                self.id = 7
                self.need_real_connections()

        self.assertEqual(problems(run_case(Shop)), [])

    def test_a_failure_says_that_the_test_ran_twice_and_why(self):
        class Shop(ShopTestCase):
            def test_1_needs_real_connections(self):
                self.need_real_connections()
                self.fail("on purpose")

            def test_2_fails(self):
                self.session.execute(select(Customer)).all()
                self.fail("on purpose")

        first, second = (text for _, text in run_case(Shop).failures)

        for words in ("ran twice", "real connections", "INSERT INTO customer", "test_second_run.py:"):
            self.assertIn(words, first)
        self.assertIn("ran twice", second)
        self.assertEqual(first.count("Traceback"), 1)

    def test_a_swallowed_end_of_the_first_run_is_still_its_end(self):
        class Shop(ShopTestCase):
            def test_it(self):
                for _ in range(3):
                    try:
                        self.need_real_connections()
                    except:  # noqa: E722
                        self.calls.append("swallowed")

        self.assertEqual(problems(run_case(Shop)), [])
        self.assertEqual(Shop.calls, ["swallowed"] * 3 + ["passed"] * 3)

    def test_handlers_of_exceptions_do_not_see_it(self):
        class Shop(ShopTestCase):
            def test_it(self):
                with contextlib.suppress(Exception):
                    self.need_real_connections()
                self.calls.append("after")

        self.assertEqual(problems(run_case(Shop)), [])
        self.assertEqual(Shop.calls, ["passed", "after"])


class OutcomeTests(unittest.TestCase):
    def test_subtests_are_those_of_the_run_that_counts(self):
        class Shop(ShopTestCase):
            def test_it(self):
                for number in range(3):
                    with self.subTest(number=number):
                        self.need_real_connections()
                        self.assertNotEqual(number, 1)

        result = run_recorded(Shop)

        self.assertEqual(len(result.failures), 1)
        self.assertIn("(number=1)", str(result.failures[0][0]))
        self.assertEqual([name for name, _ in result.told], ["startTest", *["addSubTest"] * 3, "stopTest"])

    def test_a_result_without_subtests_is_given_none(self):
        class Plain:
            """As old runners have it."""

            failfast = shouldStop = False
            told: ClassVar[list[str]] = []

            def __getattr__(self, name):
                if name.startswith(("add", "start", "stop")) and name not in ("addSubTest", "addDuration"):
                    return lambda *_: self.told.append(name)
                raise AttributeError(name)

        class Shop(ShopTestCase):
            def test_it(self):
                with self.subTest("one"):
                    self.need_real_connections()

        unittest.TestSuite([Shop("test_it")]).run(Plain())

        self.assertEqual([name for name in Plain.told if name.startswith("add")], ["addSuccess"])

    def test_skips_in_every_place(self):
        class Shop(ShopTestCase):
            def setUp(self):
                if "in_set_up" in self.id():
                    self.need_real_connections()
                    self.skipTest("in setUp")

            @unittest.skip("by the decorator")
            def test_decorated(self):
                raise AssertionError("must not run")

            def test_in_set_up(self):
                raise AssertionError("must not run")

            def test_before(self):
                self.skipTest("before")

            def test_after(self):
                self.need_real_connections()
                self.skipTest("after")

            def test_after_what_needs_no_real_connections(self):
                self.session.execute(select(Customer)).all()
                self.skipTest("after a query")

            def test_in_subtest(self):
                with self.subTest("one"):
                    self.need_real_connections()
                    self.skipTest("in a subtest")

            def test_next(self):
                self.assertRowCount(Customer, 0)

        result = run_case(Shop)

        self.assertEqual(problems(result), [])
        self.assertEqual(
            sorted(reason for _, reason in result.skipped),
            ["after", "after a query", "before", "by the decorator", "in a subtest", "in setUp"],
        )

    def test_expected_failures_and_unexpected_successes_are_those_on_real_connections(self):
        class Shop(ShopTestCase):
            @unittest.expectedFailure
            def test_1_fails_everywhere(self):
                self.need_real_connections()
                self.fail("on purpose")

            @unittest.expectedFailure
            def test_2_passes_everywhere(self):
                self.need_real_connections()

        class OtherShop(ShopTestCase):
            @unittest.expectedFailure
            def test_3_passes_in_the_one_transaction_only(self):
                self.session.execute(select(Customer)).all()
                self.calls.append("begun")
                if self.calls.count("begun") == 2:
                    self.fail("on real connections")

            @unittest.expectedFailure
            def test_4_fails_in_the_one_transaction_only(self):
                self.session.execute(select(Customer)).all()
                self.calls.append("again")
                if self.calls.count("again") == 1:
                    self.fail("in the one transaction")

        result = run_case(Shop, OtherShop)

        self.assertEqual(problems(result), [])
        self.assertEqual([name_of(test)[:6] for test, _ in result.expectedFailures], ["test_1", "test_3"])
        self.assertEqual([name_of(test)[:6] for test in result.unexpectedSuccesses], ["test_2", "test_4"])

    def test_fail_fast_stops_at_failures_that_count(self):
        class Shop(ShopTestCase):
            def test_1_needs_real_connections(self):
                self.need_real_connections()

            def test_2_fails(self):
                self.session.execute(select(Customer)).all()
                self.fail("on purpose")

            def test_3(self):
                raise AssertionError("must not run")

        result = unittest.TestResult()
        result.failfast = True
        unittest.defaultTestLoader.loadTestsFromTestCase(Shop).run(result)

        self.assertEqual(result.testsRun, 2)
        self.assertEqual(len(problems(result)), 1)
        self.assertIn("on purpose", problems(result)[0])

    def test_buffered_output_is_that_of_the_run_that_counts(self):
        class Shop(ShopTestCase):
            def test_it(self):
                is_first = not self.runs
                self.runs.append(1)
                print("printed" + is_first * ", and more of the run that does not count")
                self.need_real_connections()
                self.fail("on purpose")

            runs: ClassVar[list[int]] = []

        stream = io.StringIO()
        runner = unittest.TextTestRunner(stream=stream, buffer=True)
        with contextlib.redirect_stdout(io.StringIO()):
            result = runner.run(unittest.defaultTestLoader.loadTestsFromTestCase(Shop))

        self.assertEqual(len(result.failures), 1)
        self.assertTrue(result.failures[0][1].endswith("\nStdout:\nprinted\n"), result.failures[0][1])

    @unittest.skipUnless(hasattr(unittest.TestResult, "addDuration"), "CPython 3.12")
    def test_the_duration_is_that_of_the_run_that_counts(self):
        class Shop(ShopTestCase):
            def test_it(self):
                self.need_real_connections()

        result = run_case(Shop)

        self.assertEqual(len(result.collectedDurations), 1)

    def test_unittest_s_own_runner_names_each_test_once(self):
        class Shop(ShopTestCase):
            def test_it(self):
                self.need_real_connections()

        stream = io.StringIO()
        unittest.TextTestRunner(stream=stream, verbosity=2).run(unittest.defaultTestLoader.loadTestsFromTestCase(Shop))

        self.assertEqual(stream.getvalue().count("... ok"), 1)
        self.assertEqual(stream.getvalue().count("test_it ("), 1)
        self.assertIn("Ran 1 test", stream.getvalue())


class EndTests(unittest.TestCase):
    def test_a_keyboard_interrupt_of_the_user_s_ends_the_run(self):
        class Shop(ShopTestCase):
            def test_1(self):
                self.session.execute(select(Customer)).all()
                raise KeyboardInterrupt

            def test_2(self):
                raise AssertionError("must not run")

        suite = unittest.defaultTestLoader.loadTestsFromTestCase(Shop)
        result = unittest.TestResult()
        with self.assertRaises(KeyboardInterrupt):
            suite.run(result)
        Shop.doClassCleanups()

        self.assertEqual(result.testsRun, 1)
        self.assertEqual(problems(result), [])

    def test_system_exit_is_an_error_like_others(self):
        class Shop(ShopTestCase):
            def test_1(self):
                self.session.execute(select(Customer)).all()
                raise SystemExit(3)

            def test_2(self):
                self.need_real_connections()

        result = run_case(Shop)

        self.assertEqual([name_of(test) for test, _ in result.errors], ["test_1"])
        self.assertIn("SystemExit: 3", problems(result)[0])

    def test_what_a_test_entered_is_left_after_each_run(self):
        class Shop(ShopTestCase):
            @contextlib.contextmanager
            def place(self):
                self.calls.append("entered")
                yield
                self.calls.append("left")

            def test_it(self):
                self.enterContext(self.place())
                self.need_real_connections()

        self.assertEqual(problems(run_case(Shop)), [])
        self.assertEqual(Shop.calls, ["entered", "left", "entered", "passed", "left"])


class StateTests(unittest.TestCase):
    def test_the_test_object_is_as_it_was_before_set_up(self):
        class Shop(ShopTestCase):
            def test_it(self):
                self.assertFalse(hasattr(self, "mark"))
                self.assertEqual(self.given, ["given"])
                self.mark = "made by the first run"
                self.given = ["changed"]
                self.need_real_connections()

        test = Shop("test_it")
        test.given = ["given"]
        result = unittest.TestResult()
        unittest.TestSuite([test]).run(result)

        self.assertEqual(problems(result), [])
        self.assertEqual(Shop.calls, ["passed"])

    def test_sessions_of_modules_carry_nothing_over(self):
        engine = create_engine("postgresql+psycopg2://nobody@matters.invalid/production")
        kept = scoped_session(sessionmaker(engine))

        class Shop(ShopTestCase):
            app_engines = [engine]

            def test_it(self):
                kept.add(Customer(name="never flushed by the first run"))
                self.need_real_connections()
                kept.commit()
                self.assertRowCount(Customer, 1)

        self.addCleanup(kept.remove)

        self.assertEqual(problems(run_case(Shop)), [])

    def test_class_data_are_fresh(self):
        class Shop(ShopTestCase):
            @classmethod
            def setUpTestData(cls, session):
                cls.ada = Customer(name="Ada")
                session.add(cls.ada)

            def test_it(self):
                self.assertEqual(self.ada.name, "Ada")
                self.ada.name = "Grace"
                self.session.commit()
                self.need_real_connections()
                self.assertEqual(self.ada.name, "Grace")
                self.assertPersistent(self.ada)

        self.assertEqual(problems(run_case(Shop)), [])

    def test_nothing_that_the_first_run_wrote_is_there(self):
        class Shop(ShopTestCase):
            def test_it(self):
                self.assertRowCount(Customer, 0)
                self.session.add(Customer(name="Ada"))
                self.session.commit()
                self.need_real_connections()

        self.assertEqual(problems(run_case(Shop)), [])

    def test_context_variables_and_loggers_are_the_user_s_own(self):
        variable: ContextVar[str] = ContextVar("variable", default="untouched")

        class Shop(ShopTestCase):
            def setUp(self):
                token = variable.set("of the test")
                self.addCleanup(variable.reset, token)

            def test_it(self):
                # A name of its own: other tests' logging.config.fileConfig() disables loggers that it does not know.
                with self.assertLogs("of this test") as caught:
                    logging.getLogger("of this test").warning("once")
                    self.need_real_connections()
                self.assertEqual(len(caught.records), 1)

        self.assertEqual(problems(run_case(Shop)), [])
        self.assertEqual(variable.get(), "untouched")


class SequenceTests(unittest.TestCase):
    def keys(self, case: type[ShopTestCase]) -> dict[str, list[int]]:
        """Run a class whose tests call ``self.insert()``; return the keys that they saw, by test."""
        self.assertEqual(problems(run_case(case)), [])
        found: dict[str, list[int]] = {}
        for line in case.calls:
            name, _, key = line.partition(" ")
            if key:
                found.setdefault(name, []).append(int(key))
        return found

    def test_they_stand_in_the_second_run_where_they_stood_when_the_tests_began(self):
        class Shop(ShopTestCase):
            def insert(self):
                with self.engine.begin() as connection:
                    key = connection.scalar(text("INSERT INTO customer (name) VALUES ('Ada') RETURNING id"))
                self.calls.append(f"{self._testMethodName} {key}")

            def test_1(self):
                self.insert()

            def test_2(self):
                self.insert()
                self.need_real_connections()

            def test_3(self):
                self.insert()
                self.need_real_connections()

        class ShopWithData(Shop):
            @classmethod
            def setUpTestData(cls, session):
                session.add_all([Customer(name="Grace"), Customer(name="Edith")])

        class ShopOfRawConnections(Shop):
            @classmethod
            def setUpClass(cls):
                super().setUpClass()
                cls.instance.execute("INSERT INTO customer (name) VALUES ('Grace')", database="test")

        self.assertEqual({name: keys[-1] for name, keys in self.keys(Shop).items() if name != "test_1"},
                         {"test_2": 1, "test_3": 1})  # fmt: skip
        self.assertEqual(self.keys(ShopWithData)["test_2"][-1], 3)
        self.assertEqual(self.keys(ShopOfRawConnections)["test_2"][-1], 2)

    def test_a_start_that_the_schema_sets_is_kept(self):
        def create(connection):
            connection.exec_driver_sql("CREATE TABLE ticket (id serial PRIMARY KEY)")
            connection.exec_driver_sql("ALTER SEQUENCE ticket_id_seq RESTART WITH 1000")

        class Shop(ShopTestCase):
            schema = staticmethod(create)

            def test_it(self):
                with self.engine.begin() as one, self.engine.begin() as other:
                    self.calls.append(str(one.scalar(text("INSERT INTO ticket DEFAULT VALUES RETURNING id"))))
                    other.execute(text("TABLE ticket"))

        self.assertEqual(problems(run_case(Shop)), [])
        self.assertEqual(Shop.calls, ["1000", "1000"])


class ThreadTests(unittest.TestCase):
    def setUp(self):
        # Seconds, a tenth of what it is: the mechanism is the same. And a machine that stands still while a test is
        # torn down is no reason to tell it again.
        self.enterContext(mock.patch.multiple(attempt, _BOUND=0.5, _BETWEEN=10))
        # As in the background jobs of a shell.
        self.addCleanup(signal.signal, signal.SIGINT, signal.signal(signal.SIGINT, signal.SIG_IGN))

    def test_a_thread_of_the_first_run_has_no_part_in_the_second(self):
        told, stops = [], []
        self.addCleanup(lambda: [stop.set() for stop in stops])

        class Shop(ShopTestCase):
            def work(self, stop, name):
                while not stop.is_set():
                    try:
                        with Session(self.engine) as session, session.begin():
                            session.add(Customer(name=f"{name} {len(self.calls)}"))
                        self.calls.append(name)
                    except Exception as error:
                        told.append((name, type(error).__name__))
                    stop.wait(0.01)

            def test_it(self):
                name, stop = f"run {1 + self.calls.count('begun')}", threading.Event()
                self.calls.append("begun")
                stops.append(stop)
                thread = threading.Thread(target=self.work, args=(stop, name), daemon=True)
                thread.start()
                while name not in self.calls:
                    self.engine.connect().close()
                self.need_real_connections()
                before = len(told)
                while name == "run 2" and ("run 1", "IsolationBroken") not in told[before:]:
                    self.engine.connect().close()
                stop.set()
                thread.join()
                names = self.session.scalars(select(Customer.name)).all()
                self.assertEqual([each for each in names if not each.startswith(("run 2", "uncommitted"))], [])

        self.assertEqual(problems(run_case(Shop)), [])

    def test_one_of_an_earlier_class_has_no_part_in_the_next(self):
        stop, told = threading.Event(), []
        self.addCleanup(stop.set)

        class Shop(ShopTestCase):
            def test_it(self):
                self.assertRowCount(Customer, 0)
                threading.Thread(target=work, daemon=True).start()

        class Next(ShopTestCase):
            def test_it(self):
                engines.append(self.engine)
                deadline = time.monotonic() + 60
                while "IsolationBroken" not in told and time.monotonic() < deadline:
                    self.engine.connect().close()

        engines = []

        def work():
            while not stop.is_set():
                try:
                    for engine in engines:
                        engine.connect().close()
                except Exception as error:
                    told.append(type(error).__name__)
                time.sleep(0.001)

        self.assertEqual(problems(run_case(Shop, Next)), [])
        self.assertIn("IsolationBroken", told)

    def test_a_thread_that_meets_the_end_gets_an_error_of_the_driver_s(self):
        class Shop(ShopTestCase):
            def test_it(self):
                def work():
                    try:
                        self.need_real_connections()
                    except Exception as error:
                        self.calls.append(type(error).__name__)

                thread = threading.Thread(target=work)
                thread.start()
                thread.join()

        self.assertEqual(problems(run_case(Shop)), [])
        self.assertEqual(Shop.calls, ["OperationalError", "passed"])

    def test_no_thread_of_ours_outlives_the_first_run(self):
        class Shop(ShopTestCase):
            def test_it(self):
                for thread in threading.enumerate():
                    if "attempt" in thread.name:
                        thread.join(60)
                        self.assertFalse(thread.is_alive())
                self.need_real_connections()

        self.assertEqual(problems(run_case(Shop)), [])
        self.assertEqual(Shop.calls, ["passed"])

    def test_workers_that_hand_over_exceptions_do_not_hang_the_test(self):
        class Shop(ShopTestCase):
            def test_it(self):
                with ThreadPoolExecutor(2) as pool:
                    pool.submit(self.need_real_connections).result()

        self.assertEqual(problems(run_case(Shop)), [])
        self.assertEqual(Shop.calls, ["passed"])

    def test_a_test_that_waits_for_what_cannot_come_any_more_is_ended(self):
        class Shop(ShopTestCase):
            def setUp(self):
                self.calls.append("setUp")
                self.addCleanup(self.calls.append, "cleanup")

            def tearDown(self):
                self.calls.append("tearDown")

            def test_it(self):
                done = threading.Event()

                def work():
                    self.need_real_connections()
                    done.set()

                threading.excepthook, before = lambda _: None, threading.excepthook
                try:
                    threading.Thread(target=work).start()
                    done.wait()
                finally:
                    threading.excepthook = before

            def test_next(self):
                self.assertRowCount(Customer, 0)

        self.assertEqual(problems(run_case(Shop)), [])
        self.assertEqual(Shop.calls[:6], ["setUp", "tearDown", "cleanup", "setUp", "passed", "tearDown"])

    def test_one_that_asks_again_and_again_is_ended_too(self):
        class Shop(ShopTestCase):
            def test_it(self):
                done = threading.Event()

                def work():
                    with contextlib.suppress(Exception):
                        self.need_real_connections()
                        done.set()

                threading.Thread(target=work).start()
                while not done.wait(0.01):
                    continue

        self.assertEqual(problems(run_case(Shop)), [])
        self.assertEqual(Shop.calls, ["passed"])


class WholeClassTests(unittest.TestCase):
    def test_after_three_tests_that_ran_twice_the_rest_begins_on_copies(self):
        class Shop(ShopTestCase):
            def setUp(self):
                self.calls.append(self._testMethodName)

            def test_1(self):
                self.need_real_connections()

            test_2 = test_3 = test_4 = test_5 = test_1

        self.assertEqual(problems(run_case(Shop)), [])
        runs = [Shop.calls.count(f"test_{number}") for number in range(1, 6)]
        self.assertEqual(runs, [2, 2, 2, 1, 1])

    def test_between_two_tests_nobody_writes_for_real(self):
        class Shop(ShopTestCase):
            def run(self, result=None):
                super().run(result)
                try:
                    with self.engine.begin() as connection:
                        connection.execute(Customer.__table__.insert(), {"name": "written between two tests"})
                except (IsolationBroken, StatementError) as error:
                    self.calls.append("refused" if "no test was running" in str(error) else str(error))

            def test_1_in_the_one_transaction(self):
                self.assertRowCount(Customer, 0)

            @isolate("clone")
            def test_2_on_a_copy(self):
                self.assertRowCount(Customer, 0)

            def test_3_runs_twice(self):
                self.assertRowCount(Customer, 0)
                self.need_real_connections()

            def test_4_in_the_one_transaction(self):
                self.assertRowCount(Customer, 0)

        self.assertEqual(problems(run_case(Shop)), [])
        self.assertEqual(Shop.calls.count("refused"), 4)

    def test_a_single_test_may_be_marked(self):
        class Shop(ShopTestCase):
            def setUp(self):
                self.calls.append(self._testMethodName)

            @isolate("clone")
            def test_1(self):
                self.need_real_connections()

            @isolate("savepoint")
            def test_2(self):
                self.need_real_connections()

            def test_3(self):
                self.need_real_connections()

        result = run_case(Shop)

        self.assertEqual([name_of(test) for test, _ in result.errors], ["test_2"])
        self.assertIn("IsolationBroken", problems(result)[0])
        self.assertEqual([Shop.calls.count(f"test_{number}") for number in (1, 2, 3)], [1, 1, 2])

    @once
    def test_a_copy_that_cannot_be_made_is_an_error_of_the_test(self):
        class Shop(ShopTestCase):
            postgres = ThrowawayPostgres(settings={"max_connections": 20})

            @classmethod
            def setUpClass(cls):
                super().setUpClass()
                cls.raw = cls.instance.connect()

            @classmethod
            def tearDownClass(cls):
                cls.raw.close()
                super().tearDownClass()

            def test_1(self):
                self.need_real_connections()

            def test_2(self):
                self.assertRowCount(Customer, 0)

        result = run_case(Shop)

        self.assertEqual([name_of(test) for test, _ in result.errors], ["test_1"], problems(result))
        self.assertIn("no private copy", problems(result)[0])

    def test_a_connection_left_open_by_set_up_class_is_an_error_of_the_first_test_only(self):
        class Shop(ShopTestCase):
            @classmethod
            def setUpClass(cls):
                super().setUpClass()
                cls.left = Session(cls.engine)
                cls.left.execute(text("INSERT INTO customer (name) VALUES ('lost')"))

            def test_1(self):
                self.calls.append("must not run")

            def test_2(self):
                self.assertRowCount(Customer, 0)

        result = run_case(Shop)

        self.assertEqual([name_of(test) for test, _ in result.errors], ["test_1"], problems(result))
        self.assertEqual(Shop.calls, [])
