"""What a user says about a server that is there already: :class:`ExistingPostgres`."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any, final
from urllib.parse import quote

import psycopg2
from psycopg2.extensions import parse_dsn

from dbtestcase.errors import DBTestCaseError
from dbtestcase.schema.extensions import names

__all__ = ["VARIABLE", "ExistingPostgres"]

VARIABLE = "DBTESTCASE_SERVER"
_EXAMPLE = "postgresql://user:password@host:5432/database"
_HOST = re.compile(r"[\w.-]+")
_SCHEME = re.compile(r"^postgres(ql)?(\+\w+)?://")


@final
class ExistingPostgres:
    """Where a class's database is made: on a server that is there already, such as a CI system's service container.

    Each class gets a database of its own on it, made from a template that the library prepares there once. Nothing
    that others made is touched. The role needs ``CREATEDB`` and nothing more. Immutable and hashable.

    Args:
        url: ``postgresql://user:password@host:port/database``, as libpq reads it; options such as ``sslmode`` go
            along, and a unix socket is ``?host=/folder``. Its database is only connected to; ``postgres`` if none is
            named.
        extensions: Names of extensions that exist in every database of the class, created in this order.

    Raises:
        DBTestCaseError: ``url`` is not the URL of a PostgreSQL server; the message does not repeat it.
    """

    __slots__ = ("_dsn", "_extensions", "_origin")

    def __init__(self, url: str, *, extensions: Iterable[str] = ()) -> None:
        self._origin = "ExistingPostgres(url)"
        self._dsn = _parsed(url, self._origin)
        self._extensions = names(extensions, "ExistingPostgres")

    @classmethod
    def from_environment(cls, url: str) -> ExistingPostgres:
        """Return the options that the value of ``DBTESTCASE_SERVER`` stands for.

        Raises:
            DBTestCaseError: It is not the URL of a PostgreSQL server.
        """
        options = cls.__new__(cls)
        options._origin, options._extensions = VARIABLE, ()
        options._dsn = _parsed(url, VARIABLE)
        return options

    @property
    def extensions(self) -> tuple[str, ...]:
        """The extensions that exist in every database."""
        return self._extensions

    @property
    def origin(self) -> str:
        """Where the URL comes from, for messages: an attribute of the class or the environment."""
        return self._origin

    @property
    def tracks_commits(self) -> bool:
        """Whether the server tells who committed last: others commit there too."""
        return False

    def dsn(self) -> dict[str, Any]:
        """Return what ``psycopg2.connect()`` takes to reach the URL's own database."""
        return dict(self._dsn)

    def url(self, database: str, **others: Any) -> str:
        """Return the URL of a database on the server, for SQLAlchemy."""
        parts = {**self._dsn, **others}
        user, password = parts.pop("user", None), parts.pop("password", None)
        parts.pop("dbname", None)
        who = "" if user is None else quote(str(user), safe="")
        who += "" if password is None else ":" + quote(str(password), safe="")
        address = ""
        if _HOST.fullmatch(str(parts.get("host", ""))) and str(parts.get("port", "")).isdigit():
            address = f"{parts.pop('host')}:{parts.pop('port')}"
        # Several hosts, sockets and IPv6 go along as parameters of the driver's.
        query = "&".join(f"{name}={quote(str(value), safe='/,')}" for name, value in parts.items())
        return f"postgresql+psycopg2://{who + '@' if who else ''}{address}/{database}" + (f"?{query}" if query else "")

    def redacted(self, text: str) -> str:
        """Return a text of PostgreSQL's or the driver's without the password."""
        password = self._dsn.get("password")
        return text.replace(str(password), "***") if password else text

    @property
    def place(self) -> str:
        """The server as a person would name it."""
        host = self._dsn.get("host") or self._dsn.get("hostaddr") or "the default host"
        port = f":{self._dsn['port']}" if "port" in self._dsn else ""
        return f"{host}{port}"

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, ExistingPostgres):
            return NotImplemented
        return self._identity() == other._identity()

    def __hash__(self) -> int:
        return hash(self._identity())

    def __repr__(self) -> str:
        more = f", extensions={self._extensions!r}" if self._extensions else ""
        user = f"{self._dsn['user']}@" if "user" in self._dsn else ""
        return f"ExistingPostgres('postgresql://{user}{self.place}/{self._dsn['dbname']}'{more})"

    def _identity(self) -> tuple[object, ...]:
        return (tuple(sorted(self._dsn.items())), self._extensions)


def _parsed(url: object, origin: str) -> dict[str, Any]:
    # A URL of SQLAlchemy's hides its password in its text.
    render = getattr(url, "render_as_string", None)
    text = render(hide_password=False) if callable(render) else url
    # The value is not shown: whatever it is, there may be a password in it.
    if not isinstance(text, str) or not _SCHEME.match(text):
        kind = "a str" if isinstance(text, str) else f"a {type(url).__name__}"
        raise DBTestCaseError(
            f"{origin}: expected the URL of a PostgreSQL server, such as {_EXAMPLE!r}; this is {kind} that does not "
            "begin with 'postgresql://'."
        )
    try:
        dsn: dict[str, Any] = parse_dsn(_SCHEME.sub("postgresql://", text))
    except psycopg2.ProgrammingError:
        raise DBTestCaseError(
            f"{origin}: PostgreSQL's client library cannot read this URL. It looks like {_EXAMPLE!r}, with characters "
            "such as '@', '/', ':' and '%' in user and password written as %40, %2F, %3A and %25."
        ) from None
    dsn.setdefault("dbname", "postgres")
    return dsn
