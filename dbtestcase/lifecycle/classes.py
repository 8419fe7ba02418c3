"""Which classes are set up at present: one at a time, and each ends before the next begins.

``Base.setUpClass()``, called by name, would set up the base class, whose cleanups nobody runs.
"""

from __future__ import annotations

import sys
import threading
import warnings
from types import FrameType
from typing import Any

from dbtestcase.errors import DBTestCaseError
from dbtestcase.frames import Origin, user_origin

__all__ = ["begin", "end"]

_FRAMES = 20

_set_up: dict[Any, tuple[int, Origin]] = {}


def begin(test_class: Any) -> None:
    """Note that a class is being set up; end those of the same thread that were left behind."""
    _refuse_call_by_name(test_class)
    here = threading.get_ident()
    for stale, (thread, origin) in list(_set_up.items()):
        running = stale.__dict__.get("_dbtestcase")
        runs = getattr(running, "runs", None)
        if thread == here and (runs is None or runs.test is None):
            stale.doClassCleanups()
            _set_up.pop(stale, None)
            warnings.warn(
                f"{stale.__qualname__} was set up at {origin}, and its class cleanups were never run. It has been "
                f"ended now that {test_class.__qualname__} begins.\nWhoever calls setUpClass() without a runner also "
                "has to call tearDownClass() and doClassCleanups().",
                ResourceWarning,
                stacklevel=2,
            )
    _set_up[test_class] = here, user_origin()


def end(test_class: Any) -> None:
    """Note that a class has ended."""
    _set_up.pop(test_class, None)


def _refuse_call_by_name(test_class: type) -> None:
    frame: FrameType | None = sys._getframe(2)
    for _ in range(_FRAMES):
        if frame is None:
            return
        code = frame.f_code
        if code.co_name == "setUpClass" and code.co_argcount:
            caller = frame.f_locals.get(code.co_varnames[0])
            if isinstance(caller, type) and caller is not test_class and issubclass(caller, test_class):
                name = test_class.__qualname__
                raise DBTestCaseError(
                    f"{caller.__qualname__}.setUpClass calls {name}.setUpClass() by name at "
                    f"{user_origin(frame)}: that sets up {name} and not {caller.__qualname__}.\n"
                    "Write super().setUpClass() there."
                )
        frame = frame.f_back
