"""Names of databases that this library makes, and how names and texts are written in SQL."""

from __future__ import annotations

__all__ = ["PREFIX", "identifier", "literal", "shortened"]

# What every database that we make is called, but for those that a class names.
PREFIX = "dbtestcase_"
_LONGEST_NAME = 63  # bytes; PostgreSQL cuts off what is longer


def identifier(name: str) -> str:
    """Return a name as SQL writes it, whatever characters it has."""
    return '"' + name.replace('"', '""') + '"'


def literal(text: str) -> str:
    """Return a text as SQL writes it."""
    escape = " E" if "\\" in text else ""
    return f"{escape}'" + text.replace("'", "''").replace("\\", "\\\\") + "'"


def shortened(name: str) -> str:
    """Return as much of a name as PostgreSQL keeps."""
    return name.encode()[:_LONGEST_NAME].decode(errors="ignore")
