"""Runs a transaction again if another connection's lock was in the way."""

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
"""Seconds between two tries, at most, before jitter."""


def is_transient(error: BaseException) -> bool:
    """Whether the same transaction may succeed if it is tried again: another connection had a lock,
    or had committed since this one's view was taken (SQLITE_BUSY, SQLITE_LOCKED,
    SQLITE_BUSY_SNAPSHOT).

    Trying again after such an error is safe: nothing of the transaction is in the database, even if
    the COMMIT itself failed. SQLite takes the locks for a commit before it writes anything that
    makes the commit valid, so the transaction is still open after the error. The writer's lane then
    rolls it back, or closes the connection, before the writer serves another call (invariants 7,
    12). If the outcome of a COMMIT is unknown, the error is another one: a thread died, a disk
    failed, or the caller was cancelled. Such a transaction is never tried again.
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
    """Run ``operation(tx)`` in a new transaction, up to `attempts` times, and return its result.

    `backoff` is the pause before the second try, in seconds; each further pause is twice as long.
    After `until`, on the clock of `time.monotonic()`, no further try is begun.
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
            # Jitter: two transactions that met each other's lock must not try again together.
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
