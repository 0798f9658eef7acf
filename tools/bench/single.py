"""P1 to P4: one statement a call, by one task or many."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from .measure import Stopwatch, drive
from .sample import identifiers
from .trial import Measures, Trial, require_reads


def reads(tasks: int) -> Callable[[Trial], Awaitable[Measures]]:
    """P1, P3: point reads by id."""

    async def run(trial: Trial) -> Measures:
        count = await trial.operations(tasks, trial.read, seconds=trial.size.seconds)
        seconds, total = await drive(tasks, identifiers(count), trial.system.read)
        require_reads(total, identifiers(count))
        return {"per second": count / seconds}

    return run


def inserts(tasks: int) -> Callable[[Trial], Awaitable[Measures]]:
    """P2, P3: an insert and its commit."""

    async def run(trial: Trial) -> Measures:
        count = await trial.operations(tasks, trial.insert, seconds=trial.size.seconds)
        seconds, _ = await drive(tasks, range(count), trial.insert)
        return {"per second": count / seconds}

    return run


async def mixed(trial: Trial) -> Measures:
    """P4: four reads to an insert."""
    stopwatch = Stopwatch()
    read = stopwatch.wrap(trial.system.read)

    async def operation(id: int) -> int:
        return await (trial.insert(id) if id % 5 == 0 else read(id))

    count = await trial.operations(20, operation, seconds=trial.size.seconds)
    del stopwatch.seconds[:]
    seconds, total = await drive(20, identifiers(count), operation)
    require_reads(total, (id for id in identifiers(count) if id % 5))
    return {"per second": count / seconds, "read p99 ms": stopwatch.milliseconds(99)}
