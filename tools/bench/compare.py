"""A database layer of one's own beside abt_db and its peers, in the workloads of the design guide.

In each workload every system has a copy of the same database. An operation that raises is counted;
what the others have written is looked for in the file when the system has been closed.
"""

from __future__ import annotations

import asyncio
import gc
import json
import shutil
import sqlite3
import tempfile
from collections.abc import (
    AsyncIterator,
    Awaitable,
    Callable,
    Iterable,
    Iterator,
    Mapping,
    Sequence,
)
from contextlib import asynccontextmanager, closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from abt_db.tools.output import print_table

from . import sample
from .measure import Outcome, sentence, tolerate
from .own import Factory, FactoryError, Given, Target
from .report import environment, note, rounded
from .rounds import steady
from .sample import COUNT, PROJECTS, Ledger, WrongWorkError
from .systems import PER_CALL, load

OPERATIONS = 1_000
"""Of each workload, unless it is said how many or how long."""

STUCK = 120.0
"""Seconds without the end of an operation after which a system is given up."""

MANY = 100
"""Tasks beyond which a system that opens a connection for each call is left out."""

UPDATED = 3_600
"""What updates write."""


@dataclass(slots=True)
class Load:
    """One system under load, and what it says that it has written."""

    target: Target
    ledger: Ledger = field(default_factory=Ledger)
    updated: set[int] = field(default_factory=set)

    async def read(self, _number: int) -> None:
        await self.target.value(COUNT)

    async def write(self, number: int) -> None:
        await self.target.insert(number)
        self.ledger.add(number)

    async def update(self, number: int) -> None:
        id = number % PROJECTS + 1
        await self.target.update(id, UPDATED)
        self.updated.add(id)

    async def mixed(self, number: int) -> None:
        match number % 10:
            case 0 | 1 | 2:
                await self.write(number)
            case 3:
                await self.update(number)
            case _:
                await self.target.read(number % PROJECTS + 1)

    def check(self, path: Path, errors: int) -> None:
        """Look into the file, which must be closed: raise `WrongWorkError` if something is missing.
        What an operation has written that was counted as an error may be there or not."""
        with closing(sqlite3.connect(path)) as db:
            [(rows,)] = db.execute("SELECT count(*) FROM metrics")
            found = db.execute("SELECT id FROM projects WHERE timeout = ?", [UPDATED])
            lost = self.updated.difference(id for (id,) in found)
        if rows < self.ledger.rows or (rows > self.ledger.rows and not errors):
            raise WrongWorkError(
                f"wrote {self.ledger.rows:,} rows, but the database has {rows:,} of them"
            )
        if lost:
            raise WrongWorkError(f"lost {len(lost):,} updates")


WORKLOADS: Mapping[str, tuple[str, Callable[[Load, int], Awaitable[None]]]] = {
    "read": ("count(*) of a table", Load.read),
    "write": ("an insert and its commit", Load.write),
    "update": ("an update and its commit", Load.update),
    "mixed": ("60 % reads, 30 % inserts, 10 % updates", Load.mixed),
}
"""What is measured, and how it is called."""


@dataclass(frozen=True, slots=True)
class Figures:
    """What one workload gave on one system. Durations are of operations that succeeded, in seconds;
    None if none did."""

    succeeded: int = 0
    errors: int = 0
    per_second: float = 0.0
    mean: float | None = None
    min: float | None = None
    max: float | None = None
    p50: float | None = None
    p99: float | None = None
    """This and `p50` are at most 1 % too high."""
    first_error: str | None = None
    failure: str | None = None
    """Why the system has no figures: it did not do the work, got stuck, or could not be opened."""

    @classmethod
    def of(cls, outcome: Outcome) -> Figures:
        durations = outcome.durations
        if not durations.count:
            return cls(errors=outcome.errors, first_error=outcome.first_error)
        return cls(
            durations.count,
            outcome.errors,
            durations.count / outcome.seconds,
            durations.mean,
            durations.shortest,
            durations.longest,
            durations.percentile(50),
            durations.percentile(99),
            outcome.first_error,
        )

    def as_dict(self) -> dict[str, Any]:
        """As plain values, durations in milliseconds."""
        if self.failure is not None:
            return {"failed": self.failure}
        times = {"mean": self.mean, "min": self.min, "max": self.max}
        times |= {"p50": self.p50, "p99": self.p99}
        return {
            "succeeded": self.succeeded,
            "errors": self.errors,
            "first error": self.first_error,
            "per second": round(self.per_second, 1),
            **{
                f"{name} ms": None if value is None else float(f"{value * 1000:.4g}")
                for name, value in times.items()
            },
        }


