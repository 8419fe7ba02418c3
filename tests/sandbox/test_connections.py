"""What drivers offer on a connection works on a virtual one."""

from __future__ import annotations

import gc
import io
import logging
import unittest

import psycopg
import psycopg2.extensions
import psycopg2.extras
import psycopg2.sql
import sqlalchemy as sa
from psycopg import rows
from psycopg import sql as sql3
from sqlalchemy import exc
from sqlalchemy.orm import Session

from tests.sandbox.support import SandboxCase, Shop, raw

FIVE = "INSERT INTO shop (id, name, size) SELECT i, i::text, i FROM generate_series(1, 5) i"


class SQLAlchemyFeatureTests(SandboxCase):
    """What SQLAlchemy does with connections, the same for both drivers."""

    def test_autocommit_keeps_each_statement_for_the_rest_of_the_test(self):
        with self.in_test():
            with self.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
                connection.execute(sa.insert(Shop).values(id=1, name="a"))
                with self.assertRaises(exc.IntegrityError):
                    connection.execute(sa.insert(Shop).values(id=1, name="a"))
                connection.execute(sa.insert(Shop).values(id=2, name="b"))
                connection.rollback()

            self.assertEqual(self.names(), ["a", "b"])

    def test_autocommit_engine_and_autocommit_view_of_an_engine(self):
        with self.in_test():
            for engine in (
                sa.create_engine(self.sandbox.url, isolation_level="AUTOCOMMIT"),
                self.engine.execution_options(isolation_level="AUTOCOMMIT"),
            ):
                with engine.connect() as connection:
                    connection.execute(sa.delete(Shop))
                    connection.execute(sa.insert(Shop).values(name="a"))
                self.assertEqual(self.names(), ["a"])

    def test_engine_with_an_isolation_level_of_its_own(self):
        for level in ("SERIALIZABLE", "REPEATABLE READ"):
            engine = sa.create_engine(self.sandbox.url, isolation_level=level)
            with self.in_test(), self.caught() as caught:
                with engine.begin() as connection:
                    connection.execute(sa.insert(Shop).values(name="a"))
                    self.assertEqual(connection.get_isolation_level(), level)
                self.assertEqual(self.names(), ["a"])
                self.assertEqual(caught, [])

    def test_echo_and_any_pool_class(self):
        loud, silent = logging.getLogger("sqlalchemy.engine.Engine"), logging.NullHandler()
        loud.addHandler(silent)  # or SQLAlchemy adds one that prints
        self.addCleanup(loud.removeHandler, silent)
        self.addCleanup(loud.setLevel, loud.level)
        with self.in_test():
            for number, pool in enumerate((sa.NullPool, sa.StaticPool, sa.QueuePool)):
                engine = sa.create_engine(self.sandbox.url, echo=True, poolclass=pool)
                with self.assertLogs("sqlalchemy.engine", "INFO") as logs, engine.begin() as connection:
                    connection.execute(sa.insert(Shop).values(id=number))
                self.assertIn("INSERT INTO shop", "".join(logs.output))
            self.assertEqual(len(self.names()), 3)

    def test_isolation_levels_are_accepted_and_told(self):
        with self.in_test():
            for level in ("SERIALIZABLE", "REPEATABLE READ", "READ COMMITTED", "AUTOCOMMIT"):
                with self.engine.connect().execution_options(isolation_level=level) as connection:
                    connection.execute(sa.text("SELECT 1"))
                    if level != "AUTOCOMMIT":
                        self.assertEqual(connection.get_isolation_level(), level)

    def test_read_only_transaction_refuses_writes(self):
        with self.in_test():
            with self.engine.connect().execution_options(postgresql_readonly=True) as connection:
                self.assertEqual(connection.scalar(sa.select(sa.func.count()).select_from(Shop)), 0)
                with self.assertRaisesRegex(exc.DBAPIError, "read-only transaction"):
                    connection.execute(sa.insert(Shop).values(name="a"))
            with self.engine.begin() as connection:
                connection.execute(sa.insert(Shop).values(name="b"))

            self.assertEqual(self.names(), ["b"])

    def test_streamed_results_survive_work_of_others(self):
        with self.in_test():
            with self.engine.begin() as connection:
                connection.exec_driver_sql(FIVE)
            with self.engine.connect() as connection, self.engine.connect() as other:
                result = connection.execution_options(stream_results=True, max_row_buffer=2).execute(
                    sa.select(Shop.id).order_by(Shop.id)
                )
                first = result.fetchmany(2)
                other.execute(sa.text("SELECT 1"))
                other.commit()
                self.assertEqual([row.id for row in first + result.fetchall()], [1, 2, 3, 4, 5])

    def test_two_streams_at_once(self):
        with self.in_test():
            with self.engine.begin() as connection:
                connection.exec_driver_sql(FIVE)
            with self.engine.connect() as one, self.engine.connect() as two:
                query = sa.select(Shop.id).order_by(Shop.id)
                streams = [
                    connection.execution_options(stream_results=True, max_row_buffer=1).execute(query)
                    for connection in (one, two)
                ]
                self.assertEqual([(a.id, b.id) for a, b in zip(*streams, strict=True)], [(i, i) for i in range(1, 6)])

    def test_json_serializer_and_other_options_of_an_engine_of_the_url(self):
        seen = []

        def dump(value: object) -> str:
            seen.append(value)
            return "[1]"

        engine = sa.create_engine(
            self.sandbox.url.render_as_string(hide_password=False), json_serializer=dump, poolclass=sa.NullPool
        )
        with self.in_test(), engine.connect() as connection:
            value = connection.scalar(sa.select(sa.cast([2], sa.JSON)))
        self.assertEqual((seen, value), ([[2]], [1]))

    def test_inspector_and_reflection(self):
        with self.in_test():
            self.assertEqual(sorted(sa.inspect(self.engine).get_table_names()), ["sale", "shop"])
            table = sa.Table("shop", sa.MetaData(), autoload_with=self.engine)
            self.assertEqual(sorted(table.c.keys()), ["id", "name", "size"])

    def test_pre_ping_does_not_hurt(self):
        engine = sa.create_engine(self.sandbox.url, pool_pre_ping=True)
        with self.in_test():
            for _ in range(3):
                with engine.begin() as connection:
                    connection.execute(sa.insert(Shop).values(name=None))
            self.assertEqual(len(self.names()), 3)

    def test_settings_belong_to_their_connection(self):
        with self.in_test(), self.engine.connect() as one, self.engine.connect() as two:
            one.exec_driver_sql("SET application_name = 'one'")
            self.assertEqual(one.exec_driver_sql("SHOW application_name").scalar(), "one")
            self.assertNotEqual(two.exec_driver_sql("SHOW application_name").scalar(), "one")
            one.commit()
            two.exec_driver_sql("SET LOCAL application_name = 'two'")
            self.assertEqual(one.exec_driver_sql("SHOW application_name").scalar(), "one")
            self.assertEqual(two.exec_driver_sql("SHOW application_name").scalar(), "two")
            two.commit()
            self.assertNotEqual(two.exec_driver_sql("SHOW application_name").scalar(), "two")
            one.exec_driver_sql("SET application_name = 'undone'")
            one.rollback()
            self.assertEqual(one.exec_driver_sql("SHOW application_name").scalar(), "one")
            one.exec_driver_sql("RESET application_name")
            self.assertNotEqual(one.exec_driver_sql("SHOW application_name").scalar(), "one")

    def test_what_a_connect_event_sets_holds_in_every_test(self):
        engine = sa.create_engine(self.sandbox.url)

        @sa.event.listens_for(engine, "connect")
        def set_path(connection, record):
            known, connection.autocommit = connection.autocommit, True
            connection.cursor().execute("SET search_path TO elsewhere, public")
            connection.autocommit = known

        for _ in range(2):
            with self.in_test(), engine.connect() as connection:
                self.assertEqual(connection.exec_driver_sql("SHOW search_path").scalar(), "elsewhere, public")
                self.assertNotIn("elsewhere", self.engine.connect().exec_driver_sql("SHOW search_path").scalar())

    def test_connect_arguments_of_an_engine_are_kept(self):
        engine = sa.create_engine(
            f"postgresql+{self.driver}://db.example.com/prod",
            connect_args={"options": "-c search_path=public,elsewhere -c statement_timeout=5000"},
        )
        self.sandbox.redirect(engine)
        with engine.connect() as connection:
            self.assertEqual(connection.exec_driver_sql("SHOW search_path").scalar(), "public,elsewhere")
        for _ in range(2):
            with self.in_test(), engine.connect() as connection:
                self.assertEqual(connection.exec_driver_sql("SHOW search_path").scalar(), "public,elsewhere")
                self.assertEqual(connection.exec_driver_sql("SHOW statement_timeout").scalar(), "5s")

    def test_an_engine_made_with_autocommit_commits_each_statement(self):
        if self.driver != "psycopg":
            self.skipTest("psycopg2 has no such argument")
        engine = sa.create_engine("postgresql+psycopg://db.example.com/prod", connect_args={"autocommit": True})
        self.sandbox.redirect(engine)
        for _ in range(2):
            with self.in_test():
                with engine.connect() as connection:
                    connection.execute(sa.insert(Shop).values(name="a"))
                self.assertEqual(self.names(), ["a"])

    def test_what_a_test_sets_on_a_connection_is_not_met_by_the_next_test(self):
        def set_and_return(engine):
            with engine.begin() as connection:
                connection.execute(sa.text("SET search_path TO pg_catalog"))

        def autocommit_and_return(engine):
            connection = engine.raw_connection()
            connection.driver_connection.autocommit = True
            connection.close()

        for change in (set_and_return, autocommit_and_return):
            with self.subTest(change=change.__name__):
                with self.in_test():
                    change(self.engine)

                with self.in_test():
                    with self.engine.begin() as connection:
                        path = connection.scalar(sa.text("SHOW search_path"))
                        connection.execute(sa.insert(Shop).values(name="a"))
                        connection.rollback()
                    self.assertEqual(path, '"$user", public')
                    self.assertEqual(self.names(), [])

    def test_connections_that_tests_never_give_back_do_not_use_the_pool_up(self):
        engine = sa.create_engine(self.sandbox.url, pool_size=1, max_overflow=0, pool_timeout=0)
        held = []

        for _ in range(10):
            with self.in_test():
                held.append(engine.connect())
                held[-1].execute(sa.insert(Shop).values(name="a"))

        for connection in held:
            with self.assertRaisesRegex(Exception, "after its test was over"):
                connection.execute(sa.select(Shop.id))
            connection.close()
        with self.in_test():
            self.assertEqual(self.names(engine), [])

    def test_pre_ping_replaces_a_connection_that_the_code_under_test_has_closed(self):
        engine = sa.create_engine(self.sandbox.url, pool_pre_ping=True)

        with self.in_test():
            connection = engine.raw_connection()
            driver_connection = connection.driver_connection
            connection.close()
            driver_connection.close()

            self.assertEqual(self.names(engine), [])

    def test_set_transaction_as_text(self):
        with self.in_test(), self.engine.connect() as connection:
            connection.exec_driver_sql("SET TRANSACTION ISOLATION LEVEL SERIALIZABLE READ ONLY")
            self.assertEqual(connection.get_isolation_level(), "SERIALIZABLE")
            with self.assertRaisesRegex(exc.DBAPIError, "read-only transaction"):
                connection.execute(sa.insert(Shop).values(name="a"))

    def test_forgotten_connection_is_rolled_back_when_it_is_collected(self):
        with self.in_test(), self.caught():
            connection = self.engine.raw_connection()
            raw(connection, FIVE)
            del connection
            gc.collect()
            self.assertEqual(self.names(), [])

    def test_bulk_inserts_and_returning(self):
        with self.in_test(), Session(self.engine) as session:
            session.add_all([Shop(name=str(i)) for i in range(50)])
            session.commit()
            ids = session.scalars(
                sa.insert(Shop).returning(Shop.id), [{"name": f"x{i}", "size": 0} for i in range(50)]
            ).all()
            session.execute(sa.insert(Shop), [{"name": f"y{i}"} for i in range(50)])
            session.commit()

            self.assertEqual((len(ids), len(self.names())), (50, 150))


