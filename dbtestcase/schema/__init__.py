"""What is in the database when a class's tests begin, and the fingerprint that lets it be prepared once."""

from __future__ import annotations

from dbtestcase.schema import effects
from dbtestcase.schema.compare import schema_differences
from dbtestcase.schema.migrations import AlembicMigrations
from dbtestcase.schema.plan import MAIN_DATABASE, SchemaLike, SchemaPlan, plan

__all__ = ["MAIN_DATABASE", "AlembicMigrations", "SchemaLike", "SchemaPlan", "effects", "plan", "schema_differences"]
