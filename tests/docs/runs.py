"""Runs the blocks of a document, in their order, in a folder of their own."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from tests.docs.blocks import ROOT, Block, blocks

__all__ = ["Mistake", "outputs", "run_document", "same"]

_LONGEST = 200  # seconds for one command
_OWN = ("DBTESTCASE_", "PG")


class Mistake(AssertionError):
    """A document promises something that a run does not keep."""


def run_document(path: Path, folder: Path) -> Iterator[tuple[Block, str]]:
    """Run what is in a document; yield each block that shows an output, with what a run printed now.

    Raises:
        Mistake: A block is not marked, or did not do what its mark says.
    """
    waiting: list[str] = []  # test modules that were written and not run yet
    printed = ""
    for block in blocks(path.read_text()):
        where = f"{path.name}:{block.line}"
        if block.verb in ("runs", "file"):
            name = f"{block.argument}.py" if block.verb == "runs" else block.argument
            target = folder / name
            if target.exists():
                _run_tests(waiting, folder, where)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(block.code)
            if block.verb == "runs" and "TestCase" in block.code:
                waiting.append(block.argument)
        elif block.verb == "run":
            printed = _run_shell(block, folder, where)
            if "unittest" in block.code or "pytest" in block.code:
                named = re.findall(r"\btest_\w+", block.code)
                waiting = [name for name in waiting if named and name not in named]
        elif block.verb == "output":
            yield block, readable(printed, folder)
        elif block.verb == "shown":
            if block.language == "python":
                compile(block.code, where, "exec")
        else:
            raise Mistake(f"{where}: no comment says what this block of {block.language} is for.")
    _run_tests(waiting, folder, path.name)


def outputs(path: Path, folder: Path) -> list[tuple[Block, str]]:
    """Return the blocks of a document that show an output, with what a run prints now."""
    return list(run_document(path, folder))


def same(shown: str, printed: str) -> bool:
    """Whether two outputs are of equal runs: they may differ in times, process ids, addresses and carets."""
    return _masked(shown) == _masked(printed)


def _run_tests(names: list[str], folder: Path, where: str) -> None:
    if not names:
        return
    command = [sys.executable, "-W", "error::ResourceWarning", "-m", "unittest", "-v", *names]
    run = subprocess.run(
        command, cwd=folder, env=_environment(), capture_output=True, text=True, timeout=_LONGEST, check=False
    )
    if run.returncode != 0:
        raise Mistake(f"{where}: the tests of {', '.join(names)} do not pass.\n{run.stdout}{run.stderr}")
    for name in names:
        # They pass or are skipped; what the interpreter prints meanwhile comes between a test and its outcome.
        if not re.search(rf"\({name}\.\w+.* \.\.\. (?!skipped)", run.stderr):
            raise Mistake(f"{where}: no test of {name} has run.\n{run.stdout}{run.stderr}")
    names.clear()


def _run_shell(block: Block, folder: Path, where: str) -> str:
    environment = _environment()
    if "DBTESTCASE_KEEP" in block.code:
        environment["DBTESTCASE_CACHE"] = str(folder / "cache")  # what is kept must not stay on this machine
    run = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", block.code],
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=_LONGEST,
        check=False,
    )
    expected = int(block.argument or 0)
    if run.returncode != expected:
        raise Mistake(f"{where}: exit code {run.returncode}, {expected} expected.\n{block.code}\n{run.stdout}")
    return run.stdout


def _environment() -> dict[str, str]:
    mine = {name: value for name, value in os.environ.items() if not name.startswith(_OWN)}
    path = [str(Path(sys.executable).parent), mine.get("PATH", os.defpath)]
    return {**mine, "PYTHONPATH": str(ROOT), "PATH": os.pathsep.join(path), "PYTHONDONTWRITEBYTECODE": "1"}


def readable(printed: str, folder: Path) -> str:
    """Return what a command has printed as a document shows it: without folders of this machine."""
    text = printed.replace(f"{folder.resolve()}/", "").replace(f"{folder}/", "")
    text = re.sub(r'File "[^"]*/lib/python3[^"/]*/(?:site-packages/)?', 'File ".../', text)
    text = text.replace(f"{ROOT}/", "")
    text = re.sub(r'(  File "\.\.\./[^\n]*\n(?:    [^\n]*\n)*)+', "  ...\n", text)
    return "\n".join(line.rstrip() for line in text.strip().splitlines()) + "\n"


def _masked(text: str) -> str:
    lines = [line for line in text.splitlines() if not re.fullmatch(r"[ ~^]+", line)]
    text = "\n".join(lines)
    text = re.sub(r"0x[0-9a-f]+", "0x", text)
    text = re.sub(r"\d+(\.\d+)? (ms|s)\b", "TIME", text)
    text = re.sub(r"in \d+\.\d+s", "in TIME", text)
    text = re.sub(r" +(longest|in the background)? +TIME", " TIME", text)
    text = re.sub(r"\d+\.\d %", "SHARE", text)
    text = re.sub(r"process \d+", "process", text)
    text = re.sub(r"dbtestcase-\d+-[0-9a-f]+", "dbtestcase", text)
    return re.sub(r"\d{8}-\d{6}-[0-9a-f]+", "KEPT", text)
