"""One database of one running test class: all its engines, undone after each test."""

from __future__ import annotations

import os
import weakref
from collections.abc import Callable, Hashable
from typing import Any

import sqlalchemy as sa
from sqlalchemy.pool import ConnectionPoolEntry

from dbtestcase.diagnosis.leftovers import cursor_left, warn_left_open
from dbtestcase.diagnosis.locks import LockWatch
from dbtestcase.frames import UNKNOWN, Origin, user_origin

from . import registry, sessions, words
from .ahead import MOST, ConnectionsAhead
from .channel import Channel
from .core import Core
from .drivers import SUPPORTED, driver_for
from .engines import TakenEngine, line_of_connect, refuse_async, root
from .observer import Observer
from .problems import IsolationBroken
from .quoting import string
from .real import RealConnections
from .sequences import restoring_sql
from .settings import options_as_settings


class Sandbox:
    """What the code under test does on its engines is undone.

    Between tests the engines give real connections, and commits stay. From :meth:`begin_test` to :meth:`end_test` they
    give virtual ones that share one transaction, or, with ``isolation="clone"``, real ones to the present database.

    Args:
        url: The database; its drivername says which driver all engines here use.
        owner: The name of the test class, for messages.
        isolation: "savepoint" or "clone".
        observer: Is told of each statement of the code under test.
        kind: Equal for databases that are copies of one template; None if that is not known.
        locks: Ends statements on real connections that wait too long for a lock.
        watches_commits: Find out at the end of a test whether anybody has committed for real; the server must have
            ``track_commit_timestamp`` on.
    """

    def __init__(
        self,
        url: sa.URL,
        *,
        owner: str,
        isolation: str = "savepoint",
        observer: Observer | None = None,
        locks: LockWatch | None = None,
        kind: Hashable = None,
        watches_commits: bool = False,
    ) -> None:
        self.owner = owner
        self._kind = kind
        self.locks = locks
        self.isolation = isolation
        self._real_url = url.difference_update_query(["plugin"])
        self._registered: list[sa.URL] = []
        self._taken: dict[sa.Engine, TakenEngine] = {}
        self._idle: list[Any] = []
        self._in_test = False
        self._is_closed = False
        self._pid = os.getpid()
        # Called before a connection is given: whoever runs the tests may begin one only now.
        self.before_use: Callable[[], None] = _nothing
        self._core = Core(self._make_driver(), owner=owner, observer=observer, locks=locks)
        self._core.watches_commits = watches_commits
        self._real = RealConnections(self)
        self._register()
        sessions.listen()
        self.engine = sa.create_engine(self.url)

    # -- what it is

    @property
    def url(self) -> sa.URL:
        """The database's URL; an engine that anybody makes from it is isolated too."""
        return self._real_url.update_query_dict({"plugin": registry.PLUGIN})

    @property
    def real_url(self) -> sa.URL:
        """The database's URL without isolation."""
        return self._real_url

    @property
    def needs_fresh_database(self) -> bool:
        """Whether the last test really ended its transaction, so that its rows may still be there."""
        return self._core.needs_fresh_database

    @property
    def has_real_connections(self) -> bool:
        """Whether real connections were opened that may still be open."""
        return self._real.are_any

    @property
    def is_untouched(self) -> bool:
        """Whether nothing was sent in the present test."""
        run = self._core.run
        return not self._real.are_any and (run is None or not run.transactions.is_open)

    @property
    def has_changed_database(self) -> bool:
        """Whether a test with real connections may have changed the database that it was given."""
        return self._real.have_written

    @property
    def connections_made(self) -> int:
        """How many real connections were made to the present database, since :meth:`move_to`."""
        return self._real.made

    @property
    def observer(self) -> Observer | None:
        return self._core.observer

    @observer.setter
    def observer(self, observer: Observer | None) -> None:
        self._core.observer = observer

    def expect_commit(self) -> None:
        """Something of ours is committed for real during the present test."""
        self._core.expect_commit()

    def restart_sequences(self, connection: Any) -> None:
        """Let every test begin with the sequences as they are now.

        Args:
            connection: A psycopg2 connection to the database.
        """
        self._core.restoring_sql = restoring_sql(connection)

    def __repr__(self) -> str:
        return f"<Sandbox of {self.owner}: {self._real_url.render_as_string()}>"

    # -- engines

    def redirect(self, engine: sa.Engine) -> None:
        """Take an engine over, whatever URL it was made for; that one is never connected to.

        Raises:
            IsolationBroken: The engine is asynchronous, or uses another driver than engines taken over before.
        """
        engine = root(engine)
        if engine in self._taken:
            return
        refuse_async(engine, self.owner)
        self._agree_on_driver(engine)
        taken = TakenEngine(
            engine,
            drivername=self._real_url.drivername,
            kind=self._kind,
            creator=lambda record: self._connection(engine, record),
            on_checkout=self._checked_out,
        )
        taken.expect_pings(self.isolation == "clone")
        self._taken[engine] = taken
        sessions.own(engine, self)

    def restore(self, engine: sa.Engine) -> None:
        """Give an engine back exactly as it was."""
        taken = self._taken.pop(root(engine), None)
        if taken is not None:
            sessions.disown(taken.engine)
            taken.give_back()

    def _agree_on_driver(self, engine: sa.Engine) -> None:
        driver = f"{engine.dialect.name}+{engine.dialect.driver}"
        if driver not in SUPPORTED or driver == self._real_url.drivername or registry.is_late(engine):
            return
        own = getattr(self, "engine", None)
        others = [known for known in self._taken if known is not own and not registry.is_late(known)]
        # Before the first test only the class's own engine can have connected, to make the class data.
        is_free = not self._real.has_connected or (not self._in_test and self._real.close_idle())
        if others or self._core.physical is not None or not is_free:
            raise IsolationBroken(words.two_drivers(self.owner, self._real_url.drivername, driver))
        self._adopt(driver)

    def _adopt(self, drivername: str) -> None:
        """Use another driver from now on; nothing has connected yet."""
        self._drop_ready_connection()
        self._real_url = self._real_url.set(drivername=drivername)
        self._core.driver = self._make_driver()
        for late in [known for known in self._taken if registry.is_late(known)]:
            self.restore(late)
            self.redirect(late)
        own = getattr(self, "engine", None)
        if own is None:
            return
        self.restore(own)
        fresh = sa.create_engine(self.url)
        self.restore(fresh)
        own.dialect, own.pool, own.url = fresh.dialect, fresh.pool, fresh.url
        self.redirect(own)

    def _make_driver(self) -> Any:
        return driver_for(self._real_url.drivername, lambda: self._real_url, self.owner)

    # -- connections

    def use_ready_connection(self, connection: Any) -> None:
        """Begin the first test on a psycopg2 connection to the database that is open already."""
        if self.isolation == "savepoint" and self._real_url.drivername == "postgresql+psycopg2":
            self._core.driver.ready_connection = connection  # type: ignore[attr-defined]
        else:
            connection.close()

    def _drop_ready_connection(self) -> None:
        connection = getattr(self._core.driver, "ready_connection", None)
        if connection is not None:
            self._core.driver.ready_connection = None  # type: ignore[attr-defined]
            connection.close()

    def _connection(self, engine: sa.Engine, record: ConnectionPoolEntry) -> Any:
        """Make a connection for a pool, of the kind that is wanted now."""
        self.before_use()
        if not self._in_test and os.getpid() != self._pid:
            # Forked by setUpClass: here no test ever begins, so whatever it wrote would be there for all of them.
            raise IsolationBroken(words.forked(self.owner))
        if not self._gives_virtual:
            return self._real.connect(engine, record)
        channel = Channel(record=weakref.ref(record), opened=user_origin())
        given = self.connect_args(engine)
        channel.settings.update(options_as_settings(given.get("options")))
        if "application_name" in given:
            channel.settings["application_name"] = f"SET application_name = {string(given['application_name'])}"
        connection: Any = self._core.driver.virtual_connection(self._core, channel, engine)
        for name in ("autocommit", "cursor_factory", "row_factory", "prepare_threshold"):
            if name in given:
                setattr(connection, name, given[name])
        return connection

    def connect_args(self, engine: sa.Engine) -> dict[str, Any]:
        """Return the ``connect_args`` that an engine was made with, without those that name a server."""
        taken = self._taken.get(root(engine))
        return taken.connect_args if taken is not None else {}

    def _checked_out(self, connection: Any) -> None:
        """Note the user's line that a connection serves from now on.

        Raises:
            DisconnectionError: It is of the other kind, or as another test has left it; the pool then makes a new one.
        """
        self.before_use()
        channel = getattr(connection, "_channel", None)
        if isinstance(channel, Channel) is not self._gives_virtual:
            raise sa.exc.DisconnectionError("a connection of the other phase")
        if isinstance(channel, Channel):
            if not channel.hand_out(self._core.run):
                raise sa.exc.DisconnectionError("an earlier test has left settings on the connection")
            channel.opened, channel.is_new, channel.serves_session = line_of_connect(), True, False
        else:
            self._real.checked_out(connection)

    @property
    def _gives_virtual(self) -> bool:
        return self._in_test and self.isolation == "savepoint"

    # -- tests

    def begin_test(self, name: str) -> None:
        """Begin a test. Sends nothing.

        Raises:
            IsolationBroken: A connection of the class phase was left open with uncommitted changes.
        """
        self.leave_class_phase()
        self._core.begin_test(name)
        self._in_test = True

    def use_isolation(self, isolation: str) -> None:
        """Isolate the tests from now on with "savepoint" or "clone"; called between tests."""
        if isolation == self.isolation:
            return
        self._drop_ready_connection()
        self._core.close()
        for taken in self._taken.values():
            taken.expect_pings(isolation == "clone")
        self.isolation = isolation

    def leave_class_phase(self) -> None:
        """Close the real connections of ``setUpClass``, so that nobody is connected to the database.

        Raises:
            IsolationBroken: One of them was left open with uncommitted changes.
        """
        if not self._real.are_any:
            return
        self._core.forget_schema()
        lost = self._real.close_all("before the first test", must_keep=True)
        if lost:
            raise IsolationBroken(lost[0])

    def cease(self) -> None:
        """The test is over: nothing more is sent for it, and what is rolled back or closed now changes nothing."""
        run = self._core.run
        if run is not None and self._in_test and self.isolation == "savepoint":
            run.over = True

    def end_test(self) -> list[Exception]:
        """End the test: close what it left open and undo everything.

        Returns the problems met. It never raises, and it never hangs on another thread.
        """
        run = self._core.run
        if run is None:
            return []
        self.cease()
        try:
            sessions.close_all(run)
            self._let_go(run)
        except Exception as error:  # a fault of ours must not hide the test's own
            run.record(error)
        problems = self._core.end_test()
        if self.isolation == "clone":
            # Not all, because they take the place of connections that the next test may open.
            self._real.close_cursors("in the test")
            self._idle += self._real.give_up_idle(at_most=MOST)
            self._real.close_all("in the test", warn=True)
            self._real.habits.next_test()
        if self._real.kept is not None:
            problems = []  # sessions whose connections were closed when the test failed
        self._in_test = False
        return problems

    def keep_work(self) -> None:
        """Commit what the present test has done, for somebody to look at; the test can send nothing more."""
        if self.isolation == "savepoint":
            self._core.keep_work()
        else:
            self._real.keep_work(words.kept(self.owner))
            self._core.needs_fresh_database = True

    def _let_go(self, run: Any) -> None:
        """Take the connections out of the pools that somebody still holds."""
        held = []
        for channel in run.channels():
            if channel.run is run and not channel.closed and channel.is_checked_out():
                held.append(channel)
                channel.stale = channel.closed = True
                record = channel.record() if channel.record is not None else None
                fairy: Any = record.fairy_ref() if record is not None and record.fairy_ref is not None else None
                if fairy is not None:
                    # Whoever holds it keeps a dead connection, and the pool has its place back.
                    fairy.detach()
        cursors = [(cursor.connection._channel, opened) for cursor, opened in run.cursors.close_all()]
        for channel in held:  # last, because a warning may be an error
            self._warn_left_open(channel, [opened for owner, opened in cursors if owner is channel])
        for owner, opened in cursors:
            if owner not in held:
                warn_left_open(cursor_left(self.owner, opened, when="in the test"), opened)

    def _warn_left_open(self, channel: Channel, cursors: list[Origin]) -> None:
        physical = self._core.physical
        details = words.virtual_details(physical.pid if physical is not None else None, channel.transaction)
        details += words.with_cursors(cursors)
        opened = channel.opened
        warn_left_open(words.left_open(self.owner, str(opened), "in the test", details), opened or UNKNOWN)

    def open_ahead(self, url: sa.URL) -> ConnectionsAhead:
        """Connect to a database that :meth:`move_to` will be called for; in any thread."""
        return self._real.open_ahead(url)

    def take_idle(self) -> list[Any]:
        """Return the connections that a test with a private database left idle; it is the caller's to close them."""
        idle, self._idle = self._idle, []
        return idle

    def move_to(self, url: sa.URL, ahead: ConnectionsAhead | None = None) -> None:
        """Let the same engines use another database from now on.

        Args:
            ahead: Connections to it that are open already.
        """
        self._drop_ready_connection()
        self._core.close()
        self._close_idle()
        self._real.close_all("before the database was replaced", warn=False)
        self._core.needs_fresh_database = False
        self._real.have_written = False
        self._real.use_ahead(ahead)
        self._real.kept = None
        self._real_url = url.difference_update_query(["plugin"]).set(drivername=self._real_url.drivername)
        self.engine.url = self.url
        self._register()

    def close(self) -> None:
        """The class is over: give all engines back and close all connections."""
        if self._is_closed:
            return
        self._is_closed = True
        if self._core.run is not None:
            self.end_test()
        registry.leave(self)
        self._close_idle()
        self._real.close_all("when the class ended", warn=False)
        for engine in list(self._taken):
            self.restore(engine)
        self._drop_ready_connection()
        self._core.close()

    def _close_idle(self) -> None:
        for connection in self.take_idle():
            connection.close()

    def _register(self) -> None:
        registry.enter(self, self._real_url)


def _nothing() -> None:
    pass


__all__ = ["Sandbox"]
