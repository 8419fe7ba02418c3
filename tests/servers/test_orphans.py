"""However the test process ends, no server outlives it by two seconds, and no folder the next start."""

from __future__ import annotations

import contextlib
import os
import random
import re
import signal
import subprocess
import sys
import time
import unittest
from pathlib import Path

import psutil

from tests.servers.support import ScratchTestCase
from tests.support import once

# More of them: DBTESTCASE_KILLS=300 python -m unittest tests.servers.test_orphans
KILLS = int(os.environ.get("DBTESTCASE_KILLS", "12"))

CLASSES = """
import os, sys
from dbtestcase.servers import *
print("started", flush=True)
while True:
    with running_instance(ThrowawayPostgres()) as instance:
        expect(ThrowawayPostgres(), EMPTY)
        connection = instance.connect()
        cursor = connection.cursor()
        cursor.execute("SELECT count(*) FROM generate_series(1, 100000)")
        connection.close()
"""

WAITING = """
import os, sys, time
from dbtestcase.servers import *
instance = start_instance()
expect(ThrowawayPostgres(), EMPTY)
print(instance.server_pid, flush=True)
"""

# A query that does not look whether its client, or the postmaster, is still there.
BUSY = (
    WAITING
    + """
connection = instance.connect()
print("busy", flush=True)
connection.cursor().execute("SELECT count(*) FROM generate_series(1, 100000000) a, generate_series(1, 100) b")
"""
)


def segments_of(processes):
    """Return the shared memory segments that these processes of PostgreSQL have mapped, as files."""
    found = set()
    for process in processes:
        with contextlib.suppress(OSError):
            mapped = Path(f"/proc/{process.pid}/maps").read_text()
            found |= set(re.findall(r"/dev/shm/PostgreSQL\.\d+|/\S+/pg_dynshmem/\S+", mapped))
    return found


class OrphanTestCase(ScratchTestCase):
    def assertNoServers(self):
        self.assertSoon(lambda: not self.servers(), 2, "a server outlives its test process")

    def assertNextStartCleansUp(self):
        self.run_well("from dbtestcase.servers import *\nstart_instance().stop()")
        # The supervisor of who was killed may be at it, too, and on a busy machine it gives way to others.
        self.assertSoon(lambda: not self.folders(), 5, f"the next start leaves {self.folders()}")


