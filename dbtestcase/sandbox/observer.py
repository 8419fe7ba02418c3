"""Who wants to know which statements the code under test sends."""

from __future__ import annotations

from typing import Any, Protocol

from dbtestcase.frames import Origin


class Observer(Protocol):
    """Called around each statement of the user's, never around one of ours.

    Attributes:
        is_listening: Whether it wants to be called at present.
    """

    is_listening: bool

    def statement_started(self, connection_label: str, origin: Origin, sql: str, parameters: Any) -> None:
        """Called before the statement is sent."""

    def statement_finished(self, connection_label: str, rowcount: int, error: BaseException | None) -> None:
        """Called once it has ended; ``rowcount`` is -1 where the driver knows none."""

    def rows_changed(self, sql: str) -> None:
        """Called instead of the other two after a statement that may have changed rows, if it is not listening."""

    def transaction_ended(self, connection_label: str, origin: Origin, outcome: str) -> None:
        """Called after the code under test ended a transaction in which it had sent something.

        Args:
            outcome: "COMMIT" or "ROLLBACK".
        """
