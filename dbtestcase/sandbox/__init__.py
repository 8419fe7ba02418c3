"""One transaction for all connections of a test, undone afterwards; what it cannot carry makes the test run again.

Knows SQLAlchemy's engines and pools, and of drivers only how to send a text of ours. Knows nothing of servers, of test
classes or of how things are explained: whoever wants to know what is sent is an observer.
"""

from . import plugin as _plugin  # registers itself with SQLAlchemy, for use without installation
from .ahead import MOST, ConnectionsAhead
from .attempt import Attempt, Reason, RunAgain, TasksOfTest, accept_interruptions
from .context import ClassContext
from .database import SandboxedDatabase
from .engine_origins import watch_engines as _watch_engines
from .real import LeftOpen, RealConnection
from .registry import URL, activate, deactivate
from .rules import Rules

__all__ = [
    "MOST",
    "URL",
    "Attempt",
    "ClassContext",
    "ConnectionsAhead",
    "LeftOpen",
    "RealConnection",
    "Reason",
    "Rules",
    "RunAgain",
    "SandboxedDatabase",
    "TasksOfTest",
    "accept_interruptions",
    "activate",
    "deactivate",
]

_watch_engines()

del _plugin, _watch_engines
