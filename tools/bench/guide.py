"""P12, the workloads of the design guide: how many calls succeed, and how long each takes."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from .measure import Outcome, tolerate
from .sample import COUNT, PROJECTS, WrongWorkError, timeout_of
from .trial import Measures, Trial


async def counts(trial: Trial) -> Measures:
    """P12: COUNT on projects."""

    async def operation(_number: int) -> int:
        if await trial.system.value(COUNT) != PROJECTS:
            raise WrongWorkError(f"did not count {PROJECTS:,} projects")
        return 0

    return await loaded(trial, operation, tasks=50)


async def metrics(trial: Trial) -> Measures:
    """P12: inserts into metrics."""
    return await loaded(trial, trial.insert, tasks=50)


async def mix(trial: Trial) -> Measures:
    """P12: six reads, three inserts and an update of ten, for a fixed time."""
    updated: set[int] = set()

    async def operation(number: int) -> int:
        match number % 10:
            case 0 | 1 | 2:
                await trial.insert(number)
            case 3:
                await trial.system.update(number % PROJECTS + 1, 3_600)
                updated.add(number % PROJECTS + 1)
            case _:
                if await trial.system.read(number % PROJECTS + 1) < timeout_of(1):
                    raise WrongWorkError("read a value that nobody has written")
        return 0

    measures = await loaded(trial, operation, tasks=10, seconds=trial.size.slow)
    for id in updated:
        if await trial.system.read(id) != 3_600:
            raise WrongWorkError("lost an update")
    return measures


async def loaded(
    trial: Trial, operation: Callable[[int], Awaitable[int]], *, tasks: int, seconds: float = 0.0
) -> Measures:
    """Run a number of operations, or for some seconds; errors are counted, not raised."""
    outcome = await tolerate(
        Outcome(),
        tasks,
        operation,
        operations=None if seconds else trial.size.operations,
        seconds=seconds or None,
    )
    durations = outcome.durations
    if not durations.count:
        raise WrongWorkError("not one operation succeeded")
    return {
        "per second": durations.count / outcome.seconds,
        "succeeded": durations.count,
        "errors %": 100 * outcome.errors / outcome.ended,
        "mean ms": durations.mean * 1000,
        "min ms": durations.shortest * 1000,
        "max ms": durations.longest * 1000,
        "p50 ms": durations.percentile(50) * 1000,
        "p99 ms": durations.percentile(99) * 1000,
    }
