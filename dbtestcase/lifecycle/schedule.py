"""Which test classes and tests are still to come, so that what they need can be prepared while others run.

unittest builds every test object before the first one runs, in the order in which it will run them; counting the
objects is therefore knowing the plan. pytest builds them otherwise, and our plugin for it hands over the whole plan.
Where a runner tells nothing the plan stays empty: then no instance is prepared ahead, and a private copy always is.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable

_lock = threading.Lock()
_tests_to_run: dict[type, int] = {}
_begun: set[type] = set()
_built_late: set[type] = set()
_is_planned = False
_is_debugging = False


def debug() -> None:
    """Note that the runner stops in a debugger where a test fails: tests are to run once."""
    global _is_debugging
    _is_debugging = True


def is_debugging() -> bool:
    """Whether tests are to run once, because somebody looks at them in a debugger."""
    return _is_debugging


def plan(test_classes: Iterable[type]) -> None:
    """Take over the plan of a runner that knows it; the objects that it builds are not counted any more.

    Args:
        test_classes: The class of each test that will run, in order.
    """
    global _is_planned
    with _lock:
        _is_planned = True
        _tests_to_run.clear()
        for test_class in test_classes:
            _tests_to_run[test_class] = _tests_to_run.get(test_class, 0) + 1


def announce(test_class: type) -> None:
    """Note that a test of this class was built and will probably run."""
    with _lock:
        if _is_planned:
            return
        _tests_to_run[test_class] = _tests_to_run.get(test_class, 0) + 1
        if test_class in _begun:
            _built_late.add(test_class)


def begin_test(test_class: type) -> int:
    """Note that a test of this class begins, and return how many of it will follow; one if that cannot be known."""
    with _lock:
        _begun.add(test_class)
        if test_class not in _tests_to_run:
            return 1  # nobody has told
        _tests_to_run[test_class] = waiting = max(_tests_to_run[test_class] - 1, 0)
        return max(waiting, int(test_class in _built_late))


def finish(test_class: type) -> None:
    """Forget a class whose tests have run."""
    with _lock:
        _tests_to_run.pop(test_class, None)
        _begun.discard(test_class)
        _built_late.discard(test_class)


def after(test_class: type, number: int) -> list[type]:
    """Return the classes that will be set up next once ``test_class`` is done, as far as they are known.

    Args:
        number: How many at most.
    """
    with _lock:
        waiting = list(_tests_to_run)
    if test_class not in waiting:
        return []
    coming = waiting[waiting.index(test_class) + 1 :]
    return [each for each in coming if not getattr(each, "__unittest_skip__", False)][:number]
