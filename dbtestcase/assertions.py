"""Assertions on queries, rows, objects and the schema; a mixin of ``DatabaseTestCase``."""

from __future__ import annotations

import unittest
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any, NoReturn, overload

from sqlalchemy import Connection, Engine, NestedTransaction
from sqlalchemy.exc import DBAPIError, InvalidRequestError
from sqlalchemy.orm import Session, scoped_session

from dbtestcase.diagnosis import loads, queries, rows, states
from dbtestcase.diagnosis.rows import Entity, RowSearch
from dbtestcase.diagnosis.statements import CapturedQueries, StatementLog
from dbtestcase.lifecycle.wiring import running_class

__all__ = ["DatabaseAssertions"]

__unittest = True  # unittest leaves frames of modules with this name out of the tracebacks it prints


class DatabaseAssertions(unittest.TestCase):
    """What a test can ask of its database. Nothing that an assertion sends itself is counted or listed.

    Query assertions see what the ORM, Core and raw DBAPI cursors send on every engine of the class, in all threads.
    ``BEGIN``, ``COMMIT``, ``ROLLBACK`` and savepoints are not counted. An ``executemany()`` is one query.

    Row assertions look at what the database has, through the test's session if that is in a transaction. They flush
    nothing; if a session holds changes that were not sent, their message says so. Where a column is called ``msg``,
    give the message by position: ``assertRowExists(LogEntry, "not logged", msg="started")``.
    """

    # -- queries

    @contextmanager
    def capture_queries(self) -> Iterator[CapturedQueries]:
        """Collect the queries that the block sends, in a list that grows while the block runs.

        Each one has ``sql``, ``parameters``, ``rows``, ``seconds``, ``origin`` and ``error``.
        """
        with _log(self).capture() as captured:
            yield captured

    @overload
    def assertNumQueries(self, num: int, *, msg: Any = None) -> AbstractContextManager[CapturedQueries]: ...
    @overload
    def assertNumQueries(
        self, num: int, func: Callable[..., object], *args: Any, msg: Any = None, **kwargs: Any
    ) -> None: ...
    def assertNumQueries(
        self, num: int, func: Callable[..., object] | None = None, *args: Any, msg: Any = None, **kwargs: Any
    ) -> AbstractContextManager[CapturedQueries] | None:
        """Fail unless the block sends exactly ``num`` queries; the message lists what it sent.

        With ``func``, call that with the arguments instead of being a context manager.
        """
        expected = rows.check_count(num)
        if func is None:
            return _counting(self, expected, msg)
        with _counting(self, expected, msg):
            func(*args, **kwargs)
        return None

    @contextmanager
    def assertNoRepeatedQueries(self, at_most: int = 1, *, msg: Any = None) -> Iterator[CapturedQueries]:
        """Fail if the block sends one statement more than ``at_most`` times, with whatever values.

        The message names the line that sent it and the relationship whose loading caused it.
        """
        if rows.check_count(at_most) == 0:
            raise ValueError("at_most=0 would allow no query at all; assertNumQueries(0) says that.")
        with loads.causes_known(), _log(self).capture() as captured:
            yield captured
        problem = queries.repeated(captured, at_most)
        if problem:
            _fail(self, msg, problem)

    # -- rows

    def assertRowExists(self, entity: Any, msg: Any = None, /, **values: Any) -> None:
        """Fail unless the table has a row with these values; the message shows the rows that come nearest.

        Args:
            entity: A mapped class or a ``Table``.
            msg: May be given by name too, unless the entity has a column of that name.
            values: By attribute or column name; relationships take objects.
        """
        search, msg = _row_search(self, entity, msg, values)
        with _looking(self, search.entity) as connection:
            if not search.count(connection):
                _fail_on_rows(self, msg, search.missing(connection))

    def assertRowAbsent(self, entity: Any, msg: Any = None, /, **values: Any) -> None:
        """Fail if the table has a row with these values; the message shows it.

        Args:
            entity: A mapped class or a ``Table``.
            msg: May be given by name too, unless the entity has a column of that name.
            values: By attribute or column name; relationships take objects.
        """
        search, msg = _row_search(self, entity, msg, values)
        with _looking(self, search.entity) as connection:
            if search.count(connection):
                _fail_on_rows(self, msg, search.unwanted(connection))

    def assertRowCount(self, entity: Any, n: int, /, *criteria: Any, msg: Any = None) -> None:
        """Fail unless ``n`` rows fulfil the criteria, as ``where()`` takes them; the message shows the first rows."""
        expected = rows.check_count(n)
        rows.check_criteria(criteria)
        counted = Entity(entity)
        with _looking(self, counted) as connection:
            problem = rows.wrong_row_count(connection, counted, expected, criteria, _log(self).redaction)
            if problem:
                _fail_on_rows(self, msg, problem)

    # -- objects

    def assertTransient(self, obj: object, msg: Any = None) -> None:
        """Fail unless no session knows the object and it has no row."""
        _assert_state(self, obj, "transient", msg)

    def assertPending(self, obj: object, msg: Any = None) -> None:
        """Fail unless the object was added to a session and not flushed yet."""
        _assert_state(self, obj, "pending", msg)

    def assertPersistent(self, obj: object, msg: Any = None) -> None:
        """Fail unless the object is in a session and has a row."""
        _assert_state(self, obj, "persistent", msg)

    def assertDeleted(self, obj: object, msg: Any = None) -> None:
        """Fail unless the object's deletion was flushed and not committed yet."""
        _assert_state(self, obj, "deleted", msg)

    def assertDetached(self, obj: object, msg: Any = None) -> None:
        """Fail unless the object has an identity and no session: its session was closed, or its deletion committed."""
        _assert_state(self, obj, "detached", msg)

    # -- schema

    def assertSchemaMatches(
        self, metadata: Any, msg: Any = None, *, server_defaults: bool = False, ignore: tuple[str, ...] = ()
    ) -> None:
        """Fail unless the database's schema is what the metadata describes; the message lists the differences.

        For a project whose schema comes from migrations. Needs Alembic, whose comparison it is.

        Args:
            metadata: A ``MetaData``, a declarative base or a Flask-SQLAlchemy ``db``.
            server_defaults: Compare them too.
            ignore: Names of tables to leave out.

        Raises:
            SchemaError: Alembic is not installed, or ``metadata`` is none.
        """
        from dbtestcase.schema import schema_differences

        engine: Any = self.engine  # type: ignore[attr-defined]
        engine = getattr(engine, "sync_engine", engine)
        with _log(self).muted(), engine.connect() as connection:
            differences = schema_differences(connection, metadata, server_defaults=server_defaults, ignore=ignore)
        if differences:
            number = f"{len(differences)} difference{'' if len(differences) == 1 else 's'}"
            lines = "".join(f"\n  {line}" for line in differences)
            _fail(self, msg, f"{number} between the database and the metadata:{lines}")


