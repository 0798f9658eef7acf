"""Running many operations in tasks, and what becomes of the figures."""

from __future__ import annotations

import asyncio
from array import array
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import count
from math import frexp, inf, ldexp
from statistics import median
from time import perf_counter

from .sample import WrongWorkError


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


class Durations:
    """How long operations took, in seconds, in memory that does not grow with their number.

    `count`, `mean`, `shortest` and `longest` are exact. `percentile` returns the upper end of a
    bucket: at most 1 % too high, never too low, and never more than `longest`.
    """

    __slots__ = ("_buckets", "count", "longest", "shortest", "total")

    def __init__(self) -> None:
        self._buckets: dict[int, int] = {}
        self.count = 0
        self.total = self.longest = 0.0
        self.shortest = inf

    def add(self, seconds: float) -> None:
        """Count one operation."""
        # seconds == mantissa * 2**exponent, with 0.5 <= mantissa < 1: 128 buckets an octave.
        mantissa, exponent = frexp(max(seconds, 1e-9))
        bucket = 128 * exponent + int(256 * mantissa)
        self._buckets[bucket] = self._buckets.get(bucket, 0) + 1
        self.count += 1
        self.total += seconds
        if seconds > self.longest:
            self.longest = seconds
        if seconds < self.shortest:
            self.shortest = seconds

    @property
    def mean(self) -> float:
        return self.total / self.count

    def percentile(self, percent: float) -> float:
        """Return what so many percent of the operations did not exceed."""
        left = self.count * percent / 100
        for bucket in sorted(self._buckets):
            left -= self._buckets[bucket]
            if left <= 0:
                exponent, part = divmod(bucket - 128, 128)
                return min(ldexp((part + 129) / 256, exponent), self.longest)
        return self.longest


@dataclass(slots=True)
class Outcome:
    """What has become of many operations, of which each may fail."""

    seconds: float = 0.0
    """How long all of them took."""
    durations: Durations = field(default_factory=Durations)
    """Of those that succeeded."""
    errors: int = 0
    first_error: str | None = None

    @property
    def ended(self) -> int:
        """How many have ended, either way."""
        return self.durations.count + self.errors


async def tolerate(
    outcome: Outcome,
    tasks: int,
    operation: Callable[[int], Awaitable[object]],
    *,
    operations: int | None = None,
    seconds: float | None = None,
) -> Outcome:
    """Await ``operation(number)`` for 0, 1, 2 … with so many `tasks`, until so many `operations`
    have been begun or so many `seconds` are over; note in `outcome` how each ends, and return it.

    An error of an operation is counted. Only `WrongWorkError` is raised.
    """
    end = inf if seconds is None else perf_counter() + seconds
    durations = outcome.durations

    def numbers() -> Iterator[int]:
        for number in count() if operations is None else range(operations):
            if perf_counter() >= end:
                return
            yield number

    async def tolerant(number: int) -> int:
        began = perf_counter()
        try:
            await operation(number)
        except WrongWorkError:
            raise
        except (Exception, asyncio.CancelledError) as error:
            task = asyncio.current_task()
            if isinstance(error, asyncio.CancelledError) and task is not None and task.cancelling():
                raise  # this task was cancelled, not something that the operation waited for
            outcome.errors += 1  # of any kind: which one is the system's own affair
            outcome.first_error = outcome.first_error or sentence(error)
            await asyncio.sleep(0)  # one that fails at once leaves the other tasks their turn
        else:
            durations.add(perf_counter() - began)
        return 0

    outcome.seconds, _ = await drive(tasks, numbers(), tolerant)
    return outcome


def sentence(error: BaseException) -> str:
    """An error in one line."""
    first = str(error).partition("\n")[0]
    return f"{type(error).__name__}: {first}" if first else type(error).__name__


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
