"""Whether others may commit into a class's databases: other processes that have an address or were forked.

An attempt asks by itself whether somebody has committed meanwhile (``sandbox/foreign_commits.py``). A test that uses
no database, and one on copies, do not: they are watched here, if somebody may come at all.
"""

from __future__ import annotations

from collections.abc import Mapping

import psycopg2

from dbtestcase.sandbox import SandboxedDatabase, forks
from dbtestcase.sandbox.messages import foreign_commit
from dbtestcase.servers import BaseInstance

__all__ = ["Visitors"]

__unittest = True  # unittest leaves frames of modules with this name out of the tracebacks it prints
_CONNECTED = "SELECT FROM pg_stat_activity WHERE backend_type = 'client backend' AND datname = ANY(%s)"


class Visitors:
    """Watches the databases of a running class for commits of others.

    Attributes:
        instance: Where the databases are.
        have_address: Somebody has got an address of one of the databases.

    Args:
        class_name: For messages.
        databases: The class's databases by name.
    """

    def __init__(self, class_name: str, databases: Mapping[str, SandboxedDatabase]) -> None:
        self.instance: BaseInstance
        self.have_address = False
        self._class_name = class_name
        self._databases = databases
        self._forks_before = forks.count
        self._log_before_copies: int | None = None

    @property
    def may_come(self) -> bool:
        """Whether another process may connect, and wait for what a test has locked."""
        return self.have_address or forks.count != self._forks_before

    def begin_shared(self) -> None:
        """Know what was committed before a test that may use no database, and so would not ask."""
        if self.may_come and (commits := self._main.commits) is not None:
            commits.begin(self._ask)

    def check(self) -> None:
        """See, after a test that has used no database, whether others have committed meanwhile.

        Raises:
            IsolationBroken: They have.
        """
        commits = self._main.commits
        if commits is None or not self.may_come:
            return
        try:
            committed = commits.ask(self._ask)
        except psycopg2.Error:
            return  # the next test will see that there is no server
        if committed is not False:
            self._main.needs_fresh_database = True
        if committed:
            raise foreign_commit(self._class_name)

    def begin_copies(self) -> None:
        """Note how long the server's log is before a test on copies."""
        log = self.instance.log
        self._log_before_copies = log.size(False) if log is not None and self.may_come else None

    def end_copies(self) -> None:
        """Ask for fresh databases if others may have committed into the class's while a test ran on copies."""
        log, before = self.instance.log, self._log_before_copies
        if log is None or before is None:
            return
        names = [*self._databases]
        if log.has_stranger(before, names) or self.instance.query(_CONNECTED, (names,)):
            self._main.needs_fresh_database = True

    @property
    def _main(self) -> SandboxedDatabase:
        return next(iter(self._databases.values()))

    def _ask(self, sql: str) -> str:
        return str(self.instance.query(sql)[0][0])
