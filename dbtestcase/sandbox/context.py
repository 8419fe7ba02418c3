"""What the sandbox is told of the class whose databases it isolates."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import sqlalchemy as sa

from .attempt import Attempt
from .foreign_commits import ServerLog
from .observer import Observer
from .real import Locks

__all__ = ["ClassContext"]


@dataclass(frozen=True)
class ClassContext:
    """What is the same for all databases of a class.

    Args:
        owner: The name of the test class, for messages.
        before_use: Called when a connection is used outside an attempt: whoever runs the tests may begin one only now.
            Returns the attempt to take part in, ``None`` where connections are real.
        observer: Is told of each statement of the code under test.
        locks: Ends statements that wait too long for a lock.
        own_commits: Find out at the end of an attempt whether anybody has committed for real; the server must have
            ``track_commit_timestamp`` on. Returns how many statements this library has begun to send there itself,
            and how many of these have ended.
        server_log: Returns the server's log; ``None`` unless that notes each connection, or if another process may wait
            for what a test has locked.
        as_role: Returns the URL that logs in as the application's role to the database of a URL; ``None`` if it has
            none.
    """

    owner: str
    before_use: Callable[[], Attempt | None]
    observer: Observer | None = None
    locks: Locks | None = None
    own_commits: Callable[[], tuple[int, int]] | None = None
    server_log: Callable[[], ServerLog | None] = lambda: None
    as_role: Callable[[sa.URL], sa.URL] | None = None
