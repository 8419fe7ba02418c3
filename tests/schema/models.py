"""Tables for the tests of several modules, importable from another process too."""

from __future__ import annotations

from sqlalchemy import (
    DDL,
    Column,
    Computed,
    Enum,
    ForeignKey,
    Identity,
    Index,
    Integer,
    MetaData,
    Sequence,
    String,
    Table,
    event,
)
from sqlalchemy.dialects.postgresql import ARRAY, JSONB


def hard_case() -> MetaData:
    """Hard case 13: all that is said to be difficult, in one MetaData."""
    metadata = MetaData()
    shared = Sequence("ticket", metadata=metadata)
    mood = Enum("happy", "sad", name="mood")
    Table("a", metadata, Column("id", Integer, primary_key=True), Column("b_id", ForeignKey("b.id")))
    Table("b", metadata, Column("id", Integer, primary_key=True), Column("a_id", ForeignKey("a.id")))
    Table(
        "group",
        metadata,
        Column("id", Integer, shared, server_default=shared.next_value(), primary_key=True),
        Column("mood", mood),
        Column("order", String(5), comment="100 % of 'it'"),
        comment="a reserved word",
    )
    Table(
        "invoice",
        metadata,
        Column("id", Integer, shared, server_default=shared.next_value(), primary_key=True),
        Column("moods", ARRAY(mood)),
        Column("doubled", Integer, Computed("id * 2", persisted=True)),
        Column("data", JSONB),
        Index(None, "data", postgresql_using="gin"),
        schema="Back Office",
    )
    Table("counted", metadata, Column("id", Integer, Identity(start=42), primary_key=True), schema="audit")
    event.listen(
        metadata, "after_create", DDL('CREATE OR REPLACE VIEW happy AS SELECT * FROM "group" WHERE id %% 2 = 0')
    )
    return metadata
