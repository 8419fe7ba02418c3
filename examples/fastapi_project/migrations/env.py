"""How Alembic reaches the database: on a connection it is handed (the tests), else on the application's engine."""

from __future__ import annotations

import asyncio

from alembic import context
from sqlalchemy import Connection

from lending.database import engine
from lending.models import Base


def run_migrations(connection: Connection) -> None:
    context.configure(connection=connection, target_metadata=Base.metadata)
    with context.begin_transaction():
        context.run_migrations()


async def run_on_engine() -> None:
    async with engine.connect() as connection:
        await connection.run_sync(run_migrations)
    await engine.dispose()


given = context.config.attributes.get("connection")
if context.is_offline_mode():
    context.configure(url=engine.url, target_metadata=Base.metadata, literal_binds=True)
    with context.begin_transaction():
        context.run_migrations()
elif given is not None:
    run_migrations(given)
else:
    asyncio.run(run_on_engine())
