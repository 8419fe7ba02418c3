"""Write what was measured as text or as Markdown: medians, quartiles, ratios with their spread, and the targets."""

from __future__ import annotations

from collections.abc import Iterator

from benchmarks.figures import Rounds, Spread, duration, quartiles, ratio, times
from benchmarks.harness import Results
from benchmarks.plan import Row, Table, Target

_HEADINGS = ("median", "quartiles", "ratio", "of rounds")


class Report:
    """One table and its targets, measured."""

    def __init__(self, table: Table, results: Results) -> None:
        self._table = table
        self._results = results
        self._rows = {row.title: row for row in table.rows}

    def text(self) -> str:
        """Return it for a terminal."""
        lines = [("", *_HEADINGS), *self._lines()]
        widths = [max(len(line[column]) for line in lines if len(line) > 2) for column in range(1, 5)]
        first = max(len(line[0]) for line in lines)
        shown = [
            f"  {line[0]:{first}}  "
            + (
                "  ".join(f"{cell:>{width}}" for cell, width in zip(line[1:], widths, strict=True))
                if len(line) > 2
                else line[1]
            )
            for line in lines
        ]
        return "\n".join([self._table.title, *shown, *(f"  {line}" for line in self.targets())])

    def markdown(self) -> str:
        """Return it for a README."""
        lines = [f"| {self._table.title} | {' | '.join(_HEADINGS)} |", "|---|--:|--:|--:|--:|"]
        for line in self._lines():
            cells = line if len(line) > 2 else (*line, "", "", "")
            lines.append(f"| {' | '.join(cells)} |")
        return "\n".join([*lines, "", *(f"- {line}" for line in self.targets())])

    def targets(self) -> list[str]:
        """Return a line for each target: what was promised, what was measured, whether it was met."""
        return [line for target in self._table.targets for line in self._verdict(target)]

    def _measured(self, title: str) -> Rounds:
        row = self._rows[title]
        return self._results.rounds(row.contender, row.series)

    def _lines(self) -> Iterator[tuple[str, ...]]:
        reference = self._measured(self._table.reference)
        for title, row in self._rows.items():
            rounds = self._measured(title)
            if not rounds:
                yield (title, self._why_not(row))
                continue
            spread = quartiles(rounds)
            cells = [title, duration(spread.median), _between(spread, duration)]
            if title == self._table.reference or not reference:
                yield (*cells, "1" if reference else "", "")
                continue
            found = ratio(rounds, reference)
            yield (*cells, times(found.median), _between(found, times))

    def _why_not(self, row: Row) -> str:
        return f"not measured: {self._results.failures.get(row.contender, 'left out')[:100]}"

    def _verdict(self, target: Target) -> Iterator[str]:
        rounds, over = self._measured(target.row), self._measured(target.over) if target.over else [[1.0]]
        if not rounds or not over:
            return
        limit, said = target.at_most, "at most"
        if not target.over:
            value, write, wanted = quartiles(rounds).median, duration, target.row
        elif target.extra:
            value, write = quartiles(rounds).median - quartiles(over).median, duration
            wanted = f"{target.row}, beyond {target.over}"
        elif target.at_least is not None:
            # The row is a peer's here, and ``over`` is ours.
            value, write, limit, said = ratio(rounds, over).median, times, target.at_least, "at least"
            wanted = f"{target.row}, against {target.over}"
        else:
            value, write = ratio(rounds, over).median, times
            wanted = f"{target.row}, against {target.over}"
        assert limit is not None
        met = value >= limit if said == "at least" else value <= limit
        yield f"target {said} {write(limit)}: {write(value)}, {'met' if met else 'MISSED'} ({wanted})"


def _between(spread: Spread, write: object) -> str:
    assert callable(write)
    low, high = write(spread.low), write(spread.high)
    unit = high.lstrip("0123456789.-")
    return f"{low.removesuffix(unit)} to {high}" if low.endswith(unit) else f"{low} to {high}"
