"""Connections that are opened before a test asks for them are those that it would have opened itself."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa

from dbtestcase.sandbox.ahead import ConnectionsAhead
from tests.sandbox.support import SandboxCase


class AheadTests(SandboxCase):
    isolation = "clone"

    def setUp(self) -> None:
        super().setUp()
        self.app_engine = sa.create_engine(
            f"postgresql+{self.driver}://nobody@matters.invalid/production",
            connect_args={"options": "-c work_mem=5MB"},
        )
        self.sandbox.redirect(self.app_engine)

    def run_test(self, *engines: sa.Engine, ahead: ConnectionsAhead | None = None) -> list[int]:
        """Run a test that holds one connection of each engine; return their process ids."""
        self.sandbox.move_to(self.real_url, ahead)
        with self.in_test():
            held = [engine.connect() for engine in engines]
            pids = [connection.scalar(sa.text("SELECT pg_backend_pid()")) for connection in held]
            for connection in held:
                connection.close()
        return pids

    def opened(self, ahead: ConnectionsAhead) -> list[Any]:
        return [connection for _, connection in ahead._connections]

    def test_each_engine_gets_one_that_was_opened_as_it_would_have_done(self) -> None:
        self.run_test(self.engine, self.app_engine)
        ahead = self.sandbox.open_ahead(self.real_url)
        connections = self.opened(ahead)
        self.sandbox.move_to(self.real_url, ahead)

        with self.in_test(), self.app_engine.connect() as app_s, self.engine.connect() as own:
            for connection, work_mem in ((app_s, "5MB"), (own, "4MB")):
                self.assertIn(connection.connection.driver_connection, connections)
                self.assertEqual(connection.scalar(sa.text("SHOW work_mem")), work_mem)
                self.assertFalse(connection.connection.driver_connection.autocommit)

    def test_one_more_than_expected_is_opened_on_demand(self) -> None:
        self.run_test(self.engine)
        ahead = self.sandbox.open_ahead(self.real_url)
        (ready,) = (connection.info.backend_pid for connection in self.opened(ahead))

        first, second = self.run_test(self.engine, self.engine, ahead=ahead)

        self.assertEqual(first, ready)
        self.assertNotEqual(second, ready)

    def test_those_that_nobody_asked_for_are_closed(self) -> None:
        self.run_test(self.engine, self.app_engine)
        ahead = self.sandbox.open_ahead(self.real_url)
        connections = self.opened(ahead)

        self.run_test(ahead=ahead)

        self.assertEqual([bool(connection.closed) for connection in connections], [True, True])

    def test_what_is_closed_after_the_test_is_closed_for_the_pool_s_listeners_at_its_end(self) -> None:
        closed: list[Any] = []
        sa.event.listen(self.engine, "close", lambda connection, record: closed.append(connection))

        self.run_test(self.engine)
        idle = self.sandbox.take_idle()

        self.assertEqual(closed, idle)
        self.assertEqual([bool(connection.closed) for connection in idle], [False])
        idle[0].close()

    def test_a_database_that_cannot_be_connected_to_is_the_test_s_to_report(self) -> None:
        self.run_test(self.engine)

        ahead = self.sandbox.open_ahead(self.real_url.set(database="missing"))

        self.assertEqual(self.opened(ahead), [])


class AheadWithPsycopg3Tests(AheadTests):
    driver = "psycopg"
