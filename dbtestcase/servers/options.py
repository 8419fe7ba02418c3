"""What a user can choose about the server: :class:`ThrowawayPostgres`, and the configuration file that comes of it."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import final

from dbtestcase.errors import DBTestCaseError

__all__ = ["ThrowawayPostgres"]

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_$]*(\.[A-Za-z_][A-Za-z0-9_$]*)?")

# What the library sets, and why it cannot be chosen: the instance would not be found, or not be ours alone.
_OURS = frozenset(
    {
        "port",
        "unix_socket_directories",
        "unix_socket_permissions",
        "data_directory",
        "external_pid_file",
        "config_file",
        "hba_file",
        "ident_file",
    }
)

# Chosen against PostgreSQL's defaults for a server that lives for seconds. Nothing here changes what a query returns.
_DEFAULTS: Mapping[str, str] = MappingProxyType(
    {
        "listen_addresses": "''",
        # The data are thrown away: nothing need survive a crash.
        "fsync": "off",
        "synchronous_commit": "off",
        "full_page_writes": "off",
        "wal_level": "minimal",
        "max_wal_senders": "0",
        "min_wal_size": "2MB",
        "max_wal_size": "64MB",
        "wal_init_zero": "off",
        "wal_recycle": "off",
        # Processes that a short-lived server can do without: each costs at start and at stop.
        "autovacuum": "off",
        # Tells who committed last, and so whether anybody went round the transaction of a test.
        "track_commit_timestamp": "on",
        "max_logical_replication_workers": "0",
        # Fewer wake-ups of the processes that stay.
        "bgwriter_delay": "10s",
        "wal_writer_delay": "10s",
        "checkpoint_timeout": "1h",
        "shared_buffers": "16MB",
        "huge_pages": "off",
        # The server tries out, at its start, how many files it may open, up to this many.
        "max_files_per_process": "200",
        # In files below the data folder: posix and sysv segments outlive a server that is killed.
        "dynamic_shared_memory_type": "mmap",
        "jit": "off",
        "max_prepared_transactions": "16",
        "log_checkpoints": "off",
        "logging_collector": "off",
        "log_destination": "'stderr'",
        "log_line_prefix": "'%m [%p] '",
        "log_timezone": "'UTC'",
        "timezone": "'UTC'",
        "datestyle": "'iso, mdy'",
        "lc_messages": "'C'",
        "default_text_search_config": "'pg_catalog.english'",
    }
)

# Settings that older versions do not know.
_DEFAULTS_SINCE: Mapping[int, Mapping[str, str]] = MappingProxyType(
    {18: {"io_method": "sync"}}  # the default starts three processes
)

# Defaults of ours that would contradict a setting of the user's, which then decides alone.
_TOGETHER = (
    frozenset({"wal_level", "max_wal_senders", "archive_mode", "summarize_wal"}),
    frozenset({"min_wal_size", "max_wal_size"}),
)


@final
class ThrowawayPostgres:
    """Where an instance comes from: a new server of its own, thrown away afterwards.

    Immutable and hashable; what equal options have prepared is shared.

    Args:
        settings: Settings of ``postgresql.conf``, by name: ``{"work_mem": "64MB", "jit": True}``. They come after the
            library's own, which trade durability for speed.
        bin_dir: The folder of ``initdb`` and ``postgres``; searched for if ``None``. The environment variable
            ``DBTESTCASE_BIN_DIR`` comes before it.
        extensions: Names of extensions that exist in every database of the instance, created in this order.

    Raises:
        DBTestCaseError: A setting has a name or a value that PostgreSQL cannot have, or is the library's to set.
    """

    __slots__ = ("_bin_dir", "_extensions", "_settings")

    def __init__(
        self,
        *,
        settings: Mapping[str, object] | None = None,
        bin_dir: str | Path | None = None,
        extensions: Iterable[str] = (),
    ) -> None:
        if isinstance(extensions, str):
            extensions = (extensions,)
        self._settings = _checked({} if settings is None else settings)
        if not isinstance(bin_dir, str | os.PathLike | None):
            raise DBTestCaseError(
                f"ThrowawayPostgres(bin_dir=...): {bin_dir!r} is not a folder; "
                "give the path of the one that holds 'initdb' and 'postgres', or leave it out."
            )
        self._bin_dir = None if bin_dir is None else Path(os.path.expanduser(bin_dir))
        if not isinstance(extensions, Iterable):
            raise DBTestCaseError(
                f"ThrowawayPostgres(extensions=...): {extensions!r} is not a list of names; "
                'give one such as ["pgcrypto"].'
            )
        self._extensions = tuple(extensions)
        for name in self._extensions:
            if not isinstance(name, str) or not name:
                raise DBTestCaseError(
                    f"ThrowawayPostgres(extensions=...): {name!r} is not the name of an extension; "
                    'give names such as "pgcrypto".'
                )

    @property
    def settings(self) -> Mapping[str, object]:
        """The settings as they were given."""
        return MappingProxyType(dict(self._settings))

    @property
    def bin_dir(self) -> Path | None:
        """The folder of the programs, ``None`` if it is to be searched for."""
        return self._bin_dir

    @property
    def extensions(self) -> tuple[str, ...]:
        """The extensions that exist in every database."""
        return self._extensions

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, ThrowawayPostgres):
            return NotImplemented
        return self._identity() == other._identity()

    def __hash__(self) -> int:
        return hash(self._identity())

    def __repr__(self) -> str:
        given = []
        if self._settings:
            given.append(f"settings={dict(self._settings)!r}")
        if self._bin_dir is not None:
            given.append(f"bin_dir={str(self._bin_dir)!r}")
        if self._extensions:
            given.append(f"extensions={self._extensions!r}")
        return f"ThrowawayPostgres({', '.join(given)})"

    def _identity(self) -> tuple[object, ...]:
        # The written form, because 1 == True == 1.0, but '1' and 'on' are not the same setting.
        return (tuple((name, _written(value)) for name, value in self._settings), self._bin_dir, self._extensions)

    def configuration(self, socket_dir: str | Path, port: int, major: int) -> str:
        """Return the text of ``postgresql.conf`` for a server of that major version."""
        chosen = {name.lower() for name, _ in self._settings}
        pipe_ended = set().union(*(group for group in _TOGETHER if group & chosen), chosen)
        defaults = dict(_DEFAULTS)
        for since, more in _DEFAULTS_SINCE.items():
            if major >= since:
                defaults.update(more)
        lines = [f"{name} = {value}" for name, value in defaults.items() if name not in pipe_ended]
        lines += [f"unix_socket_directories = {_quoted(str(socket_dir))}", f"port = {port}"]
        lines += ["unix_socket_permissions = 0700"]
        lines += [f"{name} = {_written(value)}" for name, value in self._settings]
        return "\n".join(lines) + "\n"

    @property
    def tracks_commits(self) -> bool:
        """Whether the server notes who committed last, and has no processes of its own that commit."""
        return not {name.lower() for name, _ in self._settings} & {"track_commit_timestamp", "autovacuum"}

    def content(self) -> str:
        """Return what must be equal for two servers to be able to share a prepared cluster, beside the programs."""
        return (
            repr(self._identity()[0]) + repr(self._extensions) + repr(sorted(_DEFAULTS.items())) + repr(_DEFAULTS_SINCE)
        )


def _checked(settings: Mapping[str, object]) -> tuple[tuple[str, object], ...]:
    try:
        items = list(settings.items())
    except AttributeError:
        raise DBTestCaseError(
            f"ThrowawayPostgres(settings=...): expected a mapping of names to values, not {settings!r}."
        ) from None
    for name, value in items:
        if not isinstance(name, str) or not _NAME.fullmatch(name):
            raise DBTestCaseError(
                f'ThrowawayPostgres(settings=...): {name!r} is not the name of a setting such as "work_mem".'
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
    return tuple(sorted(items))


def _written(value: object) -> str:
    if isinstance(value, bool):
        return "on" if value else "off"
    return str(value) if isinstance(value, int | float) else _quoted(str(value))


def _quoted(text: str) -> str:
    doubled = text.replace("'", "''").replace("\\", "\\\\")
    return f"'{doubled}'"
