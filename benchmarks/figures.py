"""Samples and what is said of them: median, quartiles, and the ratio of two contenders round by round."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

Rounds = Sequence[Sequence[float]]  # for each round the samples, in seconds


@dataclass(frozen=True)
class Spread:
    """The middle of some numbers and how far they lie apart."""

    median: float
    low: float
    high: float


def quartiles(rounds: Rounds) -> Spread:
    """Return the median of all samples, with the first and the third quartile."""
    samples = sorted(sample for samples in rounds for sample in samples)
    if len(samples) < 2:
        return Spread(samples[0], samples[0], samples[0])
    low, middle, high = statistics.quantiles(samples, n=4, method="inclusive")
    return Spread(middle, low, high)


def ratio(rounds: Rounds, reference: Rounds) -> Spread:
    """Return how many times the reference's time is taken: the median round, with the lowest and the highest.

    Medians of the same round are compared, since what slows the machine for a while slows both. A contender that was
    measured in fewer rounds than the reference is compared in these.
    """
    ratios = [
        statistics.median(mine) / statistics.median(theirs)
        for mine, theirs in zip(rounds, reference, strict=False)
        if mine and theirs
    ]
    return Spread(statistics.median(ratios), min(ratios), max(ratios))


def duration(seconds: float) -> str:
    """Write a time with three digits and the unit that suits it."""
    if abs(seconds) >= 0.9995:
        return f"{_three(seconds)} s"
    if abs(seconds) >= 0.0009995:
        return f"{_three(seconds * 1e3)} ms"
    return f"{_three(seconds * 1e6)} µs"


def times(value: float) -> str:
    """Write a ratio."""
    return f"{_three(value)} times"


def _three(value: float) -> str:
    if abs(value) >= 99.95:
        return f"{value:.0f}"
    return f"{value:.1f}" if abs(value) >= 9.995 else f"{value:.2f}"
