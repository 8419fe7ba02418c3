"""Tests on private copies: each gets copies of the class's databases for its engines."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

from sqlalchemy import URL

from dbtestcase.sandbox import MOST, ConnectionsAhead, LeftOpen, RealConnection, SandboxedDatabase
from dbtestcase.servers import BaseInstance
from dbtestcase.servers.copies import CloneSupply, looks_at_other_sessions
from dbtestcase.servers.databases import awaiting_their_end

__all__ = ["Copies"]


class Copies:
    """The copies of a class's databases. Nobody may be connected to these when it is made."""

    def __init__(self, instance: BaseInstance, databases: Mapping[str, SandboxedDatabase]) -> None:
        self._databases = dict(databases)
        self._state = instance.state()
        self._originals: dict[str, URL] = {name: each.real_url for name, each in databases.items()}
        # What is opened ahead, or closed later, must not be what a test of a small server lacks.
        self._is_roomy = instance.is_roomy
        # What a trigger or a default looks at is not seen in the statements that fire it.
        alone = any(looks_at_other_sessions(each.rules.always_real) for each in databases.values())
        self._supplies = {
            name: CloneSupply(instance, name, partial(self._connect, name), _close, alone=alone) for name in databases
        }
        self._present: dict[str, str] = {}
        self._ahead: list[ConnectionsAhead | None] = []
        self._is_alone = False
        self._connections: dict[str, int] = {}
        # Whether the server is as it was before the last test, outside of its copies.
        self.is_server_unchanged = True
        for each in databases.values():
            each.real.before_special = self._before_special

    def begin_test(self, *, following: int) -> None:
        """Let each database be a fresh copy; ``following`` more tests will want some, as far as is known."""
        self._is_alone = False
        self._ahead.clear()
        for name, supply in self._supplies.items():
            copy = supply.take(following=following)
            self._present[name] = copy.name
            self._ahead.append(copy.connections)
            self._databases[name].use_real(self._originals[name].set(database=copy.name), copy.connections)
            self._databases[name].is_copy = True

    def end_test(self) -> list[LeftOpen]:
        """Go back to the class's databases; return what the test has left open.

        Copies in which nothing was changed are used once more.
        """
        left: list[LeftOpen] = []
        used = list(self._present.values())
        for name, copy in self._present.items():
            database = self._databases[name]
            database.sessions.close()
            database.is_copy = False
            self._connections[copy] = self._connections.get(copy, 0) + database.real.made
            changed = database.real.have_written
            # Not all, because they take the place of connections that the next test may open.
            idle = database.real.give_up_idle(at_most=MOST if self._is_roomy else 0)
            left += database.leave_real()
            leave = partial(_close_all, idle)
            database.use_real(self._originals[name])
            if changed:
                self._supplies[name].discard(copy, leave)
            else:
                self._supplies[name].put_back(copy, leave, self._connections[copy])
        self._present.clear()
        try:
            unchanged = not used or self._state.is_unchanged() or self._restore_shared_state(used)
            self.is_server_unchanged = unchanged
        finally:
            for supply in self._supplies.values():
                supply.resume()
        return left

    def be_alone(self) -> None:
        """Let the present test be alone on its server: end what is done there in the background until the next one."""
        if self._present and not self._is_alone:
            for supply in self._supplies.values():
                supply.pause()
            self._is_alone = True

    def _before_special(self, reason: str, sql: str) -> None:
        if not self._present:
            return
        if reason and looks_at_other_sessions(f"{reason} {sql}"):
            self.be_alone()
        if reason.startswith("ALTER"):
            # They have begun with what was set before.
            for ahead in self._ahead:
                _close(ahead)
        self._state.before_statement(sql)

    def _restore_shared_state(self, used: list[str]) -> bool:
        # Connections that were opened ahead have begun with what the test had set.
        for supply in self._supplies.values():
            supply.pause()
        return self._state.restore(used)

    @property
    def names(self) -> Mapping[str, str]:
        """The names of the present test's copies, by the name of the database."""
        return self._present

    def close(self) -> None:
        """Stop making copies."""
        for supply in self._supplies.values():
            supply.close()

    def _connect(self, name: str, copy: str) -> ConnectionsAhead | None:
        if not self._is_roomy:
            return None
        return ConnectionsAhead(self._originals[name].set(database=copy), self._databases[name].habits.expected())


def _close_all(connections: list[RealConnection]) -> None:
    with awaiting_their_end([each.native for each in connections]):
        for each in connections:
            each.close()


def _close(connections: ConnectionsAhead | None) -> None:
    if connections is not None:
        with awaiting_their_end(connections.of_the_driver):
            connections.close()
