"""A plain PostgreSQL server, such as a CI system provides: on TCP with passwords, and on a unix socket.

It is not one of ours: stock settings but for what it costs to write to a disk, and a role that may create databases
and nothing else.
"""

from __future__ import annotations

import atexit
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, Self
from urllib.parse import quote

import psycopg2

from dbtestcase.servers import find_programs
from dbtestcase.servers.programs import WHEELS, Programs
from dbtestcase.servers.user import launch_for

__all__ = ["PASSWORD", "PlainServer", "embedded_programs", "shared_server"]

# With characters that mean something in URLs and in connection strings.
PASSWORD = "se:cr/et@'1%"
_SUPERUSER_PASSWORD = "super"
_OF_INITDB = {"postgres", "template0", "template1"}


class PlainServer:
    """A running server; a context manager that ends it and deletes its files.

    Args:
        programs: Its programs; those that are found if ``None``.
        settings: Settings of ``postgresql.conf`` beside the stock ones.
    """

    def __init__(self, programs: Programs | None = None, settings: dict[str, object] | None = None) -> None:
        launch = launch_for(programs or find_programs())
        self._bin_dir = launch.programs.bin_dir
        self._user = None if launch.user is None else launch.user[0]
        self._settings = dict(settings or {})
        where = "/dev/shm" if os.access("/dev/shm", os.W_OK) else "/tmp"
        self.folder = Path(tempfile.mkdtemp(prefix="plain-", dir=where))
        self._reserved = _reserved_port()
        self.port: int = self._reserved.getsockname()[1]
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        if self._user is not None:
            os.chown(self.folder, self._user, -1)
        password = self.folder / "password"
        password.write_text(_SUPERUSER_PASSWORD)
        password.chmod(0o644)
        try:
            self._initdb(password)
            self.start()
            self.execute("CREATE ROLE tester LOGIN CREATEDB PASSWORD %s", PASSWORD)
            self.execute("CREATE DATABASE ci OWNER tester")
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
        self._reserved.close()
        shutil.rmtree(self.folder, ignore_errors=True)

    def start(self) -> None:
        """Start it and wait until it answers."""
        settings = {
            "port": self.port,
            "listen_addresses": "127.0.0.1",
            "unix_socket_directories": self.folder,
            "fsync": "off",
            **self._settings,
        }
        options = [word for name, value in settings.items() for word in ("-c", f"{name}={value}")]
        command = [str(self._bin_dir / "postgres"), "-D", str(self.folder / "data"), *options]
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                command, stdout=log, stderr=log, user=self._user, cwd=self.folder, env=_environment()
            )
        deadline = time.monotonic() + 120
        while True:
            try:
                self.connect().close()
                return
            except psycopg2.OperationalError:
                if self._process.poll() is not None or time.monotonic() > deadline:
                    raise RuntimeError((self.folder / "log").read_text()[-2000:]) from None
                time.sleep(0.02)

    def stop(self) -> None:
        """End it at once, whoever is connected."""
        if self._process is not None:
            self._process.send_signal(signal.SIGINT)
            self._process.wait(120)
            self._process = None

    def url(self, user: str = "tester", database: str = "ci", *, password: str = PASSWORD, socket: bool = False) -> str:
        """Return a URL for whoever uses the server, over TCP unless the unix socket is asked for."""
        who = f"{user}:{quote(password, safe='')}"
        if socket:
            return f"postgresql://{who}@/{database}?host={quote(str(self.folder), safe='')}&port={self.port}"
        return f"postgresql://{who}@127.0.0.1:{self.port}/{database}"

    def connect(self, database: str = "postgres") -> Any:
        """Return a connection of the superuser's."""
        connection = psycopg2.connect(
            host=str(self.folder), port=self.port, user="postgres", password=_SUPERUSER_PASSWORD, dbname=database
        )
        connection.autocommit = True
        return connection

    @contextmanager
    def restarted_with(self, **settings: object) -> Iterator[None]:
        """Restart it with other settings, and without them when the block ends."""
        before = self._settings
        self._settings = {**before, **settings}
        self.stop()
        try:
            self.start()
            yield
        finally:
            self._settings = before
            self.stop()
            self.start()

    def make_certificate(self) -> dict[str, object]:
        """Return settings for TLS, with a certificate for 127.0.0.1 that ``ssl_cert_file`` holds; needs ``openssl``."""
        certificate, key = self.folder / "server.crt", self.folder / "server.key"
        command = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2"
        files = [
            "-subj",
            "/CN=127.0.0.1",
            "-addext",
            "subjectAltName=IP:127.0.0.1",
            "-out",
            str(certificate),
            "-keyout",
            str(key),
        ]
        subprocess.run([*command.split(), *files], check=True, capture_output=True)
        key.chmod(0o600)
        certificate.chmod(0o644)
        if self._user is not None:
            os.chown(key, self._user, -1)
        return {"ssl": "on", "ssl_cert_file": certificate, "ssl_key_file": key}

    def empty(self) -> None:
        """Drop what tests before have left: databases, and roles but the two that are always there."""
        for name in self.databases():
            self.execute(f'ALTER DATABASE "{name}" IS_TEMPLATE false')
            self.execute(f'DROP DATABASE "{name}" WITH (FORCE)')
        for (name,) in self.execute("SELECT quote_ident(rolname) FROM pg_roles WHERE oid >= 16384"):
            if name != "tester":
                self.execute(f"DROP ROLE {name}")

    def execute(self, sql: str, *parameters: object, database: str = "postgres") -> list[tuple[Any, ...]]:
        """Execute a statement as superuser and return its rows, if it has any."""
        with closing(self.connect(database)) as connection, connection.cursor() as cursor:
            cursor.execute(sql, parameters or None)
            return cursor.fetchall() if cursor.description else []

    def databases(self) -> set[str]:
        """Return the names of all databases but those of ``initdb`` and the URL's own."""
        return {name for (name,) in self.execute("SELECT datname FROM pg_database")} - _OF_INITDB - {"ci"}

    def unpublished(self) -> set[str]:
        """Return the names of those of them that are no templates."""
        templates = {name for (name,) in self.execute("SELECT datname FROM pg_database WHERE datistemplate")}
        return self.databases() - templates

    def _initdb(self, password: Path) -> None:
        arguments = ["-U", "postgres", "-A", "scram-sha-256", "--pwfile", str(password), "-N", "-E", "UTF8"]
        command = [str(self._bin_dir / "initdb"), "-D", str(self.folder / "data"), *arguments, "--locale=C"]
        subprocess.run(command, check=True, capture_output=True, user=self._user, cwd=self.folder, env=_environment())


_shared: PlainServer | None = None


def shared_server() -> PlainServer:
    """Return the server that all test classes of this process share, emptied; it ends with the process.

    It is no fixture of a module: the classes that run within a test would have that set up again.
    """
    global _shared
    if _shared is None:
        _shared = PlainServer().__enter__()
        atexit.register(_shared.__exit__)
    _shared.empty()
    return _shared


def embedded_programs() -> Programs | None:
    """Return the programs that the embedded wheel brings, ``None`` if it is not installed."""
    module, wheel, folders = WHEELS[0]
    try:
        package = __import__(module)
    except ImportError:
        return None
    bin_dir = Path(package.__path__[0]) / folders[0]
    return Programs(bin_dir.resolve(), wheel) if bin_dir.is_dir() else None


def _environment() -> dict[str, str]:
    return {**{name: value for name, value in os.environ.items() if not name.startswith("PG")}, "LC_ALL": "C"}


def _reserved_port() -> socket.socket:
    """Return a socket whose port the system gives to nobody else; a server may listen there, also beside the socket."""
    reserved = socket.socket()
    reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as PostgreSQL does
    reserved.bind(("127.0.0.1", 0))
    return reserved
