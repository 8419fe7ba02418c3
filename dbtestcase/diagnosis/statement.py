"""One statement of the code under test, as a view of the list in which the log keeps it."""

from __future__ import annotations

import threading
from typing import Any, cast

from dbtestcase.diagnosis.redaction import Redaction
from dbtestcase.diagnosis.sqltext import hides, is_transaction_control, render, text_of
from dbtestcase.frames import Origin

__all__ = ["Record", "Statement"]

# The places in a record. One of transaction control by the driver's commit() or rollback() ends after SQL.
CONNECTION, ORIGIN, SQL, PARAMETERS, SETS, THREAD, STARTED, SECONDS, ROWS, ERROR, CAUSE, SHOWN = range(12)
Record = list[Any] | tuple[str, Origin, str]


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
        rows: How many rows it returned or changed; ``None`` if the driver does not say.
        error: What it failed with.
        cause: What made the ORM send it, where that was asked for.
    """

    __slots__ = ("_record", "_redaction")

    def __init__(self, record: Record, redaction: Redaction) -> None:
        self._record = record
        self._redaction = redaction

    def _field(self, place: int) -> Any:
        return self._record[place] if place < len(self._record) else None

    @property
    def connection(self) -> str:
        return cast("str", self._record[CONNECTION])

    @property
    def origin(self) -> Origin:
        return cast("Origin", self._record[ORIGIN])

    @property
    def sql(self) -> Any:
        return self._record[SQL]

    @property
    def parameters(self) -> Any:
        return self._field(PARAMETERS)

    @property
    def sets(self) -> int:
        return self._field(SETS) or 0

    @property
    def thread(self) -> threading.Thread | None:
        return cast("threading.Thread | None", self._field(THREAD))

    @property
    def seconds(self) -> float | None:
        return cast("float | None", self._field(SECONDS))

    @property
    def rows(self) -> int | None:
        rows = self._field(ROWS)
        return None if rows is None or rows < 0 else rows

    @property
    def error(self) -> BaseException | None:
        return cast("BaseException | None", self._field(ERROR))

    @property
    def cause(self) -> str | None:
        return cast("str | None", self._field(CAUSE))

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
        return hides(self.sql, self.parameters, self._redaction)

    @property
    def hides_message(self) -> bool:
        """Whether the message of its error may quote such values."""
        return self.error is not None and (self.hides_values or self._redaction.hides_message(self.error))

    @property
    def is_shown(self) -> bool:
        """Whether the message of a failed assertion has shown it."""
        return bool(self._field(SHOWN))

    def mark_shown(self) -> None:
        """Note that a message has shown it, so that the note on the failure need not."""
        if isinstance(self._record, list):
            self._record[SHOWN] = True

    def __str__(self) -> str:
        first = self.parameters[0] if self.sets and self.parameters else self.parameters
        text = render(self.sql, first, self._redaction)
        more = f"{self.sets - 1} more set{'' if self.sets == 2 else 's'} of parameters"
        return f"{text}  (and {more})" if self.sets > 1 else text

    def __repr__(self) -> str:
        return f"<{self}>"
