"""A transaction that is tried again when another's lock was in the way."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from time import monotonic
from typing import TypeVar

from abt_db.errors import BusyError

from .handles import Transaction

T = TypeVar("T")

LONGEST_PAUSE = 1.0
"""Seconds between two tries."""


def is_transient(error: BaseException) -> bool:
    """Whether the same may go well the next time: another connection's lock was in the way, or it
    had committed since the view was taken (SQLITE_BUSY, SQLITE_LOCKED, SQLITE_BUSY_SNAPSHOT).

    It is safe to begin again after it. Nothing of the transaction is in the database, even if it
    was the COMMIT that failed: SQLite takes the locks that a commit needs before it writes what
    makes it one, so the transaction is still open then, and the writer's lane rolls it back, or
    closes the connection over it, before it serves anybody again (invariants 7, 12). Where a COMMIT
    has an unknown outcome, there was another error: a thread that died, a disk that failed, a
    caller who was cancelled. Those are never tried again.
    """
    return isinstance(error, BusyError)


async def run_with_retries(
    transaction: Callable[[], Transaction],
    operation: Callable[[Transaction], Awaitable[T]],
    *,
    attempts: int,
    backoff: float,
    until: float | None,
) -> T:
    """Run ``operation(tx)`` in a new transaction, up to so many times, and return its result.

    `backoff` is the pause before the second try, in seconds; each further one is twice as long.
    After `until`, on the clock of `time.monotonic()`, none is begun.
    """
    began = monotonic()
    pause = backoff
    for attempt in range(1, attempts + 1):
        try:
            tx = transaction()
            tx.until = until
            async with tx:
                result = await operation(tx)
        except Exception as error:
            # Jitter, or the processes that collided would collide again.
            wait = min(pause, LONGEST_PAUSE) * (0.5 + random.random())
            late = until is not None and monotonic() + wait >= until
            if is_transient(error) and attempt < attempts and not late:
                pause *= 2
            else:
                if is_transient(error) or attempt > 1:
                    times = "once" if attempt == 1 else f"{attempt} times"
                    error.add_note(f"It was tried {times}, for {monotonic() - began:.1f} s in all.")
                raise
        else:
            return result
        await asyncio.sleep(wait)
    raise ValueError(f"attempts must be 1 or more, not {attempts}")
