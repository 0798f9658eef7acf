"""The workloads: what is run, on which systems, and how much of it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from . import beside, guide, history, logs, many, processes, single
from .systems import LIMIT, OWN, PER_CALL, Fetches, Imports, Streams, System
from .trial import Measures, Size, Trial

QUICK = Size(
    rounds=3,
    others=1,
    seconds=0.04,
    rows=100_000,
    bulk=20_000,
    slow=0.3,
    operations=150,
    batches=5,
    patience=1.0,
)
FULL = Size(
    rounds=5,
    others=3,
    seconds=0.2,
    rows=1_000_000,
    bulk=100_000,
    slow=1.0,
    operations=500,
    batches=30,
    patience=5.0,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    """One thing to do, measured in rounds."""

    key: str
    title: str
    unit: str
    run: Callable[[Trial], Awaitable[Measures]]
    synchronous: str = "normal"
    needs: type = object
    """The protocol that a system must have."""
    systems: tuple[str, ...] = ()
    """Only these systems; all if empty."""
    without: tuple[str, ...] = ()
    calls: bool = False
    """Whether it is about the cost of a call; such workloads have `Size.rounds`."""
    quick: bool = True
    """Whether `--quick` runs it, unless it is asked for."""

    @property
    def group(self) -> str:
        """What `--only` calls it: the first word of its key."""
        return self.key.split()[0]

    def suits(self, name: str, maker: Callable[[], System]) -> bool:
        """Whether a system has a natural form of it."""
        if name in self.without or (self.systems and name not in self.systems):
            return False
        return self.needs is object or isinstance(maker(), self.needs)


ALL = (
    Workload(
        key="P1",
        calls=True,
        title="point reads, 100 tasks",
        unit="per second",
        run=single.reads(100),
    ),
    Workload(
        key="P2", calls=True, title="inserts, 50 tasks", unit="per second", run=single.inserts(50)
    ),
    Workload(
        key="P2 full",
        calls=True,
        title="inserts, 50 tasks, synchronous=FULL",
        unit="per second",
        run=single.inserts(50),
        synchronous="full",
    ),
    Workload(
        key="P3 read",
        calls=True,
        title="point reads, one task",
        unit="per second",
        run=single.reads(1),
    ),
    Workload(
        key="P3 write",
        calls=True,
        title="inserts, one task",
        unit="per second",
        run=single.inserts(1),
    ),
    Workload(
        key="P4",
        calls=True,
        title="80 reads to 20 inserts, 20 tasks",
        unit="per second",
        run=single.mixed,
    ),
    Workload(
        key="P5", title="10,000 rows at once", unit="rows per second", run=many.fetch, needs=Fetches
    ),
    Workload(
        key="P6",
        title="a long result, streamed",
        unit="rows per second",
        run=processes.stream,
        needs=Streams,
    ),
    Workload(
        key="P7",
        title="an import in one transaction",
        unit="rows per second",
        run=many.bulk,
        needs=Imports,
    ),
    Workload(
        key="P8",
        title="two scans at once",
        unit="times as fast",
        run=beside.scans,
        without=(LIMIT,),
    ),
    Workload(
        key="P9",
        title="p99 of reads during an import",
        unit="times the idle p99",
        run=beside.during_import,
        needs=Imports,
        without=(LIMIT,),
    ),
    Workload(
        key="P10",
        title="log lines, 1,000 a batch",
        unit="lines per second",
        run=logs.append,
        systems=(LIMIT, OWN),
    ),
    Workload(
        key="P10 import",
        title="build logs, imported",
        unit="lines per second",
        run=history.load,
        systems=(LIMIT, OWN),
    ),
    Workload(
        key="P11", title="import and open", unit="import ms", run=processes.opening, systems=(OWN,)
    ),
    Workload(key="P12 reads", title="COUNT, 50 tasks", unit="per second", run=guide.counts),
    Workload(key="P12 writes", title="metrics, 50 tasks", unit="per second", run=guide.metrics),
    Workload(key="P12 mix", title="60/30/10 mix, 10 tasks", unit="per second", run=guide.mix),
    Workload(
        key="slow",
        title="1,000 quick reads beside a slow query",
        unit="quick p99 ms",
        run=beside.slow_among_quick,
        without=(LIMIT,),
    ),
    *(
        Workload(
            key=f"scaling {tasks}",
            title=f"point reads, {tasks:,} tasks",
            unit="per second",
            run=single.reads(tasks),
            without=PER_CALL if tasks > 100 else (),
            quick=False,
        )
        for tasks in (1, 10, 100, 1_000, 10_000)
    ),
)


def groups() -> list[str]:
    """What `--only` may name."""
    return list(dict.fromkeys(workload.group for workload in ALL))


def choose(only: str | None, *, quick: bool) -> list[Workload]:
    """The workloads that were asked for; raises `KeyError` with a name that is none."""
    if only is None:
        return [workload for workload in ALL if workload.quick or not quick]
    known = {group.lower(): group for group in groups()}
    wanted = {known.get(name.strip().lower(), "") or _unknown(name) for name in only.split(",")}
    return [workload for workload in ALL if workload.group in wanted]


def _unknown(name: str) -> str:
    raise KeyError(name.strip())
