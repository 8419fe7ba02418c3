"""What decides which template a server comes from: programs, options and contents, and the keys made of them."""

from __future__ import annotations

import copy
import hashlib
import os
from collections.abc import Hashable

from dbtestcase.servers.contents import EMPTY, Contents
from dbtestcase.servers.directory import Launch
from dbtestcase.servers.options import ThrowawayPostgres
from dbtestcase.servers.programs import Programs, find_programs
from dbtestcase.servers.user import launch_for

__all__ = ["Recipe"]

# Part of every key: raise it when what a template holds, or how it is made, changes.
LAYOUT = 9


class Recipe:
    """The programs, the user and the keys of the templates for a server with these options and contents."""

    def __init__(self, options: ThrowawayPostgres, contents: Contents, owner: str = "") -> None:
        self.options = options
        self.contents = contents
        self.owner = owner
        self.launch: Launch = launch_for(_programs_for(options))
        self.base_key = self._named("base", options.base_content())
        self.key = self._key()

    def _key(self) -> Hashable:
        """Return the name of the template; what is no text identifies it within this process only."""
        if self.contents.prepare is None and not self.options.extensions:
            return self.base_key
        if self.contents.prepare is not None and self.contents.fingerprint is None:
            return (self.base_key, self.options, self.contents.key)
        wanted = self.contents.fingerprint if self.contents.prepare is not None else "empty"
        return self._named("prepared", self.options.content(), wanted)

    def _named(self, kind: str, *parts: object) -> str:
        text = "\0".join(map(str, (LAYOUT, self.launch.found.fingerprint, *parts)))
        return f"{kind}-{hashlib.blake2b(text.encode(), digest_size=12).hexdigest()}"

    def base(self) -> Recipe:
        """Return the recipe for an empty database with the same options, without their extensions."""
        base = copy.copy(self)
        base.contents, base.key = EMPTY, self.base_key
        return base

    @property
    def is_shared(self) -> bool:
        """Whether anybody else could use the template."""
        return isinstance(self.key, str) or self.contents.token is not None


_found: dict[tuple[object, ...], Programs] = {}


def _programs_for(options: ThrowawayPostgres) -> Programs:
    # Every class asks, and a search looks at a hundred files.
    asked = (options.bin_dir, os.environ.get("DBTESTCASE_BIN_DIR"), os.environ.get("PATH"))
    known = _found.get(asked)
    if known is None or not os.path.exists(known.postgres):
        known = _found[asked] = find_programs(options.bin_dir)
    return known
