"""Names: what a user's class may call its own, and what is told when it uses one of ours for something else."""

from __future__ import annotations

import unittest
from functools import cached_property
from pathlib import Path

from sqlalchemy import MetaData, create_engine
from sqlalchemy.orm import Session, scoped_session, sessionmaker

from dbtestcase import DatabaseTestCase, ExistingPostgres, ThrowawayPostgres
from tests.support import Base, Customer, problems, run_case

ENGINE = create_engine("postgresql+psycopg2://nobody@matters.invalid/production")
# What a class or its tests may well be calling something of their own.
PRIVATE = """
    _app _assertions _attempt _begin _cache _class _classes _class_data _cleanup _client _clone _clones _commit
    _config _connection _connections _context _copies _copy _counter _cursor _data _database _databases _db
    _debug _end _engine _engines _explain _fixtures _guard _held _hooks _id _instance _is_running _isolation
    _kept _kind _lock _log _mark _mixin _mode _name _names _options _original _outer _patches _plan _pool
    _postgres _problems _queries _real _reason _report _result _results _rollback _run _runner _running _runs
    _sandbox _savepoint _schedule _schema _server _session _sessions _set_up _setup _shared _skip _state
    _statements _stop _tables _tear_down _teardown _test _tests _thread _timer _tmp _transaction _undo _url
    _user _users _values _wiring
""".split()  # noqa: SIM905


def class_with(name: str, value: object, *bases: type) -> type[DatabaseTestCase]:
    return type("Shop", bases or (DatabaseTestCase,), {name: value, "test_it": lambda self: None})


class OwnNamesTests(unittest.TestCase):
    def test_every_private_name_but_one_is_the_user_s(self):
        def test_it(self):
            for name in PRIVATE:
                setattr(self, name, "of the test")
            self.session.add(Customer(name="Ada"))
            self.session.commit()
            self.assertRowCount(Customer, 1)

        attributes = dict.fromkeys(PRIVATE, "of the class")
        methods = {name: lambda self, *_: None for name in PRIVATE}
        shop = type("Shop", (DatabaseTestCase,), {**attributes, "schema": Base, "test_it": test_it})
        other = type("Other", (DatabaseTestCase,), {**methods, "schema": Base, "test_it": test_it})

        self.assertEqual(problems(run_case(shop, other)), [])

    def test_the_base_class_has_one_private_attribute(self):
        of_unittest = {"_classSetupFailed", "_class_cleanups"}
        private = {name for name in vars(DatabaseTestCase) if name.startswith("_") and not name.startswith("__")}

        self.assertEqual(private - of_unittest, {"_dbtestcase"})

    def test_a_session_of_one_s_own_may_take_the_place_of_ours(self):
        class Shop(DatabaseTestCase):
            schema = Base
            app_engines = [ENGINE]

            def test_assigned(self):
                self.session = Session(self.engine)
                self.session.add(Customer(name="Ada"))
                self.session.commit()
                self.assertRowCount(Customer, 1)

            def test_scoped(self):
                self.session = scoped_session(sessionmaker(ENGINE))
                self.session.add(Customer(name="Ada"))
                self.session.commit()
                self.assertRowCount(Customer, 1)

            def test_forgotten(self):
                first = self.session
                del self.session
                self.assertIsNot(self.session, first)

        class WithProperty(Shop):
            @cached_property
            def session(self):
                return Session(ENGINE)

        self.assertEqual(problems(run_case(Shop, WithProperty)), [])

    def test_attributes_that_are_not_meant_for_us_are_left_alone(self):
        class Shop(DatabaseTestCase):
            schemas = {"user": "a schema of marshmallow"}
            isolation_level = "SERIALIZABLE"
            urls = ["/customers"]
            post = "text"

            def schemata(self):
                return ()

            def setup_test_data(self):
                return ()

            @classmethod
            def setUpTestDate(cls):
                return ()

            def test_it(self):
                pass

        self.assertEqual(problems(run_case(Shop)), [])


