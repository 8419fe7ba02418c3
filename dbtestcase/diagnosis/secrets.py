"""Values of hidden columns, taken out of the database's own error messages.

The list of statements hides them by itself; but SQLAlchemy quotes the parameters of a failed statement, and PostgreSQL
the row that it refused, in errors that the test runner prints beside it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

from sqlalchemy.exc import StatementError

from dbtestcase.diagnosis.sqltext import hidden_values

_SHORTEST = 4  # shorter values would take harmless parts of a message with them
_REPLACEMENT = "(hidden)"


def hide_secrets(
    error: BaseException, statements: Iterable[tuple[object, object]], hidden: Iterable[str]
) -> Callable[[str], str]:
    """Take values of hidden columns out of an error and of what it was raised from, where the database wrote them.

    Returns:
        What takes them out of other texts that quote the database.
    """
    chain = [each for each in _chain(error) if _from_database(each)]
    if not chain:
        return str
    secrets: list[Any] = []
    for sql, parameters in statements:
        secrets += hidden_values(sql, parameters, hidden)
    for each in chain:
        if isinstance(each, StatementError) and each.statement is not None:
            found = hidden_values(each.statement, each.params, hidden)
            secrets += found
            each.params = _without(each.params, found)
    texts = sorted(
        {each for each in secrets if isinstance(each, str) and len(each) >= _SHORTEST}, key=len, reverse=True
    )
    for each in chain if texts else ():
        each.args = tuple(_replaced(arg, texts) if isinstance(arg, str) else arg for arg in each.args)
    return partial(_replaced, secrets=texts)


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    seen: set[int] = set()
    waiting = [error]
    while waiting:
        each = waiting.pop()
        if each is None or id(each) in seen:
            continue
        seen.add(id(each))
        yield each
        waiting += [each.__cause__, each.__context__, getattr(each, "orig", None)]


def _from_database(error: BaseException) -> bool:
    return isinstance(error, StatementError) or type(error).__module__.partition(".")[0] in ("psycopg", "psycopg2")


def _without(parameters: Any, secrets: list[Any]) -> Any:
    def shown(value: Any) -> Any:
        return _REPLACEMENT if any(value is each for each in secrets) else value

    if isinstance(parameters, Mapping):
        return {name: shown(value) for name, value in parameters.items()}
    if isinstance(parameters, tuple):
        return tuple(shown(value) for value in parameters)
    if isinstance(parameters, Sequence) and not isinstance(parameters, (str, bytes)):
        return [_without(each, secrets) if isinstance(each, (Mapping, tuple)) else shown(each) for each in parameters]
    return parameters


def _replaced(text: str, secrets: list[str]) -> str:
    for secret in secrets:
        text = text.replace(secret, _REPLACEMENT)
    return text
