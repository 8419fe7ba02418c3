"""What a user can choose about the server: :class:`ThrowawayPostgres`, and the configuration file that comes of it."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import final

from dbtestcase.errors import DBTestCaseError
from dbtestcase.schema import extensions
from dbtestcase.servers.configuration import configuration, defaults_content, written

__all__ = ["ThrowawayPostgres"]

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_$]*(\.[A-Za-z_][A-Za-z0-9_$]*)?")

# What the library sets, and why it cannot be chosen: the instance would not be found, or not be ours alone.
_OURS = frozenset(
    {
        "port",
        "restart_after_crash",
        "unix_socket_directories",
        "unix_socket_permissions",
        "data_directory",
        "external_pid_file",
        "config_file",
        "hba_file",
        "ident_file",
    }
)

# The PostgreSQL that first has each.
_PROVIDERS = {"libc": 0, "icu": 15, "builtin": 17}
_CLUSTER_EXAMPLES = {"locale": "de_DE.UTF-8", "locale_provider": "icu", "icu_locale": "de-DE", "encoding": "UTF8"}


@final
@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class ThrowawayPostgres:
    """Where an instance comes from: a new server of its own, thrown away afterwards.

    Immutable and hashable; what equal options have prepared is shared.

    Args:
        settings: Settings of ``postgresql.conf``, by name: ``{"work_mem": "64MB", "jit": True}``. They come after the
            library's own, which trade durability for speed.
        bin_dir: The folder of ``initdb`` and ``postgres``; searched for if ``None``. The environment variable
            ``DBTESTCASE_BIN_DIR`` comes before it.
        extensions: Names of extensions that exist in every database of the instance, created in this order.
        locale: The locale of the databases, as ``locale -a`` lists it; ``C.UTF-8`` if ``None``.
        locale_provider: ``"libc"``, from PostgreSQL 15 on ``"icu"``, from 17 on ``"builtin"``.
        icu_locale: The locale of the provider ``"icu"``, such as ``"en-US"``.
        encoding: The encoding of the databases; ``UTF8`` if ``None``.
        tcp: Whether the server also listens on 127.0.0.1, with a password that is made for each instance; see
            ``instance.tcp_url()``.

    Raises:
        DBTestCaseError: A setting has a name or a value that PostgreSQL cannot have, or is the library's to set.
    """

    settings: Mapping[str, object] = field(default_factory=dict)
    bin_dir: str | Path | None = None
    extensions: Iterable[str] = ()
    locale: str | None = None
    locale_provider: str | None = None
    icu_locale: str | None = None
    encoding: str | None = None
    tcp: bool = False

    def __post_init__(self) -> None:
        _check_cluster(self.cluster)
        if not isinstance(self.bin_dir, str | os.PathLike | None):
            raise DBTestCaseError(
                f"ThrowawayPostgres(bin_dir=...): {self.bin_dir!r} is not a folder; "
                "give the path of the one that holds 'initdb' and 'postgres', or leave it out."
            )
        # Copies that nobody can change, in the form in which they are compared.
        object.__setattr__(self, "settings", MappingProxyType(_checked(self.settings)))
        if self.bin_dir is not None:
            object.__setattr__(self, "bin_dir", Path(self.bin_dir).expanduser())
        object.__setattr__(self, "extensions", extensions.names(self.extensions, "ThrowawayPostgres"))

    @cached_property
    def cluster(self) -> dict[str, str]:
        """What was asked for that ``initdb`` decides about, by the names of the arguments."""
        return {name: value for name in _CLUSTER_EXAMPLES if (value := getattr(self, name)) is not None}

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ThrowawayPostgres) and self._identity == other._identity

    def __hash__(self) -> int:
        return hash(self._identity)

    def __repr__(self) -> str:
        given = {each.name: getattr(self, each.name) for each in fields(self)}
        given |= {"settings": dict(self.settings), "bin_dir": str(self.bin_dir) if self.bin_dir else None}
        return f"ThrowawayPostgres({', '.join(f'{name}={value!r}' for name, value in given.items() if value)})"

    @cached_property
    def _identity(self) -> tuple[object, ...]:
        others = (getattr(self, each.name) for each in fields(self) if each.name != "settings")
        return (self._written_settings(), *others)

    def _written_settings(self) -> tuple[tuple[str, str], ...]:
        # The written form, because 1 == True == 1.0, but '1' and 'on' are not the same setting.
        return tuple((name, written(value)) for name, value in self.settings.items())

    def configuration(self, socket_dir: str | Path, port: int, major: int) -> str:
        """Return the text of ``postgresql.conf`` for a server of that major version."""
        return configuration(self.settings, str(socket_dir), port, major, tcp=self.tcp, has_locale=bool(self.cluster))

    @property
    def tracks_commits(self) -> bool:
        """Whether the server notes who committed last, and has no processes of its own that commit."""
        return not {name.lower() for name in self.settings} & {"track_commit_timestamp", "autovacuum"}

    @property
    def logs_connections(self) -> bool:
        """Whether the server's log notes each connection."""
        return not any(name.lower().startswith("log") for name in self.settings)

    def content(self) -> str:
        """Return what must be equal for two servers to be able to share a prepared cluster, beside the programs."""
        return repr((self._written_settings(), self.extensions, self.cluster)) + defaults_content()

    def base_content(self) -> str:
        """Return what must be equal for two servers to be able to share a cluster that holds nothing yet."""
        return repr(self.cluster) if self.cluster else ""

    def described_locale(self) -> str:
        """Return the arguments that decide about the locale, as they were given."""
        return ", ".join(f"{name}={value!r}" for name, value in self.cluster.items())

    def initdb_arguments(self, major: int) -> list[list[str]]:
        """Return the arguments for ``initdb`` to try one after the other, until one set is accepted.

        Raises:
            DBTestCaseError: This version has no such option.
        """
        asked = self.cluster
        provider = asked.get("locale_provider")
        needed = _PROVIDERS.get(provider or "libc", 0)
        if major < needed:
            raise DBTestCaseError(
                f"ThrowawayPostgres({self.described_locale()}): PostgreSQL {major} has no such locale provider; "
                f"{needed} or newer is needed. Leave it out, or set DBTESTCASE_BIN_DIR to the programs of a newer one."
            )
        arguments = ["-E", asked.get("encoding", "UTF8")]
        if provider is not None and major >= _PROVIDERS["icu"]:
            arguments.append(f"--locale-provider={provider}")
        if "icu_locale" in asked:
            arguments.append(f"--icu-locale={asked['icu_locale']}")
        # C.UTF-8 sorts like C and knows upper and lower case beyond ASCII; not every system has it.
        locales = [asked["locale"]] if "locale" in asked else ["C.UTF-8", "C"]
        return [[*arguments, f"--locale={locale}"] for locale in locales]


