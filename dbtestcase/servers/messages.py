"""Lines for the person at the terminal, on standard error."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

from dbtestcase.native import Gate, start_thread

__all__ = ["print_if_slow", "print_once"]

_printed: set[str] = set()


def print_once(message: str) -> None:
    """Print one line, unless it was printed before in this process."""
    if message not in _printed:
        _printed.add(message)
        _print(message)


@contextmanager
def print_if_slow(message: str) -> Iterator[None]:
    """Print one line if the block takes longer than a second and somebody watches; nothing into a pipe."""
    if sys.stderr is None or not sys.stderr.isatty():
        yield
        return
    over = Gate()
    start_thread(_print_unless_over, over, message)
    try:
        yield
    finally:
        over.open()


def _print_unless_over(over: Gate, message: str) -> None:
    if not over.wait(1.0):
        _print(message)


def _print(message: str) -> None:
    try:
        print(f"dbtestcase: {message}", file=sys.stderr, flush=True)
    except (OSError, ValueError, AttributeError):
        return  # nobody listens
