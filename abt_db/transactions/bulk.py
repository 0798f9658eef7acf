"""Runs many operations in transactions of a limited size; each operation may fail alone.

A transaction is one call of the writer's lane: it takes one hop, and other calls have their turn
before the next transaction. If an operation is a coroutine function, or the mode is not
``"immediate"``, the transaction is an interactive `Transaction`. In that one, the operations
between two coroutine functions share a hop.
"""

from __future__ import annotations

import asyncio
import traceback
from collections.abc import (
    AsyncIterable,
    AsyncIterator,
    Awaitable,
    Callable,
    Iterable,
    Iterator,
    Sequence,
    Sized,
)
from dataclasses import dataclass, field, replace
from inspect import iscoroutinefunction
from itertools import chain, islice
from time import monotonic
from typing import Any, Literal

from abt_db.connection.session import CoroutineError, Session
from abt_db.connection.transaction import EngineSession
from abt_db.errors import (
    AbtDbError,
    QueryError,
    ReadOnlyError,
    StatementTimeoutError,
    StoppedError,
    TransactionAbortedError,
    TransactionStateError,
    TransactionTimeoutError,
)
from abt_db.log import LOG
from abt_db.pool.call import name_of
from abt_db.pool.pool import Pool
from abt_db.sql.query import Statement, series

from .handles import Savepoint, Transaction

MAX_FAILURES = 1_000
"""How many failures are kept with their error; all failures are counted."""

MAX_RESULTS = 100_000
"""How many results are kept if the operations have no length and so may be endless."""

MANY = 250
"""After so many operations the thread lets other threads run Python."""

Operation = (
    Statement[Any]
    | Callable[[Session], object]
    | Callable[[Transaction], Awaitable[object]]
    | Callable[[Savepoint], Awaitable[object]]
)
"""A statement that writes, ``function(cx)``, or ``async function(tx)``."""

_ENDED = (
    QueryError,
    StatementTimeoutError,
    TransactionAbortedError,
    TransactionStateError,
    TransactionTimeoutError,
)
"""The errors of a hop in which the operation that ran last has ended the transaction."""


@dataclass(frozen=True, slots=True)
class BatchFailure:
    """An operation of `Database.run_batch` that failed; nothing of it is in the database."""

    index: int
    """Its place among the operations, from 0."""
    name: str
    """The name of the operation's query or function."""
    error: Exception


@dataclass(frozen=True, slots=True)
class BatchReport:
    """How far `Database.run_batch` has come. Every operation that it ran is counted once."""

    done: int = 0
    """Operations that are committed."""
    failed: int = 0
    """How many operations failed."""
    failures: tuple[BatchFailure, ...] = ()
    """The first 1,000 failures, in the order of the operations. The local variables of their
    tracebacks are cleared."""
    not_tried: tuple[Operation, ...] = field(default=(), repr=False)
    """The operations that were taken from the iterator but not run, because the batch was stopped.
    The operations after them are still in the iterator."""
    transactions: int = 0
    """How many transactions were committed."""
    results: tuple[Any, ...] = field(default=(), repr=False)
    """The result of each operation: ``results[n]`` is that of the n-th operation, from 0. It is a
    `Result` for a statement, the returned value for a function, and None for an operation that
    failed. All results are kept if `operations` has a length, as a list has; otherwise the first
    100,000.

    A report that ``progress`` gets has only the results of the transaction that has just ended: the
    last one is that of the operation ``tried - 1``."""

    @property
    def tried(self) -> int:
        """How many operations were run, which is also the index of the first one that was not."""
        return self.done + self.failed


@dataclass(frozen=True, slots=True, kw_only=True)
class Batching:
    """The options of `Database.run_batch`, where each is explained."""

    batch_size: int
    on_error: Literal["stop", "continue"]
    mode: Literal["immediate", "exclusive"]
    timeout: float | None
    priority: int
    label: str | None

    def __post_init__(self) -> None:
        if self.batch_size < 1:
            raise ValueError(f"batch_size must be 1 or more, not {self.batch_size}")
        if self.on_error not in ("stop", "continue"):
            raise ValueError(f"on_error must be 'stop' or 'continue', not {self.on_error!r}")
        if self.mode not in ("immediate", "exclusive"):
            raise ValueError(f"mode must be 'immediate' or 'exclusive', not {self.mode!r}")

    @property
    def stops(self) -> bool:
        """Whether no operation is run after one that has failed."""
        return self.on_error == "stop"


