"""A database in which a schema is being created."""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import URL


@dataclass(frozen=True)
class Target:
    """One database that is being filled.

    Attributes:
        owner: Whose schema it is, for messages: "ShopTests.schema".
        url: Leads to the database.
        extensions: The extensions that it was made with.
        hidden: Names of columns and settings whose values no message may show, beside those that are always hidden.
    """

    owner: str
    url: URL
    extensions: tuple[str, ...]
    hidden: tuple[str, ...] = ()
