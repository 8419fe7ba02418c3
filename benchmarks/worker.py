"""Run one function of a contender in this process and print what it measured.

``python -m benchmarks.worker MODULE:FUNCTION ARGUMENTS``, the arguments as a JSON object. The last line of the output
is a JSON object: for each series its samples, in seconds.
"""

from __future__ import annotations

import importlib
import json
import signal
import sys


def main(target: str, arguments: str) -> None:
    """Run it. Ended from outside, the contender still stops its servers, as at the end of a test suite."""
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    module, _, function = target.partition(":")
    measured = getattr(importlib.import_module(f"benchmarks.{module}"), function)(**json.loads(arguments))
    sys.stderr.flush()
    print("\n" + json.dumps(measured or {}), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