async def run_operations(
    pool: Pool,
    operations: Iterable[Operation] | AsyncIterable[Operation],
    how: Batching,
    progress: Callable[[BatchReport], object] | None,
) -> BatchReport:
    """Run the operations and report: see `Database.run_batch`."""
    source = (
        aiter(operations)
        if isinstance(operations, AsyncIterable)
        else iter(series(operations, "run_batch", "operations"))
    )
    most = len(operations) if isinstance(operations, Sized) else MAX_RESULTS
    report, results = BatchReport(), list[Any]()
    taken: list[Operation] = []
    try:
        while not (how.stops and report.failed) and await _take(source, how.batch_size, taken):
            todo: list[Sequence[Operation]] = [taken]  # a stack: the next part is at the end
            while todo:
                attempt = _Attempt(todo.pop(), how)
                await attempt.make(pool)
                if (spoiler := attempt.spoiler) is not None:
                    # As in a group commit: the other operations run again in transactions without
                    # the one that spoilt theirs, and that one runs alone.
                    parts = attempt.operations
                    todo += filter(None, (parts[spoiler + 1 :], [parts[spoiler]], parts[:spoiler]))
                    continue
                report = _added(report, attempt)
                if how.stops and attempt.failures:
                    todo.append(attempt.operations[attempt.tried :])
                    report = replace(report, not_tried=tuple(chain(*reversed(todo))))
                    todo.clear()
                results += report.results[: most - len(results)]
                if progress is not None:
                    progress(report)
            taken.clear()
    except BaseException as error:
        error.add_note(
            f"Before this, run_batch had committed {report.done} operations and {report.failed} had"
            f" failed; those behind them, of the {len(taken)} taken last, were not run."
        )
        raise
    finally:
        if report.failed:
            _log_failures(how.label, report)
    return replace(report, results=tuple(results))


def _log_failures(label: str | None, report: BatchReport) -> None:
    """Log that operations have failed: the caller may drop the report or never get it."""
    first = report.failures[0]
    # The text of an error from outside the library may contain values (invariant 27).
    known = isinstance(first.error, AbtDbError)
    LOG.warning(
        "abt_db: %s: %d of %d operations failed, the first of them number %d, %s: %s",
        "a batch" if label is None else f"batch {label!r}",
        report.failed,
        report.tried,
        first.index,
        first.name,
        first.error if known else type(first.error).__name__,
    )


async def _take(
    source: Iterator[Operation] | AsyncIterator[Operation], size: int, taken: list[Operation]
) -> bool:
    """Add the next operations to `taken`, `size` at most; return whether there were any."""
    if isinstance(source, AsyncIterator):
        async for operation in source:
            taken.append(operation)
            if len(taken) == size:
                break
    else:
        taken += islice(source, size)
    return bool(taken)


