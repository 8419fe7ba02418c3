"""What the code under test does is undone: engines whose connections share one transaction per test."""

from __future__ import annotations

from . import plugin as _plugin  # registers itself with SQLAlchemy, for use without installation
from .observer import Observer
from .registry import LATE_URL, activate, deactivate
from .sandbox import Sandbox

__all__ = ["LATE_URL", "Observer", "Sandbox", "activate", "deactivate"]

del _plugin
