"""Whatever goes silent, stops, or says nonsense: every wait has a bound, and ends with a sentence."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
import unittest
from contextlib import suppress
from unittest import mock

import psutil
from sqlalchemy import select, text
from sqlalchemy.exc import OperationalError

from dbtestcase import DatabaseTestCase, isolate, native
from dbtestcase.errors import PostgresNotReady
from dbtestcase.servers import ThrowawayPostgres, cache, running_instance, supervisor_client
from dbtestcase.servers.cache import Cache
from dbtestcase.servers.supervisor.channel import encode
from dbtestcase.servers.supervisor_client import current_supervisor
from tests.servers.support import ScratchTestCase, changed_environment
from tests.support import Base, Customer, of_throwaway_servers, once, patience, problems, run_case

OPTIONS = ThrowawayPostgres()


class SupervisorTests(ScratchTestCase):
    def setUp(self):
        super().setUp()
        changed_environment(self, {"DBTESTCASE_DIR": self.location})

    def assertNextInstanceWorks(self):
        with running_instance(OPTIONS) as instance:
            self.assertTrue(instance.answers())
        self.assertSoon(lambda: not self.servers(), 5, "a server is left")

    def test_one_that_goes_silent_is_killed_and_named(self):
        supervisor = current_supervisor()
        os.kill(supervisor.supervisor_pid, signal.SIGSTOP)
        begun = time.monotonic()

        with (
            mock.patch.object(supervisor_client, "_PATIENCE", 0.5),
            self.assertRaisesRegex(PostgresNotReady, f"process {supervisor.supervisor_pid}.*does not answer"),
        ):
            supervisor.request("folder", locations=[str(self.location)], mode=0o700).wait()

        self.assertLess(time.monotonic() - begun, patience(5))
        self.assertFalse(psutil.pid_exists(supervisor.supervisor_pid))
        self.assertNextInstanceWorks()

    @once
    def test_one_that_goes_silent_during_a_boot_is_not_waited_for_as_long_as_for_a_boot(self):
        supervisor = current_supervisor()
        path = supervisor.request("folder", locations=[str(self.location)], mode=0o700).wait()["path"]
        run = {"argv": ["/bin/sleep", "600"], "env": {}, "user": None, "log": "log", "timeout": 600.0}
        reply = supervisor.request("run", folder=path, **run)
        self.assertTrue(supervisor.answers())
        os.kill(supervisor.supervisor_pid, signal.SIGSTOP)

        with (
            mock.patch.multiple(supervisor_client, _PATIENCE=0.5, _SILENCE=0.2),
            self.assertRaisesRegex(PostgresNotReady, "does not answer"),
        ):
            reply.wait()

        self.assertNextInstanceWorks()

    def test_one_that_is_stopped_when_the_tests_end_cleans_up_all_the_same(self):
        self.run_well(
            "import os, signal\n"
            "from dbtestcase.servers import *\n"
            "from dbtestcase.servers.supervisor_client import current_supervisor\n"
            "with running_instance(ThrowawayPostgres()):\n"
            "    os.kill(current_supervisor().supervisor_pid, signal.SIGSTOP)\n"
        )

        self.assertSoon(lambda: not (self.servers() or self.folders()), 15, "something is left")

    def test_one_that_is_busy_is_waited_for(self):
        supervisor = current_supervisor()
        with mock.patch.object(supervisor_client, "_SILENCE", 0.05):
            path = supervisor.request("folder", locations=[str(self.location)], mode=0o700).wait()["path"]
            run = {"argv": ["/bin/sleep", "0.5"], "env": {}, "user": None, "log": "log", "timeout": 600.0}

            self.assertEqual(supervisor.request("run", folder=path, **run).wait()["status"], 0)
        supervisor.request("end", folder=path, signal=3, timeout=1.0).wait()

    def test_one_that_says_nonsense_is_named(self):
        supervisor = current_supervisor()
        supervisor._connection._reader.feed(b"\0\0\0\1")  # whatever it says next is read from the wrong byte on

        with self.assertRaisesRegex(PostgresNotReady, "cannot be understood"):
            supervisor.request("folder", locations=[str(self.location)], mode=0o700).wait()

        self.assertNextInstanceWorks()

    def test_one_whose_words_make_no_sense_is_named_too(self):
        for nonsense in ({"ended": 1}, {"ended": []}, {"id": []}):
            with self.subTest(nonsense):
                supervisor = current_supervisor()
                supervisor._connection._reader._bytes = encode(nonsense)  # it says so before the reply
                with self.assertRaisesRegex(PostgresNotReady, "cannot be understood"):
                    supervisor.request("folder", locations=[str(self.location)], mode=0o700).wait()

                self.assertNextInstanceWorks()

    def test_one_that_is_told_nonsense_ends_and_says_why(self):
        supervisor = current_supervisor()

        with self.assertRaisesRegex(PostgresNotReady, "ended with: Unreadable"):
            supervisor.request("nonesuch").wait()

        self.assertNextInstanceWorks()

    def test_one_that_is_killed_while_several_threads_wait_fails_all_of_them(self):
        supervisor = current_supervisor()
        os.kill(supervisor.supervisor_pid, signal.SIGSTOP)
        errors = []

        def wait():
            try:
                supervisor.request("folder", locations=[str(self.location)], mode=0o700).wait()
            except PostgresNotReady as exc:
                errors.append(exc)

        threads = [threading.Thread(target=wait) for _ in range(8)]
        for thread in threads:
            thread.start()
        os.kill(supervisor.supervisor_pid, signal.SIGKILL)
        for thread in threads:
            thread.join(120)

        self.assertEqual(len(errors), 8)
        self.assertNextInstanceWorks()

    def test_threads_that_send_and_wait_at_once_each_get_their_reply(self):
        supervisor = current_supervisor()
        paths = []

        def work():
            for _ in range(50):
                supervisor.notify("end", launch=0, signal=3, timeout=1.0)
                path = supervisor.request("folder", locations=[str(self.location)], mode=0o700).wait()["path"]
                supervisor.refresh()
                supervisor.request("end", folder=path, signal=3, timeout=1.0).wait()
                paths.append(path)

        threads = [threading.Thread(target=work) for _ in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(120)

        self.assertEqual(len(set(paths)), 300)
        self.assertSoon(lambda: not self.folders(), 5, "a folder is left")

    def test_a_program_that_does_not_end_is_ended(self):
        supervisor = current_supervisor()
        path = supervisor.request("folder", locations=[str(self.location)], mode=0o700).wait()["path"]
        run = {"argv": ["/bin/sleep", "600"], "env": {}, "user": None, "log": "log", "timeout": 0.3}

        with self.assertRaisesRegex(supervisor_client.RequestFailed, "has not ended after 0.3 seconds"):
            supervisor.request("run", folder=path, **run).wait()

        supervisor.request("end", folder=path, signal=3, timeout=1.0).wait()
        self.assertSoon(lambda: not self.folders(), 5, "a folder is left")


class LockTests(ScratchTestCase):
    def test_a_lock_that_a_stopped_process_holds_is_waited_for_within_a_bound(self):
        store = Cache(self.scratch / "cache")
        with (
            store.lock("key"),
            mock.patch.object(cache, "_LONGEST_LOCK", 0.2),
            self.assertRaisesRegex(OSError, "another process has held a lock"),
            Cache(self.scratch / "cache").lock("key"),
        ):
            self.fail("two hold the lock")


@unittest.skipUnless(sys.platform.startswith("linux"), "only Linux tells that a process is stopped")
@of_throwaway_servers
class ServerProcessTests(unittest.TestCase):
    def test_one_that_somebody_has_stopped_is_ended_and_costs_no_other_test(self):
        class Shop(DatabaseTestCase):
            schema = Base
            lock_wait = 0.2

            def test_1(self):
                self.assertEqual(self.session.scalars(select(Customer.name)).all(), [])

            def stop(self):
                for (pid,) in self.instance.query("SELECT pid FROM pg_stat_activity WHERE datname = 'test'"):
                    with suppress(ProcessLookupError):  # of a connection that was closed just before
                        os.kill(pid, signal.SIGSTOP)

            test_3 = test_5 = test_1

        class BetweenTests(Shop):
            def test_2_stops_it(self):
                self.test_1()
                self.stop()

        class AtTheEnd(BetweenTests):
            @classmethod
            def setUpClass(cls):
                super().setUpClass()
                cls.address = cls.instance.dsn()  # so that a test is undone at once

        class OnACopy(Shop):
            @isolate("clone")
            def test_2_stops_it(self):
                os.kill(self.session.scalar(text("SELECT pg_backend_pid()")), signal.SIGSTOP)
                with self.assertRaises(OperationalError) as caught:
                    self.test_1()
                self.assertIn("was stopped, by a signal", "".join(caught.exception.orig.__notes__))

        class InATest(Shop):
            def test_2_stops_it(self):
                self.test_1()
                self.stop()
                self.test_1()

        for case in (BetweenTests, AtTheEnd, OnACopy, InATest):
            with self.subTest(case.__name__):
                result = run_case(case)

                # A test that goes on without its server keeps its own result.
                self.assertEqual(problems(result), [])


class ProcessLimitTests(ScratchTestCase):
    CODE = """
