"""What abt_db has to reach, and whether it has."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from statistics import median

from .rounds import Figures, Results
from .systems import LIMIT, ONE_HOP, ORM, OWN

__all__ = ["Verdict", "judge"]


@dataclass(frozen=True, slots=True)
class Verdict:
    """One target: what was measured, what it has to be."""

    workload: str
    what: str
    figure: float | None
    """None if it could not be measured."""
    target: float
    at_least: bool
    against: str = ""
    """The system that it is a ratio to."""

    @property
    def reached(self) -> bool | None:
        """None if there is no figure."""
        if self.figure is None:
            return None
        return self.figure >= self.target if self.at_least else self.figure <= self.target


Rival = str | None
"""A system by name; None is the best peer: any but abt_db and the limit."""

# workload, measure, what is compared, with whom, at least
_RATIOS: tuple[tuple[str, str, str, Rival, float], ...] = (
    ("P1", "per second", "reads of the best peer", None, 2.5),
    ("P1", "per second", "reads of the synchronous loop", LIMIT, 0.5),
    ("P2", "per second", "inserts of the best peer", None, 5.0),
    ("P2", "per second", "inserts of the synchronous loop", LIMIT, 2.0),
    ("P2 full", "per second", "inserts of the best peer, FULL", None, 12.0),
    ("P2 full", "per second", "inserts of the synchronous loop, FULL", LIMIT, 12.0),
    ("P3 read", "per second", "reads of aiosqlite in one hop", ONE_HOP, 1.0),
    ("P3 write", "per second", "inserts of aiosqlite in one hop", ONE_HOP, 1.0),
    ("P4", "per second", "operations of the best peer", None, 1.3),
    ("P5", "rows per second", "rows of synchronous fetchall", LIMIT, 0.75),
    ("P5", "rows per second", "rows of the SQLAlchemy ORM", ORM, 6.0),
    ("P6", "rows per second", "rows of synchronous iteration", LIMIT, 0.7),
    ("P7", "rows per second", "rows of synchronous executemany", LIMIT, 0.85),
    ("P10", "lines per second", "lines of synchronous executemany", LIMIT, 0.8),
)

# workload, measure, what it is, target, whether at least or at most
_FIGURES: tuple[tuple[str, str, str, float, bool], ...] = (
    ("P6", "growth MB", "MB that a stream adds to the memory", 16.0, False),
    ("P8", "times as fast", "times as fast as one after the other", 1.7, True),
    ("P9", "times the idle p99", "times the idle p99 during an import", 3.0, False),
    ("P11", "import ms", "ms to import, over aiosqlite", 40.0, False),
    ("P11", "open ms", "ms to open and migrate a new file", 60.0, False),
    ("slow", "quick p99 ms", "ms p99 of quick reads beside a slow one", 20.0, False),
)


def judge(results: Results) -> list[Verdict]:
    """Hold the results against every target of the workloads that were run, in their order."""
    found = {workload.key: figures for workload, figures in results.items()}
    verdicts = [
        _ratio(found[key], key, measure, what, rival, target, at_least=True)
        for key, measure, what, rival, target in _RATIOS
        if key in found
    ]
    if "P4" in found:
        what = "times the best peer's p99 of reads"
        rival = _best(found["P4"], "per second")
        verdicts.append(_ratio(found["P4"], "P4", "read p99 ms", what, rival, 1.0, at_least=False))
    for key, measure, what, target, at_least in _FIGURES:
        if key in found:
            spread = found[key][OWN].spread(measure) if OWN in found[key] else None
            figure = spread.median if spread else None
            verdicts.append(Verdict(key, what, figure, target, at_least))
    order = list(found)
    return sorted(verdicts, key=lambda verdict: order.index(verdict.workload))


def _ratio(
    figures: Mapping[str, Figures],
    key: str,
    measure: str,
    what: str,
    rival: Rival,
    target: float,
    *,
    at_least: bool,
) -> Verdict:
    """The median of the ratios within each round: only those mean something on a shared machine."""
    against = rival or _best(figures, measure)
    figure = None
    if against in figures and OWN in figures:
        pairs = zip(figures[OWN].values(measure), figures[against].values(measure), strict=False)
        ratios = [own / other for own, other in pairs]
        figure = median(ratios) if ratios else None
    return Verdict(key, what, figure, target, at_least, against or "")


def _best(
    figures: Mapping[str, Figures], measure: str
) -> str | None:
    """The peer with the best median."""
    medians = [
        (spread.median, name)
        for name, found in figures.items()
        if name not in (OWN, LIMIT) and (spread := found.spread(measure))
    ]
    return max(medians)[1] if medians else None
