"""What is in the database when a class's tests begin, and the fingerprint that lets it be prepared once."""

from __future__ import annotations

from dbtestcase.schema.compare import schema_differences
from dbtestcase.schema.migrations import AlembicMigrations
from dbtestcase.schema.notes import notes_of
from dbtestcase.schema.plan import MAIN_DATABASE, SchemaLike, SchemaPlan, plan

__all__ = ["MAIN_DATABASE", "AlembicMigrations", "SchemaLike", "SchemaPlan", "notes_of", "plan", "schema_differences"]
