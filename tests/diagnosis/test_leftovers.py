"""What outlives a test is named with the line that made it."""

from __future__ import annotations

import threading
import unittest
import warnings
from concurrent.futures import ThreadPoolExecutor

from dbtestcase.diagnosis.leftovers import ThreadWatch, connection_left, session_left, warn_left_open
from dbtestcase.frames import user_origin
from tests.diagnosis.support import Customer, LoggedTests


class ThreadWatchTests(unittest.TestCase):
    def setUp(self):
        self.release = threading.Event()
        self.addCleanup(self.release.set)
        self.watch = ThreadWatch()

    def poll(self):
        self.release.wait()

    def test_thread_that_goes_on_is_named_with_its_function_and_where_it_is(self):
        self.watch.begin()
        threading.Thread(target=self.poll, name="poller").start()

        [text] = self.watch.end(bound=0.05)

        self.assertRegex(
            text, r"thread 'poller', which runs poll\(\) \(tests/diagnosis/test_leftovers\.py:\d+ in poll\)"
        )
        self.assertRegex(text, r"now at tests/diagnosis/test_leftovers\.py:\d+ in poll")
        self.assertIn("join()", text)

    def test_thread_that_ends_within_the_bound_is_fine(self):
        self.watch.begin()
        threading.Timer(0.05, lambda: None).start()

        self.assertEqual(self.watch.end(bound=5), [])

    def test_a_daemon_thread_that_is_about_to_end_is_fine(self):
        self.watch.begin()
        timer = threading.Timer(0.02, lambda: None)
        timer.daemon = True
        timer.start()

        self.assertEqual(self.watch.end(), [])

    def test_threads_from_before_the_test_are_not_its_own(self):
        threading.Thread(target=self.poll).start()
        self.watch.begin()

        self.assertEqual(self.watch.end(bound=0), [])

    def test_idle_workers_of_a_pool_are_no_leftover(self):
        self.watch.begin()
        pool = ThreadPoolExecutor(1)
        self.addCleanup(pool.shutdown)
        pool.submit(int).result()

        self.assertEqual(self.watch.end(bound=0.2), [])


class TextTests(LoggedTests):
    def test_warning_is_shown_at_the_line_that_opened_the_thing(self):
        opened = user_origin()

        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            warn_left_open(connection_left("ShopTests", "connection 2", opened, after="setUpClass"), opened)

        [warning] = caught
        self.assertIs(warning.category, ResourceWarning)
        self.assertEqual((warning.filename, warning.lineno), (__file__, opened.line))
        self.assertIn("connection 2, opened at tests/diagnosis/test_leftovers.py", str(warning.message))
        self.assertIn("with engine.connect()", str(warning.message))

    def test_session_with_unsent_changes_is_named_with_its_objects(self):
        self.session.add(Customer(name="Ada"))

        text = session_left("ShopTests.test_x", self.session, user_origin(), after="the test")

        self.assertIn("new: Customer object", text)
        self.assertIn("Is a commit() missing?", text)

    def test_session_that_only_read_is_left_alone(self):
        self.session.get(Customer, 1)

        self.assertIsNone(session_left("ShopTests.test_x", self.session, user_origin(), after="the test"))


if __name__ == "__main__":
    unittest.main()
