"""``python -m dbtestcase``: look after the servers that tests are run on.

Exit codes: 0 all is well, 1 something is wrong (and was said), 2 the command line was not understood.
"""

from __future__ import annotations

import argparse
import importlib
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Sequence
from contextlib import AbstractContextManager
from importlib.metadata import version
from types import FrameType
from typing import Any

from dbtestcase.errors import DBTestCaseError, SchemaError
from dbtestcase.lifecycle.plans import contents_of
from dbtestcase.schema import plan
from dbtestcase.servers import (
    DEFAULT,
    ExistingPostgres,
    Instance,
    ThrowawayPostgres,
    chosen,
    clear_cache,
    doctor,
    find_programs,
    remove_kept,
    running_kept,
    start_instance,
)
from dbtestcase.servers.existing.housekeeping import clean_server

__all__ = ["main"]

_EXAMPLES = """\
examples:
  python -m dbtestcase doctor                       is this machine ready, and how fast is it?
  python -m dbtestcase start                        an empty PostgreSQL until Ctrl-C
  python -m dbtestcase start --schema shop.models:Base
  python -m dbtestcase start --kept NAME            look at what a failed test left (DBTESTCASE_KEEP=failed)
  python -m dbtestcase clean                        delete cached templates and kept instances
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code.

    Args:
        arguments: What stands after ``python -m dbtestcase``; taken from ``sys.argv`` if ``None``.
    """
    options = _parser().parse_args(arguments)
    try:
        code: int = options.command(options)
    except DBTestCaseError as error:
        print(f"dbtestcase: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        # Whoever read our output, such as head, had enough; the interpreter would complain at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    return code


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m dbtestcase",
        description="Look after the throwaway PostgreSQL servers of dbtestcase.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"dbtestcase {version('dbtestcase')}")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")

    check = commands.add_parser(
        "doctor",
        help="say what was found, what it costs and what is wrong",
        description="Say which programs and versions were found, where instances live and how much "
        "room there is, what the cache holds, how long a start takes, and what is wrong; or the same of "
        "a server that is there already. "
        "Exits with 1 if tests cannot run.",
    )
    check.add_argument("--server", metavar="URL", help="look at this server; DBTESTCASE_SERVER names one as well")
    check.set_defaults(command=lambda options: doctor.examine(sys.stdout, _server(options)))

    start = commands.add_parser(
        "start",
        help="run a throwaway server until Ctrl-C and print its URL",
        description="Run a throwaway server and print the URL of its database. Ctrl-C or SIGTERM "
        "ends it; nothing of it is kept.",
    )
    what = start.add_mutually_exclusive_group()
    what.add_argument(
        "--schema", metavar="PACKAGE:NAME", help="what it holds: a base, MetaData or db, as in shop.models:Base"
    )
    what.add_argument("--kept", metavar="NAME", help="a copy of an instance that was kept")
    start.add_argument("--database", default="test", metavar="NAME", help="which of its databases (test)")
    start.add_argument("--psql", action="store_true", help="open psql on it and end with it")
    start.set_defaults(command=_start)

    clean = commands.add_parser(
        "clean",
        help="delete cached templates and kept instances",
        description="Delete the templates in the cache and the databases of failed tests that "
        "DBTESTCASE_KEEP=failed has kept, on an existing server too. Running tests are not disturbed.",
    )
    clean.add_argument("--kept-only", action="store_true", help="leave the cached templates")
    clean.add_argument("--server", metavar="URL", help="drop what lies on this server; so does DBTESTCASE_SERVER")
    clean.set_defaults(command=_clean)
    return parser


def _start(options: argparse.Namespace) -> int:
    with _chosen(options) as instance:
        psql_command = [_psql_program(), "-h", str(instance.socket_dir), "-U", "postgres", options.database]
        if options.psql:
            return _psql(psql_command)
        over = _end_on_signals()  # before anybody is told that there is something to end
        url = instance.url(database=options.database)
        print(f"{url}\n{' '.join(psql_command)}" if sys.stdout.isatty() else url, flush=True)
        if sys.stdout.isatty():
            print("Ctrl-C ends it; nothing of it is kept.", flush=True)
        over.wait()
    return 0


def _chosen(options: argparse.Namespace) -> AbstractContextManager[Instance]:
    if options.kept:
        return running_kept(options.kept)
    if options.schema is None:
        return start_instance(ThrowawayPostgres(), owner="python -m dbtestcase start")
    wanted = plan(_named(options.schema), owner=f"--schema {options.schema}")
    return start_instance(ThrowawayPostgres(), contents_of(wanted), owner="python -m dbtestcase start")


def _named(name: str) -> Any:
    module_name, _, attribute = name.partition(":")
    sys.path.insert(0, os.getcwd())
    try:
        found: Any = importlib.import_module(module_name)
        for part in attribute.split(".") if attribute else ():
            found = getattr(found, part)
    except (ImportError, AttributeError, ValueError) as exc:
        raise SchemaError(f"--schema {name}: {exc}.\nWrite PACKAGE:NAME, as in shop.models:Base.") from exc
    return found


def _end_on_signals() -> threading.Event:
    """Return what is set once the user or the system wants an end."""
    over = threading.Event()

    def end(number: int, frame: FrameType | None) -> None:
        over.set()

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, end)
    return over


def _psql_program() -> str:
    """Return how to call psql: as users do if it is on PATH, else by where the server programs are."""
    beside = find_programs().bin_dir / "psql"
    return str(beside) if shutil.which("psql") is None and beside.exists() else "psql"


def _psql(command: list[str]) -> int:
    if shutil.which(command[0]) is None:
        raise DBTestCaseError("the program 'psql' is not on PATH. Install PostgreSQL's client package.")
    # Ctrl-C interrupts a query in psql; it must not end the server under it. A handler, since that is not inherited.
    signal.signal(signal.SIGINT, lambda number, frame: None)
    return subprocess.run(command, check=False).returncode


def _clean(options: argparse.Namespace) -> int:
    kept = remove_kept()
    print(f"{kept} kept instance{'' if kept == 1 else 's'} deleted")
    if not options.kept_only:
        gone = clear_cache()
        print(f"{len(gone)} cached template{'' if len(gone) == 1 else 's'} deleted")
    server = _server(options)
    if server is not None:
        templates, others = clean_server(server)
        print(f"at {server.place}: {templates} template databases and {others} others dropped")
    return 0


def _server(options: argparse.Namespace) -> ExistingPostgres | None:
    """Return the existing server that is meant, ``None`` if none is."""
    if options.server is not None:
        return ExistingPostgres(options.server)
    meant = chosen(DEFAULT)
    return meant if isinstance(meant, ExistingPostgres) else None


if __name__ == "__main__":
    sys.exit(main())
