"""The standby: booted while tests run, taken if it fits, gone if nobody wants it."""

from __future__ import annotations

import os
import subprocess
import threading
from contextlib import closing
from unittest import mock

import psutil

from dbtestcase.errors import PostgresNotFound
from dbtestcase.servers import (
    EMPTY,
    Contents,
    ThrowawayPostgres,
    discard_standby,
    expect,
    expects,
    running_instance,
    standby,
)
from dbtestcase.servers.supervisor_client import current_supervisor
from tests.servers.support import ScratchTestCase, changed_environment

OPTIONS = ThrowawayPostgres()


def make_table(instance):
    instance.execute("CREATE TABLE t ()", database="test")


class SpareTests(ScratchTestCase):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        with running_instance(OPTIONS):
            pass  # the template exists from here on, so that what boots is no server that makes it

    def setUp(self):
        super().setUp()
        changed_environment(self, {"DBTESTCASE_DIR": self.location})
        self.addCleanup(discard_standby)

    def postmasters(self) -> set[int]:
        """Return the process ids of the servers in our location, without those of their own processes."""
        supervisor = psutil.Process(current_supervisor().supervisor_pid)
        return {process.pid for process in self.servers()} & {process.pid for process in supervisor.children()}

    def assertAllGone(self):
        # Folders are deleted by a process of low priority, which on a busy machine takes its time.
        self.assertSoon(lambda: not self.servers() and not self.folders(), 5, "something is left")

    def test_what_was_expected_is_taken(self):
        with running_instance(OPTIONS):
            expect(OPTIONS, EMPTY, owner="Next")
            self.assertSoon(lambda: len(self.postmasters()) == 2, 5, "no second server came up")
            before = self.postmasters()

        with running_instance(OPTIONS) as instance:
            self.assertIn(instance.server_pid, before)
            instance.connect().close()

        self.assertAllGone()

    def test_variables_of_libpq_do_not_bend_the_connection_opened_ahead(self):
        changed_environment(self, {"PGOPTIONS": "-c work_mem=9MB", "PGCLIENTENCODING": "LATIN1"})
        with running_instance(OPTIONS):
            pass  # its template exists from here on
        expect(OPTIONS, EMPTY)  # while no instance runs

        with running_instance(OPTIONS) as instance, closing(instance.take_ready_connection()) as connection:
            with connection.cursor() as cursor:
                cursor.execute("SELECT current_setting('work_mem')")
                self.assertEqual(cursor.fetchone()[0], "4MB")
            self.assertEqual(connection.encoding, "UTF8")
        self.assertEqual(os.environ["PGCLIENTENCODING"], "LATIN1")

    def test_a_spare_that_does_not_fit_is_ended(self):
        expect(ThrowawayPostgres(settings={"work_mem": "8MB"}), EMPTY)

        with running_instance(OPTIONS) as instance:
            only = {instance.server_pid}
            self.assertSoon(lambda: self.postmasters() == only, 3, "the standby lives on")

    def test_expecting_something_else_ends_the_spare(self):
        expect(OPTIONS, EMPTY)
        expect(ThrowawayPostgres(settings={"work_mem": "8MB"}), EMPTY)
        discard_standby()

        self.assertAllGone()

    def test_two_are_booted_side_by_side_and_taken_in_turn(self):
        other = ThrowawayPostgres(settings={"work_mem": "8MB"})
        expect(OPTIONS, EMPTY)
        expect(other, EMPTY, position=1)
        expect(OPTIONS, EMPTY, position=2)
        self.assertSoon(lambda: len(self.postmasters()) == 3, 5, "not three servers came up")
        before = self.postmasters()

        for options in (OPTIONS, other, OPTIONS):
            with running_instance(options) as instance:
                self.assertIn(instance.server_pid, before)
        self.assertAllGone()

    def test_those_behind_one_that_is_not_wanted_any_more_are_ended_too(self):
        for position in range(2):
            expect(OPTIONS, EMPTY, position=position)
        expect(ThrowawayPostgres(settings={"work_mem": "8MB"}), EMPTY)
        expect(OPTIONS, EMPTY, position=3)  # of which nobody knows what comes before it
        discard_standby()

        self.assertAllGone()

    def test_classes_that_are_shorter_than_a_boot_are_worth_two(self):
        now, here = 0.0, threading.get_ident()

        def clock() -> float:
            """A boot takes a second: whoever looks in the background does so a second later."""
            return now if threading.get_ident() == here else now + 1

        with mock.patch.object(standby, "monotonic", clock):
            # When a class began is known of the second one, and of none before.
            for seconds, worth in ((0, None), (0, None), (1.9, 2), (2.1, 1), (1.9, 2)):
                now += seconds
                with running_instance(OPTIONS):
                    if worth is not None:
                        self.assertEqual(expects(), worth)
                    expect(OPTIONS, EMPTY)
                    self.assertSoon(lambda: standby._standbys[0][1].seconds == 1, 5, "it does not boot")

    def test_expecting_the_same_again_keeps_the_spare(self):
        expect(OPTIONS, EMPTY)
        self.assertSoon(lambda: bool(self.postmasters()), 5, "no server came up")
        before = self.postmasters()
        expect(OPTIONS, EMPTY)

        with running_instance(OPTIONS) as instance:
            self.assertIn(instance.server_pid, before)

    def test_a_spare_is_forgotten_at_any_moment(self):
        expect(OPTIONS, EMPTY)
        discard_standby()
        expect(OPTIONS, EMPTY)
        self.assertSoon(lambda: bool(self.servers()), 5, "no server came up")
        discard_standby()
        discard_standby()

        self.assertAllGone()

    def test_a_spare_is_forgotten_in_a_background_job_of_a_shell_too(self):
        # There SIGQUIT is ignored, and whoever is started inherits that.
        process = self.start(
            "import signal, sys, time\n"
            "signal.signal(signal.SIGQUIT, signal.SIG_IGN)\n"
            "from dbtestcase.servers import *\n"
            "from dbtestcase.servers import discard_standby\n"
            "with running_instance(ThrowawayPostgres()):\n"
            "    pass\n"
            "for number in range(16):\n"
            "    expect(ThrowawayPostgres(), EMPTY)\n"
            "    time.sleep(number / 500)\n"  # in all stages of its boot
            "    discard_standby()\n"
            "print(flush=True)\n"
            "sys.stdin.readline()\n",
            stdin=subprocess.PIPE,
        )
        self.addCleanup(process.stdin.close)
        process.stdout.readline()

        self.assertSoon(lambda: not self.servers() and not self.folders(), 5, "something is left")
        self.assertIsNone(process.poll())

    def test_contents_are_prepared_in_the_background(self):
        threads = []

        def prepare(instance):
            threads.append(threading.current_thread())
            make_table(instance)

        contents = Contents(None, prepare, token=object())
        expect(OPTIONS, contents)
        with running_instance(OPTIONS, contents) as instance:
            instance.execute("SELECT * FROM t", database="test")

        self.assertNotEqual(threads, [threading.main_thread()])
        self.assertEqual(len(threads), 1)

    def test_contents_for_the_main_thread_are_prepared_there(self):
        threads = []

        def prepare(instance):
            threads.append(threading.current_thread())
            make_table(instance)

        contents = Contents(None, prepare, token=object(), background=False)
        for _ in range(2):
            expect(OPTIONS, contents)
            with running_instance(OPTIONS, contents) as instance:
                instance.execute("SELECT * FROM t", database="test")

        self.assertEqual(threads, [threading.main_thread()])

    def test_contents_that_nothing_identifies_fit_the_same_object_only(self):
        def prepare(instance):
            make_table(instance)

        contents = Contents(None, prepare)
        expect(OPTIONS, contents)

        with running_instance(OPTIONS, Contents(None, prepare)) as instance:
            instance.execute("SELECT * FROM t", database="test")
        discard_standby()

        self.assertAllGone()

    def test_an_error_waits_for_the_one_who_wants_the_instance(self):
        def prepare(instance):
            raise FileNotFoundError("schema.sql")

        contents = Contents(None, prepare, token=object())
        expect(OPTIONS, contents)
        expect(OPTIONS, contents)

        with self.assertRaisesRegex(FileNotFoundError, "schema.sql"), running_instance(OPTIONS, contents):
            pass
        self.assertAllGone()

        nowhere = ThrowawayPostgres(bin_dir="/nonesuch")
        expect(nowhere, EMPTY)
        with self.assertRaises(PostgresNotFound), running_instance(nowhere):
            pass

    def test_a_bad_setting_is_raised_to_the_one_who_wants_the_instance(self):
        options = ThrowawayPostgres(settings={"wrk_mem": 1})
        expect(options, EMPTY)

        with self.assertRaisesRegex(Exception, "wrk_mem"), running_instance(options):
            pass
        self.assertAllGone()

    def test_a_forked_child_neither_takes_nor_ends_the_spare(self):
        expect(OPTIONS, EMPTY)
        child = os.fork()
        if not child:
            discard_standby()
            os._exit(0)
        os.waitpid(child, 0)

        with running_instance(OPTIONS) as instance:
            self.assertTrue(instance.is_alive())

    def test_a_forked_child_has_instances_of_its_own(self):
        with running_instance(OPTIONS) as ours:
            child = os.fork()
            if not child:
                status = 1
                try:
                    with running_instance(OPTIONS) as theirs:
                        theirs.connect().close()
                        status = 0 if theirs.server_pid != ours.server_pid else 2
                finally:
                    os._exit(status)
            _, status = os.waitpid(child, 0)

            self.assertEqual(status, 0)
            self.assertTrue(ours.is_alive())

    def test_threads_each_get_an_instance(self):
        pids = []

        def use():
            with running_instance(OPTIONS) as instance:
                instance.connect().close()
                pids.append(instance.server_pid)

        expect(OPTIONS, EMPTY)
        threads = [threading.Thread(target=use) for _ in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

        self.assertEqual(len(set(pids)), 3)

    def test_a_program_that_ends_with_a_spare_leaves_nothing(self):
        self.run_well("from dbtestcase.servers import *\nexpect(ThrowawayPostgres(), EMPTY)")

        self.assertEqual((self.servers(), self.folders()), ([], []))
