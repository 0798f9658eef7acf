"""One system in one round: what it works on, how much, and how its work is checked."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

from .measure import drive
from .sample import Ledger, WrongWorkError, identifiers, timeout_of
from .systems import System

Measures = dict[str, float]
"""The figures of one round; the first is the one that tables and charts show."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Size:
    """How much work a round is."""

    rounds: int
    """Rounds of the workloads that hang on the cost of a call, where the noise is close."""
    others: int
    """Rounds of the other ones."""
    seconds: float
    """How long a system should work; how many operations that are is found out before."""
    rows: int
    """Rows of a stream, at most."""
    bulk: int
    """Rows of an import, at most."""
    slow: float
    """Seconds of a slow query."""
    operations: int
    """Operations of the workloads that have a fixed number (P12)."""
    batches: int
    """Batches of log lines."""
    patience: float
    """Seconds: a system that takes longer for a round has that one alone."""


class SkippedError(Exception):
    """The system is left out of this workload, for a reason that is told."""


@dataclass(slots=True)
class Trial:
    """One system in one round, its database open."""

    name: str
    system: System
    path: Path
    size: Size
    memory: dict[str, int]
    """How much work the first round has found to be right; the later ones do the same."""
    ledger: Ledger = field(default_factory=Ledger)

    async def read(self, id: int) -> int:
        """Read one project; return its timeout."""
        return await self.system.read(id)

    async def insert(self, number: int) -> int:
        """Insert one metric, and note it when it is written."""
        await self.system.insert(number)
        self.ledger.add(number)
        return 0

    async def operations(
        self, tasks: int, operation: Callable[[int], Awaitable[int]], *, seconds: float
    ) -> int:
        """Warm up, and return how many operations are about `seconds` of work: some for each task.

        Raises `SkippedError` when one operation a task would take `PATIENCE` seconds.
        """
        known = self.memory.get("operations")
        pilot = min(known // 4 if known else max(tasks, 30), 100)
        took, _ = await drive(min(tasks, pilot), identifiers(pilot), operation)
        if known:
            return known
        rate = pilot / took
        if tasks / rate > PATIENCE:
            raise SkippedError(f"{tasks:,} tasks would take it more than {PATIENCE:g} seconds")
        self.memory["operations"] = max(int(rate * seconds) // tasks, 1) * tasks
        return self.memory["operations"]


PATIENCE = 3.0


def require_reads(total: int, ids: Iterable[int]) -> None:
    """Hold the sum of what was read against what is in the rows."""
    if total != sum(map(timeout_of, ids)):
        raise WrongWorkError("read other values than the database has")
