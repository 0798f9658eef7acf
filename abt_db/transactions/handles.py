"""Handles on a lent connection: `Transaction`, its `Savepoint`s, `Snapshot` and `Stream`.

Any task of the event loop may use a handle; calls that come at the same time are served one after
the other, in order. After its block a handle is dead (invariant 18). A block that is left by an
error or a cancellation gives the connection back by a plain call, and the lane's task rolls back: a
transaction waits for that, so that its caller does not hear of the end while the file is locked
still, but whatever becomes of that wait, nothing depends on it (invariants 11, 12).

A block is ended by the task that has entered it. Frameworks end some blocks elsewhere: a fixture or
a dependency is set up in one task, which ends, and is finished in another. So once the task that
entered the block is done, any task may end it. While that task lives, a good end elsewhere is a
mistake: the block is rolled back and the connection given back, for nothing else might do so, and
whoever ended it gets `TransactionStateError`.
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
    """A lent connection, as the handles share it that use it: a transaction and its savepoints."""

    def __init__(self, loan: Loan) -> None:
        self.loan = loan
        self.loop = asyncio.get_running_loop()
        self.turn = asyncio.Lock()
        """Held by the call that is running; further calls wait for it in the order of coming."""
        self.answered = True
        """Whether the thread is done with the last call: not where that was cancelled, or freed at
        its limit, and may be running still."""
        self.ending = False
        """Whether no further call may come: behind the COMMIT it would be in no transaction."""
        self.steps: deque[Callable[[EngineSession], object]] = deque()
        """What the next call does first, in its own hop: savepoints cost none of their own. Taken
        out on the connection's thread, so that a call that never ran loses none."""
        self.savepoints: list[Savepoint] = []
        """Those that are open, the outermost first."""
        self._settled = asyncio.Event()
        loan.on_settled = self._settled.set

    async def undone(self, error: BaseException | None, until: float | None) -> None:
        """Behind `give_back`, return when the lane has rolled back what `error` has ended: whoever
        is told of the end finds the file's lock free.

        Cancelling this ends the wait, not the rollback. A call that may be running still, for
        nobody, is waited for GRACE seconds at most, and a rollback until the transaction's limit,
        as a COMMIT is (invariant 33). An error that ends the program, or closes the coroutine,
        waits for nothing.
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
    """What every handle can do: read. Each verb is one thread hop."""

    def __init__(self, pool: Pool, label: str, priority: int = 0) -> None:
        self._pool = pool
        self._label = label
        self._priority = priority  # among those that wait for the connection
        self._scope: _Scope | None = None
        self._task: asyncio.Task[Any] | None = None  # the one that has entered the block
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
        """Read rows as they are asked for, `size` in a hop; see `Database.stream`."""
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
        """Run one call when its turn has come."""
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
        """What is run on the connection's thread."""
        try:
            session.require_transaction()
            while scope.steps:
                scope.steps.popleft()(session)
            session.require_transaction()
        except TransactionAbortedError as error:
            raise TransactionAbortedError(f"{self._label}: {error}") from None
        return function(session)

    def _entered(self) -> _Scope:
        """Return what the handle works with, if it may be used here and now."""
        scope = self._scope
        if scope is None or scope.ending or self._ended:
            ended = self._ended or scope is not None
            problem = "has ended" if ended else "has not begun; use it with `async with`"
            raise TransactionStateError(f"{self._label} {problem}")
        if asyncio.get_running_loop() is not scope.loop:
            raise TransactionStateError(f"{self._label} was begun in another event loop")
        return scope

    async def _enter(self, loan: Loan, mode: str, until: float | None = None) -> None:
        """Begin, waiting in the event loop for another process's lock."""

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
            self._require_new()  # two tasks may enter it at the same time
        except BaseException as error:
            # Cancelled as well: if the BEGIN landed, the lane rolls it back (invariant 12).
            loan.give_back()
            scope.answered = isinstance(error, Exception)
            await scope.undone(error, until)
            raise
        self._scope, self._task = scope, loan.task

    def _require_new(self) -> None:
        if self._scope is not None or self._ended:
            raise TransactionStateError(f"{self._label} can be entered only once")

    def _first(self, session: EngineSession) -> None:
        """What is done in the transaction, in the hop that begins it."""

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
                scope.loop.call_soon_threadsafe(loan.give_back)  # only there it can tell the slot
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

    Commits after its beginning are not seen. As long as it is open the write-ahead log
    can't be reset, so it should not be kept for longer than it is needed.
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
    """What a handle can do that may write as well."""

    async def execute(self, statement: Statement[Any], *, timeout: float | None = None) -> Result:
        """Run a statement that writes; rows that it returns are dropped, `fetch_all` has them."""
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
        """Run a synchronous function; if it raises, what it wrote is undone."""

        def run(session: EngineSession) -> T:
            with session.atomic():
                return session.call(function, *args, **kwargs)

        return await self._run(name_of(function), run)

    def savepoint(self) -> Savepoint:
        """Return a block whose work is undone when it is left by an error, and only that."""
        return Savepoint(self)


