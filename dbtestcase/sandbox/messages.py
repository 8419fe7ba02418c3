"""The sandbox's errors, each with its cause and the next step. ``owner`` is the name of the test class."""

from __future__ import annotations

from dbtestcase.errors import IsolationBroken

__all__ = ["class_is_over", "foreign_commit", "forked_child", "stale_connection"]


def stale_connection(owner: str) -> IsolationBroken:
    """Return the error for a connection that outlived its test."""
    return IsolationBroken(
        f"{owner}: the database was used while no test was running, or through a connection of a test that is over; "
        "such work belongs to no test.\n"
        "Let the code under test get its connection from the engine each time, and end its threads before the test "
        "ends. A fixture of pytest that uses the database runs before the test begins: do that in setUp, or in "
        "setUpTestData for all tests."
    )


def class_is_over(owner: str) -> IsolationBroken:
    """Return the error for a pool that outlived its class."""
    return IsolationBroken(
        f"{owner}: the class is over, and its database is gone. Engines are given back when a class ends; make "
        "connections from the engine itself, not from a pool that was kept."
    )


def forked_child(owner: str) -> IsolationBroken:
    """Return the error for a forked child that would use the connection of its parent's test."""
    return IsolationBroken(
        f"{owner}: a process that was forked from the tests cannot take part in their one undone transaction.\n"
        "What to do: nothing, if it was forked by the test itself, which runs again on real connections. Else fork it "
        'within the test. Mark the test @isolate("clone"), and it runs once.'
    )


def foreign_commit(owner: str) -> IsolationBroken:
    """Return the error for a test after which somebody else's commit was found."""
    return IsolationBroken(
        f"{owner}: somebody has committed into this class's server for real since its last test, past the engines that "
        "are isolated: another process, or a driver that was called by itself, with an address taken before the test. "
        "What it wrote would be there in the next test; that one gets a fresh instance.\n"
        'What to do: ask for the address within the test (self.external_url), or mark it @isolate("clone").'
    )
