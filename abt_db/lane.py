"""A lane: a fair queue of work and the connections that serve it. It knows no SQL.

Each connection has a *seat* with one task, for as long as the lane is open: take work, have it
done, clean up, take the next. Work is a *job* (a function that runs in one thread hop; its caller
waits for the result) or a *lease* (the connection is lent until it is given back).

The caller never holds a connection that it must bring back by awaiting something. It waits on a
future and gives a lease back by a plain call, so it can be cancelled anywhere, however often, and
the seat's task, which nobody cancels, rolls back, resets or replaces the connection before it
serves again (invariants 7, 11, 13).
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from contextlib import suppress
from time import monotonic
from typing import Any, TypeVar

from .connection import Connection, RaisedError
from .deadline import Deadline, finish
from .errors import (
    PoolClosedError,
    PoolSaturatedError,
    PoolTimeoutError,
    TransactionStateError,
)
from .session import Session
from .work import Job, Lease, Queue, Wait, Waits, Work, waits_for_ever

__all__ = ["Lane"]

T = TypeVar("T")

LOG = logging.getLogger("abt_db")

WATCH = 1.0
"""Seconds between two looks at the threads of connections that are at work."""


class _Seat:
    """One connection's place in a lane."""

    __slots__ = ("connection", "number", "offer", "task", "work")

    def __init__(self, number: int) -> None:
        self.number = number
        self.connection: Connection | None = None  # None: lost, to be opened again
        self.offer: asyncio.Future[Work] | None = None  # idle: work is handed over here
        self.work: Work | None = None
        self.task: asyncio.Task[None] | None = None

    def rest(self) -> None:
        """Be idle, unless the connection has to be cleaned first."""
        if self.connection is None or self.connection.settled:
            self.work = None


Open = Callable[[int], Awaitable[Connection]]
Serve = Callable[[Connection, Job[Any]], Awaitable[Any]]


