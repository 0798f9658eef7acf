"""Handles on a lent connection: `Transaction`, its `Savepoint`s, `Snapshot` and `Stream`.

Any task of the event loop may use a handle. Calls that come at the same time are served one after
the other, in the order in which they came. After its block a handle can't be used any more
(invariant 18).

When a block is left by an error or a cancellation, the connection is given back by a plain function
call, and the slot's task rolls back. A transaction's block waits for that rollback, so that its
caller does not go on while the file is still locked. If the wait is cancelled or times out, the
rollback goes on all the same (invariants 11, 12).

A block must be ended by the task that has entered it. Frameworks end some blocks in another task:
they set up a fixture or a dependency in one task, which ends, and tear it down in another. So once
the task that entered the block is done, any task may end it. If another task leaves the block
without an error while the first one still runs, that is a mistake: the block is rolled back, the
connection is given back because no other code might do so, and the task that left the block gets
`TransactionStateError`.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from contextlib import suppress
from time import monotonic
from types import TracebackType
from typing import Any, Concatenate, Generic, Literal, ParamSpec, Self, TypeVar

from abt_db.connection.busy import while_busy
from abt_db.connection.deadline import COMMIT_GRACE, GRACE, Deadline
from abt_db.connection.session import Block, Reading, Result, Session
from abt_db.connection.stats import Outcome
from abt_db.connection.transaction import EngineSession
from abt_db.errors import (
    BeginBusyError,
    CommitUnknownError,
    StatementTimeoutError,
    TransactionAbortedError,
    TransactionStateError,
    TransactionTimeoutError,
)
from abt_db.events import Transacted
from abt_db.pool.call import name_of
from abt_db.pool.loan import Loan
from abt_db.pool.pool import OpenTransaction, Pool
from abt_db.sql.query import Query, Statement, query_of, require_many, series

T = TypeVar("T")
P = ParamSpec("P")


class _Scope:
    """The state of a lent connection that its handles share: a transaction and its savepoints."""

    def __init__(self, loan: Loan) -> None:
        self.loan = loan
        self.loop = asyncio.get_running_loop()
        self.turn = asyncio.Lock()
        """Held by the call that is running; the other calls wait in the order in which they came.
        """
        self.answered = True
        """Whether the thread is done with the last call. False if its caller was cancelled, or got
        its time limit's error, and the call may still be running."""
        self.ending = False
        """Whether further calls are refused, because after the COMMIT they would be in no
        transaction."""
        self.steps: deque[Callable[[EngineSession], object]] = deque()
        """What the next call does first, in its own hop, so that a savepoint needs no hop. Steps
        are taken out on the connection's thread, so that none is lost if a call never runs."""
        self.savepoints: list[Savepoint] = []
        """The open savepoints, the outermost first."""
        self._settled = asyncio.Event()
        loan.on_settled = self._settled.set

    async def undone(self, error: BaseException | None, until: float | None) -> None:
        """Wait, after `give_back`, until the lane has rolled back the transaction that `error` has
        ended, so that the caller finds the file's lock free.

        Cancelling this ends the wait, not the rollback. If a call may still be running after its
        caller has gone, the wait lasts `GRACE` seconds at most. Otherwise it lasts until the
        transaction's limit at most, as the wait for a COMMIT does (invariant 33). There is no wait
        after an error that ends the program or closes the coroutine.
        """
        if not isinstance(error, Exception | asyncio.CancelledError):
            return
        if self._settled.is_set() or _running_loop() is not self.loop:
            return
        patience: float | None = None
        if not self.answered:
            patience = GRACE
        elif until is not None:
            patience = max(COMMIT_GRACE, until - monotonic())
        with suppress(TimeoutError):
            async with asyncio.timeout(patience):
                await self._settled.wait()


