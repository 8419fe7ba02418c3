"""Names of what this library makes on a server."""

from __future__ import annotations

from dbtestcase.sql import LONGEST_NAME

__all__ = ["APPLICATION", "PREFIX", "shortened"]

# What this library's own connections are called.
APPLICATION = "dbtestcase"

# What every database that we make is called, but for those that a class names.
PREFIX = "dbtestcase_"


def shortened(name: str) -> str:
    """Return as much of a name as PostgreSQL keeps."""
    return name.encode()[:LONGEST_NAME].decode(errors="ignore")
