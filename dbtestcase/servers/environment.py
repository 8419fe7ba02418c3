"""What of the process's environment a server may see."""

from __future__ import annotations

import os

__all__ = ["server_environment"]

# Where programs, libraries and temporary files are.
_NEEDED = (
    "PATH",
    "TMPDIR",
    "LD_LIBRARY_PATH",
    "LD_PRELOAD",
    "DYLD_LIBRARY_PATH",
    "DYLD_FALLBACK_LIBRARY_PATH",
    "ICU_DATA",
    "OPENSSL_CONF",
)


def server_environment() -> dict[str, str]:
    """Return the environment for the supervisor, ``initdb`` and ``postgres``: what they need of ours to run.

    SQL can read a server's environment, and on a shared machine so can others who run as the server's user.
    """
    return {"LC_ALL": "C", **{name: os.environ[name] for name in _NEEDED if name in os.environ}}
