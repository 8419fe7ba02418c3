"""Event loops: to wait from wherever one is called, and to close what belongs to a loop that may be gone."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from contextlib import suppress
from typing import Any

from sqlalchemy.util import await_only, greenlet_spawn
from sqlalchemy.util.concurrency import in_greenlet

__all__ = ["can_wait", "hang_up", "in_greenlet", "run", "running", "wait_for"]


def running() -> asyncio.AbstractEventLoop | None:
    """Return the event loop that runs in this thread, if one does."""
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None


def can_wait() -> bool:
    """Whether the caller can wait here: it is in a greenlet of SQLAlchemy's, or no loop runs in its thread."""
    return running() is None or in_greenlet()


def run(function: Callable[..., Any], *args: Any) -> Any:
    """Call a function that may wait in a greenlet, in an event loop of its own."""
    return asyncio.run(greenlet_spawn(function, *args))


def wait_for(loop: asyncio.AbstractEventLoop, function: Callable[..., Coroutine[Any, Any, Any]], *args: Any) -> Any:
    """Call a coroutine function and wait for it: in a greenlet of its loop's, or by running the loop.

    Raises:
        RuntimeError: The loop is closed.
    """
    if running() is not None:
        return await_only(function(*args))
    if loop.is_closed():
        raise RuntimeError("the event loop is closed")
    return loop.run_until_complete(function(*args))


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
        if in_greenlet():
            await_only(asyncio.sleep(0))  # the loop closes the socket in its next round
    elif loop.is_running():
        loop.call_soon_threadsafe(connection.terminate)
    else:
        connection.terminate()
        if running() is None:
            loop.run_until_complete(asyncio.sleep(0))
