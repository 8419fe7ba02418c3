"""``python -m tests.compliance``: run the suite twice and compare."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import sqlalchemy

from .differences import reason_for
from .suite_runs import Outcome, SuiteFailed, SuiteRun, run_suite


@dataclass
class Comparison:
    """What isolation made of the tests that pass on real connections, as names."""

    passed_plain: list[str] = field(default_factory=list)
    passed: list[str] = field(default_factory=list)
    listed: list[str] = field(default_factory=list)
    not_listed: list[str] = field(default_factory=list)
    listed_but_passing: list[str] = field(default_factory=list)

    @property
    def is_as_expected(self) -> bool:
        return bool(self.passed_plain) and not self.not_listed and not self.listed_but_passing


def compare(plain: Mapping[str, Outcome], sandboxed: Mapping[str, Outcome]) -> Comparison:
    """Sort the tests that pass plain by what became of them isolated."""
    found = Comparison(passed_plain=[test for test, outcome in plain.items() if outcome.outcome == "passed"])
    for test in found.passed_plain:
        has_passed = test in sandboxed and sandboxed[test].outcome == "passed"
        if reason_for(test) is None:
            (found.passed if has_passed else found.not_listed).append(test)
        else:
            (found.listed_but_passing if has_passed else found.listed).append(test)
    return found


def report(found: Comparison, plain: Mapping[str, Outcome], run: SuiteRun) -> None:
    """Print the numbers, then whatever needs somebody's attention."""
    failed_plain = [test for test, outcome in plain.items() if outcome.outcome == "failed"]
    for title, tests in (
        ("passed plain", found.passed_plain),
        ("of them passed isolated", [*found.passed, *found.listed_but_passing]),
        ("failed only isolated, listed", found.listed),
        ("failed only isolated, NOT listed", found.not_listed),
        ("listed, but passing", found.listed_but_passing),
        ("failed plain", failed_plain),
    ):
        print(f"{len(tests):6}  {title}")
    print(f"{len(run.ran_twice):6}  ran twice")
    for reason, tests in _by_reason(found.listed).items():
        print(f"\nlisted ({len(tests)}): {reason}.")
    _print_tests("failed only isolated and not listed in differences.py", found.not_listed, run.outcomes)
    _print_tests("listed in differences.py, but passing", found.listed_but_passing, run.outcomes)
    _print_tests("failed plain", failed_plain, plain)


def _by_reason(tests: Iterable[str]) -> dict[str, list[str]]:
    reasons: dict[str, list[str]] = {}
    for test in tests:
        reasons.setdefault(reason_for(test) or "", []).append(test)
    return reasons


def _print_tests(title: str, tests: list[str], outcomes: Mapping[str, Outcome]) -> None:
    if tests:
        print(f"\n{title}:")
    for test in tests:
        outcome = outcomes.get(test, Outcome("not run", ""))
        print(f"  {test}: {outcome.outcome}. {outcome.last_line}")


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.compliance", description=__doc__)
    parser.add_argument("--driver", choices=("psycopg2", "psycopg"), default="psycopg2")
    parser.add_argument("--quick", action="store_true", help="only where transactions and cursors matter")
    parser.add_argument("-k", dest="select", metavar="EXPRESSION", help="only the tests that pytest's -k selects")
    options = vars(parser.parse_args())
    print(f"SQLAlchemy {sqlalchemy.__version__}, {options['driver']}", flush=True)
    try:
        plain = run_suite(isolated=False, **options).outcomes
        run = run_suite(isolated=True, **options)
    except SuiteFailed as error:
        print(error, file=sys.stderr)
        return 2
    found = compare(plain, run.outcomes)
    report(found, plain, run)
    return 0 if found.is_as_expected else 1


if __name__ == "__main__":
    sys.exit(main())
