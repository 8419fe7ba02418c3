"""Engines are taken over whatever they were made for, and given back as they were."""

from __future__ import annotations

import gc
import unittest
import warnings
from typing import Any

import sqlalchemy as sa
from sqlalchemy import event
from sqlalchemy.orm import Session, scoped_session, sessionmaker

from dbtestcase.errors import DBTestCaseError, IsolationBroken, UndeclaredDatabase
from dbtestcase.sandbox import LATE_URL, Sandbox, activate, deactivate, undeclared
from tests.sandbox.support import SandboxCase, Shop


def state(engine: sa.Engine) -> tuple[Any, ...]:
    known = {name: value for name, value in vars(engine).items() if name not in ("dispatch", "_has_events")}
    return engine.pool, engine.dialect, dict(vars(engine.dialect)), engine.url, known


class RedirectTests(SandboxCase):
    """No server listens at the URLs that these engines are made for."""

    def engine_for(self, url: str, **options: Any) -> sa.Engine:
        engine = sa.create_engine(url, **options)
        before = state(engine)
        self.addCleanup(lambda: self.assertEqual(state(engine), before))
        self.addCleanup(self.sandbox.close)
        return engine

    def insert_and_look(self, engine: sa.Engine) -> None:
        for _ in range(2):
            with self.in_test():
                with Session(engine) as session:
                    session.add(Shop(name="a"))
                    session.commit()
                self.assertEqual(self.names(), ["a"])

    def test_engine_of_another_server(self):
        engine = self.engine_for(f"postgresql+{self.driver}://u:p@db.example.com/prod")
        self.sandbox.redirect(engine)

        self.insert_and_look(engine)

    def test_engine_of_sqlite_and_its_options_made_before(self):
        engine = self.engine_for("sqlite://")
        autocommit = engine.execution_options(isolation_level="AUTOCOMMIT")
        marked = autocommit.execution_options(mark="a")
        known = autocommit.dialect
        self.sandbox.redirect(engine)

        self.insert_and_look(engine)
        with self.in_test():
            with autocommit.connect() as connection:
                connection.execute(sa.insert(Shop).values(name="b"))
            self.assertEqual(self.names(), ["b"])
        with self.in_test():
            with marked.connect() as connection:
                connection.execute(sa.insert(Shop).values(name="b"))
            self.assertEqual(self.names(), ["b"])
        self.sandbox.restore(engine)
        self.assertIs(autocommit.dialect, known)
        self.assertIs(marked.dialect, known)

    def test_engine_of_sqlite_works_again_afterwards(self):
        engine = sa.create_engine("sqlite://")
        self.sandbox.redirect(engine)
        self.insert_and_look(engine)
        self.sandbox.restore(engine)

        with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            self.assertEqual(connection.scalar(sa.text("SELECT sqlite_version() IS NOT NULL")), 1)

    def test_engine_of_another_postgresql_driver(self):
        engine = self.engine_for("postgresql+pg8000://u:p@db.example.com/prod")
        self.sandbox.redirect(engine)

        self.insert_and_look(engine)

    def test_engine_with_options_made_before_and_after(self):
        engine = self.engine_for(f"postgresql+{self.driver}://db.example.com/prod")
        before = engine.execution_options(logging_token="a")
        self.sandbox.redirect(before)
        after = engine.execution_options(logging_token="b")

        for each in (before, after, engine):
            self.insert_and_look(each)

    def test_events_of_engine_and_pool_hold_in_both_phases(self):
        engine = self.engine_for(f"postgresql+{self.driver}://db.example.com/prod")
        seen: list[str] = []
        event.listen(engine, "checkout", lambda *_: seen.append("checkout"))
        event.listen(engine, "before_cursor_execute", lambda *_: seen.append("execute"))
        self.addCleanup(event.remove, *self._remember(engine, seen))
        self.sandbox.redirect(engine)
        event.listen(engine, "checkin", lambda *_: seen.append("checkin"))
        for phase in ("class", "test"):
            if phase == "test":
                self.sandbox.begin_test("t")
            with engine.connect() as connection:
                del seen[:]
                connection.execute(sa.text("SELECT 1"))
            self.assertEqual(seen, ["execute", "checkin"])
        self.sandbox.end_test()

    def _remember(self, engine: sa.Engine, seen: list[str]) -> tuple[Any, ...]:
        def listener(*_: Any) -> None:
            seen.append("never")

        event.listen(engine, "engine_connect", listener)
        event.remove(engine, "engine_connect", listener)
        event.listen(engine, "engine_disposed", listener)
        return engine, "engine_disposed", listener

    def test_checked_out_connection_of_the_original_is_left_alone(self):
        engine = sa.create_engine(self.real_url)
        with engine.connect() as connection:
            self.sandbox.redirect(engine)
            with self.in_test():
                self.assertEqual(connection.scalar(sa.text("SELECT 1")), 1)
            self.sandbox.restore(engine)
        with engine.begin() as connection:
            self.assertEqual(connection.scalar(sa.text("SELECT 1")), 1)
        engine.dispose()

    def test_original_engine_is_initialized_by_its_own_first_connection(self):
        engine = sa.create_engine(self.real_url)
        self.sandbox.redirect(engine)
        self.insert_and_look(engine)
        self.sandbox.restore(engine)

        self.assertFalse(hasattr(engine.dialect, "default_isolation_level"))
        with engine.connect():
            self.assertEqual(engine.dialect.default_isolation_level, "READ COMMITTED")
        engine.dispose()

    def test_engine_with_an_isolation_level_keeps_it_as_its_default_beside_others_of_the_class(self):
        sandbox = Sandbox(self.real_url, owner="ShopTests", kind="shops")
        self.addCleanup(sandbox.close)
        sandbox.begin_test("ShopTests.test")
        with sandbox.engine.connect() as connection:
            connection.scalar(sa.text("SELECT 1"))
        serializable = sa.create_engine(sandbox.url, isolation_level="SERIALIZABLE")

        with serializable.connect() as connection:
            default = connection.default_isolation_level
        with serializable.connect().execution_options(isolation_level="READ COMMITTED") as connection:
            connection.scalar(sa.text("SELECT 1"))

        self.assertEqual(default, "SERIALIZABLE")
        self.assertEqual(serializable.pool.checkedout(), 0)
        sandbox.end_test()

    def test_asynchronous_engine_is_refused(self):
        from sqlalchemy.ext.asyncio import create_async_engine

        engine = create_async_engine("postgresql+psycopg://db.example.com/prod").sync_engine
        with self.assertRaisesRegex(IsolationBroken, "asynchronous"):
            self.sandbox.redirect(engine)

    def test_second_driver_is_adopted_first_and_refused_later(self):
        other = {"psycopg2": "psycopg", "psycopg": "psycopg2"}[self.driver]
        engine = self.engine_for(f"postgresql+{other}://db.example.com/prod")
        late = self.engine_for(f"postgresql+{self.driver}://db.example.com/prod")
        self.sandbox.redirect(engine)

        self.assertEqual(self.sandbox.engine.dialect.driver, other)
        self.insert_and_look(engine)
        with self.assertRaisesRegex(IsolationBroken, "two drivers"):
            self.sandbox.redirect(late)

    def test_second_driver_is_adopted_after_class_data_were_made_with_the_first(self):
        other = {"psycopg2": "psycopg", "psycopg": "psycopg2"}[self.driver]
        with Session(self.sandbox.engine) as session:
            session.execute(sa.text("SELECT 1"))
        engine = self.engine_for(f"postgresql+{other}://db.example.com/prod")

        self.sandbox.redirect(engine)

        self.insert_and_look(engine)
        self.insert_and_look(self.sandbox.engine)

    def test_engines_made_from_the_url_are_isolated_and_end_with_the_class(self):
        url = self.sandbox.url.render_as_string(hide_password=False)
        engine = sa.create_engine(url)
        self.insert_and_look(engine)
        self.sandbox.close()

        with self.assertRaisesRegex(DBTestCaseError, "good while the class runs"):
            engine.connect()
        with self.assertRaises(DBTestCaseError):
            sa.create_engine(url)


