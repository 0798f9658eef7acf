"""Handles on a lent connection: `Transaction`, its `Savepoint`s, `Snapshot` and `Stream`.

A handle belongs to the task that entered its block and is dead after it (invariant 18). Leaving
the block by an error or a cancellation awaits nothing: the connection is given back, and the
lane's task rolls back. Only the end of a good transaction is awaited, its COMMIT.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from time import monotonic
from types import TracebackType
from typing import Any, Concatenate, Generic, Literal, ParamSpec, Self, TypeVar

from .busy import while_busy
from .channel import BeginBusyError, Channel
from .deadline import Deadline
from .errors import TransactionAbortedError, TransactionStateError, TransactionTimeoutError
from .events import Transacted
from .pool import Pool
from .query import Query, Statement, query_of, require_many, series
from .session import Reading, Result, Session
from .work import Lease, name_of

__all__ = ["Savepoint", "Snapshot", "Stream", "Transaction"]

T = TypeVar("T")
P = ParamSpec("P")


class _Handle:
    """What every handle can do: read. Each verb is one thread hop."""

    def __init__(self, pool: Pool, label: str) -> None:
        self._pool = pool
        self._label = label
        self._lease: Lease | None = None
        self._ended = False
        # Steps that the next job takes first, in its own hop: savepoints cost none of their own.
        # Taken out on the connection's thread, so that a job that never ran loses none.
        self._steps: deque[Callable[[Channel], object]] = deque()

    async def fetch_one(self, statement: Statement[T], *, timeout: float | None = None) -> T | None:
        """Return the first row, or None when there is none."""
        return await self._run(
            query_of(statement).name, lambda channel: channel.fetch_one(statement), timeout
        )

    async def fetch_all(self, statement: Statement[T], *, timeout: float | None = None) -> list[T]:
        """Return all rows."""
        return await self._run(
            query_of(statement).name, lambda channel: channel.fetch_all(statement), timeout
        )

    def stream(
        self, statement: Statement[T], *, size: int = 500, timeout: float | None = None
    ) -> Stream[T]:
        """Read rows as they are asked for, `size` in a hop; see `Database.stream`."""
        return Stream(self, statement, size, timeout)

    async def read(
        self, function: Callable[Concatenate[Session, P], T], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """Run a synchronous function on the connection; see `Database.read`."""
        return await self._run(
            name_of(function), lambda channel: function(channel, *args, **kwargs)
        )

    async def _run(
        self, doing: str, function: Callable[[Channel], T], timeout: float | None = None
    ) -> T:
        lease = self._entered()
        deadline = Deadline.after(timeout)
        deadline.limited(self._pool.config.statement_timeout)
        return await lease.run(lambda channel: self._job(channel, function), deadline, doing)

    def _job(self, channel: Channel, function: Callable[[Channel], T]) -> T:
        """What is run on the connection's thread."""
        try:
            channel.require_transaction()
        except TransactionAbortedError as error:
            raise TransactionAbortedError(f"{self._label}: {error}") from None
        while self._steps:
            self._steps.popleft()(channel)
        return function(channel)

    def _entered(self) -> Lease:
        """Return the lease, if the handle may be used here and now."""
        if self._lease is None:
            problem = "has ended" if self._ended else "has not begun; use it with `async with`"
            raise TransactionStateError(f"{self._label} {problem}")
        if asyncio.current_task() is not self._lease.task:
            raise TransactionStateError(
                f"{self._label} belongs to another task; hand on its results, not the handle"
            )
        return self._lease

    async def _enter(self, lease: Lease, mode: str, until: float | None = None) -> None:
        """Begin, waiting in the event loop for another process's lock."""

        def begin(channel: Channel) -> None:
            channel.begin(mode)
            self._first(channel)

        async def attempt() -> None:
            try:
                await lease.run(begin, Deadline(), "BEGIN")
                lease.blocked = False
            except BeginBusyError:
                lease.blocked = True
                raise

        if self._lease is not None or self._ended:
            lease.give_back()
            raise TransactionStateError(f"{self._label} can be entered only once")
        limit = Deadline(until)
        limit.limited(self._pool.config.busy_timeout)
        try:
            await while_busy(attempt, limit, kind=BeginBusyError, who=self._pool.who)
        except BaseException:
            # Cancelled as well: if the BEGIN landed, the lane rolls it back (invariant 12).
            lease.give_back()
            raise
        self._lease = lease

    def _first(self, channel: Channel) -> None:
        """What is done in the transaction, in the hop that begins it."""

    def _leave(self, *, committed: bool = False) -> None:
        """Give the connection back; if a transaction is open, the lane rolls it back."""
        lease, self._lease = self._lease, None
        self._ended = True
        if lease is not None:
            lease.give_back()
            if Transacted in self._pool.listeners.wanted:
                outcome: Literal["committed", "rolled back"] = (
                    "committed" if committed else "rolled back"
                )
                seconds = monotonic() - lease.began
                self._pool.listeners.tell(Transacted(self._label, seconds, outcome))


