"""A slot: one connection's place in a lane; it opens, cleans, replaces and closes that connection.

The connection may be lost and opened again; the slot, its number and its stats stay.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Sequence
from time import monotonic
from typing import Any

from abt_db.connection.deadline import Deadline, finish
from abt_db.connection.driver import Connection
from abt_db.connection.lock_owners import Holding
from abt_db.connection.stats import ConnectionStats
from abt_db.errors import PoolClosedError
from abt_db.events import Closed, Opened, Reason
from abt_db.log import LOG

from .call import Call
from .loan import Loan
from .perform import Batch

Open = Callable[[ConnectionStats, Deadline], Awaitable[Connection]]
"""Opens a connection; waits for another process's lock until the deadline at most."""


class Slot:
    """A connection's place in a lane: idle (`work` is None), or at work for a caller.

    Only the slot's own task cleans up the connection, and no caller cancels that task.
    """

    __slots__ = (
        "_expires",
        "_lifetime",
        "_open",
        "_opening",
        "_reason",
        "blocked",
        "connection",
        "idle_since",
        "leaving",
        "roused",
        "seen",
        "seen_deserted",
        "shares",
        "stats",
        "task",
        "work",
    )

    def __init__(
        self, stats: ConnectionStats, open: Open, lifetime: float | None, reason: Reason
    ) -> None:
        self._open = open
        self._lifetime = lifetime
        self._expires: float | None = None
        self.stats = stats
        self._reason = reason  # for the event of the next opening or closing
        self._opening = Deadline()
        self.connection: Connection | None = None  # None: not open yet, or lost
        self.work: Call[Any] | Batch | Loan | None = None
        self.blocked = 0.0
        """The `since` of the last work that met another connection's lock on the file."""
        self.shares = False
        """Whether a quick hop runs here, so that other quick calls wait to share the next one."""
        self.seen: Call[Any] | None = None
        """The call of that hop that was running when the lane looked last."""
        self.seen_deserted = 0
        """At how many checks of the lane in a row the slot was deserted (`is_deserted`)."""
        self.idle_since = 0.0
        """When the slot became idle, on the clock of `time.monotonic()`."""
        self.leaving = False
        """Whether the slot is to be given up when it comes free."""
        self.task: asyncio.Task[None] | None = None
        self.roused: asyncio.Future[None] | None = None
        """What the task waits for while the slot is idle or a caller has the connection."""

    @property
    def ready(self) -> bool:
        """Whether the connection can serve without being cleaned up or replaced first."""
        connection = self.connection
        return (
            connection is not None
            and connection.settled
            and connection.alive
            and (self._expires is None or monotonic() < self._expires)
        )

    @property
    def calls(self) -> Sequence[Call[Any]]:
        """The calls of the hop that runs here; none while the connection is lent."""
        work = self.work
        if isinstance(work, Batch):
            return work.calls
        return [work] if isinstance(work, Call) else []

    @property
    def is_deserted(self) -> bool:
        """Whether work still runs here though all its callers have gone: they were cancelled, or
        have got their time limit's error."""
        if self.connection is None or self.connection.settled:
            return False
        if isinstance(self.work, Loan):
            return self.work.returned
        return self.work is not None and all(call.gone or call.given_up for call in self.calls)

    @property
    def is_opening(self) -> bool:
        """Whether the slot is new and its connection is not open yet."""
        return self.connection is None and self.roused is None

    def dismiss(self, reason: Reason) -> None:
        """Have the slot given up when it comes free; stop the opening of its connection."""
        self.leaving, self._reason = True, reason
        self._opening.cancel()

    def rouse(self) -> None:
        """Wake the task."""
        roused = self.roused
        # Otherwise the event loop is ending or has ended, and the task has done its last work.
        if roused is not None and not roused.done() and not roused.get_loop().is_closed():
            roused.set_result(None)

    def stop(self) -> None:
        """Stop what runs here. The holder of a loan gets the error that the database was closed.
        The caller of a call gets the call's real outcome from the thread, because the call may be
        in its COMMIT (invariant 28)."""
        if isinstance(self.work, Loan):
            self.work.revoke(closed())
        for call in self.calls:
            call.cancel()

    async def connected(self) -> Connection:
        """Return the connection, opened again if it was lost. Raises the error of opening it."""
        if self.connection is not None and not self.connection.alive:
            await self.give_up()
        if self.connection is None:
            # A cancellation must not interrupt it: the driver would leak the file descriptor.
            await finish(self._occupy())
        assert self.connection is not None
        return self.connection

    async def _occupy(self) -> None:
        if not self.leaving:
            self._opening = Deadline()
        self.connection = await self._open(self.stats, self._opening)
        self.stats.opened += 1
        self.stats.listeners.tell(Opened(self.stats.name, self._reason))
        if not self.leaving:
            self._reason = "replace"  # the next opening is in place of this connection
        if self._lifetime is not None:
            # Random, so that the connections are not all replaced at the same moment.
            self._expires = monotonic() + self._lifetime * random.uniform(0.9, 1.0)

    async def tidy(self) -> None:
        """Make the connection fit to serve: reset it, and replace it if that fails or if it has
        reached the end of its lifetime.

        If a replacement can't be opened, the next work that needs the connection tries again
        (invariant 12).
        """
        connection = self.connection
        if connection is None:
            return
        if not connection.alive:
            await self.give_up()
        elif not connection.settled:
            try:
                await connection.reset()
            except Exception as error:
                LOG.warning(
                    "abt_db: the %s could not be reset and is replaced: %s", connection.name, error
                )
                await self.give_up()
        elif self._expires is not None and monotonic() >= self._expires:
            await self._renew(connection)

    async def _renew(self, old: Connection) -> None:
        """Replace a connection at the end of its lifetime. If no new one can be opened, keep it."""
        try:
            await finish(self._occupy())
        except Exception as error:
            if not self.leaving:
                LOG.warning("abt_db: the %s is old and stays: %s", old.name, error)
            self._expires = monotonic() + 1.0
        else:
            self.stats.replaced += 1
            await self._close(old, "replace")

    async def give_up(self) -> None:
        """Close the connection; the next work gets a new one."""
        connection, self.connection = self.connection, None
        self.stats.replaced += 1
        if connection is not None:
            await self._close(connection, "replace")

    async def leave(self) -> None:
        """Close the connection for good."""
        connection, self.connection = self.connection, None
        if connection is not None:
            await self._close(connection, self._reason)

    async def _close(self, connection: Connection, reason: Reason) -> None:
        await finish(connection.close())
        self.stats.listeners.tell(Closed(self.stats.name, reason))

    def abandon(self) -> None:
        """Have the thread stop what it runs, close the connection and end, without waiting for
        that. May be called from any thread."""
        if isinstance(self.work, Loan):
            self.work.abandon()
        elif self.work is not None:
            for call in self.work.calls if isinstance(self.work, Batch) else [self.work]:
                call.cancel()
        if self.connection is not None:
            self.connection.abandon()
        if self.task is not None and not self.task.get_loop().is_closed():
            self.task.get_loop().call_soon_threadsafe(self.task.cancel)

    def holding(self) -> Holding | None:
        """Return what the connection is used for, by which task and for how long; None if idle."""
        work = self.work
        if work is None:
            return None
        if isinstance(work, Loan):
            return work.holding()
        call = work if isinstance(work, Call) else work.current or work.calls[0]
        return Holding(
            call.label,
            None if call.task is None else call.task.get_name(),
            monotonic() - (work.began or call.since),
            0,
            "waiting" if self.is_blocked else "running",
            call.label,
        )

    @property
    def is_blocked(self) -> bool:
        """Whether the work of this slot waits for another connection's lock on the file."""
        work = self.work
        return work is not None and self.blocked == work.since and not self.writing

    @property
    def writing(self) -> bool:
        """Whether the connection is in a transaction."""
        return self.connection is not None and self.connection.in_transaction


def warn_of_long(slot: Slot, limit: float) -> None:
    """Log a warning, once for each loan, if the connection has been lent for `limit` seconds."""
    loan = slot.work
    if not isinstance(loan, Loan) or loan.noticed or loan.returned:
        return
    holding = loan.holding()
    if holding.age >= limit:
        loan.noticed = True
        LOG.warning(
            "abt_db: %s has held %s for %.1f s (%d statements, now %s); %s",
            holding,
            slot.stats.name,
            holding.age,
            holding.statements,
            " ".join(filter(None, [holding.state, holding.query])),
            "other writes wait for it"
            if slot.stats.name.startswith("writer")
            else "the write-ahead log can't be reset before this ends",
        )


def closed() -> PoolClosedError:
    """Return the error for work that is stopped because the database is closed."""
    return PoolClosedError("the database was closed")
