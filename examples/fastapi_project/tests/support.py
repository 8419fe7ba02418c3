"""What the test modules share."""

from __future__ import annotations

from pathlib import Path

import httpx
from dbtestcase.aio import AsyncDatabaseTestCase

from lending import create_app
from lending.database import engine
from lending.models import Base

PROJECT = Path(__file__).parent.parent


class AppTestCase(AsyncDatabaseTestCase):
    """The application on a throwaway PostgreSQL that holds its tables; each test's changes are undone.

    Every test has ``self.client``, which calls the application without a server, and ``self.session``.
    """

    schema = Base
    app_engines = [engine]

    async def asyncSetUp(self) -> None:
        transport = httpx.ASGITransport(app=create_app())
        self.client = await self.enterAsyncContext(httpx.AsyncClient(transport=transport, base_url="http://test"))
