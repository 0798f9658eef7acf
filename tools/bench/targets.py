"""What abt_db has to reach, and whether it has."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from statistics import median

from .rounds import Figures, Results
from .systems import LIMIT, ONE_HOP, ORM, OWN, SHARING

BEST = "the best peer"
ALONE = "the best peer whose every write is a transaction of its own"


@dataclass(frozen=True, slots=True)
class Target:
    """A figure of abt_db, or its ratio to that of another system."""

    workload: str
    measure: str
    what: str
    bound: float
    at_least: bool = True
    rival: str | None = None
    """A system, `BEST` or `ALONE`; None where the figure itself counts."""


TARGETS = (
    Target("P1", "per second", "× reads of the best peer", 2.5, rival=BEST),
    Target("P1", "per second", "× reads of the synchronous loop", 0.5, rival=LIMIT),
    Target("P2", "per second", "× inserts of the best peer", 5, rival=BEST),
    Target("P2", "per second", "× the same, transactions not shared", 5, rival=ALONE),
    Target("P2", "per second", "× inserts of the synchronous loop", 2, rival=LIMIT),
    Target("P2 full", "per second", "× inserts of the best peer", 12, rival=BEST),
    Target("P2 full", "per second", "× the same, transactions not shared", 12, rival=ALONE),
    Target("P2 full", "per second", "× inserts of the synchronous loop", 12, rival=LIMIT),
    Target("P3 read", "per second", "× reads of aiosqlite in one hop", 1, rival=ONE_HOP),
    Target("P3 write", "per second", "× inserts of aiosqlite in one hop", 1, rival=ONE_HOP),
    Target("P4", "per second", "× operations of the best peer", 1.3, rival=BEST),
    Target("P4", "read p99 ms", "× the best p99 of reads", 1, at_least=False, rival=BEST),
    Target("P5", "rows per second", "× rows of synchronous fetchall", 0.75, rival=LIMIT),
    Target("P5", "rows per second", "× rows of the SQLAlchemy ORM", 6, rival=ORM),
    Target("P6", "growth MB", "MB of memory that a stream adds", 16, at_least=False),
    Target("P6", "rows per second", "× rows of synchronous iteration", 0.7, rival=LIMIT),
    Target("P7", "rows per second", "× rows of synchronous executemany", 0.85, rival=LIMIT),
    Target("P8", "times as fast", "× as fast as one after the other", 1.7),
    Target("P9", "times the idle p99", "× the idle p99 during an import", 3, at_least=False),
    Target("P10", "lines per second", "× lines of synchronous executemany", 0.8, rival=LIMIT),
    Target("P10 import", "lines per second", "× lines of a plain import", 1 / 1.3, rival=LIMIT),
    Target("P11", "import ms", "ms to import, over aiosqlite", 40, at_least=False),
    Target("P11", "open ms", "ms to open and migrate a new file", 60, at_least=False),
    Target("slow", "quick p99 ms", "ms p99 of quick reads", 20, at_least=False),
)


@dataclass(frozen=True, slots=True)
class Verdict:
    """A target and what was measured."""

    target: Target
    figure: float | None
    """None if it could not be measured."""
    against: str | None
    """The system that it is a ratio to."""

    @property
    def reached(self) -> bool | None:
        """None if there is no figure."""
        if self.figure is None:
            return None
        bound = self.target.bound
        return self.figure >= bound if self.target.at_least else self.figure <= bound


def judge(results: Results) -> list[Verdict]:
    """Hold the results against every target of the workloads that were run."""
    found = {workload.key: figures for workload, figures in results.items()}
    return [
        _verdict(target, found[target.workload]) for target in TARGETS if target.workload in found
    ]


def _verdict(target: Target, figures: Mapping[str, Figures]) -> Verdict:
    own = figures[OWN].values(target.measure) if OWN in figures else []
    rival = target.rival
    if rival is None:
        return Verdict(target, median(own) if own else None, None)
    if rival in (BEST, ALONE):
        rival = _best(figures, target, without=SHARING if rival == ALONE else ())
    if rival is None or rival not in figures:
        return Verdict(target, None, rival)
    # Only ratios within a round mean something: a machine that others use is faster in the next.
    pairs = zip(own, figures[rival].values(target.measure), strict=False)
    ratios = [mine / theirs for mine, theirs in pairs]
    return Verdict(target, median(ratios) if ratios else None, rival)


def _best(
    figures: Mapping[str, Figures], target: Target, *, without: tuple[str, ...]
) -> str | None:
    """The peer with the best median: any system but abt_db and the limit."""
    medians = {
        name: spread.median
        for name, found in figures.items()
        if name not in (OWN, LIMIT, *without) and (spread := found.spread(target.measure))
    }
    choose = max if target.at_least else min
    return choose(medians, key=lambda name: medians[name]) if medians else None