@dataclass(slots=True)
class Comparison:
    """The figures of all systems in each workload."""

    concurrency: int
    operations: int | None
    duration: float | None
    workloads: dict[str, dict[str, Figures]] = field(default_factory=dict)
    missing: Sequence[str] = ()
    """A sentence on each peer that is left out."""

    @property
    def failures(self) -> dict[str, str]:
        """By "workload: system", why there are no figures."""
        return {
            f"{key}: {name}": found.failure
            for key, systems in self.workloads.items()
            for name, found in systems.items()
            if found.failure is not None
        }

    def print(self) -> None:
        """Print a table for each workload to standard output."""
        extent = [] if self.operations is None else [f"{self.operations:,} operations"]
        extent += [] if self.duration is None else [f"{self.duration:g} s at most"]
        print(f"{self.concurrency:,} tasks, {', '.join(extent)}; only ratios mean something")
        titles = ["", "per second", "succeeded", "errors"]
        titles += ["mean ms", "min ms", "max ms", "p50 ms", "p99 ms"]
        for key, systems in self.workloads.items():
            print(f"\n{key}: {WORKLOADS[key][0]}")
            print_table(titles, [_row(*item) for item in systems.items()], right=titles[1:])
        for where, failure in self.failures.items():
            print(f"\nno figures for {where}: {failure}")
        for key, systems in self.workloads.items():
            for name, found in systems.items():
                if found.first_error is not None:
                    print(f"\n{key}: the first error of {name}: {found.first_error}")
        for line in self.missing:
            print(line)

    def as_json(self) -> str:
        """All figures and what they were measured on."""
        value = {
            "environment": environment(),
            "concurrency": self.concurrency,
            "operations": self.operations,
            "duration": self.duration,
            "workloads": {
                key: {
                    "title": WORKLOADS[key][0],
                    "systems": {name: found.as_dict() for name, found in systems.items()},
                }
                for key, systems in self.workloads.items()
            },
            "missing": list(self.missing),
        }
        return json.dumps(value, indent=1, ensure_ascii=False) + "\n"


def _row(name: str, figures: Figures) -> list[str]:
    if figures.failure is not None:
        return [name, "failed", *[""] * 7]
    times = (figures.mean, figures.min, figures.max, figures.p50, figures.p99)
    return [
        name,
        rounded(figures.per_second),
        f"{figures.succeeded:,}",
        f"{figures.errors:,}",
        *("–" if value is None else rounded(value * 1000) for value in times),
    ]


async def compare(
    systems: Mapping[str, Factory],
    *,
    concurrency: int = 50,
    operations: int | None = None,
    duration: float | None = None,
    workloads: Iterable[str] = tuple(WORKLOADS),
    beside: Iterable[str] | None = None,
) -> Comparison:
    """Measure what some factories bring, by the names given, beside abt_db and its peers.

    In each workload and for each system `concurrency` tasks run operations until `operations` have
    been begun or `duration` seconds are over, whichever comes first; 1,000 operations if neither is
    given. `beside` names the other systems; None: all that are installed. An operation that raises
    is counted as an error. Memory does not grow with the number of operations, the file does.

    Raises `FactoryError` for a factory that brings no system, before anything is measured, and
    `ValueError` for an argument that can't be right. A system that fails later is told so in its
    `Figures`.
    """
    if operations is None and duration is None:
        operations = OPERATIONS
    for name, value in ("concurrency", concurrency), ("operations", operations):
        if value is not None and value < 1:
            raise ValueError(f"{name} must be 1 or more, not {value}")
    if duration is not None and not duration > 0:
        raise ValueError(f"duration must be more than 0 seconds, not {duration}")
    keys = list(workloads)
    if unknown := [key for key in keys if key not in WORKLOADS]:
        raise ValueError(f"there is no workload {unknown[0]}; there are {', '.join(WORKLOADS)}")
    others, missing = _others(beside, concurrency)
    makers: dict[str, Callable[[], Target]] = {
        name: lambda factory=factory: Given(factory)  # type: ignore[misc]
        for name, factory in systems.items()
    }
    comparison = Comparison(concurrency, operations, duration, missing=missing)
    with steady(), tempfile.TemporaryDirectory(prefix="abt-db-bench-") as folder:
        original = Path(folder, "sample.db")
        sample.create(original)
        for name, make in makers.items():
            await _try_out(name, make, original)
        makers = others | makers
        for key in keys:
            figures = comparison.workloads[key] = {}
            for name, make in makers.items():
                figures[name] = await _measured(key, make, original, comparison)
                note(f"{key:<8}{name:<28}{rounded(figures[name].per_second):>8} a second")
    return comparison


