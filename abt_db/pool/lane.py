"""A lane: a fair queue of work and the connections that serve it. A lane knows no SQL.

Work is a *call* (a function that runs on a connection's thread, in one hop to that thread and
back, while the caller waits for the result) or a *loan* (the connection is lent to a task until
that task gives it back). New work is served in one of two ways:

- If a connection is idle, the caller's own task takes it and runs the hop.
- If none is idle, the work waits in the queue. Each connection has a *slot* with one task. When the
  connection comes free, the slot's task takes from the queue the work that can share a hop, runs
  it, and wakes the callers.

A caller gives its connection back by a plain function call, never by an `await`, so the caller can
be cancelled at any point and any number of times. If the connection then needs cleaning, the
slot's task, which is never cancelled by a caller, rolls back, resets or replaces the connection
before it serves again (invariants 7, 11, 13).

`queue.py` decides which work is next. `slots.py` makes slots and gives them up, `slot.py` looks
after one slot's connection, and `perform.py` does the work of one hop.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from math import inf
from time import monotonic
from typing import Any, TypeVar, cast

from abt_db.config import Config
from abt_db.connection.busy import backoff
from abt_db.connection.deadline import COMMIT_GRACE, GRACE, Deadline, finish
from abt_db.connection.stats import ConnectionStats, Costs, LaneStats, QueryStats
from abt_db.connection.transaction import EngineSession
from abt_db.errors import (
    PoolClosedError,
    PoolSaturatedError,
    PoolTimeoutError,
    StoppedError,
    TransactionStateError,
)
from abt_db.events import Listeners, Reason, Waited
from abt_db.log import LOG
from abt_db.sql.query import Query

from .call import Call, Limits
from .deadlock import Wait, WaitGraph, would_deadlock
from .loan import Loan, Work
from .perform import Batch, alone, together
from .queue import Queue, require_priority
from .slot import Open, Slot, closed, warn_of_long
from .slots import Slots

T = TypeVar("T")

WATCH = 1.0
"""Seconds between two checks of the threads of connections that are at work."""

STUCK = 4
"""After more than so many checks, `GRACE` apart, that find a connection at work though all its
callers have gone, another connection is opened in its place. The limit counts checks and not
seconds because on a busy machine both a clean-up and the checks take longer."""

PAUSE = 0.5
"""Seconds until the next try after an additional connection could not be opened."""


class Lane:
    """A queue of work and its connections: work comes in by `run` and `loan`."""

    def __init__(
        self,
        name: str,
        size: int,
        config: Config,
        *,
        open: Open,
        lifetime: float | None,
        waits: WaitGraph,
        costs: Costs | None,
        listeners: Listeners,
        crowded: Callable[[], bool],
        who: Callable[[], str],
        largest: int = 0,
        reserve: int = 0,
        spare: int = 0,
    ) -> None:
        self.name = name
        self._config = config
        self._patience = inf if config.acquire_timeout is None else config.acquire_timeout
        self._slow = config.slow_query
        self._limits = Limits(config.batch_time, config.busy_timeout, config.statement_timeout, who)
        self._long = inf if config.slow_transaction is None else config.slow_transaction
        # Seconds between two checks of the work that is under way.
        self._look = max(0.01, min(WATCH, self._long))
        self._costs = costs
        self._listeners = listeners
        self._waits = waits  # shared by all lanes of the pool
        self._size = size
        # Connections beyond `size`, see `_grow`: up to `largest` in all if work waits, `reserve`
        # more for calls if all are lent, and `spare` more in place of connections that are stuck.
        self._largest, self._reserve, self._spare = largest, reserve, spare
        self._most = max(size, largest)
        self._lent = 0  # connections that are lent at this moment
        self._next_growth = 0.0  # the earliest moment for opening one more
        self.slots = Slots(
            name,
            lambda title, reason: Slot(
                ConnectionStats(title, costs, listeners, crowded), open, lifetime, reason
            ),
            self._run_slot,
        )
        self._idle = self.slots.idle
        self._queue = Queue()
        self._sharing = 0  # slots that run a quick hop: see `_may_start`
        self._closed = True
        self._paused = False
        # The task that called `pause`; None also while the barrier of that task is ending.
        self._paused_by: asyncio.Task[Any] | None = None
        self._drained: asyncio.Future[None] | None = None
        self._loop: asyncio.AbstractEventLoop
        # The lane's only timer: whatever is due at some time is done by `_tick`.
        self._timer: asyncio.TimerHandle | None = None
        self._timer_span = inf  # the seconds that the timer was set for, or fewer
        self._stats = LaneStats()
        self.behind: Lane | None = None
        """A lane whose quick hops end before a batch of this lane begins, for two reasons: two
        threads that run Python at once slow each other down, and during the wait more work arrives
        that can share the hop."""
        self.on_rest: Callable[[], None] = _nothing
        """Called now and then when the lane has come to rest after some work."""
        self._calm: asyncio.Future[None] | None = None

    # -- life ------------------------------------------------------------------------------------

    async def open(self) -> None:
        """Open all connections at the same time; if one fails, close the others and raise."""
        self._loop = asyncio.get_running_loop()
        self._closed = False
        try:
            await self.slots.resize(self._size)
        except BaseException:
            await finish(self.close(Deadline.after(0)))
            raise

    async def resize(self, size: int) -> None:
        """Change the number of connections to `size`.

        New connections are open when this returns. Connections beyond `size` are closed as soon as
        they come free. If a connection can't be opened nothing changes.
        """
        if self._closed:
            raise closed()
        before, self._size = self._size, size
        try:
            await self.slots.resize(size)
        except BaseException:
            self._size = before
            raise
        finally:
            self._most = max(self._size, self._largest)
            self._stir()

    async def close(self, deadline: Deadline) -> None:
        """Refuse new work, fail waiting work, let running work end until `deadline`, then stop it.

        Returns when the lane's tasks and threads have ended and its files are closed. Must not be
        cancelled.
        """
        self.refuse()
        await self.slots.close(deadline)
        if self._timer is not None:
            self._timer.cancel()

    def refuse(self) -> None:
        """Refuse new work and fail waiting work. Connections stay open until `close`, because those
        of another lane may have to be closed first."""
        self._closed = True
        while taken := self._queue.take(monotonic(), 1):
            taken[0].fail(PoolClosedError("the database was closed while this waited"))

    def abandon(self) -> None:
        """Have the threads close their connections and end, without waiting for that. May be called
        from any thread."""
        self._closed = True
        self.slots.abandon()

    # -- work ------------------------------------------------------------------------------------

    async def run(self, call: Call[T]) -> T:
        """Run a call on the next free connection and return its result.

        Waits for a connection at most `Config.acquire_timeout` seconds, and not beyond the call's
        time limit. If the caller is cancelled or times out during that wait, the function never
        runs. If the caller is cancelled while the function runs, its statement is stopped.
        """
        call.task = asyncio.current_task(self._loop)
        if self._may_start(call):
            await self._run_here(self._idle.pop(), call)
        else:
            at = call.at
            patience = self._patience if at is None else min(self._patience, at - call.since)
            future = self._line_up(call, patience)
            try:
                await future
            except BaseException:
                call.cancel()
                raise
            finally:
                self._leave_line(call)
        if call.error is None:
            return call.result
        if self._closed and isinstance(call.error, StoppedError):
            raise closed()
        raise call.told()

    async def loan(self, label: str, *, priority: int = 0, at: float | None = None) -> Loan:
        """Lend a connection to the current task. Waits as `run` does, and not beyond `at`, a moment
        on the clock of `time.monotonic()`."""
        # `Database` checked the event loop when the block was made, but the block may be entered
        # in another one.
        if asyncio.get_running_loop() is not self._loop:
            raise PoolClosedError(
                f"{label} was made in another event loop or process; open a Database of its own in"
                " each"
            )
        loan = Loan(label, priority, at)
        if self._may_start(loan):
            self._lend(self._idle.pop(), loan)
            return loan
        future = self._line_up(
            loan, self._patience if at is None else min(self._patience, at - loan.since)
        )
        try:
            await future
            if loan.error is not None:
                raise loan.error
        except BaseException:
            # The connection may have been lent at the moment of the cancellation (invariant 13).
            loan.give_back()
            raise
        finally:
            self._leave_line(loan)
        return loan

    def _may_start(self, work: Work) -> bool:
        """Whether new work may take the idle connection that was used last.

        Raises `PoolClosedError` if the lane is closed, and `TypeError` or `ValueError` for a
        priority that can't be compared with others.

        Work that may share a hop does not take a second connection while a quick hop is running.
        Threads that run Python at the same time slow each other down, so such work is done sooner
        if it waits and shares the next hop of the first connection.
        """
        if self._closed:
            raise PoolClosedError("the database is not open")
        if work.priority != 0:
            require_priority(work.priority)
        return (
            bool(self._idle)
            and not (work.shares and self._sharing)
            and not self._paused
            and (self._lent < self._most or isinstance(work, Call))
            and self._idle[-1].ready
        )

    def _line_up(self, work: Work, patience: float) -> asyncio.Future[None]:
        """Put work into the queue and return its future.

        The future is done when the call is done, the connection is lent, or the work has failed; at
        the latest, the work fails when it has waited for `patience` seconds.
        """
        waits = self._waits
        if waits.held or self._queue.live >= self._config.max_pending:
            self._refuse(work)
        future = work.future = self._loop.create_future()
        self._queue.add(work)
        self._stats.waits += 1
        if waits.held:
            waits[work.task] = Wait(self, lent=isinstance(work, Loan), future=future)

        gathering = work.shares and self._sharing
        if gathering:
            self._wake_in(self._limits.batch)
        else:
            self._wake_in(WATCH)
            self._stir()
            if len(self.slots) < self._most or self._lent >= self._size:
                self._grow()
        if patience < WATCH:
            self._wake_in(patience)
        return future

    def _leave_line(self, work: Work) -> None:
        """Record that work has ended its wait, whatever the outcome."""
        if work.queued:
            self._queue.discard(work)
        if self._waits:
            self._waits.pop(work.task, None)
        waited = (work.began or monotonic()) - work.since
        if waited > self._stats.longest_wait:
            self._stats.longest_wait = waited
        if Waited in self._listeners.wanted:
            self._listeners.tell(Waited(work.label, self.name, waited, work.began > 0))

    def _refuse(self, work: Work) -> None:
        """Raise for work that must not wait: the queue is full, or the wait would be a deadlock
        (invariant 17)."""
        if would_deadlock(work.task, Wait(self, lent=isinstance(work, Loan)), self._waits):
            raise TransactionStateError(
                f"{work.label} would wait for ever: {self._holder()}, and that waits for this task;"
                " use the handle that is held already, or end it first"
            )
        if self._queue.live >= self._config.max_pending:
            raise PoolSaturatedError(
                f"{self._config.max_pending} calls wait for a {self.name} already; {self._holder()}"
            )

    def _stir(self) -> None:
        """Have idle connections serve the waiting work."""
        wanted = self._wanted
        while wanted and self._idle and not self._paused:
            self._idle.pop().rouse()
            wanted -= 1

    @property
    def _wanted(self) -> int:
        """How much of the waiting work an idle connection could serve. Once as many connections are
        lent as may be, the rest serve only calls."""
        queue = self._queue
        return queue.live if self._lent < self._most else queue.live - queue.lendings

    def _is_quick(self, work: Work) -> bool:
        """Whether the work is a read whose query is now known to be quick. It may not have been
        known when the work came, since the query may have run for other callers meanwhile."""
        return (
            isinstance(work, Call)
            and isinstance(work.what, Query)
            and not work.writes
            and self._costs is not None
            and self._costs.are_low(work.what.name)
        )

    def _begin(self, slot: Slot, work: Call[Any] | Batch, shares: bool) -> None:
        slot.work = work
        if shares:
            slot.shares = True
            self._sharing += 1
        if isinstance(work, Call) and work.at is not None:
            self._wake_in(work.at - work.since + GRACE)
        if self._limits.statement is not None:
            self._wake_in(self._limits.statement + GRACE)
        if isinstance(work, Batch) and len(work.calls) > 1:
            # If a call of the batch is slow, the calls behind it move to another connection then.
            self._wake_in(self._limits.batch)
        elif self._timer is None:
            self._wake_in(WATCH)

    def _end(self, slot: Slot) -> None:
        if slot.shares:
            slot.shares, slot.seen = False, None
            self._sharing -= 1
            if self._calm is not None:
                self._calm.set_result(None)
                self._calm = None

    async def calm(self) -> None:
        """Return when one of the quick hops that are under way has ended or has turned out to be
        slow."""
        if self._calm is None:
            self._calm = self._loop.create_future()
            self._wake_in(self._limits.batch)
        await asyncio.shield(self._calm)

    async def _run_here(self, slot: Slot, call: Call[Any]) -> None:
        """Run a call in its caller's own task. Waits in the event loop while another process has
        the file's lock."""
        connection, limits = slot.connection, self._limits
        assert connection is not None
        busy = False

        def hop(session: EngineSession) -> None:
            nonlocal busy
            busy = alone(session, call, limits)

        self._begin(slot, call, call.shares)
        pauses = None
        try:
            while True:
                self._stats.hops += 1
                await connection.hop(hop, call)
                if not busy:
                    return
                pauses = pauses or backoff()
                slot.blocked = call.since
                await asyncio.sleep(next(pauses))
        except asyncio.CancelledError:
            call.cancel()
            raise
        finally:
            self._release(slot)
            self._note(call)

    async def _run_together(self, slot: Slot, batch: Batch) -> None:
        """Run a batch. Waits in the event loop while another process has the file's lock."""
        connection, limits = slot.connection, self._limits
        assert connection is not None
        self._stats.shared(len(batch.calls))
        pauses = None
        while True:
            self._stats.hops += 1
            batch.busy = False
            await connection.hop(lambda session: together(session, batch, limits), Deadline())
            if not batch.busy:
                return
            self._deliver(batch)  # calls that are done, or may wait no longer for the lock
            pauses = pauses or backoff()
            slot.blocked = batch.since
            await asyncio.sleep(next(pauses))

    def _release(self, slot: Slot) -> None:
        """Take a connection back from a caller. Synchronous, so that nothing can interrupt it."""
        self._end(slot)
        if slot.ready and not (slot.leaving or (self._wanted and not self._paused)):
            self._rest(slot)
            return
        slot.rouse()
        if not slot.ready:
            # This connection is cleaned up first, so another one serves the work that was waiting
            # to share a hop with it.
            self._stir()
            self._wake_in(GRACE)  # ending what the thread still runs may take long

    def _rest(self, slot: Slot) -> None:
        work, slot.work = slot.work, None
        slot.idle_since = monotonic()
        self._idle.append(slot)
        if slot.stats.events:
            slot.stats.tell()  # a commit whose caller was cancelled may not be reported yet
        if isinstance(work, Loan):
            work.on_settled()
        self._tell_drained()

    def _lend(self, slot: Slot, loan: Loan) -> None:
        def returned() -> None:
            self._waits.held -= 1
            self._lent -= 1
            self._release(slot)

        assert slot.connection is not None
        slot.work = loan
        self._waits.held += 1
        self._lent += 1
        self._stats.loans += 1
        loan.lend(slot.connection, returned)
        self._wake_in(self._look)

    # -- the slots' tasks ------------------------------------------------------------------------

    async def _run_slot(self, slot: Slot, opened: asyncio.Future[None]) -> None:
        try:
            try:
                await slot.connected()
            except Exception as error:
                opened.set_exception(error)
                return
            opened.set_result(None)
            while not slot.leaving:
                await self._serve(slot)
                await slot.tidy()
                if isinstance(slot.work, Loan):
                    slot.work.on_settled()
                slot.work = None
        except GeneratorExit:
            # The event loop was closed while this task waited, so nothing can be awaited any more.
            connection, slot.connection = slot.connection, None
            if connection is not None:
                connection.abandon()
            raise
        except asyncio.CancelledError:
            # The event loop is ending and cancels all of its tasks.
            self.refuse()
            slot.stop()
            if isinstance(slot.work, Batch):
                for call in slot.work.calls:
                    call.fail(closed())  # no task is left that could deliver the results
            raise
        finally:
            if slot in self._idle:
                self._idle.remove(slot)
            await slot.leave()
            if isinstance(slot.work, Loan):
                # Closing the connection has rolled back what was open on it.
                slot.work.on_settled()
            slot.stats.tell()
            if not self._closed:
                self._forget(slot)
                self._stir()  # another connection serves the work that waited for this one
            self._tell_drained()

    async def _serve(self, slot: Slot) -> None:
        """Do waiting work; if there is none, rest until this task has something to do."""
        slot.roused = self._loop.create_future()
        if not self._wanted or self._paused:
            self._rest(slot)
            await slot.roused
            return
        try:
            await slot.connected()
        except Exception as error:
            # A slot that is being given up has stopped opening its connection, which is no failure
            # of the waiting work: other slots will serve it. Otherwise one work gets the error.
            lends = self._lent < self._most
            for unserved in self._queue.take(monotonic(), 0 if slot.leaving else 1, lends=lends):
                unserved.fail(error)
            return
        if self.behind is not None and self.behind._sharing:
            await self.behind.calm()
        # Only now: opening a connection may have taken longer than the time limit of some work.
        work = self._queue.take(
            monotonic(), self._config.batch_size, self._is_quick, lends=self._lent < self._most
        )
        if not work:
            return
        first = work[0]
        if isinstance(first, Loan):
            if not first.gone:
                self._lend(slot, first)
                await slot.roused
        else:
            await self._serve_calls(slot, cast(list[Call[Any]], work))

    async def _serve_calls(self, slot: Slot, calls: list[Call[Any]]) -> None:
        batch = Batch(calls)
        self._begin(slot, batch, calls[0].shares)
        try:
            await self._run_together(slot, batch)
        except Exception as error:
            # The thread has died, or ran out of memory between two calls. Whether that was before
            # or after its COMMIT can't be known.
            batch.todo.clear()
            self._deliver(batch)
            for call in calls:
                call.fail(error)
        if slot.ready and not self._wanted and not batch.todo:
            slot.work = None  # before the callers are woken, so that they see the connection free
        self._deliver(batch)
        self._take_back(batch)
        if len(calls) > 1 and not slot.leaving:
            # The callers woken by `_deliver` may make their next calls at once. They do so in this
            # turn of the loop, before this task goes on, so that those calls share the next hop.
            await asyncio.sleep(0)
        self._end(slot)

    def _deliver(self, batch: Batch) -> None:
        """Wake the callers of the calls that are done."""
        done = batch.done
        while done:
            call = done.popleft()
            self._note(call)
            future = call.future
            if future is not None and not future.done():
                future.set_result(None)

    def _take_back(self, batch: Batch) -> None:
        """Put the calls that are still to be done back to the front of the queue: those that were
        not begun, and those whose transaction was spoilt by another call."""
        while batch.todo:
            try:
                call = batch.todo.pop()
            except IndexError:
                break  # the connection's thread took the last call first
            if self._closed:
                call.fail(closed())
            elif not call.gone:
                self._queue.put_back(call)

    # -- time ------------------------------------------------------------------------------------

    def _wake_in(self, seconds: float) -> None:
        """Have `_tick` called in `seconds` at the latest."""
        if seconds >= self._timer_span:
            return
        # A timer that was set for a longer time, but some time ago, may still fire earlier.
        if self._timer is None or self._loop.time() + seconds < self._timer.when():
            if self._timer is not None:
                self._timer.cancel()
            self._timer = self._loop.call_later(seconds, self._tick)
        self._timer_span = seconds

    def _tick(self) -> None:
        """Do what is due, and set the timer again: see `_do_what_is_due`."""
        self._timer, self._timer_span = None, inf
        again = self._look  # if an error is raised here, the timer still goes on
        try:
            again = self._do_what_is_due()
        finally:
            if again < inf:
                self._wake_in(again)

    def _do_what_is_due(self) -> float:
        """Do what is due, and return in how many seconds to look again.

        That is: look after the connections' threads, raise time limits' errors in callers, take
        quick calls from behind slow ones, fail work that has waited too long, and open or close
        additional connections.
        """
        working = gathering = False
        now, next_one = monotonic(), inf
        for slot in self.slots:
            if slot.work is not None:
                working = True
                warn_of_long(slot, self._long)
                if slot.connection is not None:
                    slot.connection.look_after()
                    if isinstance(slot.work, Batch):
                        # Before `free_late`: a call that is done must not get a time limit's error.
                        self._deliver(slot.work)
                    # A call that waits for another process's lock gets more time: at its next try
                    # its thread looks for the process that has the lock.
                    then = now - COMMIT_GRACE if slot.is_blocked else now
                    for call in slot.calls:
                        next_one = min(next_one, call.free_late(slot.connection, then))
                if slot.shares and not isinstance(slot.work, Loan) and not slot.work.writes:
                    gathering |= bool(
                        self._queue.live or self._calm or isinstance(slot.work, Batch)
                    )
                    self._part(slot, slot.work)
        next_one = min(next_one, self._shrink(now))
        if self._queue.live or working:
            soon = self._limits.batch if gathering else self._look
            if self._queue.live and not self._idle:
                if self._look_for_stuck():
                    soon = GRACE
                self._grow()
            return min(self._expire(now), next_one, soon)
        self.on_rest()
        return next_one

    def _look_for_stuck(self) -> bool:
        """Count the checks at which a connection was at work though all its callers had gone;
        return whether there is such a connection.

        Its thread is inside one long step of SQLite, or in a function that does not use SQLite, and
        neither can be interrupted. If it lasts only a moment, it is just a clean-up.
        """
        for slot in self.slots:
            slot.seen_deserted = slot.seen_deserted + 1 if slot.is_deserted else 0
        return any(slot.seen_deserted for slot in self.slots)

    def _grow(self) -> None:
        """Open one more connection for the waiting work, if one more is allowed:

        - up to `Config.max_readers` connections, not counting stuck ones, for any work;
        - one beyond that if all are lent and a call waits, because a stream or a snapshot may last
          long, and a call must not wait for its end.
        """
        queue, slots = self._queue, self.slots
        if self._closed or self._paused or monotonic() < self._next_growth:
            return
        stuck = sum(slot.seen_deserted > STUCK for slot in slots)
        serving = sum(not slot.leaving for slot in slots) - stuck
        reason: Reason
        bound = self._most + self._spare
        if serving < self._most:
            reason = "stuck" if stuck and len(slots) >= self._most else "overflow"
        elif queue.live > queue.lendings and self._lent >= serving < self._most + self._reserve:
            reason = "calls"
            bound += self._reserve
        else:
            return
        opening = sum(slot.is_opening for slot in slots)
        if opening < queue.live and len(slots) < bound:
            slots.add_one(reason, self._grown)

    def _grown(self, opened: bool) -> None:
        if opened:
            self._stats.overflows += 1
        else:
            self._next_growth = monotonic() + PAUSE

    def _shrink(self, now: float) -> float:
        """Close additional connections that have been idle for `Config.reader_idle_time`; return
        the seconds until the next one is due."""
        if len(self.slots) <= self._size:
            return inf
        time = self._config.reader_idle_time
        idle_since = self.slots.let_idle_go(self._size, now - time)
        return inf if idle_since is None else max(0.0, idle_since + time - now)

    def _part(self, slot: Slot, batch: Batch | Call[Any]) -> None:
        """If a call has turned out to be slow, let the calls that wait behind it, in its hop or in
        the queue, use other connections. A call is slow if it was running at the last look too."""
        running = batch.current if isinstance(batch, Batch) else batch
        if running is not slot.seen:
            slot.seen = running
            return
        self._end(slot)
        if isinstance(batch, Batch):
            self._deliver(batch)
            self._take_back(batch)
        self._stir()

    def _expire(self, now: float) -> float:
        """Fail the work that has waited as long as it may; return the seconds until the next work
        will have."""
        late, next_one = self._queue.late(now, self._patience)
        holder = self._holder() if late else ""
        for work in late:
            self._queue.discard(work)
            work.fail(
                PoolTimeoutError(
                    f"{work.label}: no {self.name} came free within {now - work.since:.1f} s;"
                    f" {holder}; {self._queue.live} more wait"
                )
            )
        # At least a few milliseconds, so that one look fails all work that is due close together.
        return max(next_one, 0.005)

    # -- holders ---------------------------------------------------------------------------------

    def holders(self, *, for_all: bool, lent: bool) -> list[asyncio.Task[Any] | None]:
        """Return the tasks that hold connections: see `deadlock.Held`."""
        if self._paused and not for_all:
            return [self._paused_by]
        tasks = [
            slot.work.task if isinstance(slot.work, Loan) and not slot.work.returned else None
            for slot in self.slots
        ]
        if for_all:
            return tasks
        # The other connections come free without any task's doing, or can still be opened.
        busy: list[asyncio.Task[Any] | None] = [task for task in tasks if task is not None]
        room = self._most if lent else self._most + self._reserve
        return busy if len(busy) >= room else [*busy, None]

    def _holder(self) -> str:
        """Return a text that says what holds the lane's connections; the longest holder by name."""
        return self.slots.say_who_holds(paused=self._paused, rival=self._limits.who)

    # -- a barrier -------------------------------------------------------------------------------

    async def pause(self, wait: float | None) -> None:
        """Start no more work until `resume`; return when all running work has ended.

        Raises `PoolTimeoutError` after `wait` seconds, and `TransactionStateError` if running work
        can't end because it waits for this task. `resume` must be called after an error as well.
        """
        task = asyncio.current_task()
        if would_deadlock(task, Wait(self, for_all=True), self._waits):
            raise TransactionStateError(
                f"the barrier would wait for ever: {self._holder()}, and that is this task or waits"
                " for it"
            )
        self._paused, self._paused_by = True, task
        self._waits.held += 1
        self._waits[task] = Wait(self, for_all=True)
        try:
            async with asyncio.timeout(wait):
                while len(self._idle) < len(self.slots):
                    if self._closed:
                        raise closed()
                    self._drained = self._loop.create_future()
                    await self._drained
        except TimeoutError:
            raise PoolTimeoutError(
                f"the {self.name}s did not come to rest within {wait:.1f} s; {self._holder()}"
            ) from None
        finally:
            self._waits.pop(task, None)

    def disown(self) -> None:
        """Record that `resume` will be called without any doing of the task that paused the lane,
        so that waiting for it is no deadlock."""
        self._paused_by = None

    def resume(self) -> None:
        """End the effect of `pause`: serve the work that has come meanwhile."""
        if self._paused:
            self._waits.held -= 1
        self._paused, self._paused_by = False, None
        self._stir()

    def _tell_drained(self) -> None:
        if self._drained is not None and not self._drained.done():
            self._drained.set_result(None)

    # -- statistics ------------------------------------------------------------------------------

    def _note(self, call: Call[Any]) -> None:
        """Count a call that is done, and log it if it was slow."""
        self._stats.response.add(monotonic() - call.since)
        if self._slow is None or not call.began:
            return
        # `ended` is not set yet if the caller got its time limit's error before the call's end.
        ran = (call.ended or monotonic()) - call.began
        if ran >= self._slow:
            LOG.warning(
                "abt_db: %s was slow: it ran %.3f s, after waiting %.3f s",
                call.label,
                ran,
                call.began - call.since,
            )

    def _forget(self, slot: Slot) -> None:
        """Remove a slot that was given up, and keep its counts."""
        self.slots.remove(slot)
        self._stats.include(slot.stats)

    def stats(self) -> dict[str, Any]:
        """Return the lane's statistics as a plain dict."""
        return {
            "size": len(self.slots),
            "overflow": max(0, len(self.slots) - self._size),
            "idle": len(self._idle),
            "busy": self.slots.busy,
            "waiting": self.waiting,
            **self._stats.as_dict(slot.stats for slot in self.slots),
        }

    def add_queries_to(self, stats: QueryStats) -> None:
        """Add the connections' counts of each query to `stats`."""
        stats.include(self._stats.queries)
        for slot in self.slots:
            stats.include(slot.stats.queries)

    @property
    def waiting(self) -> int:
        """How many calls and loans wait for a connection."""
        return self._queue.live


def _nothing() -> None:
    pass
