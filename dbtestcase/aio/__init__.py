"""The base class for asyncio.

Knows SQLAlchemy's asyncio extension, unittest's event loop and a running test class; knows nothing of servers,
transactions or schemas.
"""

import importlib.util

if not importlib.util.find_spec("greenlet") or not any(map(importlib.util.find_spec, ("asyncpg", "psycopg"))):
    raise ModuleNotFoundError(
        "dbtestcase.aio needs an asynchronous driver for PostgreSQL, and SQLAlchemy's extra for asyncio.\n"
        "Install them with pip install 'dbtestcase[asyncio]', which brings asyncpg, or with pip install "
        "'dbtestcase[psycopg]' 'SQLAlchemy[asyncio]', or take dbtestcase.DatabaseTestCase, which needs neither.",
        name="asyncpg",
    )

from dbtestcase.aio.case import AsyncDatabaseTestCase

__all__ = ["AsyncDatabaseTestCase"]
