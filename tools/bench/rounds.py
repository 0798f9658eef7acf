"""All workloads on all systems, in turns, and what was measured."""

from __future__ import annotations

import asyncio
import gc
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from time import perf_counter

from . import sample
from .measure import Spread, sentence
from .systems import System
from .trial import Measures, Size, SkippedError, Trial
from .workloads import Workload

LONGEST = 120.0
"""Seconds that one round of one system may take before it is given up."""


@dataclass(slots=True)
class Figures:
    """What one workload gave on one system: the measures of each round, or why there are none."""

    rounds: list[Measures] = field(default_factory=list)
    failure: str | None = None
    """What went wrong in any of the rounds; then none of them counts."""
    skipped: str | None = None
    slow: bool = False
    memory: dict[str, int] = field(default_factory=dict)
    """See `Trial.memory`."""

    def values(self, measure: str) -> list[float]:
        """One measure of each round."""
        return [] if self.failure else [measures[measure] for measures in self.rounds]

    def spread(self, measure: str) -> Spread | None:
        """Median, lowest and highest of the rounds; None if there is no figure."""
        values = self.values(measure)
        return Spread.of(values) if values else None


Results = dict[Workload, dict[str, Figures]]


async def measure(
    workloads: Iterable[Workload],
    systems: Mapping[str, Callable[[], System]],
    size: Size,
    *,
    rounds: int | None = None,
) -> Results:
    """Run each workload on each system that it suits, `rounds` times (`size` says if None).

    A system that fails is told so in its `Figures` and left out of the rounds that follow.
    """
    results: Results = {}
    with steady(), tempfile.TemporaryDirectory(prefix="abt-db-bench-") as name:
        original = Path(name, "sample.db")
        sample.create(original)
        for workload in workloads:
            began = perf_counter()
            figures = results[workload] = {
                name: Figures() for name, maker in systems.items() if workload.suits(name, maker)
            }
            for _ in range(rounds or (size.rounds if workload.calls else size.others)):
                for name, found in figures.items():
                    if not (found.failure or found.skipped or found.slow):
                        await _turn(workload, name, systems[name](), size, original, found)
            seconds = perf_counter() - began
            print(f"{workload.key:<14}{workload.title:<42}{seconds:6.1f} s", file=sys.stderr)
    return results


@contextmanager
def steady() -> Iterator[None]:
    """Keep what is there already, modules above all, out of the garbage collector's passes."""
    gc.collect()
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


async def _turn(
    workload: Workload, name: str, system: System, size: Size, original: Path, found: Figures
) -> None:
    """Run one round of one system in a folder of its own, and note what came of it."""
    folder = Path(tempfile.mkdtemp(dir=original.parent))
    path = Path(shutil.copy(original, folder / "app.db"))
    trial = Trial(name, system, path, size, found.memory)
    began = perf_counter()
    try:
        found.rounds.append(await _checked(workload, trial))
    except SkippedError as reason:
        found.skipped = str(reason)
    except Exception as error:
        # Whatever it is, it is this system's own: the others are measured all the same.
        found.failure = sentence(error)
    found.slow = perf_counter() - began > size.patience
    shutil.rmtree(folder)


async def _checked(workload: Workload, trial: Trial) -> Measures:
    """Open, run, close, and only then believe it."""
    gc.collect()
    async with asyncio.timeout(LONGEST):
        await trial.system.open(trial.path, workload.synchronous)
        try:
            code = 2 if workload.synchronous == "full" else 1
            if await trial.system.value(sample.SETTINGS, synchronous=code) != 5:
                raise sample.WrongWorkError("does not have the settings that all have to have")
            measures = await workload.run(trial)
        finally:
            await trial.system.close()
    trial.ledger.check(trial.path)
    return measures
