"""Names and strings as SQL writes them."""

from __future__ import annotations


def quoted(name: str) -> str:
    """Return a name in double quotes."""
    return '"' + name.replace('"', '""') + '"'


def string(text: str) -> str:
    """Return a string as a literal."""
    return "'" + text.replace("'", "''") + "'"
