"""What has been done, counted. Bounded: nothing here grows with the number of operations."""

from __future__ import annotations

from typing import Any

__all__ = ["QueryStats"]

MAX_NAMES = 1_000
OTHERS = "(others)"


class QueryStats:
    """Counters of each query by name; beyond `MAX_NAMES` names the rest is counted together."""

    __slots__ = ("_counters",)

    def __init__(self) -> None:
        self._counters: dict[str, list[float]] = {}

    def record(self, name: str, seconds: float, *, failed: bool) -> None:
        """Count one call, as its caller saw it: waiting, running and mapping."""
        counters = self._counters.get(name)
        if counters is None:
            if len(self._counters) >= MAX_NAMES:
                name = OTHERS
            counters = self._counters.setdefault(name, [0, 0, 0.0, 0.0])
        counters[0] += 1
        counters[1] += failed
        counters[2] += seconds
        if seconds > counters[3]:
            counters[3] = seconds

    def as_dict(self) -> dict[str, dict[str, Any]]:
        """Return ``{name: {count, errors, seconds, slowest}}``."""
        return {
            name: {"count": count, "errors": errors, "seconds": seconds, "slowest": slowest}
            for name, (count, errors, seconds, slowest) in self._counters.items()
        }
