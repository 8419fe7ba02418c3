"""What outlives a test is named with the line that made it; threads are judged when they use the database."""

from __future__ import annotations

import queue
import threading
import unittest
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from unittest import mock

import psycopg2

from dbtestcase.diagnosis import leftovers
from dbtestcase.diagnosis.leftovers import (
    ThreadWatch,
    forget_warnings,
    warn_left_open,
    warnings_for,
)
from dbtestcase.frames import user_origin
from tests.support import recorded_warnings


class Worker(threading.Thread):
    """A thread that does what it is given, one job after the other, and waits for them on a queue."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.jobs: queue.Queue[Callable[[], object] | None] = queue.Queue()
        self.start()

    def run(self) -> None:
        while (job := self.jobs.get()) is not None:
            job()
            self.jobs.task_done()


class ThreadWatchTests(unittest.TestCase):
    def setUp(self):
        self.watch = ThreadWatch()
        self.late: list[bool] = []
        self.go = threading.Event()
        self.addCleanup(self.go.set)
        self.watch.begin()

    def use(self) -> None:
        """Use the database, as a thread of the code under test."""
        self.late.append(self.watch.is_late())

    def next_test(self) -> None:
        self.watch.end()
        self.watch.begin()

    def started(self, work: Callable[[], object]) -> threading.Thread:
        """Return a thread that has begun this piece of work."""
        begun = threading.Event()
        thread = threading.Thread(target=lambda: (begun.set(), work()), daemon=True)
        thread.start()
        begun.wait()
        return thread

    def worker(self) -> Worker:
        worker = Worker()
        self.addCleanup(worker.jobs.put, None)
        return worker

    def let_go_on(self, thread: threading.Thread) -> None:
        """Let a thread go on without waiting for it as a test does that knows of it."""
        before = len(self.late)
        self.go.set()
        while len(self.late) == before:  # not is_alive(): a busy machine may find us in threading's code each time
            pass
        thread.join()

    def test_the_test_itself_and_threads_that_it_started_are_not_late(self):
        self.use()
        self.started(self.use).join()

        self.assertEqual(self.late, [False, False])

    def test_a_thread_that_goes_on_into_the_next_test_is_late_once_it_uses_the_database(self):
        thread = self.started(lambda: (self.use(), self.go.wait(), self.use()))
        self.next_test()

        self.let_go_on(thread)

        self.assertEqual(self.late, [False, True])

    def test_a_timer_of_an_earlier_test_is_late(self):
        # It may go off before the next test has begun, and has nothing to do with the database until then.
        timer = threading.Timer(0.05, lambda: (self.go.wait(), self.use()))
        timer.start()
        self.next_test()

        self.let_go_on(timer)

        self.assertEqual(self.late, [True])

    def test_a_thread_from_before_the_first_test_is_not_late(self):
        self.watch = ThreadWatch()
        thread = self.started(lambda: (self.go.wait(), self.use()))
        self.watch.begin()
        self.next_test()

        self.let_go_on(thread)

        self.assertEqual(self.late, [False])

    def test_a_worker_whose_jobs_are_awaited_works_in_every_test(self):
        worker = self.worker()
        for _ in range(3):
            worker.jobs.put(self.use)
            worker.jobs.join()
            self.next_test()

        self.assertEqual(self.late, [False] * 3)

    def test_a_worker_is_late_with_a_job_of_an_earlier_test(self):
        worker = self.worker()
        begun = threading.Event()
        worker.jobs.put(lambda: (begun.set(), self.go.wait(), self.use()))
        begun.wait()  # that the queue is empty would not say that the worker has left it
        self.next_test()

        self.go.set()
        while worker.jobs.unfinished_tasks:
            pass

        self.assertEqual(self.late, [True])

    def test_a_busy_thread_works_for_a_test_that_waits_for_it(self):
        self.enterContext(mock.patch.object(leftovers, "_PATIENCE", 30))  # we may be held up before we wait
        thread = self.started(lambda: (self.go.wait(), self.use()))
        self.next_test()

        self.go.set()
        thread.join()

        self.assertEqual(self.late, [False])

    def test_a_pool_is_fine_whether_or_not_its_result_is_awaited_at_once(self):
        with ThreadPoolExecutor(1) as pool:
            pool.submit(self.use).result()
            self.next_test()
            job = pool.submit(self.use)
            while not job.done():
                pass

        self.assertEqual(self.late, [False, False])

    def test_the_end_of_a_test_waits_briefly_for_a_thread_that_used_the_database(self):
        def answer() -> None:
            self.use()
            self.go.wait(0.05)
            finished.append(True)

        finished: list[bool] = []
        self.started(answer)
        while not self.late:
            pass

        self.watch.end(bound=5)

        self.assertEqual(finished, [True])

    def test_a_thread_that_goes_on_for_long_is_waited_for_once(self):
        thread = self.started(lambda: (self.use(), self.go.wait()))
        while not self.late:
            pass

        self.watch.end(bound=0.05)

        self.assertTrue(thread.is_alive())
        self.assertEqual(list(self.watch._waited_for), [thread])


class WarningTests(unittest.TestCase):
    def setUp(self):
        self.addCleanup(forget_warnings)

    def test_warning_is_shown_at_the_line_that_opened_the_thing(self):
        opened = user_origin()

        with recorded_warnings() as caught:
            warn_left_open(f"ShopTests: connection 2, opened at {opened}, was left open", opened)

        [warning] = caught
        self.assertIs(warning.category, ResourceWarning)
        self.assertEqual((warning.filename, warning.lineno), (__file__, opened.line))
        self.assertIn("connection 2, opened at tests/diagnosis/test_leftovers.py", str(warning.message))

    def test_an_error_because_of_a_closed_connection_gets_the_warnings_of_its_class(self):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            warn_left_open("ShopTests: connection 2 was left open")
        closed = psycopg2.InterfaceError("connection already closed")

        self.assertEqual(warnings_for(closed), ["ShopTests: connection 2 was left open"])
        self.assertEqual(warnings_for(psycopg2.InterfaceError("another")), [])
        forget_warnings()
        self.assertEqual(warnings_for(closed), [])


if __name__ == "__main__":
    unittest.main()