def _check_cluster(given: Mapping[str, object]) -> None:
    for name, value in given.items():
        if not isinstance(value, str) or not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.@=;-]*", value):
            raise DBTestCaseError(
                f"ThrowawayPostgres({name}=...): {value!r} is not a name such as {_CLUSTER_EXAMPLES[name]!r}."
            )
    provider = given.get("locale_provider", "libc")
    if provider not in _PROVIDERS:
        raise DBTestCaseError(
            f"ThrowawayPostgres(locale_provider=...): {provider!r} is none of {', '.join(map(repr, _PROVIDERS))}."
        )
    if ("icu_locale" in given) != (provider == "icu"):
        raise DBTestCaseError(
            "ThrowawayPostgres(icu_locale=...): give it together with locale_provider='icu', and only then."
        )


def _checked(settings: Mapping[str, object]) -> dict[str, object]:
    if not isinstance(settings, Mapping):
        raise DBTestCaseError(
            f"ThrowawayPostgres(settings=...): expected a mapping of names to values, not {settings!r}."
        )
    for name, value in settings.items():
        if not isinstance(name, str) or not _NAME.fullmatch(name):
            raise DBTestCaseError(
                f'ThrowawayPostgres(settings=...): {name!r} is not the name of a setting such as "work_mem".'
            )
        if name.lower() == "listen_addresses":
            raise DBTestCaseError(
                "ThrowawayPostgres(settings=...): 'listen_addresses' would open a superuser without a password to "
                "every user of this machine. Leave it out and write ThrowawayPostgres(tcp=True): the server then "
                "listens on 127.0.0.1 only, with a generated password; instance.tcp_url() has both."
            )
        if name.lower() in _OURS:
            raise DBTestCaseError(
                f"ThrowawayPostgres(settings=...): {name!r} is set by dbtestcase itself; leave it out. "
                "The instance listens on a private socket; ask it for instance.url() or instance.dsn()."
            )
        if not isinstance(value, bool | int | float | str):
            raise DBTestCaseError(
                f"ThrowawayPostgres(settings=...): {name!r} is {value!r}; "
                "a setting is a str, a bool, an int or a float."
            )
        if isinstance(value, str) and ("\0" in value or "\n" in value):
            raise DBTestCaseError(f"ThrowawayPostgres(settings=...): {name!r} is {value!r}; a setting is one line.")
    return dict(sorted(settings.items()))
