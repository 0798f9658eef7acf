"""Waiting for another process's lock: in the event loop, where it can be cancelled, and not in
SQLite's own busy timeout, which nothing can stop.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Iterator
from time import monotonic
from typing import TypeVar

from abt_db.errors import BusyError

from .deadline import Deadline

T = TypeVar("T")

SQLITE_BUSY_TIMEOUT = 0.01
"""Seconds that SQLite itself waits for a lock. Nothing can stop it while it waits, so it is kept
short, and a longer wait is made of tries from the event loop. It also looks for the lock less and
less often, 50 ms apart after a while, and would miss it whenever its holder takes it again at once:
of eight processes, some never had a turn."""

LONGEST_PAUSE = 0.01
"""Between two tries, in seconds; for as long a holder may leave the lock free to others, see
`EngineSession.begin`."""


def _another() -> str:
    return "another process holds the lock"


async def while_busy(
    attempt: Callable[[], Awaitable[T]],
    limit: Deadline,
    *,
    kind: type[BusyError] = BusyError,
    who: Callable[[], str] = _another,
) -> T:
    """Try again for as long as another process's lock is in the way, until `limit` has passed.

    Only errors of `kind` are met with another try. The waiting is done in the event loop, so it
    can be cancelled, which SQLite's own busy timeout can't. Raises the last `BusyError`, in which
    `who` says who holds the lock.
    """
    began = monotonic()
    pauses = backoff()
    while True:
        try:
            return await attempt()
        except kind as error:
            if limit.passed():
                raise gave_up(error, monotonic() - began, who()) from error.__cause__
        await asyncio.sleep(next(pauses))


def backoff() -> Iterator[float]:
    """Yield how many seconds to wait before each further try for another process's lock."""
    pause = 0.001
    while True:
        # Jitter, or processes that began to wait together would go on colliding.
        yield pause * (0.5 + random.random())
        pause = min(pause * 2, LONGEST_PAUSE)


def gave_up(error: BusyError, seconds: float, who: str) -> BusyError:
    """Return what is told to who has met `error` for so many seconds, and could not have the lock:
    `who` says why."""
    told = BusyError(
        f"{who}; gave up after {seconds:.1f} s ({error})",
        query=error.query,
        sql=error.sql,
        code=error.sqlite_errorcode,
        name=error.sqlite_errorname,
    )
    told.__cause__ = error.__cause__
    return told
