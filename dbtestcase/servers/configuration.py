"""The text of ``postgresql.conf`` for a server that lives for seconds."""

from __future__ import annotations

from collections.abc import Mapping

__all__ = ["LOCALE_FILE", "LOCALE_SETTINGS", "configuration", "defaults_content", "written"]

# Chosen against PostgreSQL's defaults for a server that lives for seconds. Nothing here changes what a query returns.
_DEFAULTS: Mapping[str, str] = {
    "listen_addresses": "''",
    # The data are thrown away: nothing need survive a crash.
    "fsync": "off",
    "synchronous_commit": "off",
    "full_page_writes": "off",
    # A server that recovered from a crash would go on without what was never flushed, and tests with it.
    "restart_after_crash": "off",
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
    # Tells whether anybody else has connected, and so may have committed.
    "log_connections": "on",
    "logging_collector": "off",
    "log_destination": "'stderr'",
    "log_line_prefix": "'%m [%p] '",
    "log_timezone": "'UTC'",
    "timezone": "'UTC'",
    "datestyle": "'iso, mdy'",
    "lc_messages": "'C'",
    "default_text_search_config": "'pg_catalog.english'",
}

# With these, whoever connects over TCP has to know the generated password.
_TCP: Mapping[str, str] = {"listen_addresses": "'127.0.0.1'", "password_encryption": "'scram-sha-256'"}

# Defaults of ours that would contradict a setting of the user's, which then decides alone.
_TOGETHER = (
    frozenset({"wal_level", "max_wal_senders", "archive_mode", "summarize_wal"}),
    frozenset({"min_wal_size", "max_wal_size"}),
)

# Where initdb's choices for a locale are written, if one was asked for.
LOCALE_FILE = "locale.conf"
LOCALE_SETTINGS = ("datestyle", "default_text_search_config", "lc_monetary", "lc_numeric", "lc_time")


def configuration(
    settings: Mapping[str, object], socket_dir: str, port: int, major: int, *, tcp: bool, has_locale: bool
) -> str:
    """Return the text for a server of that major version.

    Args:
        settings: The user's, which come last and so decide.
        tcp: Whether it also listens on this machine's loopback interface.
        has_locale: Whether the data folder has a file with what initdb chose for a locale.
    """
    chosen = {name.lower() for name in settings}
    silent = set().union(*(group for group in _TOGETHER if group & chosen), chosen)
    defaults = dict(_DEFAULTS)
    if major >= 18:
        defaults["io_method"] = "sync"  # the default starts three processes
    if tcp:
        defaults.update(_TCP)
    if has_locale:
        silent.update(LOCALE_SETTINGS)
    lines = [f"{name} = {value}" for name, value in defaults.items() if name not in silent]
    lines += [f"include_if_exists = '{LOCALE_FILE}'"] if has_locale else []
    lines += [f"unix_socket_directories = {_quoted(socket_dir)}", f"port = {port}"]
    lines += ["unix_socket_permissions = 0700"]
    lines += [f"{name} = {written(value)}" for name, value in settings.items()]
    return "\n".join(lines) + "\n"


def defaults_content() -> str:
    """Return what must be equal for two servers to be able to share a prepared cluster."""
    return repr(sorted(_DEFAULTS.items()))


def written(value: object) -> str:
    """Return a setting's value as it is written there."""
    if isinstance(value, bool):
        return "on" if value else "off"
    return str(value) if isinstance(value, int | float) else _quoted(str(value))


def _quoted(text: str) -> str:
    doubled = text.replace("'", "''").replace("\\", "\\\\")
    return f"'{doubled}'"
