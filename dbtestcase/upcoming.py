"""Which test classes are still to come, so that the next one's instance can boot while the present one runs.

unittest builds every test object before the first one runs, in the order in which it will run them; counting the
objects is therefore knowing the plan. Runners that build each test just before running it (pytest) leave the plan
empty, and then nothing is prepared ahead.
"""

from __future__ import annotations

import threading

_lock = threading.Lock()
_tests_to_run: dict[type, int] = {}


def announce(test_class: type) -> None:
    """Note that a test of this class was built and will probably run."""
    with _lock:
        _tests_to_run[test_class] = _tests_to_run.get(test_class, 0) + 1


def finish(test_class: type) -> None:
    """Forget a class whose tests have run."""
    with _lock:
        _tests_to_run.pop(test_class, None)


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
