"""Leases: locks among the processes that share a database, each with a fencing token.

A lock is a row of the table `distributed_locks`. The task that is granted the lock has a *lease*. A
lease ends by itself after its `ttl` unless it is renewed, so the lock of a process that died comes
free. The *fencing token*, a number that grows with every grant, makes that safe. A holder that was
stopped past the end of its lease does not know that another holder has the lock now. But
`db.transaction(lease=lease)` checks the token inside the transaction that writes. Lock and data are
in the same database, so nothing can come between that check and the COMMIT.

What is promised, and where:

- Among the processes of one machine that open the same file, there is one holder at a time,
  whatever happens to the other processes, to the wall clock, or to this process. This is true for
  containers too, if they share a kernel and have no time namespaces of their own.
- It is not promised among replicas: each copy of the file has locks of its own, however the copies
  are replicated. Nor is it promised among machines that share the file through a network: SQLite's
  own locks and its write-ahead log do not work there (https://www.sqlite.org/wal.html).
- Work outside the database (on a file, by a service) is not fenced. Pass `lease.token` with it, and
  have the receiver refuse every token that is smaller than one it has seen.

`abt_db.maintenance.clear_locks` and each `optimize` remove the rows of locks that are not held.
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
"""Seconds, on average, between two looks at a lock that another process holds. The pause does not
grow with the time of waiting, so that all waiting processes have the same chance."""

COURTESY = 0.05
"""Seconds for which a process does not ask for a lock again after it has released it while another
process waited for it. Longer than the pause between two looks: otherwise a process that asks again
at once could keep the lock for ever."""

PATIENCE = 1.0
"""Seconds that a query of the lock may take when the time to wait for the lock is over, or was 0.
"""

URGENT = 1_000_000
"""The priority of the calls that grant, renew and release locks. It is that high because other
calls may have waited long for the writer, and a second of waiting counts as a step of priority."""

LONGEST = 10**9


class Leases:
    """The locks among processes that one open `Database` holds and waits for."""

    def __init__(self, pool: Pool) -> None:
        self.pool = pool
        self.turns = LocalLocks()
        """Only one task at a time asks the database for a lock; the other tasks wait here, in the
        order in which they came."""
        self.held: set[LockLease] = set()
        self._courtesy: dict[str, float] = {}  # by lock, until when it is left to other processes

    async def info(
        self, name: str, *, timeout: float | None = None, create: bool = False
    ) -> LockInfo | None:
        """Return the holder of a lock; None if the lock is free. `create` makes the table if it is
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
        """Run one step of `table`, in a commit that other calls may share."""
        with _table():
            return await self.pool.write(
                doing, function, args, timeout, URGENT, shares=True, savepoint=True
            )

    async def end(self, info: LockInfo) -> bool:
        """Release a lock by force; return whether the lease that `info` shows was still held."""
        doing = f"the release of lock {info.name!r}"
        return await self.write(doing, release, info.name, info.owner) is not None

    async def close(self) -> None:
        """Mark all leases as lost. Their rows stay in the table until they run out."""
        if lost := [lease._lose("the database was closed") for lease in list(self.held)]:
            await asyncio.wait(lost)

    def leave_to_others(self, name: str) -> None:
        """Have the next task of this process that asks for the lock wait for `COURTESY` seconds."""
        now = monotonic()
        self._courtesy = {each: end for each, end in self._courtesy.items() if end > now}
        self._courtesy[name] = now + COURTESY

    def courtesy(self, name: str) -> float:
        """Return for how many more seconds the lock is left to other processes."""
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
        """How long the lease lasts without being renewed, in seconds."""
        self.token = 0
        """The fencing token: greater than the token of every earlier grant of this lock; 0 before
        the lock is held."""
        self.label = label
        """What the lock is held for, as `lock_info` shows it."""
        self._leases = leases
        self._timeout = timeout
        self._create = create
        self._owner = uuid4().hex
        self._turn = leases.turns.lock(name, timeout=timeout)
        self._until = 0  # the end of the lease, in milliseconds as in the table
        self._lost: asyncio.Future[LockLostError | None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._renewing: asyncio.Task[None]
        self._problem: Exception | None = None  # the error of the last renewal

    async def __aenter__(self) -> Self:
        limit = Deadline.after(self._timeout)
        try:
            await self._turn.__aenter__()
        except LockTimeoutError as error:
            # The task whose turn it is may itself be waiting for another process, so ask the
            # database for the holder of the lock.
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
        """A future to be awaited. It is done as soon as the lease is known to be lost, with the
        error that says why, or at the end of the block, with None."""
        return asyncio.shield(self._entered())

    def check(self) -> None:
        """Raise `LockLostError` if the lease is over according to the clock or to the last renewal.
        The database is not asked, so this is cheap."""
        lost = self._entered()
        if milliseconds() >= self._until:
            self._expire()
        if lost.done():
            error = lost.result()
            if error is None:
                raise LockStateError(f"lock {self.name!r} has been released")
            raise LockLostError(str(error)) from error.__cause__

    def fence(self, pool: Pool) -> Callable[[Session], None]:
        """Return the function with which a transaction on `pool` checks the lease first.

        Raises what `check` does, and `LockStateError` if the lease is of another `Database`.
        """
        if pool is not self._leases.pool:
            raise LockStateError(f"the lease on lock {self.name!r} is of another Database")
        self.check()
        return lambda cx: fence(cx, self.name, self.token)

    # -- inside ----------------------------------------------------------------------------------

    def _lose(self, why: str) -> asyncio.Task[None]:
        """Mark the lease as lost, if it is not over yet; return its renewing task, which ends."""
        lost = self._entered()
        if not lost.done():
            error = LockLostError(f"the lease on lock {self.name!r} is lost: {why}")
            error.__cause__ = self._problem
            lost.set_result(error)
            self._end()
        return self._renewing

    async def _acquire(self, limit: Deadline) -> tuple[int, int]:
        """Wait until the lock is granted; return its token and when the lease runs out, in
        milliseconds."""
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
            # The grant may have been committed all the same.
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
                pause = next(pauses)  # when the lease runs out, its timer ends this (fault 77)

    async def _renewed(self) -> bool:
        """Renew the lease. Return False if that failed and has to be tried again, True if the lease
        was renewed or is over."""
        doing = f"the renewal of lock {self.name!r}"
        try:
            until = await self._leases.write(
                doing, renew, self.name, self.token, self._milliseconds
            )
        except Exception as error:
            self._problem = error  # the cause of the `LockLostError`, if no later try succeeds
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
        await asyncio.wait([self._renewing])  # a renewal that has begun ends before the release
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
        """End the lease in this process: its future, its task, its timer and its turn."""
        lost = self._entered()
        if not lost.done():
            lost.set_result(None)
        self._stop()
        self._leases.held.discard(self)
        self._turn.release()

    def _stop(self) -> None:
        """Stop renewing the lease."""
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


_GONE = "it was released by another task or process, or ran out"


_MISSING = "no such table: distributed_locks"


@contextmanager
def _table() -> Iterator[None]:
    """Replace the error for a missing table by one that says how to create the table."""
    try:
        yield
    except StatementError as error:
        if _MISSING not in str(error):
            raise
        missing = StatementError(
            "locks need the table distributed_locks, which this database does not have: put"
            " abt_db.LOCKS_TABLE.sql into a migration, or run abt_db.LOCKS_TABLE() once",
            query=error.query,
            sql=error.sql,
            code=error.sqlite_errorcode,
            name=error.sqlite_errorname,
        )
        missing.add_note(LOCKS_TABLE.sql)
        raise missing from error.__cause__