class Lane:
    """Work goes in at `run` and `lease`; the seats' tasks do it."""

    def __init__(
        self, name: str, size: int, *, open: Open, serve: Serve, max_pending: int, waits: Waits
    ) -> None:
        self.name = name
        self._waits = waits  # of all tasks, on every lane of the pool
        self._open = open
        self._serve = serve
        self._max_pending = max_pending
        self._seats = [_Seat(number) for number in range(1, size + 1)]
        self._idle: list[_Seat] = []  # the one used last is at the end and taken first: warm cache
        self._queue = Queue()
        self._closed = True
        self._leaving = False  # closed, and connections are to be closed as they come free
        self._paused = False
        self._paused_by: asyncio.Task[Any] | None = None  # None as well when its barrier is ending
        self._drained: asyncio.Future[None] | None = None
        self._watcher: asyncio.TimerHandle | None = None
        self.counters = {"opened": 0, "replaced": 0, "jobs": 0, "leases": 0, "waits": 0}
        self.longest_wait = 0.0

    # -- life ------------------------------------------------------------------------------------

    async def open(self) -> None:
        """Open all connections at the same time; if one fails, close the others and raise."""
        loop = asyncio.get_running_loop()
        ready: list[asyncio.Future[None]] = []
        for seat in self._seats:
            ready.append(loop.create_future())
            seat.task = loop.create_task(
                self._sit(seat, ready[-1]), name=f"abt_db {self.name} {seat.number}"
            )
        self._closed = False
        try:
            # Every one is waited for, whatever happens to the first: an open can't be abandoned.
            for result in await asyncio.shield(asyncio.gather(*ready, return_exceptions=True)):
                if isinstance(result, BaseException):
                    raise result
        except BaseException:
            await finish(self.close(Deadline.after(0)))
            raise

    async def close(self, deadline: Deadline) -> None:
        """Refuse newcomers, fail the waiters, let running work end until `deadline`, then stop it.

        Returns when the tasks, threads and files of the lane are gone. Must not be cancelled.
        """
        self.refuse()
        self._leaving = True
        for seat in self._idle:
            if seat.task is not None:
                seat.task.cancel()
        tasks = [seat.task for seat in self._seats if seat.task is not None]
        if self._watcher is not None:
            self._watcher.cancel()
        if tasks:
            _, late = await asyncio.wait(tasks, timeout=deadline.remaining())
            for task in late:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        self._idle.clear()

    def refuse(self) -> None:
        """Take no more work, and fail what waits. Connections stay open until `close`: those of
        another lane may have to be closed first."""
        self._closed = True
        while (work := self._queue.take(monotonic())) is not None:
            _fail(work, PoolClosedError("the database was closed while this waited"))

    def abandon(self) -> None:
        """From anywhere, with nobody to wait: have the threads close their connections and end."""
        self._closed = True
        for seat in self._seats:
            if seat.connection is not None:
                seat.connection.abandon()
            if seat.task is not None and not seat.task.get_loop().is_closed():
                seat.task.get_loop().call_soon_threadsafe(seat.task.cancel)

    # -- work ------------------------------------------------------------------------------------

    async def run(
        self,
        label: str,
        function: Callable[[Session], T],
        deadline: Deadline,
        *,
        priority: int,
        wait: float | None,
    ) -> T:
        """Run `function` on the next free connection and return its result.

        Waits at most `wait` seconds, and not beyond `deadline`, for a connection. Cancelled or
        timed out while it waits, the function never runs; cancelled while it runs, its statement
        is stopped.
        """
        job = Job(label, function, deadline, priority)
        try:
            return await self._submit(job, job.future, wait, deadline)
        except asyncio.CancelledError:
            deadline.cancel()
            if job.future.done() and not job.future.cancelled():
                job.future.exception()  # looked at, or asyncio would report it as forgotten
            raise

    async def lease(
        self, label: str, deadline: Deadline, *, priority: int, wait: float | None
    ) -> Lease:
        """Have a connection lent, waiting as `run` does."""
        lease = Lease(label, priority)
        try:
            await self._submit(lease, lease.future, wait, deadline)
        except BaseException:
            # Also when it was lent at the very moment of the cancellation (invariant 13).
            lease.give_back()
            raise
        return lease

    async def _submit(
        self, work: Work, future: asyncio.Future[T], wait: float | None, deadline: Deadline
    ) -> T:
        if self._closed:
            raise PoolClosedError("the database is not open")
        seat = self._offer(work)
        if seat is not None and seat.connection is not None:
            return await future
        if seat is None:
            self._refuse_deadlock(work)
            if len(self._queue) >= self._max_pending:
                raise PoolSaturatedError(
                    f"{self._max_pending} calls wait for a {self.name} already; {self._holder()}"
                )
            self._queue.add(work)
        self.counters["waits"] += 1
        self._waits[work.task] = Wait(self)
        limits = [seconds for seconds in (wait, deadline.remaining()) if seconds is not None]
        loop = asyncio.get_running_loop()
        timer = loop.call_later(min(limits), self._expire, work) if limits else None
        try:
            return await future
        finally:
            self._waits.pop(work.task, None)
            self._queue.discard(work)
            if timer is not None:
                timer.cancel()

    def _offer(self, work: Work) -> _Seat | None:
        """Hand work to the idle seat that was used last, if there is one."""
        while self._idle and not self._paused:
            seat = self._idle.pop()
            # Done: its task was cancelled in this turn of the loop, which is about to end.
            if seat.offer is not None and not seat.offer.done():
                seat.work = work
                seat.offer.set_result(work)
                return seat
        if any(seat.task is not None and not seat.task.done() for seat in self._seats):
            return None
        raise PoolClosedError("the database was closed")

    def _expire(self, work: Work) -> None:
        if work.begun:
            return  # it got its connection in this very turn of the loop
        self._queue.discard(work)
        waited = monotonic() - work.since
        _fail(
            work,
            PoolTimeoutError(
                f"{work.label}: no {self.name} came free within {waited:.1f} s;"
                f" {self._holder()}; {len(self._queue)} more wait"
            ),
        )

    # -- deadlocks -------------------------------------------------------------------------------

    def _refuse_deadlock(self, work: Work) -> None:
        """Fail what would wait for what its own task holds, straight or round about
        (invariants 15, 17)."""
        if waits_for_ever(work.task, Wait(self), self._waits, frozenset()):
            raise TransactionStateError(
                f"{work.label} would wait for ever: {self._holder()}, and that waits for this task;"
                " use the handle that is held already, or end it first"
            )

    def holders(self, *, for_all: bool) -> list[asyncio.Task[Any] | None]:
        """See `work.Held`."""
        if self._paused and not for_all:
            return [self._paused_by]
        return [
            seat.work.task
            if isinstance(seat.work, Lease) and seat.work.begun and not seat.work.returned.done()
            else None
            for seat in self._seats
        ]

    def _holder(self) -> str:
        """Say who holds the lane's connections, the longest one by name."""
        held = [seat.work for seat in self._seats if seat.work is not None]
        if not held:
            return f"{'a barrier' if self._paused else 'nobody'} holds the {self.name}"
        oldest = min(held, key=lambda work: work.since)
        task = oldest.task.get_name() if oldest.task is not None else "?"
        which = f"the {self.name}" if len(self._seats) == 1 else f"{len(held)} {self.name}s at work"
        return (
            f"{which}, longest with {oldest.label} of task {task!r},"
            f" for {monotonic() - oldest.since:.1f} s"
        )

    # -- the seats' tasks ------------------------------------------------------------------------

    async def _sit(self, seat: _Seat, ready: asyncio.Future[None]) -> None:
        try:
            try:
                await self._connected(seat)
            except Exception as error:
                ready.set_exception(error)
                return
            ready.set_result(None)
            while await self._next(seat):
                try:
                    await self._do(seat)
                finally:
                    if isinstance(seat.work, Lease) and not seat.work.settled.done():
                        seat.work.settled.set_result(None)
                    seat.work = None
        except GeneratorExit:
            # The loop was closed over this task: there is nothing that could be awaited.
            if seat.connection is not None:
                seat.connection.abandon()
                seat.connection = None
            raise
        except asyncio.CancelledError:
            # By close(), or by a loop that ends and cancels every task it has.
            self.refuse()
            raise
        finally:
            connection, seat.connection = seat.connection, None
            if connection is not None:
                await finish(connection.close())
            self._tell_drained()

    async def _next(self, seat: _Seat) -> bool:
        """Wait for work and set it as `seat.work`; False when the lane is closed."""
        if not self._paused and (work := self._queue.take(monotonic())) is not None:
            seat.work = work
            return True
        if self._leaving:
            return False
        seat.offer = asyncio.get_running_loop().create_future()
        self._idle.append(seat)
        self._tell_drained()
        try:
            await seat.offer
            return True
        finally:
            seat.offer = None  # it holds the work
            with suppress(ValueError):
                self._idle.remove(seat)  # cancelled: nobody may offer it work any more

    async def _do(self, seat: _Seat) -> None:
        work = seat.work
        assert work is not None
        self._watch()
        now = monotonic()
        self.longest_wait = max(self.longest_wait, now - work.since)
        try:
            connection = await self._connected(seat)
            work.begun = True
            work.since = now
            if isinstance(work, Lease):
                self.counters["leases"] += 1
                work.lend(connection)
                await work.returned
            elif not work.future.done():
                self.counters["jobs"] += 1
                result = await self._serve(connection, work)
                seat.rest()  # before its caller is told, who shall find the seat idle
                if not work.future.done():
                    work.future.set_result(result)
        except RaisedError as raised:
            seat.rest()
            _fail(work, raised.error)
        except Exception as error:
            seat.rest()
            _fail(work, error)
        except GeneratorExit:
            raise  # the loop was closed over this task: nobody can be told
        except BaseException:
            # This task itself is cancelled: the loop is ending, or the time of close() is over.
            closed = PoolClosedError("the database was closed")
            if isinstance(work, Lease):
                work.revoke(closed)
            else:
                work.deadline.cancel()
            _fail(work, closed)
            raise
        if seat.connection is not None and not seat.connection.settled:
            await self._clean(seat, seat.connection)

    def _watch(self) -> None:
        """While anything is at work, look every second for a thread that has died over it."""
        if self._watcher is None:
            self._watcher = asyncio.get_running_loop().call_later(WATCH, self._look_after)

    def _look_after(self) -> None:
        self._watcher = None
        for seat in self._seats:
            if seat.work is not None:
                self._watch()
                if seat.connection is not None:
                    seat.connection.look_after()

    async def _connected(self, seat: _Seat) -> Connection:
        if seat.connection is not None and not seat.connection.alive:
            await self._give_up(seat, seat.connection)
        if seat.connection is None:
            # Not to be cancelled half-way: the driver would leak the file descriptor.
            await finish(self._occupy(seat))
        assert seat.connection is not None
        return seat.connection

    async def _occupy(self, seat: _Seat) -> None:
        seat.connection = await self._open(seat.number)
        self.counters["opened"] += 1

    async def _clean(self, seat: _Seat, connection: Connection) -> None:
        """Reset the connection, or give it up: the next work gets a new one (invariant 12)."""
        try:
            await connection.reset()
        except Exception as error:
            LOG.warning("abt_db: a %s could not be reset and is replaced: %s", self.name, error)
            await self._give_up(seat, connection)

    async def _give_up(self, seat: _Seat, connection: Connection) -> None:
        """Close the connection; the next work gets a new one."""
        seat.connection = None
        self.counters["replaced"] += 1
        await finish(connection.close())

    # -- a barrier -------------------------------------------------------------------------------

    async def pause(self, wait: float | None) -> None:
        """Start no more work, until `resume`, and return when what runs has ended.

        Raises `PoolTimeoutError` after `wait` seconds, and `TransactionStateError` when what runs
        waits for this task.
        """
        task = asyncio.current_task()
        if waits_for_ever(task, Wait(self, for_all=True), self._waits, frozenset()):
            raise TransactionStateError(
                f"the barrier would wait for ever: {self._holder()}, and that is this task or waits"
                " for it"
            )
        self._paused, self._paused_by = True, task
        self._waits[task] = Wait(self, for_all=True)
        try:
            async with asyncio.timeout(wait):
                while len(self._idle) < len(self._seats):
                    if self._closed:
                        raise PoolClosedError("the database was closed")
                    self._drained = asyncio.get_running_loop().create_future()
                    await self._drained
        except TimeoutError:
            raise PoolTimeoutError(
                f"the {self.name}s did not come to rest within {wait:.1f} s; {self._holder()}"
            ) from None
        finally:
            self._waits.pop(task, None)

    def disown(self) -> None:
        """Note that `resume` will follow without any doing of the task that paused the lane."""
        self._paused_by = None

    def resume(self) -> None:
        """Go on after `pause`, with what has come meanwhile."""
        self._paused, self._paused_by = False, None
        while self._idle and (work := self._queue.take(monotonic())) is not None:
            if self._offer(work) is None:
                self._queue.add(work)
                break

    def _tell_drained(self) -> None:
        if self._drained is not None and not self._drained.done():
            self._drained.set_result(None)

    # -- looking ---------------------------------------------------------------------------------

    def stats(self) -> dict[str, Any]:
        """Return the lane's figures, as a plain dict."""
        return {
            "size": self.size,
            "busy": self.busy,
            "waiting": self.waiting,
            "longest_wait": self.longest_wait,
            **self.counters,
        }

    @property
    def size(self) -> int:
        return len(self._seats)

    @property
    def busy(self) -> int:
        return sum(seat.work is not None for seat in self._seats)

    @property
    def waiting(self) -> int:
        return len(self._queue)


def _fail(work: Work, error: BaseException) -> None:
    if isinstance(error, StopIteration):
        # Neither a future nor a coroutine can raise it: asyncio would take it for a result.
        stop, error = error, RuntimeError(f"{work.label} raised StopIteration")
        error.__cause__ = stop
    if not work.future.done():
        work.future.set_exception(error)
