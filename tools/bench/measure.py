"""Running many operations in tasks, and what becomes of the figures."""

from __future__ import annotations

import asyncio
from array import array
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from statistics import median
from time import perf_counter

__all__ = ["Spread", "Stopwatch", "drive", "percentile"]


async def drive(
    tasks: int, numbers: Iterable[int], operation: Callable[[int], Awaitable[int]]
) -> tuple[float, int]:
    """Await `operation` for each of `numbers`, with so many `tasks` that take the next in turns.

    Returns the seconds that it took and the sum of what the operations returned. The first one that
    raises ends it.
    """
    waiting = iter(numbers)
    total = 0

    async def work() -> None:
        nonlocal total
        mine = 0
        for number in waiting:
            mine += await operation(number)
        total += mine

    began = perf_counter()
    if tasks == 1:
        await work()
    else:
        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(tasks):
                    group.create_task(work())
        except ExceptionGroup as failures:
            raise failures.exceptions[0] from None
    return perf_counter() - began, total


class Stopwatch:
    """How long each operation of one round took, in seconds."""

    __slots__ = ("seconds",)

    def __init__(self) -> None:
        self.seconds = array("d")  # eight bytes an operation, and gone with the round

    def wrap(self, operation: Callable[[int], Awaitable[int]]) -> Callable[[int], Awaitable[int]]:
        """Return the operation, timed."""
        note = self.seconds.append

        async def timed(number: int) -> int:
            began = perf_counter()
            result = await operation(number)
            note(perf_counter() - began)
            return result

        return timed

    def milliseconds(self, percent: float) -> float:
        """The time that so many percent of the operations stay under."""
        return percentile(self.seconds, percent) * 1000


def percentile(values: Sequence[float], percent: float) -> float:
    """The smallest value that at least so many percent of all are not above."""
    ordered = sorted(values)
    return ordered[max(0, -int(-len(ordered) * percent // 100) - 1)]


@dataclass(frozen=True, slots=True)
class Spread:
    """What the rounds gave: the median, the lowest and the highest."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        return cls(median(values), min(values), max(values))

    @property
    def percent(self) -> float:
        """Half the range, in percent of the median."""
        return (self.high - self.low) / 2 / self.median * 100 if self.median else 0.0