def _log(test: unittest.TestCase) -> StatementLog:
    """Return the statement log of the test's class.

    Raises:
        DBTestCaseError: ``setUpClass`` did not run for it.
    """
    log: StatementLog = running_class(type(test)).explanations.log
    return log


@contextmanager
def _counting(test: unittest.TestCase, expected: int, msg: Any) -> Iterator[CapturedQueries]:
    with _log(test).capture() as captured:
        yield captured
    problem = queries.wrong_count(captured, expected)
    if problem:
        _fail(test, msg, problem)


def _row_search(test: unittest.TestCase, entity: Any, msg: Any, values: dict[str, Any]) -> tuple[RowSearch, Any]:
    """Return what to look for, and the message of the user's."""
    if "msg" in values and not Entity(entity).has_column("msg"):
        msg = values.pop("msg")
    return RowSearch(entity, values, _log(test).redaction), msg


def _fail(test: unittest.TestCase, msg: Any, problem: str) -> NoReturn:
    test.fail(test._formatMessage(msg, problem))


def _fail_on_rows(test: unittest.TestCase, msg: Any, problem: str) -> NoReturn:
    unsent = states.unsent(_session_of(test), _log(test).redaction)
    _fail(test, msg, f"{problem}\n{unsent}" if unsent else problem)


def _session_of(test: unittest.TestCase) -> Session:
    session: Any = test.session  # type: ignore[attr-defined]
    if isinstance(session, scoped_session):
        session = session()
    return getattr(session, "sync_session", session)  # type: ignore[no-any-return]


@contextmanager
def _looking(test: unittest.TestCase, entity: Entity) -> Iterator[Connection]:
    """Give a connection that sees what the test would see, and leaves no trace in session or log."""
    session = _session_of(test)
    bind = session.get_bind(mapper=entity.mapper, clause=entity.clause)
    with _log(test).muted():
        theirs = _connection_of(session, bind)
        if theirs is None:
            engine = bind.engine if isinstance(bind, Connection) else bind
            with engine.connect() as ours:
                yield ours
            return
        connection, savepoint = theirs
        try:
            yield connection
        finally:
            savepoint.rollback()


def _assert_state(test: unittest.TestCase, obj: object, expected: str, msg: Any) -> None:
    problem = states.wrong_state(obj, expected, _log(test).redaction)
    if problem:
        _fail(test, msg, problem)


def _connection_of(session: Session, bind: Engine | Connection) -> tuple[Connection, NestedTransaction] | None:
    """Return the connection that a session holds open, in a savepoint of ours; ``None`` if there is none to use."""
    if not (session.is_active and _holds_connection(session, bind)):
        return None
    try:
        connection = session.connection(bind_arguments={"bind": bind})
        return connection, connection.begin_nested()
    except (DBAPIError, InvalidRequestError):
        return None  # its transaction has failed: what the database has is seen from outside


def _holds_connection(session: Session, bind: Engine | Connection) -> bool:
    """Whether the session's transaction has reached the database; asking the session itself would make it do so."""
    transaction = session.get_nested_transaction() or session.get_transaction()
    while transaction is not None:
        if bind in transaction._connections:
            return True
        transaction = transaction.parent
    return False
