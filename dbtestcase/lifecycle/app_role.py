"""The role as which the engines of the code under test connect, and a warning where they need one and have none."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable
from typing import Any

from sqlalchemy import URL, make_url

from dbtestcase.frames import UNKNOWN, user_origin
from dbtestcase.servers import BaseInstance

__all__ = ["logging_in", "warn_of_superuser"]


def logging_in(instance: Callable[[], BaseInstance], role: str | None) -> Callable[[URL], URL] | None:
    """Return what makes of a URL one that logs in as the role; ``None`` without a role."""
    if role is None:
        return None

    def as_role(url: URL) -> URL:
        return make_url(instance().url(role=role)).set(drivername=url.drivername, database=url.database)

    return as_role


def warn_of_superuser(test_class: Any, instance: BaseInstance, engine: Any) -> None:
    """Warn if an engine of the code under test would get round what binds it in production."""
    if test_class.app_role is not None:
        return
    name = test_class.__qualname__
    user = getattr(engine, "url", None) and engine.url.username
    if user and user != "postgres" and user in instance.notes.get("roles", ()):
        problem = f"the schema has the role {user!r}, as which an engine of the code under test connects in production"
    elif any(facts["policies"] for facts in instance.notes.get("effects", {}).values()):
        user = user if user and user != "postgres" else "shop_app"
        problem = "the schema has row level security"
    else:
        return
    origin = user_origin()
    warnings.warn_explicit(
        f"{name}: {problem}, but here its engines connect as the owner of the database, whom neither grants nor "
        f"policies bind.\nWhat to do: set app_role = {user!r} on {name}: the role as which these engines connect.",
        UserWarning,
        # The application may have made its engine in a library's code: the class is then the place to look.
        getattr(sys.modules.get(test_class.__module__), "__file__", "") if origin is UNKNOWN else origin.filename,
        max(origin.line, 1),
    )
