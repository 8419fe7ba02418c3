"""The engines that lead to one database: those of the code under test, and the class's own."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Hashable
from typing import Any

import sqlalchemy as sa

from . import registry, sessions
from .takeover import TakenEngine, is_supported, root

__all__ = ["RedirectedEngines"]


class RedirectedEngines:
    """Takes engines over for a database, and gives them back.

    Attributes:
        taken: Those that are taken over now.

    Args:
        database: The :class:`~dbtestcase.sandbox.database.SandboxedDatabase` that they are redirected to.
        kind: Equal for databases that are copies of one template; ``None`` if that is not known.
        as_role: See :class:`~dbtestcase.sandbox.setup.Setup`; for the engines of the code under test.
    """

    def __init__(self, database: Any, kind: Hashable, as_role: Callable[[sa.URL], sa.URL] | None = None) -> None:
        self._database = database
        self._as_role = as_role
        self._kind = kind
        self._taken: dict[sa.Engine, TakenEngine] = {}
        self.taken: list[TakenEngine] = []

    def redirect(self, engine: Any, *, is_shared: bool, is_own: bool) -> None:
        """Take an engine over, unless that is done.

        Args:
            is_shared: Its connections are to share the one transaction at once.
            is_own: It is the class's, and not one of the code under test, which may have a role of its own.
        """
        engine = root(engine)
        if engine in self._taken:
            return
        if is_supported(engine.dialect) and not engine.dialect.is_async and not registry.is_late(engine):
            self._adopt(f"{engine.dialect.name}+{engine.dialect.driver}")
        drivername = _async_drivername() if engine.dialect.is_async else self._database.real_url.drivername
        as_role = None if is_own else self._as_role
        self._taken[engine] = taken = TakenEngine(engine, self._database, drivername, self._kind, as_role)
        self.taken = list(self._taken.values())
        sessions.serve(engine, self._database)
        if is_shared:
            taken.use_shared()

    def restore(self, engine: Any) -> None:
        """Give an engine back exactly as it was."""
        taken = self._taken.pop(root(engine), None)
        self.taken = list(self._taken.values())
        if taken is not None:
            taken.give_back()

    def restore_all(self) -> None:
        """Give them all back."""
        for engine in list(self._taken):
            self.restore(engine)

    def _adopt(self, drivername: str) -> None:
        """Let the class's own engine use the driver of the code under test, if that is the only one there is."""
        own = getattr(self._database, "engine", None)  # there is none while it is being made
        if own is None or drivername == self._database.real_url.drivername or own not in self._taken:
            return
        others = [each for each in self._taken if each is not own and not registry.is_late(each)]
        if any(not each.dialect.is_async for each in others) or not self._database.adopt_driver(drivername):
            return
        late = [each for each in self._taken if registry.is_late(each)]
        for each in (own, *late):
            self.restore(each)
        fresh = sa.create_engine(self._database.url)
        self.restore(fresh)
        own.dialect, own.pool, own.url = fresh.dialect, fresh.pool, fresh.url
        for each in (own, *late):
            self.redirect(each, is_shared=False, is_own=each is own)


def _async_drivername() -> str:
    return "postgresql+psycopg" if importlib.util.find_spec("asyncpg") is None else "postgresql+asyncpg"
