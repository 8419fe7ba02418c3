"""Which PostgreSQL a class gets: its own choice, or else that of ``DBTESTCASE_SERVER``."""

from __future__ import annotations

import os
from functools import lru_cache
from typing import TypeAlias

from dbtestcase.servers.existing.options import VARIABLE, ExistingPostgres
from dbtestcase.servers.options import ThrowawayPostgres

__all__ = ["DEFAULT", "PostgresOptions", "chosen"]

PostgresOptions: TypeAlias = ThrowawayPostgres | ExistingPostgres

# The value of ``postgres`` for classes that do not set it. A class that says ThrowawayPostgres() itself means it.
DEFAULT = ThrowawayPostgres()


def chosen(options: PostgresOptions) -> PostgresOptions:
    """Return the options that are meant by the ``postgres`` of a class.

    Raises:
        DBTestCaseError: ``DBTESTCASE_SERVER`` is not the URL of a PostgreSQL server.
    """
    url = os.environ.get(VARIABLE, "").strip()
    return _existing(url) if url and options is DEFAULT else options


@lru_cache(maxsize=1)
def _existing(url: str) -> ExistingPostgres:
    return ExistingPostgres.from_environment(url)
