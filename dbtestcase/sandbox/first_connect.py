"""What SQLAlchemy asks a server that it is asked at the first connection to a server, asked once for equal databases.

Each engine does so at its first connection (version, default schema, isolation level, type hstore: five round trips).
The instances of one run are copies of a few templates, so the answers are the same. Only psycopg2's dialect is served:
psycopg's keeps some of the answers in objects of the engine's own.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Any

import sqlalchemy as sa

__all__ = ["answered_once"]

# Answers are plain values; what else a dialect gains is its own.
_PLAIN = (str, int, bool, tuple, type(None))
_MEMOIZED = "_hstore_oids"

_known: dict[Hashable, dict[str, Any]] = {}


def answered_once(dialect: sa.Dialect, kind: Hashable, ask: Callable[[Any, Any], None]) -> Callable[[Any, Any], None]:
    """Return a replacement for the listener that introduces a dialect to its first connection.

    Args:
        kind: Equal for databases that would give equal answers; ``None`` if that is not known.
        ask: The listener, which asks the server.
    """
    if kind is None or dialect.driver != "psycopg2":
        return ask
    # The level that create_engine() was given is the one that the server tells as its default.
    asked_as = [getattr(dialect, name, None) for name in ("use_native_hstore", "_on_connect_isolation_level")]
    key: Hashable = (kind, type(dialect), *asked_as, dialect.label_length)
    state = vars(dialect)
    known = _known.get(key)
    if known is not None:
        state.update(known)
        return _nothing
    before = dict(state)

    def ask_and_remember(connection: Any, record: Any) -> None:
        ask(connection, record)
        _known[key] = {
            name: value
            for name, value in state.items()
            if (name not in before or before[name] is not value) and (isinstance(value, _PLAIN) or name == _MEMOIZED)
        }

    return ask_and_remember


def _nothing(connection: Any, record: Any) -> None:
    """Nothing has to be asked."""
