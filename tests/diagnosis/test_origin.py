"""The user's line is found by a jump where it was before, and is the right one wherever it is now."""

from __future__ import annotations

import unittest
from concurrent.futures import ThreadPoolExecutor
from functools import singledispatch

from dbtestcase.frames import UNKNOWN, user_origin, usual_call, usual_origin

# Each puts one more frame of the standard library between the user's line and the question.
_once = singledispatch(usual_origin)
_twice = singledispatch(_once)


class UsualOriginTests(unittest.TestCase):
    def test_each_line_is_named_that_asks_from_the_same_distance(self):
        self.assertEqual(_once("a way"), user_origin())
        self.assertEqual(_once("a way"), user_origin())

    def test_line_is_named_that_is_nearer_or_further_than_the_last_time(self):
        for ask in (_once, _twice, usual_origin, _twice, _once):
            self.assertEqual(ask("another way"), user_origin())

    def test_nearest_line_is_named_when_there_are_several(self):
        def helper():
            return _once("a third way"), user_origin()

        self.assertEqual(_twice("a third way"), user_origin())
        self.assertEqual(*helper())
        self.assertEqual(_twice("a third way"), user_origin())

    def test_a_stack_that_is_lower_than_the_last_time_is_no_error(self):
        far = usual_origin
        for _ in range(20):
            far = singledispatch(far)
        self.assertEqual(far("a fourth way"), user_origin())
        with ThreadPoolExecutor(1) as threads:
            self.assertIs(threads.submit(usual_origin, "a fourth way").result(), UNKNOWN)

    def test_call_is_the_one_that_the_line_made(self):
        outermost = singledispatch(usual_call)

        for _ in range(2):
            called, origin = outermost("a fifth way")
            self.assertEqual((called.f_code.co_name, origin.function), ("wrapper", self._testMethodName))


if __name__ == "__main__":
    unittest.main()
