"""`Checkpoints`: those that callers ask for, those of quiet moments, and the readers in their way.

How one is made, and when a COMMIT is followed by one, is in `abt_db.connection.checkpoint`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from contextlib import suppress
from dataclasses import replace
from time import monotonic
from typing import Any

from abt_db.connection.busy import LONGEST_PAUSE
from abt_db.connection.checkpoint import CHECKPOINTS, checkpoint, move_log, processes_reading
from abt_db.connection.deadline import Deadline
from abt_db.errors import AbtDbError
from abt_db.events import Checkpointed, Listeners
from abt_db.log import LOG

from .call import Call
from .lane import Lane
from .loan import Loan

LONG = 1.0
"""Seconds of reading after which a reader that blocks checkpoints is named in the log."""

BUSY_MOMENTS = 60.0
"""Seconds between two such log messages."""

FEW = 100
"""Commits since the last checkpoint below which a quiet moment makes none: each costs two syncs."""


class Checkpoints:
    """The checkpoints that a pool makes: on its writer, whose readers may be in the way."""

    def __init__(
        self,
        path: str,
        writer: Lane | None,
        readers: Lane,
        *,
        lend: Callable[[str], Coroutine[Any, Any, Loan]],
        listeners: Listeners,
    ) -> None:
        self._path = path
        self._lend = lend  # the writer
        self._writer = writer
        self._readers = readers
        self._listeners = listeners
        self._commits = 0  # when pages were moved out of the log last, in a quiet moment
        self._moving: asyncio.Task[None] | None = None
        self._accused: set[object] = set()  # the readers that were named in the log
        self._accused_at = -BUSY_MOMENTS
        if writer is not None and writer is not readers:
            writer.on_rest = self._rest

    def open(self) -> None:
        """Begin to name readers that are in the way."""
        self._listeners.add(self._tell_busy, frozenset({Checkpointed}))

    def close(self) -> None:
        """Name no more readers."""
        self._listeners.remove(self._tell_busy)

    async def ended(self) -> None:
        """Return when no checkpoint of a quiet moment is under way."""
        if self._moving is not None:
            await asyncio.wait([self._moving])

    async def run(self, mode: str, wait: float) -> Checkpointed:
        """Move pages out of the log, see `checkpoint`; say which readers are in the way."""
        if mode not in CHECKPOINTS:
            raise ValueError(f"mode must be one of {', '.join(CHECKPOINTS)}, not {mode!r}")
        if not wait >= 0:
            raise ValueError(f"wait must be 0 seconds or more, not {wait!r}")
        loan = await self._lend(f"checkpoint {mode}")
        began, limit = monotonic(), Deadline.after(0 if mode == "passive" else wait)
        try:
            while True:
                done = await loan.run(lambda session: checkpoint(session, mode, wait), Deadline())
                # For another connection's checkpoint SQLite does not wait.
                if not (done.busy and done.pages < 0) or limit.passed():
                    break
                await asyncio.sleep(LONGEST_PAUSE)
        finally:
            loan.give_back()
        done = replace(done, seconds=monotonic() - began)
        if done.busy:
            readers = self._in_the_way(0.0).values() if done.pages >= 0 else ["another checkpoint"]
            done = replace(done, readers=(*readers,) or ("somebody",))
        self._listeners.tell(done)
        return done

    def _rest(self) -> None:
        """In a quiet moment, make the checkpoint that would otherwise delay a commit."""
        assert self._writer is not None
        commits = self._writer.stats()["commits"]
        if commits - self._commits >= FEW:
            self._commits = commits
            self._moving = asyncio.create_task(self._move_log(), name="abt_db checkpoint")

    async def _move_log(self) -> None:
        assert self._writer is not None
        with suppress(AbtDbError):  # a commit will make it
            await self._writer.run(Call("a checkpoint", move_log, ()))

    def _tell_busy(self, event: Checkpointed) -> None:
        """Log, once, the name of each reader that keeps the log from being emptied."""
        if event.readers:
            return  # the caller that asked for the checkpoint reads it in the result
        readers = self._in_the_way(LONG) if event.busy else {}
        now = monotonic()
        if readers.keys() <= self._accused or now < self._accused_at + BUSY_MOMENTS:
            return
        self._accused, self._accused_at = {*readers}, now
        LOG.warning(
            "abt_db: the write-ahead log of %s, of %d pages, can't be emptied: it is read by %s",
            self._path,
            event.pages,
            "; ".join(readers.values()),
        )

    def _in_the_way(self, age: float) -> dict[object, str]:
        """Return the loans and calls that have been reading for `age` seconds, and other processes
        that read, each with its description."""
        holdings = [holding for holding in self._readers.slots.holdings() if holding.age >= age]
        holdings.sort(key=lambda holding: -holding.age)
        found: dict[object, str] = {
            str(holding): f"{holding}, for {holding.age:.1f} s" for holding in holdings
        }
        return found | {pid: f"process {pid}" for pid in processes_reading(self._path)}
