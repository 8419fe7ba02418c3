"""A server that crashes does not come back as if nothing had been; whoever asks whether it lives is told."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import unittest

import psutil
import psycopg2

from dbtestcase.errors import DBTestCaseError
from dbtestcase.servers import EMPTY, ThrowawayPostgres, discard_standby, expect, running_instance
from dbtestcase.servers.supervisor_client import current_supervisor
from tests.servers.support import ScratchTestCase, changed_environment
from tests.support import once

OPTIONS = ThrowawayPostgres()


class CrashTestCase(ScratchTestCase):
    def processes_called(self, words):
        found = []
        for process in self.servers():
            with contextlib.suppress(psutil.NoSuchProcess):  # some are about to end
                if words in " ".join(process.cmdline()):
                    found.append(process)
        return found


class CrashTests(CrashTestCase):
    def setUp(self):
        super().setUp()
        changed_environment(self, {"DBTESTCASE_DIR": self.location})
        self.addCleanup(discard_standby)

    def test_a_killed_backend_ends_the_server_for_good(self):
        with running_instance(OPTIONS) as instance:
            connection = instance.connect()
            self.addCleanup(connection.close)

            os.kill(connection.info.backend_pid, signal.SIGKILL)

            self.assertIsNotNone(instance.child_process.wait(60))
            self.assertFalse(instance.is_alive())
            with self.assertRaises(psycopg2.OperationalError):
                instance.connect()

    def test_a_background_process_that_dies_while_nobody_is_connected_is_told(self):
        with running_instance(OPTIONS) as instance:
            self.assertSoon(lambda: bool(self.processes_called("background writer")), 5, "it does not come up")
            self.processes_called("background writer")[0].kill()

            self.assertSoon(lambda: not instance.is_alive(), 5, "it is taken for alive")

    def test_whoever_asks_for_a_connection_after_a_crash_is_told_at_once(self):
        for _ in range(10):
            with running_instance(OPTIONS) as instance:
                connection = instance.connect()
                os.kill(connection.info.backend_pid, signal.SIGKILL)
                with self.assertRaises(psycopg2.Error), connection.cursor() as cursor:
                    cursor.execute("SELECT 1")
                connection.close()

                self.assertFalse(instance.answers())

    def test_asking_whether_it_lives_costs_no_round_trip(self):
        with running_instance(OPTIONS) as instance:
            os.kill(instance.server_pid, signal.SIGSTOP)
            try:
                self.assertTrue(instance.is_alive())  # a server that says nothing is asked nothing
            finally:
                os.kill(instance.server_pid, signal.SIGCONT)

    def test_restart_after_crash_cannot_be_turned_on(self):
        with self.assertRaisesRegex(DBTestCaseError, "restart_after_crash"):
            ThrowawayPostgres(settings={"restart_after_crash": True})

    def test_a_killed_supervisor_costs_its_own_instance_and_not_the_next(self):
        with running_instance(OPTIONS) as first:
            os.kill(current_supervisor().supervisor_pid, signal.SIGKILL)
            self.assertSoon(lambda: not first.is_alive(), 5, "it is taken for alive")

            with running_instance(OPTIONS) as second:
                self.assertTrue(second.answers())

    def test_a_standby_whose_supervisor_was_killed_is_not_handed_out(self):
        for number in range(4):
            with self.subTest(number):
                expect(OPTIONS, EMPTY)
                self.assertSoon(lambda: bool(self.servers()), 5, "no standby")
                supervisor = psutil.Process(current_supervisor().supervisor_pid)
                supervisor.kill()
                supervisor.wait(60)  # until the kernel has done it, nobody can know

                with running_instance(OPTIONS) as instance:
                    self.assertTrue(instance.answers())

    def test_a_standby_that_crashed_is_not_handed_out(self):
        expect(OPTIONS, EMPTY)
        self.assertSoon(lambda: bool(self.processes_called("idle")), 5, "no standby")
        for process in self.processes_called("background writer"):
            process.kill()
        self.assertSoon(lambda: not self.servers(), 5, "it does not end")

        with running_instance(OPTIONS) as instance:
            self.assertTrue(instance.answers())


@unittest.skipUnless(sys.platform.startswith("linux"), "only Linux has orphans adopted")
class LeftoverTests(CrashTestCase):
    def setUp(self):
        super().setUp()
        changed_environment(self, {"DBTESTCASE_DIR": self.location})

    @once
    def test_a_stopped_backend_does_not_outlive_its_server(self):
        with running_instance(OPTIONS) as instance:
            connection = instance.connect()
            os.kill(connection.info.backend_pid, signal.SIGSTOP)

        self.assertSoon(lambda: not self.servers() and not self.folders(), 15, "something is left")
        connection.close()

    @once
    def test_a_stopped_server_is_ended_within_the_bound(self):
        with running_instance(OPTIONS) as instance:
            connection = instance.connect()
            os.kill(connection.info.backend_pid, signal.SIGSTOP)
            os.kill(instance.server_pid, signal.SIGSTOP)

        self.assertSoon(lambda: not self.servers() and not self.folders(), 15, "something is left")
        connection.close()

    def test_a_program_that_sql_has_started_does_not_outlive_its_server(self):
        with running_instance(OPTIONS) as instance:
            instance.execute("COPY (SELECT 1) TO PROGRAM 'cat >/dev/null; setsid sleep 600 >/dev/null 2>&1 & exit 0'")
            self.assertSoon(lambda: bool(self.processes_called("sleep 600")), 5, "it has not been started")

        self.assertSoon(lambda: not self.servers() and not self.folders(), 15, "something is left")
