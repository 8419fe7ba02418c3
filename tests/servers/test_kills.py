"""Any process involved is killed, or stopped, at a random moment: nothing is left, nothing wrong is seen, no hang."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import subprocess
import time
import unittest

import psutil

from dbtestcase.servers.server import BOOT_TIMEOUT
from tests.servers.support import ScratchTestCase
from tests.support import happens, once

# More of them: DBTESTCASE_KILLS=300 python -m unittest tests.servers.test_kills
KILLS = int(os.environ.get("DBTESTCASE_KILLS", "4"))

# Classes in a row, as the lifecycle runs them: each looks whether it has what it should have, and copies it.
CLASSES = """
import os, sys, threading
from contextlib import closing
import psycopg2
from dbtestcase.errors import DBTestCaseError
from dbtestcase.servers import *

def prepare(instance):
    instance.execute("CREATE TABLE t AS SELECT generate_series(1, 1000) AS x", database="test")

contents = Contents("kills", prepare)

def look(instance, database):
    with closing(instance.connect(database)) as connection, connection.cursor() as cursor:
        cursor.execute("SELECT count(*) FROM t")
        (found,) = cursor.fetchone()
        if found != 1000:
            print("WRONG", found, flush=True)
        cursor.execute("INSERT INTO t SELECT generate_series(1, 1000)")
        connection.commit()

print("begin", flush=True)
for number in range(6):
    try:
        with running_instance(ThrowawayPostgres(), contents) as instance:
            expect(ThrowawayPostgres(), contents)
            ready = instance.take_ready_connection()
            if ready is not None:
                ready.close()  # nobody may be connected to what is copied
            for copy in ("one", "two"):
                instance.clone_database("test", copy)
                look(instance, copy)
            look(instance, "test")
            alive = instance.is_alive()
    except (psycopg2.Error, DBTestCaseError) as exc:
        print("lost", number, type(exc).__name__, flush=True)
    else:
        print("ok", number, flush=True)
"""
# What is stopped is waited for, up to a bound; there is a test of each bound in test_hangs and test_crash.
SIGNALS = (signal.SIGKILL, signal.SIGSTOP) if "DBTESTCASE_KILLS" in os.environ else (signal.SIGKILL,)
VICTIMS = ("test process", "supervisor", "postmaster", "backend")
# Of six classes, those that may be lost to one kill: the present one, and the next, whose server was on its way.
MOST_LOST = 2
# A server that is stopped while it boots is waited for longest.
LONGEST_RUN = BOOT_TIMEOUT + 20


class KillTests(ScratchTestCase):
    @once
    def test_whoever_is_killed_at_whatever_moment(self):
        for signal_number in SIGNALS:
            for victim in VICTIMS:
                kills = KILLS if signal_number == signal.SIGKILL else max(1, KILLS // 8)
                seed = random.randrange(10**6)
                chance = random.Random(seed)
                for number in range(kills // 4 or 1):
                    with self.subTest(victim=victim, signal=signal_number, number=number, seed=seed):
                        self.run_and_kill(victim, signal_number, chance.random())
        self.run_well("from dbtestcase.servers import *\nstart_instance().stop()")
        self.assertSoon(lambda: not self.folders(), 10, "a folder is left")

    def run_and_kill(self, victim: str, number: int, moment: float) -> None:
        process = subprocess.Popen(
            self.command(CLASSES),
            env=self.environment(DBTESTCASE_CACHE=self.scratch / "cache"),
            cwd="/",
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self.addCleanup(process.kill)
        process.stdout.readline()
        begun = time.monotonic()

        time.sleep(moment)
        hit = self.hit(process.pid, victim, number)
        if number == signal.SIGSTOP and victim == "test process":
            process.kill()  # who stops his own tests ends them some day
        if number == signal.SIGSTOP and victim == "backend" and hit:
            # It may be what answers the test's own statement, for which the test alone can set a bound.
            time.sleep(3)
            with contextlib.suppress(ProcessLookupError):
                os.kill(hit, signal.SIGCONT)
        output, _ = process.communicate(timeout=LONGEST_RUN * max(1.0, os.getloadavg()[0]))
        if victim == "supervisor" and hit:
            # It was stopped, perhaps, when nobody was there any more who could have noticed.
            with contextlib.suppress(ProcessLookupError):
                os.kill(hit, signal.SIGCONT)

        self.assertNotIn("WRONG", output)
        self.assertNotIn("Traceback", output)
        if victim != "test process":
            self.assertLessEqual(output.count("lost"), MOST_LOST, output)
            self.assertEqual(output.count("lost") + output.count("ok"), 6, output)
        self.assertLess(time.monotonic() - begun, LONGEST_RUN * max(1.0, os.getloadavg()[0]))
        self.assertSoon(lambda: not self.servers(), 15, "a server is left")

    def hit(self, pid: int, victim: str, number: int) -> int:
        """Send a signal to a process of that kind, if there is one now; return its id, or 0."""
        try:
            if victim == "test process":
                os.kill(pid, number)
                return pid
            supervisor = next((each for each in psutil.Process(pid).children()), None)
            if victim == "supervisor" or supervisor is None:
                targets = [supervisor] if supervisor is not None else []
            elif victim == "postmaster":
                targets = supervisor.children()
            else:
                targets = [each for child in supervisor.children() for each in child.children()]
            target = random.choice(targets).pid if targets else 0
            if target:
                os.kill(target, number)
        except (psutil.Error, ProcessLookupError):
            return 0  # it has just ended
        return target


class ManyTests(unittest.TestCase):
    def test_classes_and_copies_leave_the_process_as_it_was(self):
        from dbtestcase.servers import EMPTY, ThrowawayPostgres, discard_standby, expect, running_instance, standby

        options = ThrowawayPostgres()
        self.addCleanup(discard_standby)
        me = psutil.Process()
        states = []
        for number in range(KILLS * 3):
            with running_instance(options) as instance:
                expect(options, EMPTY)
                ready = instance.take_ready_connection()
                if ready is not None:
                    ready.close()
                for copy in range(2):
                    instance.clone_database("test", f"copy{copy}")
                    instance.drop_database(f"copy{copy}")
            # How many descriptors and threads a standby has while it is made depends on how far it has come.
            self.assertTrue(happens(lambda: standby._standbys[0][1].seconds > 0, 60))
            if number >= 4:
                states.append((me.num_fds(), me.num_threads(), me.memory_info().rss))

        first, last = states[: len(states) // 3], states[-(len(states) // 3) :]
        # The thread of the standby may have yet to end; one that was left behind by each class would be more.
        for name, index, spare in (("descriptors", 0, 2), ("threads", 1, 2), ("memory", 2, 8 * 1024**2)):
            with self.subTest(name):
                least = [min(state[index] for state in part) for part in (first, last)]
                self.assertLessEqual(least[1], least[0] + spare)
