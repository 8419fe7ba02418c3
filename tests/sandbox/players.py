"""How each actor of a random program takes its steps, and what came of each, in a form that can be compared."""

from __future__ import annotations

import io
from collections.abc import Awaitable, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from .programs import ALL, MODES, SAVEPOINTS, Actor, Program

__all__ = ["IS_THERE", "LOOKS", "STREAMED", "Account", "outcome_of", "play", "rows_of", "values_of"]

STREAMED = "SELECT id, n FROM item ORDER BY id"
LOOKS = ("select all", "items", "select note", "audits", "log", "parts", "ranks", "secrets", "extra", "nextval")
# Asked before the look at this table: a query that fails after a COMMIT lets a program run again.
IS_THERE = "SELECT to_regclass('extra') IS NOT NULL"


class Base(DeclarativeBase):
    pass


class Account(Base):
    __tablename__ = "account"

    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str | None]
    n: Mapped[int] = mapped_column(server_default="0")


class Player:
    """Takes the steps of one actor; a subclass for each way of connecting has a method for each kind of step."""

    def __init__(self, engine: sa.Engine) -> None:
        self.engine = engine
        self.open()

    def open(self) -> None:
        raise NotImplementedError

    def close(self) -> None:
        raise NotImplementedError

    def execute(self, sql: str, parameters: Any) -> Any:
        raise NotImplementedError

    def take(self, kind: str, arguments: tuple[Any, ...]) -> Any:
        if kind in ALL:
            sql = ALL[kind][0]
            return self.execute(sql.format(*arguments), ()) if "{}" in sql else self.execute(sql, arguments)
        if kind in SAVEPOINTS:
            return self.execute(f"{kind} {arguments[0]}", ())
        if kind in MODES:
            return self.set_mode(kind)
        act = getattr(self, kind.lower().replace(" ", "_"), None)
        return act(*arguments) if act is not None else "not understood"

    def set_mode(self, mode: str) -> Any:
        raise NotImplementedError


class Core(Player):
    """An SQLAlchemy connection."""

    def open(self) -> None:
        self.connection: Any = self.engine.connect()
        self._nested: list[Any] = []
        self._stream: Any = None

    def close(self) -> None:
        self.connection.close()

    def execute(self, sql: str, parameters: Any) -> Any:
        given = (parameters,) if parameters else ()
        return rows_of(self.connection.exec_driver_sql(sql, *given))

    def commit(self) -> None:
        self.connection.commit()

    def rollback(self) -> None:
        self.connection.rollback()

    def set_mode(self, mode: str) -> None:
        if mode == "READ ONLY":
            self.connection.execution_options(postgresql_readonly=True)
        else:
            self.connection.execution_options(isolation_level=mode)

    def nest(self) -> None:
        self._nested.append(self.connection.begin_nested())

    def nest_end(self) -> None:
        if self._nested:
            self._nested.pop().commit()

    def nest_undo(self) -> None:
        if self._nested:
            self._nested.pop().rollback()

    def many(self, *arguments: int) -> int:
        sql = "INSERT INTO note (id, account) VALUES (%s, %s)"
        rowcount: int = self.connection.exec_driver_sql(sql, [arguments[:2], arguments[2:]]).rowcount
        return rowcount

    def copy_in(self, *arguments: int) -> Any:
        return _copy_in(self.connection.connection.cursor(), arguments)

    def copy_out(self) -> Any:
        return _copy_out(self.connection.connection.cursor())

    def stream(self) -> None:
        self._stream = self.connection.execution_options(yield_per=2).exec_driver_sql(STREAMED)

    def next(self) -> Any:
        return None if self._stream is None else list(map(tuple, self._stream.fetchmany(1)))

    def stream_end(self) -> None:
        if self._stream is not None:
            self._stream.close()

    def invalidate(self) -> None:
        self.connection.invalidate()

    def dispose(self) -> None:
        self.engine.dispose()

    def detach(self) -> None:
        self.connection.detach()