class PsycopgRedirectTests(RedirectTests):
    driver = "psycopg"


class LateURLTests(SandboxCase):
    def test_one_engine_serves_class_after_class(self):
        engine = sa.create_engine(LATE_URL)
        scoped = scoped_session(sessionmaker(engine))
        with self.assertRaisesRegex(DBTestCaseError, "no test class was running"):
            engine.connect()
        for _ in range(2):
            sandbox = Sandbox(self.real_url, owner="Late")
            activate({"test": sandbox})
            for _ in range(2):
                sandbox.begin_test("t")
                scoped.add(Shop(name="a"))
                scoped.commit()
                self.assertEqual(self.names(sandbox.engine), ["a"])
                self.assertEqual(sandbox.end_test(), [])
            deactivate()
            sandbox.close()
        with self.assertRaisesRegex(DBTestCaseError, "no test class was running"):
            scoped.execute(sa.text("SELECT 1"))
        scoped.remove()

    def test_it_is_of_no_driver_in_particular(self):
        late = sa.create_engine(LATE_URL)
        sandbox = Sandbox(self.real_url, owner="Late")
        self.addCleanup(sandbox.close)
        activate({"test": sandbox})
        self.addCleanup(deactivate)
        app = sa.create_engine("postgresql+psycopg://nobody@db.example.com/prod")

        sandbox.redirect(app)
        sandbox.begin_test("t")
        with app.begin() as connection:
            connection.execute(sa.insert(Shop).values(name="a"))

        self.assertEqual(late.dialect.driver, "psycopg")
        self.assertEqual(self.names(late), ["a"])
        self.assertEqual(sandbox.end_test(), [])

    def test_engine_that_is_forgotten_is_not_kept(self):
        engine = sa.create_engine(LATE_URL)
        reference = __import__("weakref").ref(engine)
        del engine
        gc.collect()
        self.assertIsNone(reference())


