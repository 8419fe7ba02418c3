"""Errors of ``setUpClass`` and ``tearDownClass``, explained before a runner sees them."""

from __future__ import annotations

import functools
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from dbtestcase.diagnosis.tracebacks import leave_out_ours

__all__ = ["explaining"]

__unittest = True  # unittest leaves frames of modules with this name out of the tracebacks it prints


def explaining(
    hook: Callable[[type], Any],
    explain: Callable[[type, BaseException], None],
    before: Callable[[type], None] | None = None,
) -> Callable[[type], Any]:
    """Return a ``setUpClass`` or ``tearDownClass`` whose errors go through ``explain`` first."""

    @functools.wraps(hook)
    def explained(cls: type) -> Any:
        try:
            if before is not None:
                before(cls)
            return hook(cls)
        except Exception as error:
            with suppress(Exception):
                explain(cls, error)
                leave_out_ours(error)
            raise

    explained.is_explained = True  # type: ignore[attr-defined]
    return explained
