"""What keeps a database quick and whole: statistics for the planner, looks for damage; and the
schedule on which a `Database` does so by itself.
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
"""Rows of each index that are looked at: enough to plan by, and milliseconds for any table."""

SHORTEST = 0.05
"""Seconds between two times of anything."""

CHOOSES = sqlite3.sqlite_version_info >= (3, 46)
"""Whether PRAGMA optimize knows of itself, on any connection, which tables have changed much."""

QUICK_CHECK = Query("maintenance.quick_check", "PRAGMA quick_check(100)", str)
INTEGRITY_CHECK = Query("maintenance.integrity_check", "PRAGMA integrity_check(100)", str)
FOREIGN_KEYS = Query("maintenance.foreign_key_check", "PRAGMA foreign_key_check")


@dataclass(frozen=True, slots=True)
class Health:
    """What a look for damage has found."""

    problems: tuple[str, ...]
    """Of the file, in SQLite's words; the first hundred."""
    dangling: dict[str, int]
    """By table, the rows whose foreign keys refer to nothing."""
    full: bool
    """Whether each index was held against its table, too."""
    seconds: float

    @property
    def whole(self) -> bool:
        """Whether nothing was found."""
        return not (self.problems or self.dangling)


def examine(session: Session, *, full: bool) -> Health:
    """Look for damage in what the session reads."""
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
        # A foreign key that refers to no key, for one: that must not hide what is damaged.
        if not problems:
            raise
        problems.append(str(error))
    return Health(tuple(problems), dict(dangling), full, monotonic() - began)


def gather_statistics(session: EngineSession, *, full: bool) -> None:
    """Bring the statistics up to date: of what has changed much, from samples; or of everything,
    from all rows."""
    with session.transaction("IMMEDIATE"):
        session.control(f"PRAGMA analysis_limit = {0 if full else SAMPLE}")
        sql = "PRAGMA optimize = 0x10002" if CHOOSES and not full else "ANALYZE"
        session.run_sql(sql, doing="ANALYZE", privileged=True)
        # Other connections read statistics when they read the schema, and not before.
        [(version,)] = session.control("PRAGMA schema_version")
        session.control(f"PRAGMA schema_version = {version + 1}")


def _clear_locks(session: EngineSession) -> int:
    return session.call(clear_locks)


class Housekeeping:
    """The schedule of an open database, `Config.optimize_interval` and `Config.check_interval`."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self._tasks: list[asyncio.Task[None]] = []

    def start(self) -> None:
        """Begin; until `close` the first time of each is one interval away."""
        config = self._pool.config
        if self._pool.writer is not None:
            self._every(config.optimize_interval, self._optimize, "optimize")
        self._every(config.check_interval, self._check, "check")

    async def close(self) -> None:
        """End; what is being done is stopped."""
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
        lease = await self._pool.lend_writer("optimize")
        try:
            await lease.run(lambda session: gather_statistics(session, full=False), Deadline())
        finally:
            lease.give_back()
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
