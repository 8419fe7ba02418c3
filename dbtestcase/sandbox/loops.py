"""Event loops: to wait from wherever one is called, and to close what belongs to a loop that may be gone."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from contextlib import suppress
from typing import Any

from sqlalchemy.util import await_only
from sqlalchemy.util.concurrency import in_greenlet

__all__ = ["can_wait", "hang_up", "in_greenlet", "running", "wait_for"]


def running() -> asyncio.AbstractEventLoop | None:
    """Return the event loop that runs in this thread, if one does."""
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None


def can_wait() -> bool:
    """Whether the caller can wait here: it is in a greenlet of SQLAlchemy's, or no loop runs in its thread."""
    return running() is None or in_greenlet()


def wait_for(loop: asyncio.AbstractEventLoop, awaitable: Awaitable[Any]) -> Any:
    """Wait for something of a loop's: in its greenlet, or by running the loop, which stands still then."""
    if running() is None:
        return loop.run_until_complete(awaitable)
    return await_only(awaitable)


def hang_up(connection: Any, loop: asyncio.AbstractEventLoop) -> None:
    """Close a connection of asyncpg's at once, whatever has become of its loop."""
    if loop.is_closed():
        transport = connection._transport
        with suppress(RuntimeError):  # asyncpg takes it for closed, but the loop to close the socket is gone
            connection.terminate()
        with suppress(Exception):
            transport._call_connection_lost(None)  # what the loop would do next; other loops close their sockets
    elif loop is running():
        connection.terminate()
    elif loop.is_running():
        loop.call_soon_threadsafe(connection.terminate)
    else:
        connection.terminate()
        if running() is None:
            loop.run_until_complete(asyncio.sleep(0))
