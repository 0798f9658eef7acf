"""Wait for another process's lock in the event loop, where the wait can be cancelled, and not in
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
"""Seconds that SQLite itself waits for a lock. Nothing can stop this wait, so it is short, and a
longer wait consists of repeated tries from the event loop. There is a second reason: during a long
wait SQLite tries less and less often, in the end every 50 ms, and misses the lock if its holder
releases it and takes it again at once. Of eight processes, some never got the lock."""

LONGEST_PAUSE = 0.01
"""Seconds between two tries, at most. For up to as long a writer leaves the lock free for other
processes, see `EngineSession.begin`."""


def _another() -> str:
    return "another process holds the lock"


async def while_busy(
    attempt: Callable[[], Awaitable[T]],
    limit: Deadline,
    *,
    kind: type[BusyError] = BusyError,
    who: Callable[[], str] = _another,
) -> T:
    """Run `attempt` again while another process holds the lock, until `limit` has passed.

    Only errors of class `kind` lead to another try. The wait takes place in the event loop, so it
    can be cancelled, which SQLite's own busy timeout can't. When `limit` has passed, raises the
    last `BusyError` with the holder of the lock, as `who` returns it, in its message.
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
    """Yield the seconds to wait before each further try for another process's lock."""
    pause = 0.001
    while True:
        # With jitter, because processes that began to wait together would keep colliding.
        yield pause * (0.5 + random.random())
        pause = min(pause * 2, LONGEST_PAUSE)


def gave_up(error: BusyError, seconds: float, who: str) -> BusyError:
    """Return the error for a caller that could not get the lock within `seconds`. `error` is the
    last one that SQLite raised, `who` the sentence that says who holds the lock."""
    told = BusyError(
        f"{who}; gave up after {seconds:.1f} s ({error})",
        query=error.query,
        sql=error.sql,
        code=error.sqlite_errorcode,
        name=error.sqlite_errorname,
    )
    told.__cause__ = error.__cause__
    return told
