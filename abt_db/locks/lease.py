"""Leases: locks among the processes that share a database, each with a fencing token.

A lock is a row of the table `distributed_locks`. Who is granted it has a *lease*: it ends by itself
after its `ttl` unless it is renewed, so the lock of a holder that died comes free. What makes that
safe is the *token*, a number that grows with every grant: a holder that slept past its lease does
not know that another has the lock, but `db.transaction(lease=lease)` looks, inside the transaction
that writes. Lock and data share a database: nothing can come between the look and the COMMIT.

What holds, and where:

- Among the processes of one machine that open the same file: one holder at a time, whatever becomes
  of the others, of the wall clock, of this process. In containers too, as long as they have one
  kernel and no time namespaces of their own.
- Not among replicas: copies of the file, by whatever means they follow each other, have locks of
  their own. Nor among machines that share the file through a network: SQLite's own locks and its
  write-ahead log do not work there (https://www.sqlite.org/wal.html).
- Work outside of the database (a file, a service) is not fenced. Give it `lease.token`, and have
  it refuse what comes with a smaller one.

The rows of locks that nobody holds are removed by `abt_db.maintenance.clear_locks`, and by each
`optimize`.
"""

from __future__ import annotations

import asyncio
import os
import random
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from time import monotonic
from types import TracebackType
from typing import Any, Self, TypeVar
from uuid import uuid4

from abt_db.connection.busy import backoff
from abt_db.connection.deadline import Deadline, finish
from abt_db.connection.session import Session, Verbs
from abt_db.errors import (
    AbtDbError,
    BusyError,
    LockLostError,
    LockStateError,
    LockTimeoutError,
    PoolTimeoutError,
    StatementError,
    StatementTimeoutError,
)
from abt_db.pool.pool import Pool

from .local import LocalLocks
from .table import LOCKS_TABLE, LockInfo, fence, find, grant, milliseconds, release, renew, want

T = TypeVar("T")

POLL = 0.02
"""Seconds, on average, between two looks at a lock that another process holds. The same for every
waiting process, however long it has waited: so each has the same chance."""

COURTESY = 0.05
"""Seconds for which a process does not ask for a lock that it has just released and that another
process wants. Longer than the wait between two looks: otherwise a process that asks again at once
would get the lock each time.
"""

PATIENCE = 1.0
"""Seconds that one look or try may take, also where the time to wait for the lock is over, or 0."""

URGENT = 1_000_000
"""The priority of renewals: the queue may hold calls that came long before."""

LONGEST = 10**9


class Leases:
    """The locks among processes that one open `Database` holds and waits for."""

    def __init__(self, pool: Pool) -> None:
        self.pool = pool
        self.turns = LocalLocks()
        """The tasks that want a lock wait here in order; the first of them asks for it."""
        self.held: set[LockLease] = set()
        self._courtesy: dict[str, float] = {}  # until when a lock is left to other processes

    async def info(
        self, name: str, *, timeout: float | None = None, create: bool = False
    ) -> LockInfo | None:
        """Return who holds a lock; None if it can be had. `create` makes the table if it is
        missing."""
        with _table():
            try:
                return await self.pool.read(f"lock {name!r}", find, (name,), timeout)
            except StatementError as error:
                if not create or _MISSING not in str(error):
                    raise
            table = LOCKS_TABLE()
            await self.pool.write(table.query, Verbs.execute, (table,), timeout, URGENT)
            return None

    async def write(
        self, doing: str, function: Callable[..., T], *args: Any, timeout: float | None = None
    ) -> T:
        """Run one step of the protocol, in a commit that other calls may share."""
        with _table():
            return await self.pool.write(
                doing, function, args, timeout, URGENT, shares=True, savepoint=True
            )

    async def end(self, info: LockInfo) -> bool:
        """Release a lock by force; return whether that very lease was still held."""
        doing = f"the release of lock {info.name!r}"
        return await self.write(doing, release, info.name, info.owner) is not None

    async def close(self) -> None:
        """Let go of all leases, which run out by themselves."""
        if lost := [lease._lose("the database was closed") for lease in list(self.held)]:
            await asyncio.wait(lost)

    def leave_to_others(self, name: str) -> None:
        """Have the next task that asks for the lock in this process wait for a moment."""
        now = monotonic()
        self._courtesy = {each: end for each, end in self._courtesy.items() if end > now}
        self._courtesy[name] = now + COURTESY

    def courtesy(self, name: str) -> float:
        """Return for how many seconds the lock is left to other processes."""
        return max(0.0, self._courtesy.get(name, 0.0) - monotonic())