class Orm(Player):
    """An ORM session."""

    def open(self) -> None:
        self.session = Session(self.engine)
        self._nested: list[Any] = []

    def close(self) -> None:
        self.session.close()

    def execute(self, sql: str, parameters: Any) -> Any:
        for number in range(len(parameters)):
            sql = sql.replace("%s", f":p{number}", 1)
        named = {f"p{number}": value for number, value in enumerate(parameters)}
        return rows_of(self.session.execute(sa.text(sql.replace("::", r"\:\:")), named))

    def commit(self) -> None:
        self.session.commit()

    def rollback(self) -> None:
        self.session.rollback()

    def set_mode(self, mode: str) -> None:
        option = {"postgresql_readonly": True} if mode == "READ ONLY" else {"isolation_level": mode}
        self.session.connection(execution_options=option)

    def nest(self) -> None:
        self._nested.append(self.session.begin_nested())

    def nest_end(self) -> None:
        if self._nested:
            self._nested.pop().commit()

    def nest_undo(self) -> None:
        if self._nested:
            self._nested.pop().rollback()

    def many(self, *arguments: int) -> None:
        rows = [{"id": number, "name": f"many{number}"} for number in arguments[:2]]
        self.session.execute(sa.insert(Account), rows)

    def add(self, number: int, name: str) -> None:
        self.session.add(Account(id=number, name=name))

    def get(self, number: int) -> Any:
        return values_of(self.session.get(Account, number))

    def change(self, number: int, n: int) -> None:
        found = self.session.get(Account, number)
        if found is not None:
            found.n = n

    def remove(self, number: int) -> None:
        found = self.session.get(Account, number)
        if found is not None:
            self.session.delete(found)

    def flush(self) -> None:
        self.session.flush()

    def expire(self) -> None:
        self.session.expire_all()

    def query(self) -> Any:
        return [values_of(each) for each in self.session.scalars(sa.select(Account).order_by(Account.id))]


class Raw(Player):
    """The driver's connection, as ``raw_connection()`` gives it."""

    def open(self) -> None:
        self.connection: Any = self.engine.raw_connection()

    def close(self) -> None:
        self.connection.close()

    def execute(self, sql: str, parameters: Any) -> Any:
        cursor = self.connection.cursor()
        cursor.execute(sql, parameters or None)
        return _fetched(cursor)

    def commit(self) -> None:
        self.connection.commit()

    def rollback(self) -> None:
        self.connection.rollback()

    def set_mode(self, mode: str) -> None:
        self.connection.dbapi_connection.set_session(mode)

    def many(self, *arguments: int) -> int:
        cursor = self.connection.cursor()
        cursor.executemany("INSERT INTO note (id, account) VALUES (%s, %s)", [arguments[:2], arguments[2:]])
        rowcount: int = cursor.rowcount
        return rowcount

    def copy_in(self, *arguments: int) -> Any:
        return _copy_in(self.connection.cursor(), arguments)

    def copy_out(self) -> Any:
        return _copy_out(self.connection.cursor())

    def autocommit_on(self) -> None:
        self.connection.dbapi_connection.autocommit = True

    def autocommit_off(self) -> None:
        self.connection.dbapi_connection.autocommit = False

    def named(self) -> Any:
        cursor = self.connection.cursor(name="named")
        cursor.execute(STREAMED)
        return list(map(tuple, cursor.fetchmany(2)))

    def composed(self) -> Any:
        if self.engine.dialect.driver == "psycopg2":
            from psycopg2 import sql
        else:
            from psycopg import sql
        cursor = self.connection.cursor()
        cursor.execute(sql.SQL("UPDATE {} SET n = {} WHERE id = 1").format(sql.Identifier("account"), sql.Literal(5)))
        return cursor.rowcount

    def callproc(self) -> Any:
        cursor = self.connection.cursor()
        cursor.callproc("grow", (1,))
        return cursor.fetchall()

    def closed(self) -> Any:
        return self.connection.dbapi_connection.closed

    def status(self) -> Any:
        return int(self.connection.dbapi_connection.info.transaction_status)

    # Named as the statement.
    def _with(self) -> Any:
        with self.connection.dbapi_connection as connection:
            cursor = connection.cursor()
            cursor.execute("UPDATE account SET n = n + 1 WHERE id = 2")
            return cursor.rowcount

    locals()["with"] = _with


