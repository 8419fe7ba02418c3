"""The migrations: a class whose schema is made by them instead of by the models."""

from __future__ import annotations

import flask_migrate
from dbtestcase import AlembicMigrations
from sqlalchemy import inspect

from studies.database import db
from studies.models import Participant

from .support import PROJECT, AppTestCase

MIGRATIONS = PROJECT / "migrations"


class MigrationTests(AppTestCase):
    schema = AlembicMigrations(MIGRATIONS / "alembic.ini")

    def test_the_migrations_make_what_the_models_describe(self) -> None:
        self.assertSchemaMatches(db.metadata)

    def test_every_migration_can_be_taken_back(self) -> None:
        flask_migrate.downgrade(directory=str(MIGRATIONS), revision="base")

        self.assertEqual(inspect(db.engine).get_table_names(), ["alembic_version"])

        flask_migrate.upgrade(directory=str(MIGRATIONS))

        self.assertSchemaMatches(db.metadata)

    def test_taking_the_last_migration_back_and_forth_keeps_the_rows(self) -> None:
        self.session.add(Participant(name="Ada"))
        self.session.commit()

        flask_migrate.downgrade(directory=str(MIGRATIONS))
        flask_migrate.upgrade(directory=str(MIGRATIONS))

        self.assertRowExists(Participant, name="Ada")