class CloneTests(SandboxCase):
    isolation = "clone"

    def test_connections_of_a_test_are_real_and_closed_after_it(self):
        self.instance.execute("CREATE DATABASE copy TEMPLATE test")
        self.addCleanup(self.instance.execute, "DROP DATABASE copy")
        self.sandbox.move_to(self.real_url.set(database="copy"))
        self.sandbox.begin_test("t")
        with self.engine.begin() as connection:
            connection.execute(sa.insert(Shop).values(name="a"))
            connection.exec_driver_sql("NOTIFY news")
        held = self.engine.connect()
        held.execute(sa.text("SELECT 1"))
        self.assertEqual(self.names(), ["a"])
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            self.assertEqual(self.sandbox.end_test(), [])
        self.assertTrue(any("test_engines.py" in str(warning.message) for warning in caught))
        self.sandbox.move_to(self.real_url)

        self.assertEqual(self.committed(), (0, 0))


class UndeclaredDatabaseTests(SandboxCase):
    def setUp(self) -> None:
        super().setUp()
        host = str(self.instance.socket_dir)
        undeclared.forbid_other_databases("ShopTests", lambda found, port: found == host)
        self.addCleanup(undeclared.allow_other_databases, "ShopTests")

    def test_engine_of_another_server_is_refused_before_it_connects(self):
        for driver in ("psycopg2", "psycopg", "pg8000"):
            engine = sa.create_engine(f"postgresql+{driver}://user:secret@127.0.0.1:1/prod")
            with self.assertRaises(UndeclaredDatabase) as caught:
                engine.connect()
            self.assertIn("ShopTests.app_engines", str(caught.exception))
            self.assertIn("127.0.0.1:1/prod", str(caught.exception))
            self.assertNotIn("secret", str(caught.exception))

    def test_our_server_and_databases_without_a_server_are_let_through(self):
        with self.plain.connect(), sa.create_engine("sqlite://").connect():
            pass
        with self.in_test():
            self.names()

    def test_nothing_is_refused_once_it_is_allowed(self):
        undeclared.allow_other_databases("ShopTests")
        with self.assertRaises(sa.exc.OperationalError):
            sa.create_engine("postgresql+psycopg2://user:secret@127.0.0.1:1/prod").connect()


if __name__ == "__main__":
    unittest.main()
