"""P12, the workloads of the design guide: how many calls succeed, and how long each takes."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from statistics import fmean
from time import perf_counter

from .measure import Stopwatch, drive
from .sample import COUNT, PROJECTS, WrongWorkError, timeout_of
from .trial import Measures, Trial

__all__ = ["counts", "metrics", "mix"]


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
    stopwatch = Stopwatch()
    timed = stopwatch.wrap(operation)
    errors = 0
    end = perf_counter() + seconds if seconds else float("inf")

    async def tolerant(number: int) -> int:
        nonlocal errors
        try:
            return await timed(number)
        except WrongWorkError:
            raise
        except Exception:
            errors += 1  # of any kind: which one is the system's own affair
            return 0

    def numbers() -> Iterator[int]:
        number = 0
        while number < trial.size.operations if not seconds else perf_counter() < end:
            yield number
            number += 1

    took, _ = await drive(tasks, numbers(), tolerant)
    done = len(stopwatch.seconds)
    if not done:
        raise WrongWorkError("not one operation succeeded")
    return {
        "per second": done / took,
        "succeeded": done,
        "errors %": 100 * errors / (done + errors),
        "mean ms": fmean(stopwatch.seconds) * 1000,
        "min ms": min(stopwatch.seconds) * 1000,
        "max ms": max(stopwatch.seconds) * 1000,
        "p50 ms": stopwatch.milliseconds(50),
        "p99 ms": stopwatch.milliseconds(99),
    }
