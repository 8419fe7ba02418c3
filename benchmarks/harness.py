"""Run the contenders of a group in turn, each in a process of its own, and collect their samples."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

from benchmarks import environment
from benchmarks.plan import Contender, Group

TIMEOUT = 1800.0


class WorkerFailed(Exception):
    """A contender could not be measured."""


class Results:
    """Samples of one group, by contender and series, round by round; and why some contenders have none."""

    def __init__(self) -> None:
        self._rounds: dict[tuple[str, str], list[list[float]]] = defaultdict(list)
        self.failures: dict[str, str] = {}

    def add(self, contender: str, measured: dict[str, list[float]]) -> None:
        """Add what a contender measured in a round."""
        for series, samples in measured.items():
            self._rounds[contender, series].append(samples)

    def rounds(self, contender: str, series: str) -> list[list[float]]:
        """Return the samples of a series for each round; none if it was not measured."""
        return self._rounds.get((contender, series), [])

    def as_json(self) -> dict[str, Any]:
        """Return everything."""
        return {
            "samples": [
                {"contender": contender, "series": series, "rounds": rounds}
                for (contender, series), rounds in self._rounds.items()
            ],
            "failures": self.failures,
        }


class Harness:
    """Measures groups, all with the same interpreter and in the same workplace."""

    def __init__(self, python: Path, workplace: environment.Workplace) -> None:
        self._python = python
        self._workplace = workplace
        self._user = environment.unprivileged_user()
        self._processors: set[int] = os.sched_getaffinity(0)
        environment.compile_all(python, workplace.code)

    def measure(self, group: Group, rounds: int) -> Results:
        """Measure all contenders of a group in turn, after a round that only fills the cache which dbtestcase keeps.

        Every other round runs backwards, so that none is always the one after the same predecessor.
        """
        results = Results()
        self._processors = {max(os.sched_getaffinity(0))} if group.pinned else os.sched_getaffinity(0)
        for number in range(rounds + 1):
            turn = group.contenders if number % 2 else tuple(reversed(group.contenders))
            for contender in turn:
                if contender.name in results.failures or number > contender.rounds:
                    continue
                if number == 0 and not contender.keeps_cache:
                    continue
                _progress(f"{group.name}: round {number} of {rounds}: {contender.name}")
                try:
                    measured = self._run(contender)
                except WorkerFailed as exc:
                    results.failures[contender.name] = str(exc)
                    continue
                if number:
                    results.add(contender.name, measured)
        _progress("")
        return results

    def _run(self, contender: Contender) -> dict[str, list[float]]:
        if not contender.whole:
            return self._worker(contender, contender.arguments)[1]
        elapsed, _ = self._worker(contender, contender.arguments)
        if contender.less is not None:
            elapsed -= self._worker(contender, contender.less)[0]
        return {"process": [elapsed]}

    def _worker(self, contender: Contender, arguments: Any) -> tuple[float, dict[str, list[float]]]:
        """Run a worker to its end; return how long its process took and what it printed."""
        user = self._user if contender.unprivileged else None
        temporary = self._workplace.temporary_folder(in_memory=contender.in_memory, user=user)
        command = [
            *environment.as_user(user),
            str(self._python),
            *("-m", "benchmarks.worker", contender.function, json.dumps(dict(arguments))),
        ]
        cache = self._workplace.caches if contender.keeps_cache else None
        variables = environment.variables(self._python, self._workplace.code, temporary, cache)
        if contender.huge_pages:
            variables |= environment.HUGE_PAGES
        with open(temporary / "output", "w+b") as output, open(temporary / "errors", "w+b") as errors:
            started = time.perf_counter()
            process = subprocess.Popen(
                command,
                env=variables,
                cwd=temporary,
                stdout=output,
                stderr=errors,
                start_new_session=True,
                preexec_fn=lambda: os.sched_setaffinity(0, self._processors),
            )
            try:
                status = process.wait(TIMEOUT)
            except BaseException as exc:
                _end(process)
                if isinstance(exc, subprocess.TimeoutExpired):
                    raise WorkerFailed(f"no end after {TIMEOUT:.0f} s") from exc
                raise
            elapsed = time.perf_counter() - started
            output.seek(0)
            errors.seek(0)
            if status != 0:
                raise WorkerFailed(_last_words(errors.read().decode(errors="replace"), status))
            return elapsed, json.loads(output.read().splitlines()[-1])


def _end(process: subprocess.Popen[bytes]) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGTERM)
    try:
        process.wait(20)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _last_words(errors: str, status: int) -> str:
    lines = [line for line in errors.splitlines() if line.strip()]
    print(errors, file=sys.stderr)
    return lines[-1] if lines else f"exit status {status}"


def _progress(text: str) -> None:
    if sys.stderr.isatty():
        print(f"\r\x1b[K{text}", end="", file=sys.stderr, flush=True)