class KilledTests(OrphanTestCase):
    @once
    def test_kills_at_random_moments_leave_nothing(self):
        # One start serves for the sweep of many kills, and each kill for the next start.
        seed = random.randrange(10**6)
        chance = random.Random(seed)
        for number in range(KILLS):
            number_to_send = chance.choice([signal.SIGKILL, signal.SIGTERM])
            to_group = chance.random() < 0.5
            process = self.start(CLASSES, start_new_session=True)
            self.assertEqual(process.stdout.readline(), "started\n")
            time.sleep(chance.random() * 0.4)
            with self.subTest(number=number, seed=seed, signal=number_to_send.name, to_group=to_group):
                (os.killpg if to_group else os.kill)(process.pid, number_to_send)
                process.wait(60)
                self.assertNoServers()
        self.assertNextStartCleansUp()

    def test_ctrl_c_to_the_group_leaves_nothing(self):
        # Whoever runs this in the background of a shell has SIGINT ignored, which would be inherited.
        heeding = "import signal\nsignal.signal(signal.SIGINT, signal.default_int_handler)\n"
        # Short sleeps: a signal that comes between the look for signals and a long one would be seen when that ends.
        waiting = WAITING + "for _ in range(600):\n    time.sleep(0.1)"
        process = self.start(heeding + waiting, start_new_session=True, stderr=subprocess.DEVNULL)
        process.stdout.readline()

        os.killpg(process.pid, signal.SIGINT)
        process.wait(60)

        self.assertNoServers()
        self.assertSoon(lambda: not self.folders(), 5, "a folder is left")

    def test_a_server_busy_with_a_query_does_not_outlive_a_kill(self):
        process = self.start(BUSY)
        process.stdout.readline()
        process.stdout.readline()
        time.sleep(0.2)  # the query is under way

        process.kill()
        process.wait(60)

        self.assertNoServers()

    def test_os_exit_leaves_nothing(self):
        process = self.start(WAITING + "os._exit(0)")
        process.wait(60)  # it starts a server before

        self.assertNoServers()
        self.assertSoon(lambda: not self.folders(), 5, "a folder is left")

    @once
    def test_a_kill_during_initdb_leaves_nothing(self):
        process = subprocess.Popen(
            self.command(CLASSES), env=self.environment(DBTESTCASE_CACHE="off"), stdout=subprocess.DEVNULL
        )
        self.addCleanup(process.kill)
        self.assertSoon(self.has_initdb, 10, "no initdb came up")

        process.kill()
        process.wait(60)

        self.assertNoServers()
        self.assertNextStartCleansUp()

    def has_initdb(self):
        for process in self.servers():
            with contextlib.suppress(psutil.NoSuchProcess):
                if process.name() == "initdb" and "--show" not in process.cmdline():
                    return True
        return False

    @once
    @unittest.skipUnless(os.path.isdir("/dev/shm"), "the segments can be seen on Linux only")
    def test_kills_while_a_cluster_is_made_leave_no_shared_memory(self):
        seed = random.randrange(10**6)
        chance = random.Random(seed)
        code = "from dbtestcase.servers import *\nprint('started', flush=True)\nstart_instance()"
        segments = set()
        for number in range(KILLS // 3):
            with self.subTest(number=number, seed=seed):
                process = subprocess.Popen(
                    self.command(code), env=self.environment(DBTESTCASE_CACHE="off"), stdout=subprocess.DEVNULL
                )
                self.addCleanup(process.kill)
                self.assertSoon(lambda: bool(segments_of(self.servers())), 20, "no segment is made")
                end = time.monotonic() + chance.random()
                while time.monotonic() < end:
                    segments |= segments_of(self.servers())

                process.kill()
                process.wait(60)

                self.assertNoServers()
        # What is in our location goes with its folder. (What lies in /dev/shm itself may be of servers of others.)
        self.assertEqual([each for each in segments if not each.startswith(str(self.location))], [])
        self.assertNextStartCleansUp()

    def test_a_process_that_becomes_another_program_leaves_nothing(self):
        process = self.start(WAITING + "os.execv('/bin/sleep', ['sleep', '30'])")
        process.stdout.readline()

        self.assertNoServers()

    def test_a_forked_child_that_lives_on_does_not_keep_the_servers(self):
        process = self.start(
            WAITING + "if os.fork() == 0:\n    sys.stdout.close(); os.close(1); time.sleep(5)\nelse:\n    os._exit(0)"
        )
        process.wait(60)  # it starts a server before

        self.assertNoServers()

    @once
    @unittest.skipUnless(sys.platform.startswith("linux"), "only Linux ends a server because its parent died")
    def test_servers_do_not_outlive_their_keeper(self):
        process = self.start(WAITING + "time.sleep(60)")
        server = int(process.stdout.readline())
        supervisor = psutil.Process(server).ppid()

        os.kill(supervisor, signal.SIGKILL)
        self.assertNoServers()
        process.kill()
        process.wait(60)

        self.assertNextStartCleansUp()

    def test_a_test_process_whose_keeper_died_gets_a_new_one(self):
        output = self.run_well(
            WAITING
            + """
import signal
supervisor = int(open(f"/proc/{instance.server_pid}/stat").read().rpartition(")")[2].split()[1])
os.kill(supervisor, signal.SIGKILL)
assert instance.child_process.wait(60) is not None
with running_instance(ThrowawayPostgres()) as second:
    second.connect().close()
    print("again")
"""
        )

        self.assertEqual(output.splitlines()[-1], "again")

    @once
    def test_everything_killed_at_once_is_swept_by_the_next_start(self):
        process = self.start(WAITING + "time.sleep(60)")
        server = int(process.stdout.readline())
        supervisor = psutil.Process(server).ppid()
        # Stopped before, so that neither does anything about the other's end.
        for number in (signal.SIGSTOP, signal.SIGKILL):
            for pid in (process.pid, supervisor):
                os.kill(pid, number)
        process.wait(60)

        self.assertNoServers()
        self.assertNotEqual(self.folders(), [])
        self.assertNextStartCleansUp()

    @once
    def test_a_run_beside_ours_is_not_swept(self):
        process = self.start(WAITING + "sys.stdin.readline(); instance.connect().close(); print('alive')", stdin=-1)
        process.stdout.readline()

        self.run_well("from dbtestcase.servers import *\nstart_instance().stop()")
        process.stdin.write("\n")
        process.stdin.close()

        self.assertEqual(process.stdout.readline(), "alive\n")


class LongRunTests(OrphanTestCase):
    @once
    def test_many_instances_leave_no_trace_in_the_process(self):
        output = self.run_well(
            """
import os, psutil, time
from dbtestcase.servers import *
from dbtestcase.servers import standby
me = psutil.Process()
def state():
    supervisor, = me.children()
    return (me.num_fds(), me.num_threads(), supervisor.num_fds(), len(me.children()))
def soon(holds):
    end = time.monotonic() + 60
    while not holds() and time.monotonic() < end:
        time.sleep(0.01)
    return holds()
def is_flat():
    return all(then <= before + 1 for then, before in zip(state(), first))
count = int(os.environ.get("DBTESTCASE_CLASSES", "25"))
for number in range(1, count + 1):
    with running_instance(ThrowawayPostgres()) as instance:
        expect(ThrowawayPostgres(), EMPTY)
        instance.connect().close()
        if number in (10, count):
            # How many descriptors and threads a standby has while it is made depends on how far it has come.
            soon(lambda: standby._standbys[0][1].seconds > 0)
        if number == 10:
            first, memory = state(), me.memory_info().rss
        if number == count:
            # The supervisor keeps some descriptors until the server before has ended.
            print(soon(is_flat) or (first, state()), me.memory_info().rss / memory < 1.05)
"""
        )

        self.assertEqual(output, "True True")
        self.assertEqual(self.folders(), [])
