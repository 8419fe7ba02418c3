"""``?plugin=dbtestcase``: engines that the code under test makes from a class's URL are isolated as well."""

from __future__ import annotations

from functools import partial
from typing import Any

import sqlalchemy as sa
from sqlalchemy import event
from sqlalchemy.dialects import plugins
from sqlalchemy.engine import CreateEnginePlugin

from dbtestcase.errors import IsolationBroken

from . import registry


class SandboxPlugin(CreateEnginePlugin):
    """Hands each engine to its database the moment it is made."""

    def __init__(self, url: sa.URL, kwargs: dict[str, Any]) -> None:
        super().__init__(url, kwargs)
        self.url = url
        neighbour = registry.beside(url)
        self._is_beside = neighbour is not None
        if neighbour is not None:
            # Nothing is undone in a database that is none of the class's.
            neighbour.need_real("makes an engine for another database of the class's server")
            return
        # Resolved here: a URL whose class is over is an error where the engine is made.
        self._database = registry.find(url)
        # Whatever it would connect to, the class's database takes its place.
        kwargs.pop("creator", None)

    def update_url(self, url: sa.URL) -> sa.URL:
        if self._is_beside:
            return url.difference_update_query(["plugin"])
        # SQLAlchemy takes the plugin out. An engine that somebody makes from `engine.url` is to be isolated as well.
        return url.difference_update_query([registry.SUFFIX]).update_query_dict(
            {"plugin": registry.PLUGIN}, append=True
        )

    def engine_created(self, engine: sa.Engine) -> None:
        if self._is_beside:
            return
        # The engine's own pool serves while no class is running; it must not connect anywhere. Not a "creator": the
        # pool would forget its connect_args, and migrations, which run before their class, could not redirect it.
        event.listen(engine, "do_connect", partial(_refuse, self.url))
        if self._database is None:
            registry.add_late(engine)
        else:
            self._database.redirect(engine, is_own=True)


def _refuse(url: sa.URL, *_: Any) -> None:
    if registry.find(url) is None:
        registry.running(url)
    raise IsolationBroken(
        f"the engine of {url.render_as_string()!r} was used after its test class was over. Engines made from a class's "
        "'url' live as long as the class; for one that outlives it, use dbtestcase.URL."
    )


plugins.register(registry.PLUGIN, __name__, SandboxPlugin.__name__)
