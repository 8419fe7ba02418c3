"""What the sandbox knows of one virtual connection, whatever its driver."""

from __future__ import annotations

import weakref
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from dbtestcase.frames import Origin, user_origin

from .transactions import VirtualTransaction

if TYPE_CHECKING:
    from .run import Run

LEVELS = ("READ UNCOMMITTED", "READ COMMITTED", "REPEATABLE READ", "SERIALIZABLE")


@dataclass(eq=False, slots=True, weakref_slot=True)
class Channel:
    """The virtual transaction of one virtual connection, and what was set on the connection."""

    record: weakref.ref[Any] | None = None
    run: Run | None = None
    label: str = "connection 0"
    opened: Origin | None = None
    sent_from: Origin | None = None
    is_new: bool = False
    serves_session: bool = False
    transaction: VirtualTransaction | None = None
    autocommit: bool = False
    explicit: bool = False
    isolation: str | None = None
    read_only: bool | None = None
    deferrable: bool | None = None
    closed: bool = False
    stale: bool = False
    two_phase: tuple[Any, bool] | None = None
    settings: dict[str, str] = field(default_factory=dict)
    _as_made: tuple[Any, ...] | None = None
    _handed_out_in: Run | None = None

    def bind(self, run: Run) -> None:
        """Begin to take part in a test."""
        self.run = run
        self.transaction = None
        self.two_phase = None
        self.explicit = False
        self.label = f"connection {run.add(self)}"

    @property
    def in_transaction(self) -> bool:
        return self.transaction is not None

    @property
    def commits_each(self) -> bool:
        """Whether each statement is a transaction of its own."""
        return self.autocommit and not self.explicit and self.two_phase is None

    @property
    def is_failed(self) -> bool:
        return self.transaction is not None and self.transaction.failed

    def begin(self) -> VirtualTransaction:
        """Return the open virtual transaction, begun now if there is none."""
        if self.transaction is None:
            # Where it was checked out just now is where its first transaction begins.
            origin = self.opened if self.is_new and self.opened is not None else user_origin()
            self.is_new = False
            self.transaction = VirtualTransaction(
                self.label, origin, isolation=self.isolation or "", read_only=bool(self.read_only)
            )
        return self.transaction

    def hand_out(self, run: Run | None) -> bool:
        """Note that the pool hands the connection out; False if it carries what another test has set on it."""
        if self._as_made is None:
            self._as_made = self._state()
        elif self._handed_out_in is not run and self._as_made != self._state():
            return False
        self._handed_out_in = run
        return True

    def _state(self) -> tuple[Any, ...]:
        return self.autocommit, self.isolation, self.read_only, self.deferrable, dict(self.settings)

    def wanted_settings(self, transaction: VirtualTransaction) -> dict[str, str]:
        """Return what is set on the connection, as its statements should find it."""
        wanted = self.settings
        for name, sql in (*transaction.settings.items(), *transaction.local_settings.items()):
            wanted = {key: value for key, value in wanted.items() if key != name}
            if sql is not None:
                wanted[name] = sql
        return wanted

    def keep_settings(self, transaction: VirtualTransaction) -> None:
        """Keep what was set in a transaction that is committed."""
        for name, sql in transaction.settings.items():
            self.settings.pop(name, None)
            if sql is not None:
                self.settings[name] = sql

    @property
    def isolation_in_force(self) -> str | None:
        """The isolation level of the transaction that is open or would be begun now, if it is not the default."""
        if self.transaction is not None:
            return self.transaction.isolation or None
        return None if self.commits_each else self.isolation

    def is_checked_out(self) -> bool:
        """Whether somebody outside the pool holds the connection."""
        record = self.record() if self.record is not None else None
        if record is None or record.dbapi_connection is None:
            return True
        return record.fairy_ref is not None and record.fairy_ref() is not None
