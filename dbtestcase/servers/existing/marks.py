"""How databases of ours are told from those of others on a server that others use too.

A database is ours if its name has our form, with a checksum in it, and its connection limit is a number that nobody
would choose. PostgreSQL sets both in the statement that creates the database, so there is no moment at which one of
ours is not marked. The name also says whose it is: the number of the lock that its owner holds while it lives.
"""

from __future__ import annotations

import hashlib
import re
from typing import NamedTuple

from dbtestcase.servers.naming import PREFIX, shortened

__all__ = ["DROPPED_HALFWAY", "KEPT", "MARK", "Name", "database_name", "digest", "template_name", "understood"]

# Connection limits, beyond what any server can have (262,143).
MARK = 1_946_720_517
KEPT = MARK + 1
DROPPED_HALFWAY = -2  # PostgreSQL's own mark for a database whose DROP was interrupted

_FORM = re.compile(rf"{PREFIX}(?P<kind>[ct])_(?P<id>[0-9a-f]{{16}})(?P<check>[0-9a-f]{{6}})_(?P<number>\d+)(?:_.*)?")


class Name(NamedTuple):
    """What the name of a database of ours says.

    Attributes:
        is_template: It is shared by many; else it belongs to one owner.
        id: Of the owner, or of the template's content.
    """

    is_template: bool
    id: int


def digest(*parts: object) -> int:
    """Return a number of 64 bits that stands for these parts."""
    found = hashlib.blake2b("\0".join(map(str, parts)).encode(), digest_size=8).digest()
    return int.from_bytes(found, "big", signed=True)


def database_name(owner: int, number: int, label: str) -> str:
    """Return a name for a database that belongs to one owner.

    Args:
        number: Which of the owner's databases.
        label: For people who look at the server.
    """
    return shortened(f"{PREFIX}c_{_checked(owner)}_{number}_{label}")


def template_name(content: int, number: int) -> str:
    """Return the name of the template of this content, for the database of this number."""
    return f"{PREFIX}t_{_checked(content)}_{number}"


def understood(name: str) -> Name | None:
    """Return what a name says, ``None`` if it is not of our form."""
    found = _FORM.fullmatch(name)
    if found is None or found["check"] != _checksum(found["id"]):
        return None
    number = int(found["id"], 16)
    return Name(found["kind"] == "t", number - (1 << 64) if number >= 1 << 63 else number)


def _checked(number: int) -> str:
    text = f"{number & ((1 << 64) - 1):016x}"
    return text + _checksum(text)


def _checksum(text: str) -> str:
    return hashlib.blake2b(f"dbtestcase {text}".encode(), digest_size=3).hexdigest()
