"""Housekeeping: statistics for the query planner, checks for damage, and the schedule on which an
open `Database` does both by itself.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from time import monotonic

from .connection.deadline import Deadline
from .connection.session import Session
from .connection.transaction import EngineSession
from .errors import AbtDbError, CorruptError, PoolClosedError, StatementError
from .locks.table import clear_locks
from .log import LOG
from .pool.pool import Pool
from .sql.query import Query

SAMPLE = 1_000
"""How many rows of each index ANALYZE reads: enough for the planner, and a matter of milliseconds
for any table."""

SHORTEST = 0.05
"""The shortest interval of the schedule, in seconds."""

CHOOSES = sqlite3.sqlite_version_info >= (3, 46)
"""Whether PRAGMA optimize can find out, on any connection, which tables have changed much."""

QUICK_CHECK = Query("maintenance.quick_check", "PRAGMA quick_check(100)", str)
INTEGRITY_CHECK = Query("maintenance.integrity_check", "PRAGMA integrity_check(100)", str)
FOREIGN_KEYS = Query("maintenance.foreign_key_check", "PRAGMA foreign_key_check")


@dataclass(frozen=True, slots=True)
class Health:
    """The result of a check for damage."""

    problems: tuple[str, ...]
    """The problems of the file, in SQLite's words; the first hundred."""
    dangling: dict[str, int]
    """By table, the number of rows whose foreign keys refer to a row that does not exist."""
    full: bool
    """Whether each index was compared with its table, too."""
    seconds: float
    """How long the check took."""

    @property
    def whole(self) -> bool:
        """Whether no damage was found."""
        return not (self.problems or self.dangling)


def examine(session: Session, *, full: bool) -> Health:
    """Check the database that the session reads for damage."""
    began = monotonic()
    problems: list[str] = []
    dangling: Counter[str] = Counter()
    try:
        found = session.fetch_all(INTEGRITY_CHECK() if full else QUICK_CHECK())
        problems += [problem for problem in found if problem != "ok"]
        dangling.update(row[0] for row in session.stream(FOREIGN_KEYS()))
    except CorruptError as error:
        problems.append(str(error))
    except StatementError as error:
        # For example a foreign key whose parent columns are no key: such an error of the schema
        # must not hide the damage that was found.
        if not problems:
            raise
        problems.append(str(error))
    return Health(tuple(problems), dict(dangling), full, monotonic() - began)


def gather_statistics(session: EngineSession, *, full: bool) -> None:
    """Bring the planner's statistics up to date: from samples, for tables that have changed much;
    if `full`, from all rows of all tables."""
    with session.transaction("IMMEDIATE"):
        session.control(f"PRAGMA analysis_limit = {0 if full else SAMPLE}")
        sql = "PRAGMA optimize = 0x10002" if CHOOSES and not full else "ANALYZE"
        session.run_sql(sql, doing="ANALYZE", privileged=True)
        # Other connections read the statistics only when they read the schema, so change its
        # version to make them read it.
        [(version,)] = session.control("PRAGMA schema_version")
        session.control(f"PRAGMA schema_version = {version + 1}")


def _clear_locks(session: EngineSession) -> int:
    return session.call(clear_locks)


class Housekeeping:
    """The schedule of an open database: `Config.optimize_interval` and `Config.check_interval`."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self._tasks: list[asyncio.Task[None]] = []

    def start(self) -> None:
        """Start the schedule. Each kind of work is first done after one interval."""
        config = self._pool.config
        if self._pool.writer is not None:
            self._every(config.optimize_interval, self._optimize, "optimize")
        self._every(config.check_interval, self._check, "check")

    async def close(self) -> None:
        """End the schedule, and stop the work that is being done."""
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)

    def _every(
        self, interval: float | None, work: Callable[[], Awaitable[None]], name: str
    ) -> None:
        async def run(seconds: float) -> None:
            while True:
                await asyncio.sleep(seconds)
                try:
                    await work()
                except PoolClosedError:
                    return
                except AbtDbError as error:
                    LOG.warning("abt_db: %s of %s: %s", name, self._pool.path, error)

        if interval is not None:
            task = asyncio.create_task(run(max(interval, SHORTEST)), name=f"abt_db {name}")
            self._tasks.append(task)

    async def _optimize(self) -> None:
        loan = await self._pool.lend_writer("optimize")
        try:
            await loan.run(lambda session: gather_statistics(session, full=False), Deadline())
        finally:
            loan.give_back()
        await self._pool.write("clear_locks", _clear_locks, ())

    async def _check(self) -> None:
        health = await self._pool.read("check", lambda session: examine(session, full=False), ())
        if not health.whole:
            LOG.error(
                "abt_db: %s is damaged: %s",
                self._pool.path,
                "; ".join(health.problems)
                or f"rows refer to nothing in {', '.join(health.dangling)}",
            )
