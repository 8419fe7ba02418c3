"""A clock that goes on while tests freeze or move theirs."""

from __future__ import annotations

from importlib.util import find_spec, module_from_spec

__all__ = ["perf_counter"]

# freezegun replaces the functions of ``time`` in every module that holds them, ours too, and knows them by identity; a
# second instance of the module has functions of its own. time-machine leaves perf_counter() alone, gevent all clocks.
_spec = find_spec("time")
assert _spec is not None
assert _spec.loader is not None
_time = module_from_spec(_spec)
_spec.loader.exec_module(_time)

perf_counter = _time.perf_counter
"""Seconds since some moment in the past; processes of one machine can compare theirs."""