class Transaction(_Writing):
    """A write transaction: ``BEGIN IMMEDIATE`` on the writer, COMMIT at the end of the block.

    Left by an error or a cancellation it is rolled back. When the COMMIT itself is cancelled the
    transaction may or may not be in the database; the writer serves no call before that is settled.
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
        """When it must have begun and ended, on the clock of `time.monotonic()`; goes before the
        limit."""
        self._timer: asyncio.TimerHandle | None = None
        self._ends: float | None = None  # when that goes off, on the same clock
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
        """Return in how many seconds it is rolled back at its limit; None: it has no limit, or has
        not begun."""
        return None if self._ends is None else max(0.0, self._ends - monotonic())

    def _first(self, session: EngineSession) -> None:
        session.require_files()  # the COMMIT does so as well, after all the work
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

    Whatever is run in the transaction while it is open is part of it, by whatever handle and task.
    Blocks of tasks that run at the same time are nested in the order of their beginnings. One that
    ends takes those inside it with it: they can't be used any more. If their work was undone with
    its own, they raise `TransactionStateError` when they are left well; if it was kept and they are
    left by an error, it can't be undone alone, and what follows in the transaction raises
    `TransactionAbortedError`.
    """

    def __init__(self, outer: _Writing) -> None:
        super().__init__(outer._pool, f"a savepoint in {outer._label}")
        self._outer = outer
        self._block = Block()
        self._undone = False  # with a block around it, which was left first

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
                f"the work of {self._label} was undone with that of the one around it, which was"
                " left first"
            )
        if not self._undone:
            scope.steps.append(lambda session: session.close_block(self._block, undo=undo))
        if elsewhere is not None:
            raise elsewhere


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
        self._task: asyncio.Task[Any] | None = None  # the one that has entered the block
        self._scope: _Scope | None = None
        self._hidden: frozenset[str] | None = frozenset()
        self._reading: Reading[T] | None = None
        # Those that were read and not yet handed out: whoever breaks off can go on.
        self._rows: Iterator[T] = iter(())
        self._turn = asyncio.Lock()  # of the task that has the next rows read
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

    # On the connection's thread. What was begun is known there even if the caller was cancelled
    # before it was told.

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
                    continue  # another task has read more meanwhile
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
        self._interrupted = True  # until the task has the rows
        return [] if self._reading is None else self._reading.next()


def _elsewhere(label: str, task: asyncio.Task[Any] | None) -> TransactionStateError | None:
    """Return what is raised when a block ends well in a task that must not end it."""
    if task is None or task.done() or task is asyncio.current_task():
        return None
    return TransactionStateError(
        f"{label} was entered by task {task.get_name()!r}, which still runs and alone can end it"
        " well; ended by another task it has been given up, and nothing of it was written"
    )


def _undone_by(error: BaseException | None, opened: OpenTransaction) -> Outcome:
    """What has become of a transaction whose block was left by an error."""
    if isinstance(error, CommitUnknownError):
        return "unknown"
    if opened.committing and opened.loan.committing and not isinstance(error, Exception):
        return "unknown"  # cancelled in its COMMIT
    if isinstance(opened.loan.error, TransactionTimeoutError):
        return "timed_out"
    return "rolled_back"


def _running_loop() -> asyncio.AbstractEventLoop | None:
    """The event loop that runs here; none does where a coroutine is collected after its end."""
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None
