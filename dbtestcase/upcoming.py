"""Which test classes and tests are still to come, so that what they need can be prepared while others run.

unittest builds every test object before the first one runs, in the order in which it will run them; counting the
objects is therefore knowing the plan. Runners that build each test just before running it (pytest) leave the plan
empty: then no instance is prepared ahead, and a private copy always is.
"""

from __future__ import annotations

import threading

_lock = threading.Lock()
_tests_to_run: dict[type, int] = {}
_begun: set[type] = set()
_built_late: set[type] = set()


def announce(test_class: type) -> None:
    """Note that a test of this class was built and will probably run."""
    with _lock:
        _tests_to_run[test_class] = _tests_to_run.get(test_class, 0) + 1
        if test_class in _begun:
            _built_late.add(test_class)


def begin_test(test_class: type) -> bool:
    """Note that a test of this class begins, and return whether another one of it may follow."""
    with _lock:
        _begun.add(test_class)
        _tests_to_run[test_class] = waiting = max(_tests_to_run.get(test_class, 0) - 1, 0)
        return waiting > 0 or test_class in _built_late


def finish(test_class: type) -> None:
    """Forget a class whose tests have run."""
    with _lock:
        _tests_to_run.pop(test_class, None)
        _begun.discard(test_class)
        _built_late.discard(test_class)


def after(test_class: type) -> type | None:
    """Return the class that will be set up next once ``test_class`` is done, or ``None`` if none is known."""
    with _lock:
        waiting = list(_tests_to_run)
    if test_class not in waiting:
        return None
    for candidate in waiting[waiting.index(test_class) + 1 :]:
        if not getattr(candidate, "__unittest_skip__", False):
            return candidate
    return None