class _Attempt:
    """A try to run some operations in one transaction, and the outcome of each operation."""

    __slots__ = (
        "awaited",
        "committed",
        "failures",
        "how",
        "operations",
        "results",
        "spoiler",
        "tried",
    )

    def __init__(self, operations: Sequence[Operation], how: Batching) -> None:
        self.operations = operations
        self.how = how
        self.tried = 0
        self.results: dict[int, Any] = {}  # by place
        self.failures: dict[int, Exception] = {}  # by place
        self.awaited = {
            place for place, operation in enumerate(operations) if iscoroutinefunction(operation)
        }
        """The places of coroutine functions. Other functions that return a coroutine, such as a
        lambda, are added when they have been called."""
        self.spoiler: int | None = None
        """The place of the operation that ended the transaction for all, or left changes in it that
        can't be undone alone."""
        self.committed = False

    async def make(self, pool: Pool) -> None:
        """Run the operations. If the transaction can't begin or be committed, all operations fail
        with that error."""
        try:
            if self.awaited or self.how.mode != "immediate":
                await self._interactively(pool)
            else:
                await self._in_one_hop(pool)
            self.committed = True
        except _SpoiltError as spoilt:
            if len(self.operations) > 1:
                self.spoiler = spoilt.place
        except ReadOnlyError:
            raise  # every other operation would fail in the same way
        except QueryError as error:
            self.tried = self.tried or len(self.operations)
            for place in range(self.tried):
                self.failures.setdefault(place, error)

    @property
    def _label(self) -> str:
        label = self.how.label
        return f"a batch of {len(self.operations)}" if label is None else f"batch {label!r}"

    @property
    def _over(self) -> bool:
        """Whether nothing more is run in this transaction."""
        return self.tried == len(self.operations) or bool(self.failures and self.how.stops)

    async def _in_one_hop(self, pool: Pool) -> None:
        def run(session: EngineSession) -> None:
            self._run(session)
            if self.awaited:
                raise _AwaitedError

        try:
            await pool.write(self._label, run, (), self.how.timeout, self.how.priority)
        except _AwaitedError:  # what has been run is undone
            self.tried = 0
            self.failures.clear()
            await self._interactively(pool)

    async def _interactively(self, pool: Pool) -> None:
        how = self.how
        limit = pool.config.transaction_timeout
        transaction = Transaction(
            pool, self._label, mode=how.mode, timeout=limit, priority=how.priority
        )
        transaction.until = None if how.timeout is None else monotonic() + how.timeout
        async with transaction as tx:
            while True:
                try:
                    await tx._run(self._label, self._run)
                except _ENDED as error:
                    if not self.tried:
                        raise
                    place = self.tried - 1
                    self.failures.setdefault(place, error)
                    raise _SpoiltError(place) from None
                if self._over:
                    return
                await self._await_next(tx)

    def _run(self, session: EngineSession) -> None:
        """Run the next operations, up to one that has to be awaited. On the connection's thread."""
        while not self._over and self.tried not in self.awaited:
            place, operation = self.tried, self.operations[self.tried]
            self.tried = place + 1
            before = session.changes
            try:
                if isinstance(operation, Statement):
                    result: object = session.execute(operation)
                else:
                    function: Any = operation
                    name_of(function)
                    with session.atomic():
                        result = session.call(function)
                session.require_transaction()
                self.results[place] = result
            except StoppedError:
                raise  # an interactive transaction has reached its limit and raises its own error
            except CoroutineError:
                self.tried = place
                self.awaited.add(place)
            except Exception as error:
                self.failures[place] = error
                # SQLite undoes a statement that fails, but OR FAIL leaves half of its changes, and
                # some errors end the whole transaction (invariant 8). After the time limit of the
                # transaction no further operation could run either.
                left = isinstance(operation, Statement) and session.changes != before
                if left or not session.in_transaction or session.deadline.passed():
                    raise _SpoiltError(place) from None
            if place % MANY == MANY - 1:
                session.give_way()

    async def _await_next(self, tx: Transaction) -> None:
        """Run a coroutine function in a savepoint, and pass it that savepoint as its handle. The
        handle ends with the function, so a task that the function leaves behind can't use it during
        later operations (invariant 18).

        If the function has ended the transaction, the next hop raises that. At the transaction's
        limit the function is cancelled, whatever it waits for, and the next hop raises.
        """
        place, self.tried = self.tried, self.tried + 1
        operation: Any = self.operations[place]
        limit = asyncio.timeout(tx.remaining())
        try:
            async with limit, tx.savepoint() as savepoint:
                self.results[place] = await operation(savepoint)
        except Exception as error:
            if not limit.expired():
                self.failures[place] = error


class _SpoiltError(Exception):
    def __init__(self, place: int) -> None:
        super().__init__(place)
        self.place = place


class _AwaitedError(Exception):
    """Raised if a function has returned a coroutine, which only the event loop can run."""


def _added(report: BatchReport, attempt: _Attempt) -> BatchReport:
    """Return the report with the outcome of one attempt added; its operations come next."""
    room = MAX_FAILURES - len(report.failures)
    failures = [
        BatchFailure(report.tried + place, _name(attempt.operations[place]), error)
        for place, error in islice(sorted(attempt.failures.items()), room)
    ]
    for failure in failures:
        # The frames refer to the connection and to all operations of the transaction.
        traceback.clear_frames(failure.error.__traceback__)
    return replace(
        report,
        done=report.done + attempt.tried - len(attempt.failures),
        failed=report.failed + len(attempt.failures),
        failures=(*report.failures, *failures),
        transactions=report.transactions + attempt.committed,
        results=tuple(
            None if place in attempt.failures else attempt.results.get(place)
            for place in range(attempt.tried)
        ),
    )


def _name(operation: Operation) -> str:
    if isinstance(operation, Statement):
        return operation.query.name
    return getattr(operation, "__qualname__", None) or type(operation).__qualname__