class PsycopgSQLAlchemyFeatureTests(SQLAlchemyFeatureTests):
    driver = "psycopg"


class Psycopg2Tests(SandboxCase):
    def setUp(self) -> None:
        super().setUp()
        self.enterContext(self.in_test())
        self.fairy = self.engine.raw_connection()
        self.connection = self.fairy.driver_connection
        raw(self.connection, FIVE)

    def test_is_a_connection_of_psycopg2(self):
        self.assertIsInstance(self.connection, psycopg2.extensions.connection)
        self.assertGreater(self.connection.info.backend_pid, 0)
        self.assertEqual(self.connection.info.dbname, "test")
        self.assertEqual(self.connection.encoding, "UTF8")
        self.assertEqual(self.connection.get_parameter_status("standard_conforming_strings"), "on")

    def test_transaction_status_is_the_virtual_one(self):
        extensions = psycopg2.extensions
        self.assertEqual(self.connection.get_transaction_status(), extensions.TRANSACTION_STATUS_INTRANS)
        self.assertEqual(self.connection.status, extensions.STATUS_BEGIN)
        self.connection.commit()
        self.assertEqual(self.connection.info.transaction_status, extensions.TRANSACTION_STATUS_IDLE)
        self.assertEqual(self.connection.status, extensions.STATUS_READY)
        with self.assertRaises(psycopg2.errors.DivisionByZero):
            raw(self.connection, "SELECT 1 / 0")
        self.assertEqual(self.connection.get_transaction_status(), extensions.TRANSACTION_STATUS_INERROR)

    def test_with_block_commits_or_rolls_back(self):
        with self.connection, self.connection.cursor() as cursor:
            cursor.execute("DELETE FROM shop WHERE id = 1")
        with self.assertRaises(KeyError), self.connection, self.connection.cursor() as cursor:
            cursor.execute("DELETE FROM shop")
            raise KeyError
        self.assertEqual(raw(self.connection, "SELECT count(*) FROM shop"), [(4,)])

    def test_composed_sql_and_quoting(self):
        sql = psycopg2.sql
        query = sql.SQL("SELECT {} FROM {} WHERE name = {}").format(
            sql.Identifier("id"), sql.Identifier("shop"), sql.Literal("3")
        )
        self.assertEqual(raw(self.connection, query), [(3,)])
        self.assertIn('"shop"', query.as_string(self.connection))
        self.assertEqual(psycopg2.extensions.quote_ident("a b", self.connection), '"a b"')

    def test_execute_values_and_execute_batch(self):
        with self.connection.cursor() as cursor:
            psycopg2.extras.execute_values(
                cursor, "INSERT INTO shop (id, size) VALUES %s", [(i, 0) for i in range(10, 20)]
            )
            psycopg2.extras.execute_batch(cursor, "UPDATE shop SET size = %s WHERE id = %s", [(9, 10), (9, 11)])
            cursor.executemany("DELETE FROM shop WHERE id = %s", [(12,), (13,)])
        self.assertEqual(raw(self.connection, "SELECT count(*), sum(size) FROM shop"), [(13, 33)])

    def test_executemany_in_autocommit_mode_keeps_what_went_well(self):
        self.connection.commit()
        self.connection.autocommit = True
        cursor = self.connection.cursor()
        cursor.executemany("INSERT INTO shop (id, size) VALUES (%s, 0)", [(21,), (22,)])
        self.assertEqual(cursor.rowcount, 2)
        with self.assertRaises(psycopg2.errors.UniqueViolation):
            cursor.executemany("INSERT INTO shop (id, size) VALUES (%s, 0)", [(23,), (21,)])

        self.assertEqual(raw(self.connection, "SELECT id FROM shop WHERE id > 20 ORDER BY id"), [(21,), (22,), (23,)])

    def test_cursor_classes(self):
        for factory, key in (
            (psycopg2.extras.RealDictCursor, "id"),
            (psycopg2.extras.DictCursor, "id"),
            (psycopg2.extras.NamedTupleCursor, 0),
        ):
            with self.connection.cursor(cursor_factory=factory) as cursor:
                self.assertIsInstance(cursor, factory)
                cursor.execute("SELECT id FROM shop ORDER BY id")
                self.assertEqual(cursor.fetchone()[key], 1)
                self.assertEqual(len(list(cursor)), 4)
                self.assertIs(cursor.connection, self.connection)

    def test_named_cursor_reads_in_pages_and_ends_with_the_transaction(self):
        cursor = self.connection.cursor("pages")
        cursor.itersize = 2
        cursor.execute("SELECT id FROM shop ORDER BY id")
        self.assertEqual([row[0] for row in cursor], [1, 2, 3, 4, 5])
        cursor.close()
        cursor = self.connection.cursor("ended")
        cursor.execute("SELECT id FROM shop ORDER BY id")
        cursor.fetchone()
        self.connection.commit()
        with self.assertRaises(psycopg2.ProgrammingError):
            cursor.fetchone()

    def test_named_cursor_with_hold_survives_the_commit(self):
        cursor = self.connection.cursor("held", withhold=True)
        cursor.execute("SELECT id FROM shop ORDER BY id")
        self.connection.commit()
        self.assertEqual(len(cursor.fetchall()), 5)
        cursor.close()

    def test_copy_in_and_out(self):
        with self.connection.cursor() as cursor:
            cursor.copy_expert("COPY shop (id, size) FROM STDIN", io.StringIO("21\t1\n22\t2\n"))
            cursor.copy_from(io.StringIO("23\t3\n"), "shop", columns=("id", "size"))
            out = io.StringIO()
            cursor.copy_expert("COPY (SELECT id FROM shop WHERE id > 20 ORDER BY id) TO STDOUT", out)
        self.assertEqual(out.getvalue().split(), ["21", "22", "23"])

    def test_types_registered_on_a_connection_stay_there(self):
        type_ = psycopg2.extensions.new_type((23,), "TEXT_INT", lambda value, cursor: f"#{value}")
        other = self.engine.raw_connection()
        psycopg2.extensions.register_type(type_, self.connection)
        self.assertEqual(raw(self.connection, "SELECT 1"), [("#1",)])
        self.assertEqual(raw(other, "SELECT 1"), [(1,)])
        other.close()

    def test_notices_reach_the_connection(self):
        del self.connection.notices[:]
        raw(self.connection, "DO $$ BEGIN RAISE NOTICE 'hello'; END $$")
        self.assertIn("hello", self.connection.notices[-1])

    def test_autocommit_by_its_old_method_forgets_the_isolation_level(self):
        with self.in_test():
            connection = self.engine.raw_connection().driver_connection
            connection.set_isolation_level(psycopg2.extensions.ISOLATION_LEVEL_SERIALIZABLE)

            connection.set_isolation_level(psycopg2.extensions.ISOLATION_LEVEL_AUTOCOMMIT)

            self.assertEqual(raw(connection, "SHOW transaction_isolation"), [("read committed",)])

    def test_session_settings_follow_the_rules(self):
        with self.assertRaises(psycopg2.ProgrammingError):
            self.connection.autocommit = True
        self.connection.rollback()
        self.connection.set_session(isolation_level="SERIALIZABLE", readonly=True, autocommit=False)
        self.assertEqual(self.connection.isolation_level, psycopg2.extensions.ISOLATION_LEVEL_SERIALIZABLE)
        self.assertTrue(self.connection.readonly)

    def test_closed_connection_is_closed(self):
        self.connection.close()
        self.assertEqual(self.connection.closed, 1)
        with self.assertRaises(psycopg2.InterfaceError):
            self.connection.cursor()
        self.assertEqual(self.names(), [])


