"""Names of databases that this library makes."""

from __future__ import annotations

__all__ = ["PREFIX", "shortened"]

# What every database that we make is called, but for those that a class names.
PREFIX = "dbtestcase_"
_LONGEST_NAME = 63  # bytes; PostgreSQL cuts off what is longer


def shortened(name: str) -> str:
    """Return as much of a name as PostgreSQL keeps."""
    return name.encode()[:_LONGEST_NAME].decode(errors="ignore")