class LockLease:
    """A lock that is held among processes, for the length of a block. See `Database.lock`.

    Any task of the `Database`'s event loop may use it, also to write:
    ``db.transaction(lease=lease)``.
    """

    def __init__(
        self,
        leases: Leases,
        name: str,
        ttl: float,
        timeout: float | None,
        label: str | None = None,
        create: bool = False,
    ) -> None:
        if not 0.001 <= ttl <= LONGEST:
            raise ValueError(f"ttl must be from 0.001 to {LONGEST} seconds, not {ttl!r}")
        if label is not None and not isinstance(label, str):
            raise TypeError(f"the label of a lock's holder is a str, not {label!r}")
        self.name = name
        self.ttl = ttl
        """Seconds."""
        self.token = 0
        """Greater than that of every earlier grant of this lock; 0 before it is held."""
        self.label = label
        """What it is held for, as `lock_info` shows it."""
        self._leases = leases
        self._timeout = timeout
        self._create = create
        self._owner = uuid4().hex
        self._turn = leases.turns.lock(name, timeout=timeout)
        self._until = 0  # milliseconds, as in the table
        self._lost: asyncio.Future[LockLostError | None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._renewing: asyncio.Task[None]
        self._problem: Exception | None = None  # that the last renewal met

    async def __aenter__(self) -> Self:
        limit = Deadline.after(self._timeout)
        try:
            await self._turn.__aenter__()
        except LockTimeoutError as error:
            # The task whose turn it is may be waiting as well: the error names the lock's holder.
            try:
                info = await self._leases.info(self.name, timeout=PATIENCE)
            except AbtDbError as second:
                raise error from second
            raise self._too_late(info) from None
        try:
            self.token, self._until = await self._acquire(limit)
        except BaseException:
            self._turn.release()
            raise
        loop = asyncio.get_running_loop()
        self._lost = loop.create_future()
        self._renewing = loop.create_task(self._keep(), name=f"abt_db lock {self.name}")
        self._leases.held.add(self)
        self._set_timer()
        return self

    async def __aexit__(
        self,
        _kind: type[BaseException] | None,
        error: BaseException | None,
        _traceback: TracebackType | None,
    ) -> None:
        try:
            self.check()
            await finish(self._release())
        except AbtDbError as second:
            if error is None:
                raise
            if not isinstance(error, LockLostError):
                error.add_note(str(second))
        finally:
            self._end()

    @property
    def lost(self) -> asyncio.Future[LockLostError | None]:
        """To be awaited: done as soon as the lease is known to be over, with the error that says
        why, or with None at the end of the block."""
        return asyncio.shield(self._entered())

    def check(self) -> None:
        """Raise `LockLostError` if the lease is over, as far as is known here: by the clock, and by
        the last renewal. It costs nothing; the database is not asked."""
        lost = self._entered()
        if milliseconds() >= self._until:
            self._expire()
        if lost.done():
            error = lost.result()
            if error is None:
                raise LockStateError(f"lock {self.name!r} has been released")
            raise LockLostError(str(error)) from error.__cause__

    def fence(self, pool: Pool) -> Callable[[Session], None]:
        """Return what a transaction on `pool` does first; raise what `check` does."""
        if pool is not self._leases.pool:
            raise LockStateError(f"the lease on lock {self.name!r} is of another Database")
        self.check()
        return lambda cx: fence(cx, self.name, self.token)

    # -- inside ----------------------------------------------------------------------------------

    def _lose(self, why: str) -> asyncio.Task[None]:
        """Note that the lease is over, if it was not known; return the task, which ends now."""
        lost = self._entered()
        if not lost.done():
            error = LockLostError(f"the lease on lock {self.name!r} is lost: {why}")
            error.__cause__ = self._problem
            lost.set_result(error)
            self._end()
        return self._renewing

    async def _acquire(self, limit: Deadline) -> tuple[int, int]:
        """Wait until the lock can be had, and have it; return the token and when it runs out."""
        leases, name = self._leases, self.name
        pause = leases.courtesy(name)
        while True:
            left = limit.remaining()
            await asyncio.sleep(pause if left is None else min(pause, left))
            patience = None if left is None else max(left, PATIENCE)
            try:
                info = await leases.info(name, timeout=patience, create=self._create)
                if info is None:
                    if (granted := await self._try(patience)) is not None:
                        return granted
                elif limit.passed():
                    raise self._too_late(info)
                elif not info.wanted:
                    await leases.write(f"the wait for lock {name!r}", want, info, timeout=patience)
            except (BusyError, PoolTimeoutError, StatementTimeoutError) as error:
                if limit.passed():
                    raise self._too_late(None) from error
                raise
            pause = POLL * (0.5 + random.random())

    async def _try(self, patience: float | None) -> tuple[int, int] | None:
        task = asyncio.current_task()
        holder = {
            "owner": self._owner,
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "task": "?" if task is None else task.get_name(),
            "ttl": self._milliseconds,
            "wanted": 0,
            "label": self.label,
        }
        doing = f"the grant of lock {self.name!r}"
        try:
            return await self._leases.write(doing, grant, self.name, holder, timeout=patience)
        except asyncio.CancelledError as error:
            # It may have been committed all the same.
            try:
                await finish(self._free())
            except AbtDbError as second:
                error.add_note(f"The lock may be held until it runs out: {second}")
            raise

    async def _keep(self) -> None:
        """Renew the lease until it is released or lost."""
        pause = self.ttl / 3
        pauses = backoff()
        while True:
            await asyncio.sleep(pause)
            if await self._renewed():
                pause, pauses = self.ttl / 3, backoff()
            else:
                pause = next(pauses)  # until the timer ends this with the lease (fault 77)

    async def _renewed(self) -> bool:
        """Whether the lease was renewed, or is over; if not, it is to be tried again."""
        doing = f"the renewal of lock {self.name!r}"
        try:
            until = await self._leases.write(
                doing, renew, self.name, self.token, self._milliseconds
            )
        except Exception as error:
            self._problem = error  # the cause, if no time is left for a better try
            return False
        self._problem = None
        if until is None:
            self._lose(_GONE)
        else:
            self._until = until
            self._set_timer()
        return True

    def _set_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        left = (self._until - milliseconds()) / 1000
        self._timer = asyncio.get_running_loop().call_later(left, self._expire)

    def _expire(self) -> None:
        self._lose("it could not be renewed before it ran out")

    async def _release(self) -> None:
        self._stop()
        await asyncio.wait([self._renewing])  # what that has begun comes before the release
        info = await self._free()
        if info is None:
            self._lose(_GONE)
            self.check()
        elif info.wanted:
            self._leases.leave_to_others(self.name)

    async def _free(self) -> LockInfo | None:
        doing = f"the release of lock {self.name!r}"
        return await self._leases.write(doing, release, self.name, self._owner, timeout=self.ttl)

    def _end(self) -> None:
        """Let go of everything that is of this process."""
        lost = self._entered()
        if not lost.done():
            lost.set_result(None)
        self._stop()
        self._leases.held.discard(self)
        self._turn.release()

    def _stop(self) -> None:
        """Renew the lease no more."""
        self._renewing.cancel()
        if self._timer is not None:
            self._timer.cancel()

    def _entered(self) -> asyncio.Future[LockLostError | None]:
        if self._lost is None:
            raise LockStateError(f"lock {self.name!r} is not held yet; use it with `async with`")
        return self._lost

    @property
    def _milliseconds(self) -> int:
        return int(self.ttl * 1000)

    def _too_late(self, info: LockInfo | None) -> LockTimeoutError:
        holder = "it may be free now, or the database is busy" if info is None else info
        return LockTimeoutError(
            f"lock {self.name!r} could not be had within {self._timeout:g} s; {holder}"
        )


_GONE = "it was released by another, or ran out"


_MISSING = "no such table: distributed_locks"


@contextmanager
def _table() -> Iterator[None]:
    """A block in which the error for a missing table says how to make the table."""
    try:
        yield
    except StatementError as error:
        if _MISSING not in str(error):
            raise
        missing = StatementError(
            "locks need the table distributed_locks, which this database has not: put"
            " abt_db.LOCKS_TABLE.sql into a migration, or run abt_db.LOCKS_TABLE() once",
            query=error.query,
            sql=error.sql,
            code=error.sqlite_errorcode,
            name=error.sqlite_errorname,
        )
        missing.add_note(LOCKS_TABLE.sql)
        raise missing from error.__cause__
