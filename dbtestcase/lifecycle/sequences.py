"""Where a class's sequences stood when its tests began: attempts advance them, and no undo takes them back."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import closing
from typing import Any

from dbtestcase.sandbox import SandboxedDatabase
from dbtestcase.schema.sequences import States, present_states, restoring_sql, states

__all__ = ["ClassSequences"]


class ClassSequences:
    """The sequences of a running class's databases.

    Attributes:
        are_as_prepared: Nobody has used the databases since the schema was created, as far as is known.

    Args:
        instance: The class's running instance.
    """

    def __init__(self, instance: Any) -> None:
        self._instance = instance
        self._restoring: dict[str, str] = {}
        self.are_as_prepared = True

    def remember(self, databases: Mapping[str, SandboxedDatabase], *, set_back_after_tests: bool) -> None:
        """Note where they stand, while the real connections of ``setUpClass`` are still open."""
        for name, database in databases.items():
            self._restoring[name] = restoring_sql(self._present(name, database))
            if set_back_after_tests:
                database.restoring_sql = self._restoring[name]

    def put_back(self, databases: Mapping[str, SandboxedDatabase]) -> None:
        """Set them back where they stood, for copies to be made; call it before the attempts' connection is closed."""
        for name, database in databases.items():
            sql = self._restoring.get(name)
            if sql and database.has_attempted and not database.connection.send(sql):
                self._instance.execute(sql, database=name)

    def _present(self, name: str, database: SandboxedDatabase) -> States:
        facts = self._instance.notes.get("effects", {}).get(name) or {}
        prepared: States | None = facts.get("sequences")
        self.are_as_prepared = self.are_as_prepared and not database.real.were_any
        if prepared is not None and self.are_as_prepared:
            return prepared
        # One that the class has opened knows the catalogs already.
        idle = database.real.give_up_idle(at_most=1)
        connection = self._instance.connect(name) if not idle or idle[0].is_async else idle[0].connection
        try:
            with closing(connection):
                return states(connection) if prepared is None else present_states(connection, prepared)
        finally:
            for each in idle:
                each.close()
