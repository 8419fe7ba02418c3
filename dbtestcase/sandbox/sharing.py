"""The one physical connection of a database's tests, and which engines may share it.

Engines that leave their connections in the same state share it. One that leaves them in another state, or uses another
driver or event loop, gets a connection of its own as long as nobody has spoken in the test; after that it ends the
attempt.
"""

from __future__ import annotations

import threading
from collections.abc import Hashable
from functools import partial
from typing import Any

from .attempt import Reason
from .connection import SandboxConnection
from .drivers import Physical, physical
from .setup import Setup
from .transaction import SharedTransaction

__all__ = ["SharedConnection"]


class SharedConnection:
    """The physical connection of one database: opened when it is needed, replaced where it does not fit.

    Attributes:
        physical: ``None`` if none is open.
        are_modes_known: Whether connections begin transactions of the usual kind, unless their engine says otherwise.
        given_up: Server processes that may go on with a statement which nobody waits for any more.

    Args:
        database: The :class:`~dbtestcase.sandbox.database.SandboxedDatabase`.
        kind: Equal for databases that are copies of one template; ``None`` if that is not known.
    """

    def __init__(self, database: Any, kind: Hashable) -> None:
        self.physical: Physical | None = None
        self.given_up: list[int] = []
        self._database = database
        self._setup: Setup | None = None
        self._same_state: set[Setup] = set()
        self._kind = kind
        self.are_modes_known = kind in _usual_kinds
        self._is_opening = False
        self._ready: Any = None
        self._lock = threading.RLock()

    def serve(self, connection: SandboxConnection) -> Physical:
        """Return the physical connection for one that shares it, opened if there is none."""
        if self.physical is not None and not self._has_spoken and not self.physical.is_intact:
            self.hang_up()
        known = self.physical
        taken = connection.engine
        if known is not None and taken.setup in self._same_state and (known.loop is None or known.serves_here):
            return known
        with self._lock:
            self._database.check_attempt(connection)
            if self._is_opening:
                # Another task of this thread, while the connection was waited for.
                self._database.stop(connection, "came while another connection was being opened")
            self._is_opening = True
            try:
                if self.physical is not None and not self._has_spoken:
                    self.physical.undo()
                if self.physical is None:
                    self._open(connection)
                elif taken.setup not in self._same_state:
                    self._share_or_stop(connection)
                elif not self.physical.serves_here:
                    self._open_here_or_stop(connection)
            finally:
                self._is_opening = False
        assert self.physical is not None
        return self.physical

    @property
    def _has_spoken(self) -> bool:
        """Whether the present test has sent anything to the database."""
        shared = self._database.shared
        return shared is not None and shared.has_begun

    def _open(self, connection: SandboxConnection) -> None:
        """Open the physical connection as this one's engine would."""
        taken = connection.engine
        setup = taken.setup
        ready, self._ready = self._ready, None
        if ready is not None and taken.dialect.driver == "psycopg2" and not setup.may_have_own_state:
            fresh = ready
        else:
            if ready is not None:
                ready.close()
            fresh = self._database.connects(partial(setup.connect, self._database.real_url))
        try:
            setup.prepare(fresh, self._database.rules)
            opened = physical(fresh, taken.dialect)
        except taken.dialect.loaded_dbapi.Error:
            # Nobody else closes it, and while it is there no copy of the database can be made.
            fresh.close()
            self._database.stop(connection, "the engine's connect listeners fail, or leave a transaction open")
        if setup.may_have_own_state or not self.are_modes_known:
            self._check_modes(opened, connection, of_class=not setup.may_have_own_state)
        self.physical, self._setup = opened, setup
        self._same_state = {setup}
        for other in self._database.taken:
            if other.setup is not setup and other.setup.state is not None and other.setup.state == setup.state:
                other.setup.register(fresh)
                self._same_state.add(other.setup)

    def _check_modes(self, opened: Physical, connection: SandboxConnection, *, of_class: bool) -> None:
        """Let go of a connection whose transactions are of a kind that one transaction cannot stand for.

        Its engine may say so, but so may the server's settings and those of the schema's database and roles.
        """
        level, read_only = opened.ask(_MODES).lower().split()  # a type of the user's may change texts
        if level != "read-committed" or read_only != "off":
            opened.hang_up()
            rule = f"the engine's connections begin {_MODE_WORDS[read_only != 'off']} transactions"
            self._database.stop(connection, rule, of_class=of_class)
        if of_class:
            self.are_modes_known = True
            if self._kind is not None:
                _usual_kinds.add(self._kind)

    def _share_or_stop(self, connection: SandboxConnection) -> None:
        """Let an engine share the physical connection of another one if it leaves its connections in the same state."""
        setup, present = connection.engine.setup, self._setup
        assert self.physical is not None
        assert present is not None
        if setup.driver != present.driver:
            if not self._has_spoken:
                self._replace(connection)
                return
            rule = f"came over {setup.driver}, which cannot share a connection of {present.driver}"
            self._database.stop(connection, rule, of_class=True)
        if setup.state is None or not setup.has_met_server:
            # What its listeners set, and what its dialect asks, is found out on a connection of its own.
            own = self._database.connects(partial(setup.connect, self._database.real_url))
            try:
                setup.prepare(own, self._database.rules)
            finally:
                own.close()
        if setup.state == present.state:
            setup.register(self.physical.connection)
            self._same_state.add(setup)
        elif not self._has_spoken:
            self._replace(connection)
        else:
            rule = "an engine whose connections are set up otherwise than those in use needs its own"
            self._database.stop(connection, rule, of_class=setup.has_role or present.has_role)

    def _open_here_or_stop(self, connection: SandboxConnection) -> None:
        """Let the present event loop have the physical connection if the other one has not used it in this test."""
        if not self._has_spoken:
            self._replace(connection)
        else:
            rule = f"was used in a second event loop ({connection.engine.dialect.driver})"
            self._database.stop(connection, rule, of_class=True)

    def _replace(self, connection: SandboxConnection) -> None:
        """Let a connection of another kind take the place of the present one; nobody has spoken in this test yet."""
        self.hang_up()
        self._database.shared = None
        self._open(connection)

    def use_ready_connection(self, connection: Any) -> None:
        """Begin the first test on a psycopg2 connection to the database that is open already."""
        if self._database.real_url.drivername == "postgresql+psycopg2":
            self._ready = connection
        else:
            connection.close()

    def _drop_ready_connection(self) -> None:
        ready, self._ready = self._ready, None
        if ready is not None:
            ready.close()

    def send(self, sql: str) -> bool:
        """Send a text of ours on the connection of the attempts, between two; return whether that could be done."""
        if self.physical is None or self._setup is None or self._setup.is_async:
            return False
        try:
            self.physical.undo()
            self.physical.send(sql)
        except Exception:
            return False  # the server has hung up since the last test
        return True

    def give_up(self, shared: SharedTransaction, reason: Reason) -> None:
        """End the attempt of whoever has cancelled a statement."""
        shared.attempt.spoil(reason)
        self.given_up.append(shared.physical.pid)

    def hang_up(self) -> None:
        """Close the physical connection."""
        self._drop_ready_connection()
        opened, self.physical = self.physical, None
        self._setup, self._same_state = None, set()
        if opened is not None:
            opened.hang_up()


# Of databases whose connections begin usual transactions, unless they have state of their own.
_usual_kinds: set[Hashable] = set()
_MODES = (
    "SELECT replace(current_setting('transaction_isolation'), ' ', '-') || ' '"
    " || current_setting('transaction_read_only')"
)
_MODE_WORDS = {False: "SERIALIZABLE or REPEATABLE READ", True: "READ ONLY"}