class _Handle:
    """The verbs that every handle has: they read. Each verb takes one hop."""

    def __init__(self, pool: Pool, label: str, priority: int = 0) -> None:
        self._pool = pool
        self._label = label
        self._priority = priority  # in the lane's queue
        self._scope: _Scope | None = None
        self._task: asyncio.Task[Any] | None = None  # the task that has entered the block
        self._ended = False

    async def fetch_one(self, statement: Statement[T], *, timeout: float | None = None) -> T | None:
        """Return the first row, or None when there is none."""
        return await self._run(
            query_of(statement).name, lambda session: session.fetch_one(statement), timeout
        )

    async def fetch_all(self, statement: Statement[T], *, timeout: float | None = None) -> list[T]:
        """Return all rows."""
        return await self._run(
            query_of(statement).name, lambda session: session.fetch_all(statement), timeout
        )

    def stream(
        self, statement: Statement[T], *, size: int = 500, timeout: float | None = None
    ) -> Stream[T]:
        """Return the rows, to be read as needed, `size` in a hop; see `Database.stream`."""
        return Stream(self, statement, size, timeout)

    async def read(
        self, function: Callable[Concatenate[Session, P], T], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """Run a synchronous function on the connection; see `Database.read`."""
        return await self._run(
            name_of(function), lambda session: session.call(function, *args, **kwargs)
        )

    async def _run(
        self, doing: str, function: Callable[[EngineSession], T], timeout: float | None = None
    ) -> T:
        return await self._run_in(self._entered(), doing, function, timeout)

    async def _run_in(
        self,
        scope: _Scope,
        doing: str,
        function: Callable[[EngineSession], T],
        timeout: float | None,
    ) -> T:
        """Run one call on the lent connection, after the calls of this handle that came before."""
        deadline = Deadline.after(timeout)
        if timeout is None:
            await scope.turn.acquire()
        else:
            try:
                async with asyncio.timeout(timeout):
                    await scope.turn.acquire()
            except TimeoutError:
                raise StatementTimeoutError(
                    f"{doing} was stopped at its time limit, before it began: its turn has not come"
                    f" behind {scope.loan.holding().query or 'those before it'} in {self._label}"
                ) from None
        try:
            deadline.limited(self._pool.config.statement_timeout)
            scope.answered = False
            result = await scope.loan.run(
                lambda session: self._call(session, scope, function), deadline, doing
            )
            scope.answered = True
            return result
        except Exception:
            scope.answered = deadline.given_up is None
            raise
        finally:
            scope.turn.release()

    def _call(
        self, session: EngineSession, scope: _Scope, function: Callable[[EngineSession], T]
    ) -> T:
        """Run a call on the connection's thread, after the steps that wait for a hop."""
        try:
            session.require_transaction()
            while scope.steps:
                scope.steps.popleft()(session)
            session.require_transaction()
        except TransactionAbortedError as error:
            raise TransactionAbortedError(f"{self._label}: {error}") from None
        return function(session)

    def _entered(self) -> _Scope:
        """Return the scope of the handle. Raises `TransactionStateError` if the handle can't be
        used: outside its block, or in another event loop."""
        scope = self._scope
        if scope is None or scope.ending or self._ended:
            ended = self._ended or scope is not None
            problem = "has ended" if ended else "has not begun; use it with `async with`"
            raise TransactionStateError(f"{self._label} {problem}")
        if asyncio.get_running_loop() is not scope.loop:
            raise TransactionStateError(f"{self._label} was begun in another event loop")
        return scope

    async def _enter(self, loan: Loan, mode: str, until: float | None = None) -> None:
        """Begin the transaction. Waits in the event loop while another process has the lock."""

        def begin(session: EngineSession) -> None:
            session.begin(mode)
            self._first(session)

        async def attempt() -> None:
            try:
                await loan.run(begin, Deadline(), "BEGIN")
                loan.blocked = False
            except BeginBusyError:
                loan.blocked = True
                raise

        scope = _Scope(loan)
        limit = Deadline(until)
        limit.limited(self._pool.config.busy_timeout)
        try:
            self._require_new()
            await while_busy(attempt, limit, kind=BeginBusyError, who=self._pool.who)
            self._require_new()  # again: another task may have entered the block meanwhile
        except BaseException as error:
            # After a cancellation the BEGIN may have been done: the lane rolls that back (invariant
            # 12).
            loan.give_back()
            scope.answered = isinstance(error, Exception)
            await scope.undone(error, until)
            raise
        self._scope, self._task = scope, loan.task

    def _require_new(self) -> None:
        if self._scope is not None or self._ended:
            raise TransactionStateError(f"{self._label} can be entered only once")

    def _first(self, session: EngineSession) -> None:
        """Do what a kind of transaction needs first, in the hop that begins it."""

    def _leave(self, *, committed: bool = False) -> None:
        """Give the connection back; if a transaction is open, the lane rolls it back."""
        scope, self._scope, self._task = self._scope, None, None
        self._ended = True
        if scope is not None:
            scope.ending = True
            loan = scope.loan
            if scope.loop.is_closed():
                loan.abandon()
                return
            if _running_loop() is not scope.loop:
                # Only the scope's own event loop may wake the slot's task.
                scope.loop.call_soon_threadsafe(loan.give_back)
                return
            loan.give_back()
            if Transacted in self._pool.listeners.wanted:
                outcome: Literal["committed", "rolled back"] = (
                    "committed" if committed else "rolled back"
                )
                seconds = monotonic() - loan.began
                self._pool.listeners.tell(Transacted(self._label, seconds, outcome))


class Snapshot(_Handle):
    """One consistent view of the database, on one reader, for as long as the block lasts.

    Commits after its beginning are not seen. While a snapshot is open the write-ahead log can't be
    reset and grows, so a snapshot should be closed as soon as it is not needed any more.
    """

    async def __aenter__(self) -> Self:
        loan = await self._pool.lend_reader(self._label, priority=self._priority)
        await self._enter(loan, "SNAPSHOT")
        return self

    async def __aexit__(
        self,
        _kind: type[BaseException] | None,
        error: BaseException | None,
        _traceback: TracebackType | None,
    ) -> None:
        elsewhere = None if error is not None else _elsewhere(self._label, self._task)
        self._leave()
        if elsewhere is not None:
            raise elsewhere

    def _call(
        self, session: EngineSession, scope: _Scope, function: Callable[[EngineSession], T]
    ) -> T:
        return super()._call(session, scope, self._pool.reading(function))


class _Writing(_Handle):
    """The verbs of a handle that can also write."""

    async def execute(self, statement: Statement[Any], *, timeout: float | None = None) -> Result:
        """Run a statement that writes. The rows that it returns are dropped; `fetch_all` runs such
        a statement and returns them."""
        return await self._run(
            query_of(statement).name, lambda session: session.execute(statement), timeout
        )

    async def execute_batch(
        self, statements: Iterable[Statement[Any]], *, timeout: float | None = None
    ) -> list[Result]:
        """Run several statements that write, all or none of them."""
        batch = list(series(statements, "execute_batch", "statements"))
        return await self._run(
            query_of(batch[0]).name if batch else "an empty batch",
            lambda session: session.execute_batch(batch),
            timeout,
        )

    async def execute_many(
        self, query: Query[Any], rows: Iterable[object], *, timeout: float | None = None
    ) -> int:
        """Run one statement for each of `rows`, all or none; return how many rows changed."""
        require_many(query, rows)
        return await self._run(
            query.name, lambda session: session.execute_many(query, rows), timeout
        )

    async def write(
        self, function: Callable[Concatenate[Session, P], T], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """Run a synchronous function; if it raises, its own writes are undone."""

        def run(session: EngineSession) -> T:
            with session.atomic():
                return session.call(function, *args, **kwargs)

        return await self._run(name_of(function), run)

    def savepoint(self) -> Savepoint:
        """Return a block whose work, and no other, is undone when the block is left by an error."""
        return Savepoint(self)


class Transaction(_Writing):
    """A write transaction: ``BEGIN IMMEDIATE`` on the writer, COMMIT at the end of the block.

    If the block is left by an error or a cancellation, the transaction is rolled back. If the
    COMMIT itself is cancelled, the transaction may or may not be in the database; the writer serves
    no other call before that is settled.
    """

    def __init__(
        self,
        pool: Pool,
        label: str,
        *,
        mode: Literal["immediate", "exclusive"],
        timeout: float | None,
        priority: int = 0,
        fence: Callable[[Session], None] | None = None,
    ) -> None:
        super().__init__(pool, label, priority)
        if mode not in ("immediate", "exclusive"):
            raise ValueError(f"mode must be 'immediate' or 'exclusive', not {mode!r}")
        self._mode = mode.upper()
        self._fence = fence
        self._limit = timeout
        self.until: float | None = None
        """The moment by which the transaction must have begun and ended, on the clock of
        `time.monotonic()`. If it is set, `timeout` does not apply."""
        self._timer: asyncio.TimerHandle | None = None
        self._ends: float | None = None  # when the timer fires, on the same clock
        self._tables_written: Callable[[], frozenset[str] | None]
        self._opened: OpenTransaction | None = None

    async def __aenter__(self) -> Self:
        loan = await self._pool.lend_writer(self._label, priority=self._priority, at=self.until)
        await self._enter(loan, self._mode, self.until)
        assert self._scope is not None
        self._opened = self._pool.open_transaction = OpenTransaction(
            loan, self._tables_written, self._scope.undone, self._pool.transacted
        )
        limit = self._limit if self.until is None else max(0.0, self.until - monotonic())
        if limit is not None:
            error = TransactionTimeoutError(
                f"{self._label} was open longer than its limit of {round(limit, 3):g} s"
                " and has been rolled back"
            )
            self._timer = asyncio.get_running_loop().call_later(
                limit, self._opened.revoke, error, "timed_out"
            )
            self._ends = monotonic() + limit
        return self

    def remaining(self) -> float | None:
        """Return the seconds until the transaction reaches its limit and is rolled back; None if it
        has no limit or has not begun."""
        return None if self._ends is None else max(0.0, self._ends - monotonic())

    def _first(self, session: EngineSession) -> None:
        session.require_files()  # the COMMIT checks that too, but only after all the work
        self._tables_written = session.tables_written
        if self._fence is not None:
            self._fence(session)

    async def __aexit__(
        self,
        _kind: type[BaseException] | None,
        error: BaseException | None,
        _traceback: TracebackType | None,
    ) -> None:
        committed, lent, opened = False, self._scope, self._opened
        try:
            if error is None:
                scope = self._entered()
                if (elsewhere := _elsewhere(self._label, self._task)) is not None:
                    raise elsewhere
                scope.ending = True
                if opened is not None:
                    opened.committing = True
                await self._run_in(scope, "COMMIT", EngineSession.commit, None)
                committed = True
        except BaseException as failure:
            error = failure
            raise
        finally:
            if self._timer is not None:
                self._timer.cancel()
            self._leave(committed=committed)
            if opened is not None:
                opened.count("committed" if committed else _undone_by(error, opened))
                if self._pool.open_transaction is opened and opened.loan.returned:
                    self._pool.open_transaction = None
            if lent is not None:
                await lent.undone(error, self._ends)


class Savepoint(_Writing):
    """A block inside a transaction. It takes no hop of its own and can be nested.

    Everything that runs in the transaction while a savepoint is open is part of that savepoint,
    through whatever handle and in whatever task it runs. Savepoints of tasks that run at the same
    time are nested in the order in which they began.

    When an outer savepoint ends before an inner one, the inner one ends too and can't be used any
    more. If the outer one was undone, the inner one's work was undone as well, and leaving the
    inner block without an error raises `TransactionStateError`. If the outer one was kept and the
    inner block is left by an error, the inner work can't be undone alone: what follows in the
    transaction raises `TransactionAbortedError`.
    """

    def __init__(self, outer: _Writing) -> None:
        super().__init__(outer._pool, f"a savepoint in {outer._label}")
        self._outer = outer
        self._block = Block()
        self._undone = False  # by a block around this one, which was left first

    async def __aenter__(self) -> Self:
        self._require_new()
        scope = self._outer._entered()
        self._scope, self._task = scope, asyncio.current_task()
        scope.savepoints.append(self)
        scope.steps.append(lambda session: session.open_block(self._block))
        return self

    async def __aexit__(
        self,
        _kind: type[BaseException] | None,
        error: BaseException | None,
        _traceback: TracebackType | None,
    ) -> None:
        scope, self._scope, self._ended = self._scope, None, True
        if scope is None:
            return
        elsewhere = None if error is not None else _elsewhere(self._label, self._task)
        undo = error is not None or elsewhere is not None
        if self in scope.savepoints:
            place = scope.savepoints.index(self)
            for inner in scope.savepoints[place + 1 :]:
                inner._ended, inner._undone = True, undo
            del scope.savepoints[place:]
        if self._undone and error is None:
            raise TransactionStateError(
                f"the work of {self._label} was undone with that of the savepoint around it, which"
                " was left first"
            )
        if not self._undone:
            scope.steps.append(lambda session: session.close_block(self._block, undo=undo))
        if elsewhere is not None:
            raise elsewhere


class Stream(Generic[T]):
    """The rows of one statement, read as they are needed: ``async for row in stream``.

    Memory holds one list of `size` rows at a time. Leaving the block early drops the rest.
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
        self._task: asyncio.Task[Any] | None = None  # the task that has entered the block
        self._scope: _Scope | None = None
        self._hidden: frozenset[str] | None = frozenset()
        self._reading: Reading[T] | None = None
        # Rows that were read and not yet returned. They are kept here, so that a consumer that
        # stops iterating can go on later.
        self._rows: Iterator[T] = iter(())
        self._turn = asyncio.Lock()  # held by the task that reads the next rows
        self._interrupted = False
        self._over = False

    async def __aenter__(self) -> Self:
        if self._own is not None:
            self._hidden = self._handle._pool.uncommitted()
            await self._own.__aenter__()
        self._task, self._scope = asyncio.current_task(), self._handle._entered()
        try:
            rows = await self._run(self._begin)
            self._rows = iter(rows)
        except BaseException as error:
            await self.__aexit__(type(error), error, None)
            raise
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._rows, self._over = iter(()), True
        scope, self._scope = self._scope, None
        if self._own is not None:
            await self._own.__aexit__(kind, error, traceback)
        elif scope is not None:
            scope.steps.append(self._end)
            if error is None and (elsewhere := _elsewhere(self._name, self._task)) is not None:
                raise elsewhere

    @property
    def _name(self) -> str:
        return f"stream of {self._statement.query.name}"

    async def _run(self, step: Callable[[EngineSession], list[T]]) -> list[T]:
        return await self._handle._run(self._statement.query.name, step, self._timeout)

    # On the connection's thread. `_reading` is set there, so that it is known, and can be closed,
    # even if the caller was cancelled before it got the first rows.

    def _begin(self, session: EngineSession) -> list[T]:
        with session.hiding(self._hidden):
            self._reading = session.reading(self._statement, self._size)
        return self._reading.next()

    def _end(self, _session: EngineSession) -> None:
        if self._reading is not None:
            self._reading.close()

    async def __aiter__(self) -> AsyncIterator[T]:
        while True:
            rows = self._rows
            for row in rows:
                yield row
            async with self._turn:
                if self._rows is not rows and not self._over:
                    continue  # another task has read the next rows meanwhile
                if self._reading is None or self._over:
                    raise TransactionStateError("a stream is read inside its `async with` block")
                more = await self._run(self._next)
                self._interrupted = False
                if not more:
                    return
                self._rows = iter(more)

    def _next(self, _session: EngineSession) -> list[T]:
        if self._interrupted:
            raise TransactionStateError(
                f"{self._name} was stopped while it read; rows would be missing"
            )
        self._interrupted = True  # until the event loop has got the rows
        return [] if self._reading is None else self._reading.next()


def _elsewhere(label: str, task: asyncio.Task[Any] | None) -> TransactionStateError | None:
    """Return the error for a block that is left, without an error, in a task that must not end it;
    None if that task may end it."""
    if task is None or task.done() or task is asyncio.current_task():
        return None
    return TransactionStateError(
        f"{label} was entered by task {task.get_name()!r}, which still runs and alone can end it;"
        " another task has left the block, so it has been given up, and nothing of it was written"
    )


def _undone_by(error: BaseException | None, opened: OpenTransaction) -> Outcome:
    """Return the outcome of a transaction whose block was left by an error."""
    if isinstance(error, CommitUnknownError):
        return "unknown"
    if opened.committing and opened.loan.committing and not isinstance(error, Exception):
        return "unknown"  # cancelled in its COMMIT
    if isinstance(opened.loan.error, TransactionTimeoutError):
        return "timed_out"
    return "rolled_back"


def _running_loop() -> asyncio.AbstractEventLoop | None:
    """Return the running event loop. There is none if Python closes a coroutine by garbage
    collection after the loop has ended: then None."""
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None