_PLAYERS: dict[str, type[Player]] = {"core": Core, "session": Orm, "raw": Raw}


def play(program: Program, engines: Mapping[str, sa.Engine], note: Callable[[Any], None]) -> None:
    """Run a program; ``note`` is told what each step gave, and at last what is left in the tables."""
    players: dict[int, Player] = {}
    threads = {i: ThreadPoolExecutor(1) for i, actor in enumerate(program.actors) if actor.has_thread}

    def in_its_thread(number: int, act: Callable[[], Any]) -> Any:
        return threads[number].submit(act).result() if number in threads else act()

    def step(number: int, actor: Actor, kind: str, arguments: tuple[Any, ...]) -> Any:
        if kind == "CLOSE":
            player = players.pop(number, None)
            return None if player is None else player.close()
        if number not in players:
            players[number] = _PLAYERS[actor.way](engines[actor.engine])
        return players[number].take(kind, arguments)

    try:
        for each in program.steps:
            actor = program.actors[each.actor]
            note(in_its_thread(each.actor, lambda e=each, a=actor: _outcome(step, e.actor, a, e.kind, e.arguments)))
    finally:
        for number, player in list(players.items()):
            in_its_thread(number, lambda p=player: _outcome(p.close))
        for thread in threads.values():
            thread.shutdown()
    engine = engines[program.actors[0].engine]
    note({kind: _look(engine, kind) for kind in LOOKS})


def _look(engine: sa.Engine, kind: str) -> Any:
    with engine.connect() as connection:
        if kind == "extra" and not connection.exec_driver_sql(IS_THERE).scalar():
            return None
        return _outcome(lambda: rows_of(connection.exec_driver_sql(ALL[kind][0])))


def _outcome(act: Callable[..., Any], *arguments: Any) -> Any:
    """Return what was returned, or what is comparable of what was raised."""
    try:
        return act(*arguments)
    except sa.exc.SQLAlchemyError as error:
        return (type(error).__name__, *_of_driver(getattr(error, "orig", None)))
    except Exception as error:
        if type(error).__module__.startswith("dbtestcase"):
            raise
        return _of_driver(error)


async def outcome_of(act: Callable[..., Awaitable[Any]], *arguments: Any) -> Any:
    """Do what :func:`_outcome` does for a coroutine function."""
    try:
        result = await act(*arguments)
    except Exception as error:
        return _outcome(_raise, error)
    return result


def _raise(error: Exception) -> None:
    raise error


def _of_driver(error: BaseException | None) -> tuple[Any, ...]:
    if error is None:
        return ()
    state = getattr(error, "sqlstate", None) or getattr(error, "pgcode", None)
    report = getattr(error, "diag", None)
    # What the driver says by itself may name objects by their addresses.
    return (
        type(error).__name__, state, getattr(report, "message_primary", None), getattr(report, "message_detail", None)
    )  # fmt: skip


def rows_of(result: sa.CursorResult[Any] | sa.Result[Any]) -> Any:
    if result.returns_rows:  # type: ignore[union-attr]
        return sorted(map(tuple, result.fetchall()), key=repr)
    return result.rowcount  # type: ignore[union-attr]


def _fetched(cursor: Any) -> Any:
    return sorted(map(tuple, cursor.fetchall()), key=repr) if cursor.description else cursor.rowcount


def values_of(account: Account | None) -> Any:
    return None if account is None else (account.id, account.name, account.n)


def _copy_in(cursor: Any, row: tuple[int, ...]) -> Any:
    sql = "COPY note (id, account) FROM STDIN"
    if hasattr(cursor, "copy_expert"):
        cursor.copy_expert(sql, io.StringIO("\t".join(map(str, row)) + "\n"))
    else:
        with cursor.copy(sql) as copy:
            copy.write_row(row)
    return cursor.rowcount


def _copy_out(cursor: Any) -> Any:
    sql = "COPY (SELECT id, n FROM item ORDER BY id) TO STDOUT"
    if hasattr(cursor, "copy_expert"):
        cursor.copy_expert(sql, found := io.StringIO())
        return found.getvalue()
    with cursor.copy(sql) as copy:
        return [bytes(block) for block in copy]
