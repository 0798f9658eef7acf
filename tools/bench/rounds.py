"""All workloads on all systems, in turns; what was measured."""

from __future__ import annotations

import asyncio
import gc
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from time import perf_counter

from . import sample
from .measure import Spread
from .trial import Measures, Trial, Size, SkippedError
from .systems import System
from .workloads import Workload

__all__ = ["Figures", "Results", "measure"]

LIMIT_SECONDS = 120.0
"""How long one round of one system may take before it is given up."""


@dataclass(slots=True)
class Figures:
    """What one workload gave on one system: the measures of each round, or why there are none."""

    rounds: list[Measures] = field(default_factory=list)
    failure: str | None = None
    skipped: str | None = None

    def values(self, measure: str) -> list[float]:
        """One measure of each round; empty if the system failed in any."""
        return [] if self.failure else [m[measure] for m in self.rounds if measure in m]

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
    """Trial each workload on each system, round after round; a failure ends that system's part."""
    results: Results = {}
    with tempfile.TemporaryDirectory(prefix="abt-db-bench-") as name:
        directory = Path(name)
        original = directory / "sample.db"
        sample.create(original)
        for workload in workloads:
            began = perf_counter()
            suited = [n for n, maker in systems.items() if workload.suits(n, maker)]
            figures = results[workload] = {name: Figures() for name in suited}
            memories: dict[str, dict[str, int]] = {name: {} for name in suited}
            for _ in range(rounds or min(size.rounds, workload.rounds)):
                for name in _going_on(figures):
                    folder = Path(tempfile.mkdtemp(dir=directory))
                    path = Path(shutil.copy(original, folder / "app.db"))
                    trial = Trial(name, systems[name](), path, size, memories[name])
                    try:
                        figures[name].rounds.append(await _round(workload, trial))
                    except SkippedError as reason:
                        figures[name].skipped = str(reason)
                    except Exception as error:
                        # Whatever it is, it is this system's: the others are measured all the same.
                        sentence = str(error).partition("\n")[0]
                        figures[name].failure = f"{type(error).__name__}: {sentence}"
                    shutil.rmtree(folder)
            seconds = perf_counter() - began
            print(f"{workload.key:<14}{workload.title:<42}{seconds:6.1f} s", file=sys.stderr)
    return results


def _going_on(figures: Mapping[str, Figures]) -> Sequence[str]:
    return [n for n, found in figures.items() if not (found.failure or found.skipped)]


async def _round(workload: Workload, trial: Trial) -> Measures:
    """Open, run, close, and only then believe it."""
    gc.collect()
    async with asyncio.timeout(LIMIT_SECONDS):
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
