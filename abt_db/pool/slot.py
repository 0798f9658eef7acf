"""A slot: a connection's place in a lane, with the task that looks after the connection.

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
"""Opens a connection, waiting for another process's lock until the deadline at most."""


class Slot:
    """Either idle (`work` is None), or at work for a caller or for its own task.

    That task, the lane's, is the only one that cleans up, and nobody cancels it.
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
        self._reason = reason  # of the next opening or closing
        self._opening = Deadline()
        self.connection: Connection | None = None  # None: lost, to be opened again
        self.work: Call[Any] | Batch | Loan | None = None
        self.blocked = 0.0
        """The time (`since`) of the work that met another connection's lock on the file."""
        self.shares = False
        """Whether a quick hop runs here, which the next quick calls wait for."""
        self.seen: Call[Any] | None = None
        """The call that was running at the lane's last check."""
        self.seen_deserted = 0
        """At how many of the lane's checks in a row it ran for callers that have gone."""
        self.idle_since = 0.0
        """When it came to rest, on the clock of `time.monotonic()`."""
        self.leaving = False
        """Whether the slot is to be given up when it comes free."""
        self.task: asyncio.Task[None] | None = None
        self.roused: asyncio.Future[None] | None = None
        """Done to wake the task, while the slot is idle or a caller has it."""

    @property
    def ready(self) -> bool:
        """Whether the connection can serve as it is."""
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
        """Whether something still runs, and all its callers have gone: cancelled, or freed at their
        limit."""
        if self.connection is None or self.connection.settled:
            return False
        if isinstance(self.work, Loan):
            return self.work.returned
        return self.work is not None and all(call.gone or call.given_up for call in self.calls)

    @property
    def is_opening(self) -> bool:
        """Whether it is new and its connection not open yet."""
        return self.connection is None and self.roused is None

    def dismiss(self, reason: Reason) -> None:
        """Have the slot given up when it comes free. If it is being opened, that no longer
        waits."""
        self.leaving, self._reason = True, reason
        self._opening.cancel()

    def rouse(self) -> None:
        """Wake the task."""
        roused = self.roused
        # Otherwise the loop is ending, or has ended over us; the task has done its last work.
        if roused is not None and not roused.done() and not roused.get_loop().is_closed():
            roused.set_result(None)

    def stop(self) -> None:
        """Stop what runs here. A loan's task gets `PoolClosedError`; calls get the outcome that
        they have on their thread, for they may be in their COMMIT (invariant 28)."""
        if isinstance(self.work, Loan):
            self.work.revoke(closed())
        for call in self.calls:
            call.cancel()

    async def connected(self) -> Connection:
        """Return the connection, opened again if it was lost; raises what opening it does."""
        if self.connection is not None and not self.connection.alive:
            await self.give_up()
        if self.connection is None:
            # Not to be cancelled half-way: the driver would leak the file descriptor.
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
            # Not all at the same moment.
            self._expires = monotonic() + self._lifetime * random.uniform(0.9, 1.0)

    async def tidy(self) -> None:
        """Make the connection fit to serve: reset, replaced if that fails or it is too old.

        A replacement that can't be opened is tried again by the next who needs it (invariant 12).
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
        """Replace a connection that has become old, if another one can be opened."""
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
        """Have the thread stop what it runs, close the connection and end. From any thread; waits
        for nothing."""
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
        """Return what the connection is in use for, by which task and since when."""
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
        """Whether the work here waits for another connection's lock on the file."""
        work = self.work
        return work is not None and self.blocked == work.since and not self.writing

    @property
    def writing(self) -> bool:
        """Whether the connection is in a transaction."""
        return self.connection is not None and self.connection.in_transaction


def warn_of_long(slot: Slot, limit: float) -> None:
    """Log a loan that has lasted longer than `limit` seconds, once."""
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
            else "the write-ahead log can't be reset before its end",
        )


def closed() -> PoolClosedError:
    """Return the error of work that is stopped because the database is closed."""
    return PoolClosedError("the database was closed")
