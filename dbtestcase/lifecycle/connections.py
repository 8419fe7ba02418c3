"""What the connections to a class's databases are at present.

In ``setUpClass`` and ``tearDownClass``, and in tests with ``isolation = "class"``, they are real ones to the class's
databases; in an attempt they share one transaction; in a test on copies they are real ones to these.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from functools import partial

from psycopg2 import Error
from psycopg2.errors import ObjectInUse
from sqlalchemy import URL

from dbtestcase.diagnosis import report
from dbtestcase.errors import IsolationBroken
from dbtestcase.lifecycle import schedule
from dbtestcase.lifecycle.copies import Copies
from dbtestcase.lifecycle.names import id_of_class
from dbtestcase.lifecycle.sequences import ClassSequences
from dbtestcase.lifecycle.visitors import Visitors
from dbtestcase.sandbox import LeftOpen, SandboxedDatabase, other_databases
from dbtestcase.schema import effects
from dbtestcase.servers import BaseInstance

__all__ = ["ClassConnections"]

__unittest = True  # unittest leaves frames of modules with this name out of the tracebacks it prints
_END_BUSY = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid = ANY(%s) AND state = 'active'"


class ClassConnections:
    """Changes what the connections of a running class are.

    Attributes:
        are_of_class: They are real ones to the class's databases.
        are_shared: They share one transaction.
        sequences: Where the sequences stood when the tests began.
        visitors: Who else may use the class's databases.

    Args:
        test_class: For its name, its options and its place in the run.
        databases: The class's databases by name; more may be added.
    """

    def __init__(self, test_class: type, databases: Mapping[str, SandboxedDatabase]) -> None:
        self.are_of_class = True
        self.sequences: ClassSequences
        self.visitors = Visitors(test_class.__qualname__, databases)
        self._class = test_class
        self._name = test_class.__qualname__
        self._databases = databases
        self._instance: BaseInstance
        self.are_shared = False
        self._copies: Copies | None = None
        self._guard: other_databases.Guard | None = None

    def begin(self, instance: BaseInstance) -> None:
        """Begin with an instance, whose databases nobody has used yet."""
        self._instance = self.visitors.instance = instance
        self.sequences = ClassSequences(instance)
        self.are_of_class, self.are_shared = True, False

    @property
    def are_to_copies(self) -> bool:
        """Whether they are real ones to private copies."""
        return self._copies is not None and bool(self._copies.names)

    @property
    def were_used(self) -> bool:
        """Whether anybody has used one of the databases, or knows an address of it."""
        return self.visitors.have_address or any(
            each.has_attempted or each.real.were_any for each in self._databases.values()
        )

    @contextmanager
    def forbidding_others(
        self, allowed: Collection[str | URL], left: Callable[[], Iterable[threading.Thread]]
    ) -> Iterator[None]:
        """Refuse, in the block, connections to servers that are neither the class's nor ``allowed`` (hosts or URLs)."""
        self._guard = other_databases.Guard(
            self._name,
            lambda host, port, database: self._instance.is_ours(host, port, database),
            lambda: {each.engine.url for database in self._databases.values() for each in database.taken},
            allowed,
        )
        other_databases.forbid_other_databases(self._guard)
        try:
            yield
        finally:
            other_databases.allow_other_databases(self._name, left())

    def check_use(self) -> None:
        """Raise ``UndeclaredDatabase`` if nobody has used the class's database, and somebody another one."""
        error = self._guard.unused() if self._guard is not None else None
        if error is not None and not self.were_used:
            raise error

    def use_ready_connection(self) -> None:
        """Hand over the connection that was opened when the instance answered."""
        connection = self._instance.take_ready_connection()
        if connection is not None and "test" in self._databases:
            self._databases["test"].connection.use_ready_connection(connection)
        elif connection is not None:
            connection.close()

    def is_server_lost(self, went_wrong: bool) -> bool:
        """Return whether the next test needs another server: this one has ended, or a test on a copy has changed it."""
        if self._copies is not None and not self._copies.is_server_unchanged:
            return True
        # The supervisor reports a dead server with a delay; after a failed test, connect to be sure.
        return not self._instance.is_alive() or (went_wrong and not self._instance.answers())

    def use_class_databases(self) -> None:
        """Let them be real ones to the class's databases; what is committed there stays."""
        if self.are_of_class:
            return
        self.forget_copies()
        self.are_of_class, self.are_shared = True, False
        for database in self._databases.values():
            database.hang_up()
            database.use_real()
            database.expect_commits()

    def learn_code(self) -> str:
        """Learn what the code in the databases does that was made since the schema was: in ``setUpClass``, say.

        Returns:
            What of it needs real connections whatever a test does, as a sentence's subject; "" if nothing.
        """
        found = ""
        for name, database in self._databases.items():
            if database.real.have_altered or self.visitors.have_address:
                # Of a server that has ended the test itself will tell.
                connect = partial(self._instance.connect, name)
                with suppress(Error), closing(self._instance.patiently(connect)) as one:
                    database.rules.learn(effects.read_code(one))
                    database.real.have_altered = database.connection.are_modes_known = False
                found = found or database.rules.always_real
        return found

    def leave_class_databases(self) -> list[LeftOpen]:
        """Close those to the class's databases, if that is what they are; return what was left open.

        Raises:
            IsolationBroken: One of them was left open with uncommitted changes.
        """
        if not self.are_of_class:
            return []
        self.are_of_class = False
        sets_back = self._class.restart_identities  # type: ignore[attr-defined]
        self.sequences.remember(self._databases, set_back_after_tests=sets_back)
        left: list[LeftOpen] = []
        for each in self._databases.values():
            left += each.leave_real(checks_changes=True)
        for one in left:
            if one.has_uncommitted_changes:
                raise IsolationBroken(
                    f"{self._name}: a connection opened at {one.origin} was left open before the first test with "
                    "uncommitted changes, which are lost.\n"
                    "What to do: commit() and close() it in setUpClass, or make the rows in setUpTestData."
                )
        return left

    def use_shared(self) -> list[LeftOpen]:
        """Let them share one transaction; return what was left open before."""
        left: list[LeftOpen] = []
        if not self.are_shared:
            left = self.leave_class_databases()
            for database in self._databases.values():
                database.use_shared()
            self.are_shared = True
        self.visitors.begin_shared()
        return left

    def use_copies(self) -> list[LeftOpen]:
        """Let them be real ones to fresh copies; return what was left open before.

        Raises:
            IsolationBroken: Somebody else uses the class's databases, which so cannot be copied.
        """
        left = self.leave_class_databases()
        self.are_shared = False
        self.visitors.begin_copies()
        with report.span("handover", id_of_class(self._class)):
            if self._copies is None:
                self.sequences.put_back(self._databases)
            for database in self._databases.values():
                database.hang_up()
                database.expect_commits()
                given_up = database.connection.given_up
                if given_up:
                    self._instance.query(_END_BUSY, (given_up,))
                    given_up.clear()
            try:
                self._existing_copies().begin_test(following=schedule.begin_test(self._class))
            except ObjectInUse as error:
                self.forget_copies()
                raise IsolationBroken(
                    f"{self._name}: no private copy of the class's database can be made while somebody outside the "
                    "class's engines is connected to it (a driver called by itself, or another process, with an "
                    "address taken before the test).\n"
                    "What to do: close that connection before the tests begin, or let it use self.external_url, asked "
                    "for within the test."
                ) from error
        return left

    def leave_copies(self) -> list[LeftOpen]:
        """Go back to the class's own databases; return what was left open on the copies."""
        if self._copies is None:
            return []
        left = self._copies.end_test()
        self.visitors.end_copies()
        for database in self._databases.values():
            database.register()
            database.expect_commits()
            database.use_shared()  # what is sent between two tests would be committed for real
        self.are_shared = True
        return left

    def forget_copies(self) -> None:
        """Make new copies for the next test that wants one: the class's databases are not what they were."""
        if self._copies is not None:
            self._copies.close()
            self._copies = None

    def address_given(self, database: str) -> str:
        """Note that somebody gets the address of a database; return the name of its present copy, or its own."""
        self.visitors.have_address = True
        if self._copies is None or not self._copies.names:
            self.sequences.are_as_prepared = False
            return database
        self._copies.be_alone()  # another program may look at its server in ways that nobody here can see
        return self._copies.names.get(database, database)

    def external_url(self, database: str) -> str:
        """Return the address of a database, or of its present copy, as libpq reads it."""
        self.address_given(database)
        url: URL = self._databases[database].real_url
        return url.set(drivername="postgresql").render_as_string(hide_password=False)

    def _existing_copies(self) -> Copies:
        if self._copies is None:
            # PostgreSQL, asked to copy a database that a server process is about to leave, looks again after 100 ms.
            for database in self._databases:
                self._instance.count_sessions(database)
            self._copies = Copies(self._instance, self._databases)
        return self._copies
