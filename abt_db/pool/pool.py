"""The pool: a lane with the one writer, and a lane with the readers of one database file.

The pool decides how each kind of work is done. A read runs as it is, a write runs in a transaction
of its own, and both are tried again while another process's lock is in the way.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import asdict
from functools import partial
from pathlib import Path
from time import monotonic
from typing import Any, TypeVar

from abt_db.config import Config
from abt_db.connection.busy import backoff
from abt_db.connection.deadline import Deadline, finish
from abt_db.connection.driver import Connect, Connection
from abt_db.connection.file_identity import FileIdentity
from abt_db.connection.lock_owners import Holding, enlist, strike_off, who_holds
from abt_db.connection.settings import MEMORY, Role, require_path
from abt_db.connection.stats import ConnectionStats, Costs, Outcome, QueryStats, Transacting
from abt_db.connection.transaction import EngineSession
from abt_db.errors import AbtDbError, ReadOnlyError, TransactionAbortedError, TransactionStateError
from abt_db.events import Committed, Listeners
from abt_db.sql.query import Query

from .call import Call
from .checkpoints import Checkpoints
from .deadlock import WaitGraph
from .lane import Lane
from .loan import Loan

T = TypeVar("T")


class OpenTransaction:
    """The interactive transaction that a task has open."""

    __slots__ = ("_counted", "_stats", "committing", "loan", "undone", "written")

    def __init__(
        self,
        loan: Loan,
        written: Callable[[], frozenset[str] | None],
        undone: Callable[[BaseException | None, float | None], Awaitable[None]],
        stats: Transacting,
    ) -> None:
        self.loan = loan
        self.written = written
        """Returns the tables that the transaction has written so far; None: it may be any."""
        self.undone = undone
        """Waits until the writer is free, after an error has ended the transaction."""
        self.committing = False
        """Whether the task that has the transaction has asked for its COMMIT. From then on no other
        task may prevent it."""
        self._stats = stats
        self._counted = False
        stats.begun += 1

    def revoke(self, error: AbtDbError, outcome: Outcome) -> None:
        """Roll the transaction back; its next use raises `error`. The outcome is counted here,
        unless the transaction is committing: then it is counted when the block ends."""
        if not self.committing:
            self.count(outcome)
        self.loan.revoke(error)

    def count(self, outcome: Outcome) -> None:
        """Count the transaction as ended; does nothing if it has been counted."""
        if not self._counted:
            self._counted = True
            self._stats.ended(outcome, monotonic() - self.loan.began)


class Pool:
    """The connections of one database, for one event loop."""

    def __init__(
        self,
        path: str,
        config: Config,
        *,
        read_only: bool,
        connect: Connect | None,
        listeners: Listeners,
    ) -> None:
        if path != MEMORY:
            require_path(path)
            # Absolute, so that a connection that is replaced later opens the same file even if the
            # working directory has changed.
            path = str(Path(path).absolute())
        self.path = path
        self.config = config
        if path == MEMORY and read_only:
            raise TransactionStateError("a read-only database in memory would stay empty")

        self.listeners = listeners
        self.who = partial(who_holds, path)
        """Returns a text that says what holds the file's write lock."""
        # A read-only pool does not check the file's identity: another process may replace the file.
        identity = None if read_only or path == MEMORY else FileIdentity(path)
        waits = WaitGraph()
        self._costs = Costs()

        def lane(name: Role, size: int) -> Lane:
            async def open_one(stats: ConnectionStats, limit: Deadline) -> Connection:
                return await Connection.open(
                    path,
                    config,
                    stats=stats,
                    role=name,
                    connect=connect,
                    limit=limit,
                    identity=identity,
                )

            return Lane(
                name,
                size,
                config,
                open=open_one,
                # A database in memory would be lost with its connection.
                lifetime=None if path == MEMORY else config.max_lifetime,
                waits=waits,
                costs=self._costs if name != "writer" or path == MEMORY else None,
                listeners=listeners,
                crowded=self._is_crowded,
                who=self.who,
                # A second writer would wait for the lock of the first (invariant 1).
                largest=0 if name == "writer" else config.max_readers or 0,
                reserve=0 if name == "writer" else 1,
                spare=0 if name == "writer" else size,
            )

        self.writer = None if read_only else lane("writer", 1)
        if path == MEMORY and self.writer is not None:
            # Each further connection would be a database of its own (invariant 25).
            self.readers = self.writer
        else:
            self.readers = lane("follower" if read_only else "reader", config.readers)
            if self.writer is not None:
                self.writer.behind = self.readers
        self.open_transaction: OpenTransaction | None = None
        self.transacted = Transacting()
        self.checkpoints = Checkpoints(
            path, self.writer, self.readers, lend=self.lend_writer, listeners=listeners
        )

    async def open(self) -> None:
        """Open the writer, then the readers, because a reader can't create the files that it needs
        (invariant 4)."""
        lanes = self._lanes()
        for number, lane in enumerate(lanes):
            try:
                await lane.open()
            except BaseException:
                for opened in reversed(lanes[:number]):
                    await finish(opened.close(Deadline.after(0)))
                raise
        if self.writer is not None:
            enlist(self.path, self._writing)
        self.checkpoints.open()

    async def close(self) -> None:
        """Close the readers, then the writer: closing the last connection checkpoints the WAL, and
        a reader can't do that."""
        self.refuse()
        self.checkpoints.close()
        strike_off(self._writing)
        deadline = Deadline.after(self.config.close_timeout)
        if self.readers is not self.writer:
            await finish(self.readers.close(deadline))
        if self.writer is not None:
            await finish(self.writer.close(deadline))
        await self.checkpoints.ended()

    def refuse(self) -> None:
        """Refuse new work, and fail waiting work."""
        for lane in self._lanes():
            lane.refuse()

    def abandon(self) -> None:
        """Have all threads close their connections and end, without waiting for that. For a pool
        that can't be closed any more, because its event loop is closed or its owner is gone."""
        strike_off(self._writing)
        self.checkpoints.close()
        for lane in self._lanes():
            lane.abandon()

    async def abandoned(self) -> None:
        """Wait, after `abandon`, until the connections' threads have ended, `Config.close_timeout`
        at most.

        The threads are polled, because the pool's event loop is closed and can't announce their
        end.
        """
        limit = Deadline.after(self.config.close_timeout)
        for pause in backoff():
            if limit.passed() or not any(lane.slots.threads() for lane in self._lanes()):
                return
            await asyncio.sleep(pause)

    def _lanes(self) -> list[Lane]:
        lanes = [self.readers] if self.writer is self.readers else [self.writer, self.readers]
        return [lane for lane in lanes if lane is not None]

    # -- work ------------------------------------------------------------------------------------

    def read(
        self,
        what: Query[Any] | str,
        function: Callable[..., T],
        arguments: tuple[Any, ...],
        timeout: float | None = None,
        priority: int = 0,
    ) -> Coroutine[Any, Any, T]:
        """Run ``function(session, *arguments)`` on a reader, in one hop.

        A call of a single query that is known to be quick may share the hop with others.
        """
        quick = not isinstance(what, str) and self._costs.are_low(what.name)
        if self.readers is self.writer:
            function, arguments = _without_writing, (function, arguments)
        call: Call[T] = Call(what, function, arguments, timeout, priority, False, quick)
        return self.readers.run(call)

    def write(
        self,
        what: Query[Any] | str,
        function: Callable[..., T],
        arguments: tuple[Any, ...],
        timeout: float | None = None,
        priority: int = 0,
        *,
        shares: bool = False,
        savepoint: bool = False,
    ) -> Coroutine[Any, Any, T]:
        """Run ``function(session, *arguments)`` on the writer, in a transaction and in one hop.

        `shares` allows other calls in the same transaction; the function may then be run twice,
        the first time without effect. `savepoint` says that the function undoes its own work before
        it raises an error.
        """
        lane = self.writer
        if lane is None:
            raise self._refused(what if isinstance(what, str) else what.name)
        call: Call[T] = Call(what, function, arguments, timeout, priority, True, shares, savepoint)
        return lane.run(call)

    def uncommitted(self) -> frozenset[str] | None:
        """Return the tables that the current task has written in its open transaction; empty if it
        has none open, None if it may be any table."""
        opened = self.open_transaction
        if opened is not None:
            loan = opened.loan
            if loan.task is asyncio.current_task() and not loan.returned:
                return opened.written()
        return frozenset()

    async def end_transactions(self, age: float) -> list[Holding]:
        """Roll back the interactive transaction if it has been open for `age` seconds or longer and
        is not committing; return what it was doing. There is one writer, so the list has one entry
        at most."""
        opened = self.open_transaction
        if opened is None or opened.committing or opened.loan.returned:
            return []
        holding = opened.loan.holding()
        if holding.age < age:
            return []
        error = TransactionAbortedError(
            f"{opened.loan.label} was ended from outside, by end_transactions, when it had been"
            f" open for {holding.age:.1f} s; nothing of it is in the database"
        )
        opened.revoke(error, "ended")
        await opened.undone(error, None)
        return [holding]

    async def others_committed(self) -> bool:
        """Whether another process has committed since the last call of this, or may have."""
        # Asked on the writer: a reader would also report the commits of this pool's own writer. A
        # read-only pool has no writer and asks a reader.
        lane = self.writer or self.readers
        ask = EngineSession.others_committed
        return await lane.run(
            Call("a look for other processes' commits", ask, (), None, 0, False, False)
        )

    async def lend_reader(self, label: str, *, priority: int = 0) -> Loan:
        """Lend a reader until the loan is given back. Waits for it as every call does."""
        return await self.readers.loan(label, priority=priority)

    async def lend_writer(self, label: str, *, priority: int = 0, at: float | None = None) -> Loan:
        """Lend the writer, as `lend_reader` lends a reader. Waits no longer than until `at`, on the
        clock of `time.monotonic()`."""
        if self.writer is None:
            raise self._refused(label)
        return await self.writer.loan(label, priority=priority, at=at)

    @asynccontextmanager
    async def barrier(self, label: str) -> AsyncIterator[Loan]:
        """Lend the writer while no reader is at work (invariant 21).

        New reads wait until the block ends. Before it begins, running reads have
        `Config.acquire_timeout` to end.
        """
        loan = await self.lend_writer(label)
        readers = None if self.readers is self.writer else self.readers
        try:
            if readers is not None:
                await readers.pause(self.config.acquire_timeout)
            yield loan
        finally:
            # If the caller was cancelled, the thread still has to undo its last step. The caller
            # does not wait for that, but the readers do: they resume when the writer is settled.
            if readers is not None:
                readers.disown()
                if loan.returned:
                    readers.resume()  # the database is closing
                loan.on_settled = readers.resume
            loan.give_back()
            self.listeners.tell(Committed(None))  # the schema, or any table, may have changed

    def reading(self, function: Callable[[EngineSession], T]) -> Callable[[EngineSession], T]:
        """Return `function` so that it can't write, even on the one connection of `:memory:`."""
        if self.readers is not self.writer:
            return function
        return lambda session: _without_writing(session, function, ())

    @property
    def waiting(self) -> int:
        """How many calls wait for a connection."""
        return sum(lane.waiting for lane in self._lanes())

    def _is_crowded(self) -> bool:
        """Whether more than one connection is at work; asked by their threads."""
        return sum(lane.slots.busy for lane in self._lanes()) > 1

    def queries(self) -> dict[str, dict[str, Any]]:
        """Return the counts of each query, summed over all connections."""
        stats = QueryStats()
        for lane in self._lanes():
            lane.add_queries_to(stats)
        return stats.as_dict()

    def transactions(self) -> list[dict[str, Any]]:
        """Return the open loans as plain dicts, see `Holding`; the oldest first."""
        held = [loan.holding() for lane in self._lanes() for loan in lane.slots.loans()]
        return [asdict(holding) for holding in sorted(held, key=lambda holding: -holding.age)]

    def _writing(self) -> Holding | None:
        return None if self.writer is None else self.writer.slots.writing()

    def _refused(self, label: str) -> ReadOnlyError:
        return ReadOnlyError(
            f"{label} writes, and {self.path} is open read-only; where it is written, open it"
            " without read_only"
        )


def _without_writing(
    session: EngineSession, function: Callable[..., T], arguments: tuple[Any, ...]
) -> T:
    session.writable = False
    try:
        return function(session, *arguments)
    finally:
        session.writable = True
