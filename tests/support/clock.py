"""`Clock`: an event loop whose clock a test puts forward."""

from __future__ import annotations

import asyncio
import sys
import time
from types import SimpleNamespace
from typing import Any

import pytest


class Clock(asyncio.SelectorEventLoop):
    """A loop whose clock, and the library's with it, can be put forward: a limit is over when the
    test has come to where it wants it to be, however long the machine has taken for that."""

    ahead = 0.0

    def time(self) -> float:
        return super().time() + self.ahead

    def passes(self, seconds: float) -> None:
        """Put the clock forward. From any thread."""
        self.ahead += seconds
        self.call_soon_threadsafe(self.time)  # so that the loop looks which timers are due

    def lead(self, patch: pytest.MonkeyPatch) -> None:
        """Have the library go by this clock, whichever of its modules look at one."""
        ours: dict[str, Any] = {
            "monotonic": lambda: time.monotonic() + self.ahead,
            "monotonic_ns": lambda: time.monotonic_ns() + int(self.ahead * 1e9),
        }
        ours["time"] = SimpleNamespace(**vars(time) | ours)
        theirs = {"time": time, "monotonic": time.monotonic, "monotonic_ns": time.monotonic_ns}
        for module in [sys.modules[name] for name in sys.modules if name.startswith("abt_db")]:
            for name, its in theirs.items():
                if getattr(module, name, None) is its:
                    patch.setattr(module, name, ours[name])
