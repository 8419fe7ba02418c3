"""``SET`` lasts as long as a connection; here many share one, so each gets its own settings back before its statement.

Nothing is sent unless somebody used SET. What is set when a connection is made, in a pool's "connect" event or by
``connect_args={"options": ...}``, holds in every test that uses the connection.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from .lexer import Statement

# SET TIME ZONE and its like, by the name that RESET knows.
_SPECIAL = {"time": "timezone", "role": "role", "names": "client_encoding"}
_NOT_A_SETTING = frozenset({"transaction", "constraints", "session_authorization"})
_OPTION = re.compile(r"(?:-c\s*|--)([\w.]+)\s*=\s*((?:\\.|[^\s\\])*)")


@dataclass(frozen=True, slots=True)
class Setting:
    """One SET or RESET. ``sql`` None: back to the default."""

    name: str
    sql: str | None
    is_local: bool = False


@dataclass(eq=False, slots=True)
class InForce:
    """What is believed to be set on the physical connection in this test."""

    known: dict[str, str] = field(default_factory=dict)
    touched: set[str] = field(default_factory=set)
    is_certain: bool = True

    def change_to(self, wanted: dict[str, str]) -> list[str]:
        """Return what makes the settings these, and believe it done."""
        self.touched |= wanted.keys()
        sql = [
            wanted.get(name, f"RESET {name}")
            for name in sorted(self.touched)
            if not self.is_certain or wanted.get(name) != self.known.get(name)
        ]
        self.known, self.is_certain = dict(wanted), True
        return sql


def setting_of(statement: Statement, sql: str) -> Setting | None:
    """Return what a SET or RESET does, None if it is about something else, such as the transaction."""
    words = list(statement.words[1:])
    if not words or statement.verb not in ("SET", "RESET"):
        return None
    scope = words.pop(0) if words[0] in ("session", "local") and len(words) > 1 else ""
    dotted = re.search(rf"{re.escape(words[0])}(?:\s*\.\s*\w+)*", sql, re.IGNORECASE)
    name = _SPECIAL.get(words[0], dotted.group().lower() if dotted is not None else words[0])
    if name in _NOT_A_SETTING or words[0] in ("characteristics", "authorization"):
        return None
    return Setting(name, sql if statement.verb == "SET" else None, is_local=scope == "local")


def options_as_settings(options: str | None) -> dict[str, str]:
    """Return libpq's ``options="-c name=value"`` as statements."""
    found = {}
    for name, value in _OPTION.findall(options or ""):
        text = re.sub(r"\\(.)", r"\1", value).replace("'", "''")
        found[name.lower()] = f"SELECT set_config('{name}', '{text}', false)"
    return found