class ToldTests(unittest.TestCase):
    def test_a_public_attribute_that_is_used_for_something_else(self):
        for name, value in (
            ("url", "/customers"),
            ("engine", ENGINE),
            ("instance", object()),
            ("session", {}),
            ("session", lambda self: None),
            ("external_url", "https://example.org"),
            ("engine_for", None),
            ("capture_queries", True),
        ):
            with self.subTest(name, value=value):
                ((_, text),) = run_case(class_with(name, value)).errors

                self.assertIn(f"Shop.{name} is ", text)
                self.assertIn("another name", text)
                self.assertNotIn("Traceback", text)

    def test_the_class_that_does_it_is_named(self):
        class Mixin:
            url = "/customers"

        class Shop(Mixin, DatabaseTestCase):
            def test_it(self):
                pass

        ((_, text),) = run_case(Shop).errors

        self.assertIn("Mixin.url is '/customers'", text)

    def test_a_password_in_it_is_not_shown(self):
        for name in ("url", "postgres"):
            with self.subTest(name):
                ((_, text),) = run_case(class_with(name, "postgresql://ci:ci_secret@127.0.0.1:1/ci")).errors

                self.assertNotIn("ci_secret", text)

    def test_a_session_that_is_none(self):
        class Shop(DatabaseTestCase):
            def setUp(self):
                self.session = {}

            def test_it(self):
                pass

        ((_, text),) = run_case(Shop).errors

        for words in ("self.session is set to dict", "test_names.py:", "another name"):
            self.assertIn(words, text)

    def test_misspelled_attributes(self):
        for name, value, meant in (
            ("shema", Base, "schema"),
            ("shcema", Base, "schema"),
            ("Schema", Base, "schema"),
            ("SCHEMA", Base, "schema"),
            ("schemas", MetaData(), "schema"),
            ("schema_", Path("tables.sql"), "schema"),
            ("app_engine", [ENGINE], "app_engines"),
            ("app_engine", ENGINE, "app_engines"),
            ("isolations", "clone", "isolation"),
            ("postgress", ThrowawayPostgres(), "postgres"),
            ("postgre", ExistingPostgres("postgresql://127.0.0.1:1/"), "postgres"),
            ("restart_identity", True, "restart_identities"),
            ("allow_other_database", True, "allow_other_databases"),
            ("hidden_column", ["iban"], "hidden_columns"),
            ("lockwait", 3, "lock_wait"),
            ("setUpTestdata", classmethod(lambda cls, session: None), "setUpTestData"),
            ("setup_test_data", classmethod(lambda cls, session: None), "setUpTestData"),
        ):
            with self.subTest(name):
                ((_, text),) = run_case(class_with(name, value)).errors

                self.assertIn(f"Shop has an attribute {name!r}", text)
                self.assertIn(f"Is {meant!r} meant?", text)


class HookTests(unittest.TestCase):
    def test_set_up_test_data_that_cannot_be_called_as_it_is(self):
        def instance_method(self, session):
            pass

        async def coroutine_function(cls, session):
            pass

        for hook, words in (
            (instance_method, "no class method"),
            (classmethod(coroutine_function), "is a coroutine function, which nobody awaits"),
            (classmethod(lambda cls: None), "has to take one argument, the session"),
            (classmethod(lambda cls, session, more: None), "has to take one argument, the session"),
        ):
            with self.subTest(words):
                ((_, text),) = run_case(class_with("setUpTestData", hook)).errors

                self.assertIn("Shop.setUpTestData", text)
                self.assertIn(words, text)
                self.assertIn("def setUpTestData(cls, session):", text)

    def test_set_up_test_data_in_other_forms(self):
        given = []
        for hook in (
            classmethod(lambda cls, session, more=None: given.append(session)),
            classmethod(lambda cls, *arguments: given.append(*arguments)),
            staticmethod(lambda session: given.append(session)),
        ):
            self.assertEqual(problems(run_case(class_with("setUpTestData", hook))), [])
        self.assertEqual([type(each) for each in given], [Session] * 3)

    def test_a_test_that_is_a_coroutine(self):
        class Shop(DatabaseTestCase):
            async def test_it(self):
                raise AssertionError("nobody awaits it")

            def test_plain(self):
                pass

        result = run_case(Shop)

        self.assertEqual([test.id().rpartition(".")[2] for test, _ in result.errors], ["test_it"])
        self.assertIn("dbtestcase.aio.AsyncDatabaseTestCase", result.errors[0][1])

    def test_a_set_up_that_is_a_coroutine(self):
        async def hook(self):
            pass

        ((_, text),) = run_case(class_with("setUp", hook)).errors

        for words in ("Shop.setUp is a coroutine function", "AsyncDatabaseTestCase", "asyncSetUp"):
            self.assertIn(words, text)


if __name__ == "__main__":
    unittest.main()