class Psycopg3Tests(SandboxCase):
    driver = "psycopg"

    def setUp(self) -> None:
        super().setUp()
        self.enterContext(self.in_test())
        self.fairy = self.engine.raw_connection()
        self.connection = self.fairy.driver_connection
        raw(self.connection, FIVE)

    def test_is_a_connection_of_psycopg(self):
        self.assertIsInstance(self.connection, psycopg.Connection)
        self.assertEqual(self.connection.info.dbname, "test")
        self.assertEqual(self.connection.info.transaction_status, psycopg.pq.TransactionStatus.INTRANS)
        self.connection.commit()
        self.assertEqual(self.connection.info.transaction_status, psycopg.pq.TransactionStatus.IDLE)

    def test_transaction_blocks(self):
        self.connection.commit()
        with self.connection.transaction():
            self.connection.execute("DELETE FROM shop WHERE id = 1")
            with self.assertRaises(psycopg.errors.DivisionByZero), self.connection.transaction():
                self.connection.execute("DELETE FROM shop")
                self.connection.execute("SELECT 1 / 0")
            with self.assertRaises(psycopg.ProgrammingError):
                self.connection.commit()
        self.assertEqual(self.names(), ["2", "3", "4", "5"])

    def test_transaction_block_in_autocommit_mode(self):
        self.connection.commit()
        self.connection.autocommit = True
        with self.assertRaises(ZeroDivisionError), self.connection.transaction():
            self.connection.execute("DELETE FROM shop")
            raise ZeroDivisionError
        self.connection.execute("DELETE FROM shop WHERE id = 5")
        self.connection.autocommit = False
        self.assertEqual(self.names(), ["1", "2", "3", "4"])

    def test_prepared_statements_of_two_connections_do_not_clash(self):
        fairy = self.engine.raw_connection()
        other = fairy.driver_connection
        for _ in range(3):
            for connection in (self.connection, other):
                connection.execute("SELECT %s::int", (1,), prepare=True).fetchall()
                connection.execute("SELECT %s::text", ("a",), prepare=True).fetchall()
        other.close()

    def test_row_factories_cursors_and_composed_sql(self):
        self.connection.row_factory = rows.dict_row
        cursor = self.connection.execute(
            sql3.SQL("SELECT {} FROM shop WHERE id = %s").format(sql3.Identifier("name")), (3,)
        )
        self.assertEqual(cursor.fetchall(), [{"name": "3"}])
        cursor = psycopg.ClientCursor(self.connection)
        self.assertEqual(cursor.mogrify("SELECT %s", ("x",)), "SELECT 'x'")

    def test_executemany_and_stream(self):
        with self.connection.cursor() as cursor:
            cursor.executemany("INSERT INTO shop (id, size) VALUES (%s, 0)", [(i,) for i in range(10, 15)])
            self.assertEqual(cursor.rowcount, 5)
            cursor.executemany(
                "INSERT INTO shop (id, size) VALUES (%s, 0) RETURNING id", [(20,), (21,)], returning=True
            )
            self.assertEqual([r.fetchone() for r in cursor.results()], [(20,), (21,)])
            self.assertEqual(len(list(cursor.stream("SELECT id FROM shop"))), 12)

    def test_executemany_in_autocommit_mode_is_one_transaction(self):
        self.connection.commit()
        self.connection.autocommit = True
        with self.engine.connect() as other:
            other.execute(sa.select(Shop))  # a transaction that is open meanwhile
            with self.assertRaises(psycopg.errors.UniqueViolation):
                self.connection.cursor().executemany("INSERT INTO shop (id, size) VALUES (%s, 0)", [(23,), (23,)])

        self.assertEqual(raw(self.connection, "SELECT id FROM shop WHERE id > 20"), [])

    def test_failed_executemany_fails_the_transaction_only(self):
        self.connection.commit()
        with self.assertRaises(psycopg.errors.UniqueViolation), self.connection.cursor() as cursor:
            cursor.executemany("INSERT INTO shop (id, size) VALUES (%s, 0)", [(8,), (8,)])
        self.connection.rollback()
        self.assertEqual(len(self.names()), 5)

    def test_server_side_cursor(self):
        with self.connection.cursor("pages") as cursor:
            cursor.itersize = 2
            cursor.execute("SELECT id FROM shop ORDER BY id")
            self.assertEqual([row[0] for row in cursor], [1, 2, 3, 4, 5])
        cursor = self.connection.cursor("ended")
        cursor.execute("SELECT id FROM shop")
        self.connection.commit()
        with self.assertRaises(psycopg.errors.InvalidCursorName):
            cursor.fetchone()
        cursor.close()

    def test_copy_in_and_out(self):
        with self.connection.cursor() as cursor:
            with cursor.copy("COPY shop (id, size) FROM STDIN") as copy:
                copy.write_row((21, 1))
            with cursor.copy("COPY (SELECT id FROM shop WHERE id > 20) TO STDOUT") as copy:
                self.assertEqual(list(copy.rows()), [("21",)])

    def test_pipeline_gives_the_same_results(self):
        with self.connection.pipeline() as pipeline:
            cursor = self.connection.execute("SELECT count(*) FROM shop")
            pipeline.sync()
            self.assertEqual(cursor.fetchone(), (5,))

    def test_notices_reach_their_connection_only(self):
        heard: list[str] = []
        fairy = self.engine.raw_connection()
        other = fairy.driver_connection
        other.add_notice_handler(lambda notice: heard.append("other"))
        self.connection.add_notice_handler(lambda notice: heard.append(notice.message_primary))
        self.connection.execute("DO $$ BEGIN RAISE NOTICE 'hello'; END $$")
        self.assertEqual(heard, ["hello"])
        other.close()

    def test_two_phase(self):
        self.connection.commit()
        xid = self.connection.xid(1, "a", "b")
        self.connection.tpc_begin(xid)
        self.connection.execute("DELETE FROM shop")
        self.connection.tpc_prepare()
        self.assertEqual(len(self.connection.tpc_recover()), 1)
        self.connection.tpc_rollback()
        self.assertEqual(len(self.names()), 5)


if __name__ == "__main__":
    unittest.main()
