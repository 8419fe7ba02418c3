"""Where engines were made. SQLAlchemy does not keep that, and an error about an engine is of little use without."""

from __future__ import annotations

import weakref
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Dialect

from dbtestcase.frames import UNKNOWN, Origin, user_origin

__all__ = ["made_at", "url_of", "watch_engines"]

# By dialect: it belongs to one engine, where a pool may be replaced.
_known: weakref.WeakKeyDictionary[Any, tuple[weakref.ref[sa.Engine], Origin]] = weakref.WeakKeyDictionary()
_created = Dialect.engine_created.__func__  # type: ignore[attr-defined]


def watch_engines() -> None:
    """Begin to note where engines are made; there is no event for it but this hook of their dialects."""

    def engine_created(dialect: type[Dialect], engine: sa.Engine) -> None:
        _created(dialect, engine)
        _known[engine.dialect] = weakref.ref(engine), user_origin()

    Dialect.engine_created = classmethod(engine_created)  # type: ignore[assignment,method-assign]


def made_at(dialect: Any) -> Origin:
    """Return the user's line that made the engine of a dialect, if that was noted."""
    return _known[dialect][1] if dialect in _known else UNKNOWN


def url_of(dialect: Any) -> sa.URL | None:
    """Return the URL that the engine of a dialect was made for, if the engine is known."""
    engine = _known[dialect][0]() if dialect in _known else None
    return None if engine is None else engine.url
