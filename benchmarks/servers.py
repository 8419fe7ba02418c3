"""The peers that give a class a server or a database, each used in its fastest documented way."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import Any, Protocol

from sqlalchemy import URL, Engine, MetaData, create_engine, make_url
from sqlalchemy.pool import NullPool


class Databases(Protocol):
    """Something that gives databases with a schema, one after the other."""

    def __init__(self, metadata: MetaData) -> None:
        """Prepare what is needed once per process."""

    def start(self) -> Engine:
        """Return an engine on a new database that holds the schema."""

    def stop(self, engine: Engine) -> None:
        """Close the engine and throw the database away."""

    def close(self) -> None:
        """Throw away what was prepared."""


def create_all(metadata: MetaData, url: URL) -> None:
    """Create the tables and leave no connection behind."""
    engine = create_engine(url, poolclass=NullPool)
    metadata.create_all(engine)
    engine.dispose()


class TestingPostgresql:
    """``testing.postgresql.Postgresql()``: initdb and a server each time."""

    def __init__(self, metadata: MetaData) -> None:
        self._metadata = metadata

    def start(self) -> Engine:
        self._server = self._new()
        return create_engine(_url_of(self._server))

    def _new(self) -> Any:
        from testing.postgresql import Postgresql

        server = Postgresql()
        create_all(self._metadata, _url_of(server))
        return server

    def stop(self, engine: Engine) -> None:
        engine.dispose()
        self._server.stop()

    def close(self) -> None:
        pass


class TestingPostgresqlFactory(TestingPostgresql):
    """``PostgresqlFactory(cache_initialized_db=True)``: each server a copy of one that holds the schema."""

    def __init__(self, metadata: MetaData) -> None:
        from testing.postgresql import PostgresqlFactory

        super().__init__(metadata)
        self._factory = PostgresqlFactory(
            cache_initialized_db=True, on_initialized=lambda server: create_all(metadata, _url_of(server))
        )

    def _new(self) -> Any:
        return self._factory()

    def close(self) -> None:
        self._factory.clear_cache()


def _url_of(server: Any) -> URL:
    found = server.dsn()
    return URL.create(
        "postgresql+psycopg2", found["user"], host=found["host"], port=found["port"], database=found["database"]
    )


class _PytestPostgresqlServer:
    """What the fixture ``postgresql_proc`` of pytest-postgresql starts, without pytest around it."""

    def __init__(self) -> None:
        from port_for import select_random
        from pytest_postgresql.executors import PostgreSQLExecutor

        self._folder = Path(tempfile.mkdtemp(prefix="pp-"))
        self._executor = PostgreSQLExecutor(
            executable=pg_ctl(),
            host="127.0.0.1",
            port=select_random(),
            datadir=str(self._folder / "data"),
            unixsocketdir=str(self._folder),
            logfile=str(self._folder / "log"),
            startparams="-w",
            dbname="test",
        )
        self._executor.start()
        self._executor.wait_for_postgres()

    def janitor(self, name: str, **options: Any) -> Any:
        from pytest_postgresql.janitor import DatabaseJanitor

        executor = self._executor
        return DatabaseJanitor(user=executor.user, host=executor.host, port=executor.port, dbname=name, **options)

    def url(self, name: str) -> URL:
        executor = self._executor
        return URL.create("postgresql+psycopg2", executor.user, host=executor.host, port=executor.port, database=name)

    def stop(self) -> None:
        self._executor.stop()
        shutil.rmtree(self._folder, ignore_errors=True)


def pg_ctl() -> str:
    """Return the path of the program."""
    found = shutil.which("pg_ctl")
    places = sorted(Path("/usr/lib/postgresql").glob("*/bin/pg_ctl"))
    if found is None and not places:
        raise FileNotFoundError("pg_ctl")
    return found or str(places[-1])


class PytestPostgresqlServer:
    """pytest-postgresql: initdb and a server each time, as a ``postgresql_proc`` per class would."""

    def __init__(self, metadata: MetaData) -> None:
        self._metadata = metadata

    def start(self) -> Engine:
        self._server = _PytestPostgresqlServer()
        self._server.janitor("test").init()
        url = self._server.url("test")
        create_all(self._metadata, url)
        return create_engine(url)

    def stop(self, engine: Engine) -> None:
        engine.dispose()
        self._server.stop()

    def close(self) -> None:
        pass


class PytestPostgresqlTemplate:
    """pytest-postgresql as it is meant: one server, and databases made from a template that holds the schema."""

    def __init__(self, metadata: MetaData) -> None:
        self._server = _PytestPostgresqlServer()
        self._server.janitor("test_tmpl", as_template=True).init()
        create_all(metadata, self._server.url("test_tmpl"))

    def start(self) -> Engine:
        self._janitor = self._server.janitor("test", template_dbname="test_tmpl")
        self._janitor.init()
        return create_engine(self._server.url("test"))

    def stop(self, engine: Engine) -> None:
        engine.dispose()
        self._janitor.drop()

    def close(self) -> None:
        self._server.stop()


class PgmemServer:
    """``pgmem.start()``: PostgreSQL as WebAssembly, a process each time."""

    def __init__(self, metadata: MetaData) -> None:
        self._metadata = metadata

    def start(self) -> Engine:
        import pgmem

        self._server = pgmem.start(database="test")
        url = _pgmem_url(self._server.template)
        create_all(self._metadata, url)
        return create_engine(url)

    def stop(self, engine: Engine) -> None:
        engine.dispose()
        self._server.close()

    def close(self) -> None:
        pass


class PgmemFork:
    """``snapshot.fork()`` of pgmem: one process, and copies of a prepared state."""

    def __init__(self, metadata: MetaData) -> None:
        import pgmem

        self._process = pgmem.start(database="test")
        create_all(metadata, _pgmem_url(self._process.template))
        self._snapshot = self._process.template.snapshot()

    def start(self) -> Engine:
        self._fork = self._snapshot.fork()
        return create_engine(_pgmem_url(self._fork))

    def stop(self, engine: Engine) -> None:
        engine.dispose()
        self._fork.close()

    def close(self) -> None:
        self._process.close()


def _pgmem_url(server: Any) -> URL:
    return URL.create("postgresql+psycopg2", server.user, host=server.host, port=server.port, database=server.database)


class OneServer:
    """One database for all, in a server that runs already; the server is one of ours, so its settings are the same."""

    def __init__(self, metadata: MetaData) -> None:
        from dbtestcase import ThrowawayPostgres
        from dbtestcase.servers import running_instance

        self._running = running_instance(ThrowawayPostgres())
        self._url = self._running.__enter__().url()
        create_all(metadata, make_url(self._url))

    def start(self) -> Engine:
        return create_engine(self._url)

    def stop(self, engine: Engine) -> None:
        engine.dispose()

    def close(self) -> None:
        self._running.__exit__(None, None, None)


PEERS: dict[str, type[Databases]] = {
    "testing.postgresql": TestingPostgresql,
    "testing.postgresql, cached factory": TestingPostgresqlFactory,
    "pytest-postgresql, a server each": PytestPostgresqlServer,
    "pytest-postgresql, a database from a template": PytestPostgresqlTemplate,
    "pgmem, a server each": PgmemServer,
    "pgmem, a fork each": PgmemFork,
}
