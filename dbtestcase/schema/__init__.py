"""What is in the database when a class's tests begin, and the fingerprint that lets it be prepared once."""

from __future__ import annotations

from dbtestcase.schema._migrations import AlembicMigrations
from dbtestcase.schema._plan import SchemaLike, SchemaPlan, plan
from dbtestcase.schema.compare import schema_differences

__all__ = ["AlembicMigrations", "SchemaLike", "SchemaPlan", "plan", "schema_differences"]
