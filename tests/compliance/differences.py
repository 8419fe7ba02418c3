"""The tests of the suite that pass on real connections and cannot pass through the sandbox, and why."""

from __future__ import annotations

import re
from dataclasses import dataclass

__all__ = ["LISTED", "Difference", "reason_for"]


@dataclass(frozen=True)
class Difference:
    """Tests that cannot pass.

    Args:
        tests: A regular expression for their whole names, as in "JSONTest::test_single_element_round_trip[15]".
        reason: Why the one connection of a test cannot give what they want.
    """

    tests: str
    reason: str


_TEMPORARY = (
    "a temporary table belongs to the connection that made it; these are made once for the class, on a real connection "
    "that is closed before the tests begin on one of their own"
)

LISTED = (
    # Without a schema, in the scopes that include temporary tables, of all tables; no materialized view is temporary.
    Difference(
        r"ComponentReflectionTest::test_(get_multi|multi_get)_\w+"
        r"\[False-ObjectKind\.(?!MATERIALIZED_VIEW-)\S+-ObjectScope\.(ANY|TEMPORARY)-None-.*",
        _TEMPORARY,
    ),
    Difference(r"ComponentReflectionTest::test_get_temp_(table|view)_\w+", _TEMPORARY),
    Difference(r"ComponentReflectionTest::test_reflect_table_temp_table", _TEMPORARY),
    Difference(r"HasTableTest::test_has_table_temp_(table|view)", _TEMPORARY),
)


def reason_for(test: str) -> str | None:
    """Return why a test cannot pass through the sandbox; None if it has to."""
    return next((listed.reason for listed in LISTED if re.fullmatch(listed.tests, test)), None)