class Snapshot(_Handle):
    """One consistent view of the database, on one reader, for as long as the block lasts.

    Commits of others after its beginning are not seen. As long as it is open the write-ahead log
    can't be reset, so it should not be kept for longer than it is needed.
    """

    async def __aenter__(self) -> Self:
        lease = await self._pool.lend_reader(self._label)
        await self._enter(lease, "SNAPSHOT")
        return self

    async def __aexit__(self, *_error: object) -> None:
        self._leave()

    def _job(self, channel: Channel, function: Callable[[Channel], T]) -> T:
        return super()._job(channel, self._pool.reading(function))


class _Writing(_Handle):
    """What a handle can do that may write as well."""

    async def execute(self, statement: Statement[Any], *, timeout: float | None = None) -> Result:
        """Run a statement that writes; rows that it returns are dropped, `fetch_all` has them."""
        return await self._run(
            query_of(statement).name, lambda channel: channel.execute(statement), timeout
        )

    async def execute_batch(
        self, statements: Iterable[Statement[Any]], *, timeout: float | None = None
    ) -> list[Result]:
        """Run several statements that write, all or none of them."""
        batch = list(series(statements, "execute_batch", "statements"))
        return await self._run(
            query_of(batch[0]).name if batch else "an empty batch",
            lambda channel: channel.execute_batch(batch),
            timeout,
        )

    async def execute_many(
        self, query: Query[Any], rows: Iterable[object], *, timeout: float | None = None
    ) -> int:
        """Run one statement for each of `rows`, all or none; return how many rows changed."""
        require_many(query, rows)
        return await self._run(
            query.name, lambda channel: channel.execute_many(query, rows), timeout
        )

    async def write(
        self, function: Callable[Concatenate[Session, P], T], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """Run a synchronous function; if it raises, what it wrote is undone."""

        def run(channel: Channel) -> T:
            with channel.atomic():
                return function(channel, *args, **kwargs)

        return await self._run(name_of(function), run)

    def savepoint(self) -> Savepoint:
        """Return a block whose work is undone when it is left by an error, and only that."""
        return Savepoint(self)


class Transaction(_Writing):
    """A write transaction: ``BEGIN IMMEDIATE`` on the writer, COMMIT at the end of the block.

    Left by an error or a cancellation it is rolled back. When the COMMIT itself is cancelled the
    transaction may or may not be in the database; the writer serves nobody before that is settled.
    """

    def __init__(
        self,
        pool: Pool,
        label: str,
        *,
        mode: Literal["immediate", "exclusive"],
        timeout: float | None,
        fence: Callable[[Session], None] | None = None,
    ) -> None:
        super().__init__(pool, label)
        if mode not in ("immediate", "exclusive"):
            raise ValueError(f"mode must be 'immediate' or 'exclusive', not {mode!r}")
        self._mode = mode.upper()
        self._fence = fence
        self._limit = timeout
        self.until: float | None = None
        """When it must have begun and ended, on the clock of `time.monotonic()`; goes before the
        limit."""
        self._timer: asyncio.TimerHandle | None = None

    async def __aenter__(self) -> Self:
        lease = await self._pool.lend_writer(self._label, at=self.until)
        await self._enter(lease, self._mode, self.until)
        limit = self._limit if self.until is None else max(0.0, self.until - monotonic())
        if limit is not None:
            error = TransactionTimeoutError(
                f"{self._label} was open longer than its limit of {round(limit, 3):g} s"
                " and has been rolled back"
            )
            self._timer = asyncio.get_running_loop().call_later(limit, lease.revoke, error)
        return self

    def _first(self, channel: Channel) -> None:
        channel.require_files()  # the COMMIT does so as well, after all the work
        if self._fence is not None:
            self._fence(channel)

    async def __aexit__(
        self,
        _kind: type[BaseException] | None,
        error: BaseException | None,
        _traceback: TracebackType | None,
    ) -> None:
        committed = False
        try:
            if error is None:
                await self._run("COMMIT", Channel.commit)
                committed = True
        finally:
            if self._timer is not None:
                self._timer.cancel()
            self._leave(committed=committed)


class Savepoint(_Writing):
    """A block inside a transaction. It takes no hop of its own and can be nested."""

    def __init__(self, outer: _Writing) -> None:
        super().__init__(outer._pool, f"a savepoint in {outer._label}")
        self._outer = outer
        self._steps = outer._steps

    async def __aenter__(self) -> Self:
        if self._lease is not None or self._ended:
            raise TransactionStateError(f"{self._label} can be entered only once")
        self._lease = self._outer._entered()
        self._steps.append(lambda channel: channel.control("SAVEPOINT abt_db"))
        return self

    async def __aexit__(
        self,
        _kind: type[BaseException] | None,
        error: BaseException | None,
        _traceback: TracebackType | None,
    ) -> None:
        self._lease, self._ended = None, True
        if error is not None:
            self._steps.append(lambda channel: channel.control("ROLLBACK TO abt_db"))
        self._steps.append(lambda channel: channel.control("RELEASE abt_db"))


class Stream(Generic[T]):
    """The rows of one statement, read as they are asked for: ``async for row in stream``.

    Memory holds one list of rows at a time. Leaving the block early lets go of the rest.
    """

    def __init__(
        self,
        handle: _Handle,
        statement: Statement[T],
        size: int,
        timeout: float | None,
        *,
        own: Snapshot | None = None,
    ) -> None:
        if size < 1:
            raise ValueError(f"the size of a stream's lists must be 1 or more, not {size}")
        self._handle = handle
        self._own = own
        self._statement = statement
        self._size = size
        self._timeout = timeout
        self._reading: Reading[T] | None = None
        # Those that were read and not yet handed out: whoever breaks off can go on.
        self._rows: Iterator[T] = iter(())
        self._interrupted = False
        self._over = False

    async def __aenter__(self) -> Self:
        if self._own is not None:
            await self._own.__aenter__()
        try:
            rows = await self._handle._run(self._statement.query.name, self._begin, self._timeout)
            self._rows = iter(rows)
        except BaseException:
            await self.__aexit__()
            raise
        return self

    async def __aexit__(self, *_error: object) -> None:
        self._rows, self._over = iter(()), True
        if self._own is not None:
            self._own._leave()
        else:
            self._handle._steps.append(self._end)

    # On the connection's thread. What was begun is known there even if the caller was cancelled
    # before it was told.

    def _begin(self, channel: Channel) -> list[T]:
        self._reading = channel.reading(self._statement, self._size)
        return self._reading.next()

    def _end(self, _channel: Channel) -> None:
        if self._reading is not None:
            self._reading.close()

    async def __aiter__(self) -> AsyncIterator[T]:
        while True:
            for row in self._rows:
                yield row
            if self._reading is None or self._over:
                raise TransactionStateError("a stream is read inside its `async with` block")
            if self._interrupted:
                raise TransactionStateError(
                    f"{self._handle._label} was stopped while it read; rows would be missing"
                )
            self._interrupted = True
            rows = await self._handle._run(self._statement.query.name, self._next, self._timeout)
            self._interrupted = False
            if not rows:
                return
            self._rows = iter(rows)

    def _next(self, _channel: Channel) -> list[T]:
        return [] if self._reading is None else self._reading.next()
