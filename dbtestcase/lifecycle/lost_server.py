"""A server that has ended under a test: what is said of it, and what is not said twice."""

from __future__ import annotations

from dbtestcase.diagnosis import messages
from dbtestcase.diagnosis.database_errors import DATABASE_ERRORS
from dbtestcase.diagnosis.tracebacks import chain, lost_connection
from dbtestcase.servers import BaseInstance

__all__ = ["explain", "is_lost", "without_aftermath"]


def is_lost(instance: BaseInstance) -> bool:
    """Whether a server has ended. Connects to it, unless its end is known already."""
    return not (instance.is_alive() and instance.answers())


def explain(error: BaseException, instance: BaseInstance, owner: str) -> None:
    """Note that the throwaway server of the class ``owner`` has ended, if that is what an error comes from."""
    if any(map(lost_connection, chain(error))) and is_lost(instance) and (cause := instance.cause_of_end()) is not None:
        error.add_note(messages.SERVER_ENDED.format(owner=owner, cause=f": {cause}" if cause else ""))


def without_aftermath(problems: list[Exception]) -> list[Exception]:
    """Return what went wrong at the end of a run, but for what only tells that the server has ended."""
    return [each for each in problems if not isinstance(each, DATABASE_ERRORS)]
