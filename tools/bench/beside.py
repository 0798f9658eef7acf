"""P8, P9 and the slow query: what runs beside other work."""

from __future__ import annotations

import asyncio
from time import perf_counter

from .measure import Stopwatch, drive
from .sample import SCAN, WrongWorkError, identifiers, metric
from .systems import Imports
from .trial import Measures, Trial, require_reads


async def scans(trial: Trial) -> Measures:
    """P8: two heavy scans, one after the other and at the same time; then the other way round."""
    times = await scan_times(trial, trial.size.slow / 8)

    async def scan(times: int) -> None:
        if await trial.system.value(SCAN, times=times):
            raise WrongWorkError("found rows where there are none")

    async def in_turn() -> float:
        began = perf_counter()
        await scan(times)
        await scan(times)
        return perf_counter() - began

    async def together() -> float:
        began = perf_counter()
        await asyncio.gather(scan(times), scan(times))
        return perf_counter() - began

    await asyncio.gather(*(scan(1) for _ in range(4)))  # every connection has been used
    a, b, c, d = await in_turn(), await together(), await together(), await in_turn()
    return {"times as fast": (a + d) / (b + c)}


async def scan_times(trial: Trial, seconds: float) -> int:
    """How often the builds are to be scanned so that it takes about so many seconds."""
    if "times" not in trial.memory:
        await trial.system.value(SCAN, times=1)
        began = perf_counter()
        await trial.system.value(SCAN, times=4)
        trial.memory["times"] = max(1, min(int(seconds / (perf_counter() - began) * 4), 1_000))
    return trial.memory["times"]


async def during_import(trial: Trial) -> Measures:
    """P9: point reads of ten tasks, first alone and then during an import in batches of 1,000."""
    assert isinstance(trial.system, Imports)
    system, batch = trial.system, list(map(metric, range(1_000)))
    count = await trial.operations(10, trial.read, seconds=trial.size.seconds * 2)
    idle, busy = Stopwatch(), Stopwatch()
    _, total = await drive(10, identifiers(count), idle.wrap(trial.read))
    require_reads(total, identifiers(count))

    reading = True

    async def importing() -> None:
        while reading:
            await system.insert_many(batch)
            for number in range(len(batch)):
                trial.ledger.add(number)

    writer = asyncio.create_task(importing())
    try:
        seconds, total = await drive(10, identifiers(count), busy.wrap(trial.read))
    finally:
        reading = False
        await writer
    require_reads(total, identifiers(count))
    return {
        "times the idle p99": busy.milliseconds(99) / idle.milliseconds(99),
        "idle p99 ms": idle.milliseconds(99),
        "busy p99 ms": busy.milliseconds(99),
        "imported per second": trial.ledger.rows / seconds,
    }


async def slow_among_quick(trial: Trial) -> Measures:
    """One slow query, and 1,000 quick ones of twenty tasks beside it."""
    times = await scan_times(trial, trial.size.slow)
    await drive(20, identifiers(100), trial.read)
    stopwatch = Stopwatch()
    slow = asyncio.create_task(trial.system.value(SCAN, times=times))
    await asyncio.sleep(0)  # it goes first
    _, total = await drive(20, identifiers(1_000), stopwatch.wrap(trial.read))
    overtaken = not slow.done()
    await slow
    require_reads(total, identifiers(1_000))
    return {"quick p99 ms": stopwatch.milliseconds(99), "overtook": float(overtaken)}
