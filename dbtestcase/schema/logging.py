"""Keeps the user's logging as it was while somebody else's configuration runs."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def restored_logging() -> Iterator[None]:
    """Restore all loggers when the block ends; within it ``logging.config.fileConfig`` does nothing.

    What ``fileConfig`` sets up would be undone a moment later, but it also closes the handlers that exist and prints
    a line for each migration.
    """
    import logging.config  # only where somebody's migrations run; it brings a server of sockets with it

    before = {name: _state(logger) for name, logger in _loggers().items()}
    root = _state(logging.root)
    disabled = logging.root.manager.disable
    file_config = logging.config.fileConfig
    active = True

    def nothing(*args: Any, **kwargs: Any) -> None:
        # A module imported within the block keeps this function, so it must become the real one afterwards.
        if not active:
            file_config(*args, **kwargs)

    logging.config.fileConfig = nothing
    try:
        yield
    finally:
        active = False
        if logging.config.fileConfig is nothing:
            logging.config.fileConfig = file_config
        logging.root.manager.disable = disabled
        _restore(logging.root, root)
        for name, logger in _loggers().items():
            if name in before:
                _restore(logger, before[name])
            else:
                logger.disabled = False


def _loggers() -> dict[str, logging.Logger]:
    known = logging.root.manager.loggerDict
    return {name: logger for name, logger in known.items() if isinstance(logger, logging.Logger)}


def _state(logger: logging.Logger) -> tuple[int, list[logging.Handler], list[Any], bool, bool]:
    return logger.level, list(logger.handlers), list(logger.filters), logger.propagate, logger.disabled


def _restore(logger: logging.Logger, state: tuple[int, list[logging.Handler], list[Any], bool, bool]) -> None:
    level, handlers, filters, propagate, disabled = state
    if logger.level != level:
        logger.setLevel(level)  # also clears what loggers remember of their levels
    logger.handlers[:] = handlers
    logger.filters[:] = filters
    logger.propagate = propagate
    logger.disabled = disabled
