"""One statement of the code under test."""

from __future__ import annotations

from dataclasses import dataclass, field
from threading import Thread
from typing import Any

from dbtestcase.diagnosis.redaction import Redaction
from dbtestcase.diagnosis.sqltext import hides, is_transaction_control, render, text_of
from dbtestcase.frames import Origin

__all__ = ["Record", "Statement"]

# While tests pass the log keeps of each statement a list of its fields, in the order of the class below. One that the
# driver's commit() or rollback() sends has the first three.
Record = list[Any] | tuple[str, Origin, str]
SQL, STARTED, SECONDS, ROWS, ERROR, CAUSE, IS_SHOWN = 2, 6, 7, 8, 9, 10, 11


@dataclass(slots=True, repr=False, eq=False)
class Statement:
    """One statement of the code under test; ``str()`` gives it as a failure shows it.

    Attributes:
        connection: The connection that sent it.
        origin: The line of the user's code, "shop/service.py:42 in rename".
        sql: As it was given to the driver, with placeholders.
        parameters: A copy of what was given with it; of an ``executemany()`` the first few sets.
        sets: How many sets of parameters an ``executemany()`` had; 0 if it was none.
        thread: The thread that sent it, ``None`` for the main thread.
        seconds: How long it took; ``None`` if it has not come back.
        rows: How many rows it returned or changed; ``None`` or negative if the driver does not say.
        error: What it failed with.
        cause: What made the ORM send it, where that was asked for.
        is_shown: Whether the message of a failed assertion has shown it.
    """

    connection: str
    origin: Origin
    sql: Any
    parameters: Any = None
    sets: int = 0
    thread: Thread | None = None
    started: float = 0.0
    seconds: float | None = 0.0
    rows: int | None = None
    error: BaseException | None = None
    cause: str | None = None
    is_shown: bool = False
    redaction: Redaction = field(default_factory=Redaction, kw_only=True)

    @property
    def text(self) -> str:
        """Its SQL as text, without its parameters."""
        return text_of(self.sql)

    @property
    def is_control(self) -> bool:
        """Whether it only begins, ends or divides a transaction; such statements are shown and not counted."""
        return is_transaction_control(self.sql)

    @property
    def hides_values(self) -> bool:
        """Whether its values must not be shown."""
        return hides(self.sql, self.parameters, self.redaction)

    @property
    def hides_message(self) -> bool:
        """Whether the message of its error may quote such values."""
        return self.error is not None and (self.hides_values or self.redaction.hides_message(self.error))

    def __str__(self) -> str:
        first = self.parameters[0] if self.sets and self.parameters else self.parameters
        text = render(self.sql, first, self.redaction)
        more = f"{self.sets - 1} more set{'' if self.sets == 2 else 's'} of parameters"
        return f"{text}  (and {more})" if self.sets > 1 else text

    def __repr__(self) -> str:
        return f"<{self}>"
