"""The class that :class:`~dbtestcase.servers.Instance` continues, imported without its driver.

testing.postgresql connects with pg8000, whose import takes longer than that of all else here together. We connect with
psycopg2; so there pg8000 is a name that imports the module when somebody uses it.
"""

from __future__ import annotations

import sys
from importlib import import_module
from types import ModuleType
from typing import Any

__all__ = ["Postgresql"]

_NAME = "pg8000"


class _OnDemand(ModuleType):
    def __getattr__(self, attribute: str) -> Any:
        return getattr(import_module(_NAME), attribute)


def _import_base() -> Any:
    if "testing.postgresql" in sys.modules or _NAME in sys.modules:
        return import_module("testing.postgresql").Postgresql
    sys.modules[_NAME] = _OnDemand(_NAME)
    try:
        return import_module("testing.postgresql").Postgresql
    finally:
        del sys.modules[_NAME]


Postgresql = _import_base()
