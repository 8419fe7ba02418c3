"""The migrations: a class whose schema is made by them instead of by the models."""

from __future__ import annotations

from dbtestcase import AlembicMigrations

from lending.models import Base, Tool

from .support import PROJECT, AppTestCase


class MigrationTests(AppTestCase):
    schema = AlembicMigrations(PROJECT / "alembic.ini")

    async def test_the_migrations_make_what_the_models_describe(self) -> None:
        await self.assertSchemaMatches(Base.metadata)

    async def test_the_application_works_on_them(self) -> None:
        await self.client.post("/tools", json={"name": "drill"})

        await self.assertRowExists(Tool, name="drill")
