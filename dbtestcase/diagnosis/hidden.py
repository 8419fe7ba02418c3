"""Which columns hold what no message may show."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Self

HIDDEN_COLUMNS = frozenset({"password", "passwd", "pwd", "passphrase", "secret", "token", "api_key", "apikey"})
REPLACEMENT = "(hidden)"

Columns = Callable[[str], Sequence[str] | None]

_NUMBERED = re.compile(r"_+\d+$")
_KEY = re.compile(r'"([^"]*)"\s*:\s*')
_WORD = re.compile(r'"(?:[^"]|"")*"|[^\W\d][\w$]*')


class HiddenNames(frozenset[str]):
    """The names of hidden columns, in lower case.

    Attributes:
        columns_of: Gives the names of a table's columns in order, ``None`` if the table is not known. Asked on failures
            only, where a value is found by its position and not by a name.
    """

    columns_of: Columns

    def __new__(cls, names: Iterable[str] = (), columns_of: Columns = lambda table: None) -> Self:
        made = super().__new__(cls, (name.lower() for name in (*HIDDEN_COLUMNS, *names)))
        made.columns_of = columns_of
        return made


_present = HiddenNames()


def present() -> HiddenNames:
    """Return the names that the running test class hides."""
    return _present


@contextmanager
def hiding(names: HiddenNames) -> Iterator[None]:
    """Let :func:`present` return these for the time of the block."""
    global _present
    before, _present = _present, names
    try:
        yield
    finally:
        _present = before


def is_hidden(name: str | None, hidden: Iterable[str]) -> bool:
    """Whether a column or parameter of this name holds what must not be shown.

    A column is hidden if its name is one of ``hidden`` or has it as a word: ``password_hash``, ``reset_token``.
    """
    if not name:
        return False
    plain = f"_{_NUMBERED.sub('', name.strip(chr(34))).lower()}_"
    return any(f"_{each.lower()}_" in plain for each in hidden)


def mentions_hidden(text: str, hidden: Iterable[str]) -> bool:
    """Whether one of the names in a piece of SQL is hidden."""
    return any(is_hidden(word, hidden) for word in _WORD.findall(text))


def without_hidden(value: Any, hidden: Iterable[str]) -> Any:
    """Return what a JSON column holds without what it keeps under hidden keys."""
    if isinstance(value, dict):
        return {
            key: REPLACEMENT if isinstance(key, str) and is_hidden(key, hidden) else without_hidden(item, hidden)
            for key, item in value.items()
        }
    if isinstance(value, list):
        return [without_hidden(item, hidden) for item in value]
    if isinstance(value, str) and value.startswith(("{", "[")):
        return _without_json_secrets(value, hidden)
    return value


def _without_json_secrets(text: str, hidden: Iterable[str]) -> str:
    if not mentions_hidden(text, hidden):
        return text
    try:
        return json.dumps(without_hidden(json.loads(text), hidden), ensure_ascii=False)
    except ValueError:
        # Not JSON, or only its beginning: nothing that follows a hidden key is shown.
        key = next((each for each in _KEY.finditer(text) if is_hidden(each[1], hidden)), None)
        return text if key is None else f"{text[: key.end()]}{REPLACEMENT}"