import resource, sys, threading
from dbtestcase.servers import *
with running_instance(ThrowawayPostgres()):
    pass
LIMIT
expect(ThrowawayPostgres(), EMPTY)
try:
    with running_instance(ThrowawayPostgres()) as instance:
        instance.connect().close()
        print("started")
except Exception as exc:
    print(type(exc).__name__, exc)
"""

    def test_without_threads_everything_is_done_by_the_one_there_is(self):
        no_threads = """
import _thread
from dbtestcase import native
def refuse(*_): raise RuntimeError("can't start new thread")
native.start_new_thread = refuse
"""
        self.assertEqual(self.run_well(self.CODE.replace("LIMIT", no_threads)), "started")

    @unittest.skipIf(os.getuid() != 0 or not sys.platform.startswith("linux"), "needs another user, to count for alone")
    def test_where_no_more_processes_are_allowed_a_sentence_says_so(self):
        cache_folder = self.scratch / "cache"
        for folder in (cache_folder, self.location):
            folder.mkdir(exist_ok=True)
            os.chown(folder, 54321, 54321)
        for allowed in (0, 1, 2, 4, 6, 20):
            limit = f"resource.setrlimit(resource.RLIMIT_NPROC, ({allowed}, {allowed}))"
            result = self.python_as(54321, self.CODE.replace("LIMIT", limit), DBTESTCASE_CACHE=cache_folder)
            with self.subTest(allowed):
                self.assertEqual(result.returncode, 0, result.stderr)
                self.assertRegex(result.stdout, "^started|^PostgresNotReady")
                # They would count the next time.
                self.assertSoon(lambda: not self.servers() and not self.folders(), 5, "something is left")
        self.assertEqual(result.stdout, "started\n")


class ClockTests(unittest.TestCase):
    def test_it_runs_while_those_of_the_module_time_are_frozen(self):
        with mock.patch("time.monotonic", return_value=1.0), mock.patch("time.time", return_value=1.0):
            before = native.monotonic()
            native.sleep(0.01)

            self.assertGreater(native.monotonic(), before)
            self.assertGreater(native.wall_clock(), 10**9)