def _others(
    beside: Iterable[str] | None, concurrency: int
) -> tuple[dict[str, Callable[[], Target]], list[str]]:
    """Return what makes each of the other systems, and a sentence on each that is left out."""
    present, lacking = load()
    if beside is not None:
        beside = list(beside)
        for name in beside:
            if name in lacking:
                raise ValueError(lacking[name])
            if name not in present:
                raise ValueError(f"there is no system {name}; there are {', '.join(present)}")
        return {name: present[name] for name in beside}, []
    missing = list(lacking.values())
    if concurrency > MANY:
        for name in PER_CALL:
            if present.pop(name, None) is not None:
                missing += [f"{name} is left out: it opens a connection for each call"]
    return dict(present), missing


@contextmanager
def _copied(original: Path) -> Iterator[Path]:
    """A copy of the sample in a folder of its own, which goes at the end."""
    with tempfile.TemporaryDirectory(dir=original.parent) as folder:
        yield Path(shutil.copy(original, Path(folder, "app.db")))


@asynccontextmanager
async def _opened(make: Callable[[], Target], path: Path) -> AsyncIterator[Target]:
    target = make()
    await target.open(path, "normal")
    try:
        yield target
    finally:
        await target.close()


async def _try_out(name: str, make: Callable[[], Target], original: Path) -> None:
    try:
        with _copied(original) as path:
            async with _opened(make, path):
                pass
    except Exception as error:
        reason = str(error) if isinstance(error, FactoryError) else sentence(error)
        raise FactoryError(f"{name} brings no system: {reason}") from error


async def _measured(
    key: str, make: Callable[[], Target], original: Path, how: Comparison
) -> Figures:
    """Open, load, close, look into the file, and only then believe it."""
    _, operation = WORKLOADS[key]
    outcome = Outcome()
    gc.collect()
    try:
        with _copied(original) as path:
            async with _opened(make, path) as target, _unstuck(outcome):
                work = Load(target)
                await tolerate(
                    outcome,
                    how.concurrency,
                    lambda number: operation(work, number),
                    operations=how.operations,
                    seconds=how.duration,
                )
            work.check(path, outcome.errors)
    except Exception as error:
        # Whatever it is, it is this system's own: the others are measured all the same.
        return Figures(failure=sentence(error))
    return Figures.of(outcome)


@asynccontextmanager
async def _unstuck(outcome: Outcome) -> AsyncIterator[None]:
    """A block that is given up when no operation has ended for `STUCK` seconds."""
    loop = asyncio.get_running_loop()

    async def postpone(limit: asyncio.Timeout) -> None:
        ended = 0
        while True:
            await asyncio.sleep(STUCK / 4)
            if outcome.ended > ended:
                ended = outcome.ended
                limit.reschedule(loop.time() + STUCK)

    try:
        async with asyncio.timeout(STUCK) as limit:
            watching = asyncio.create_task(postpone(limit))
            try:
                yield
            finally:
                watching.cancel()
                await asyncio.wait([watching])
    except TimeoutError:
        raise TimeoutError(f"no operation has ended for {STUCK:g} s") from None
