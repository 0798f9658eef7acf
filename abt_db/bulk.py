"""Many operations in transactions of a certain size, where each may fail alone.

A transaction is one job of the writer's lane: one hop, and others have their turn before the next.
"""

from __future__ import annotations

import traceback
from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain, islice
from typing import Any, Literal

from .channel import Channel
from .errors import QueryError, ReadOnlyError
from .pool import Pool
from .query import Statement, series
from .session import Session
from .work import name_of

__all__ = ["BatchFailure", "BatchReport", "Operation", "run_operations"]

MAX_FAILURES = 1_000
"""So many are kept with their error; all are counted."""

MANY = 250
"""Operations after which other threads may run Python."""

Operation = Statement[Any] | Callable[[Session], object]
"""A statement that writes, or ``function(cx)``."""


@dataclass(frozen=True, slots=True)
class BatchFailure:
    """An operation of `Database.run_batch` that failed; nothing of it is in the database."""

    index: int
    """Its place among the operations, from 0."""
    name: str
    """Of its query, or of the function."""
    error: Exception


@dataclass(frozen=True, slots=True)
class BatchReport:
    """How far `Database.run_batch` has come. Every operation that it took is counted once."""

    done: int = 0
    """Operations that are committed."""
    failed: int = 0
    """Operations that failed, all of them."""
    failures: tuple[BatchFailure, ...] = ()
    """The first 1,000 of those, in their order; without the variables of their tracebacks."""
    not_tried: tuple[Operation, ...] = field(default=(), repr=False)
    """The operations that were taken and not run, for the run was stopped. Those behind them are
    still to be had from the iterator."""
    transactions: int = 0
    """How many were committed."""

    @property
    def tried(self) -> int:
        """How many were run, which is also the index of the first that was not."""
        return self.done + self.failed


async def run_operations(
    pool: Pool,
    operations: Iterable[Operation] | AsyncIterable[Operation],
    *,
    batch_size: int,
    on_error: Literal["stop", "continue"],
    timeout: float | None,
    priority: int,
    progress: Callable[[BatchReport], object] | None,
) -> BatchReport:
    """See `Database.run_batch`."""
    if batch_size < 1:
        raise ValueError(f"batch_size must be 1 or more, not {batch_size}")
    if on_error not in ("stop", "continue"):
        raise ValueError(f"on_error must be 'stop' or 'continue', not {on_error!r}")
    stops = on_error == "stop"
    source = (
        aiter(operations)
        if isinstance(operations, AsyncIterable)
        else iter(series(operations, "run_batch", "operations"))
    )
    report = BatchReport()
    taken: list[Operation] = []
    try:
        while not (stops and report.failed) and await _take(source, batch_size, taken):
            todo: list[Sequence[Operation]] = [taken]  # the next one is the last
            while todo:
                attempt = _Attempt(todo.pop(), stops)
                await attempt.make(pool, timeout, priority)
                if (spoiler := attempt.spoiler) is not None:
                    # As in a group commit: the innocent once more, in a transaction without who
                    # did it, and he by himself.
                    parts = attempt.operations
                    todo += filter(None, (parts[spoiler + 1 :], [parts[spoiler]], parts[:spoiler]))
                    continue
                report = _added(report, attempt)
                if stops and attempt.failures:
                    todo.append(attempt.operations[attempt.tried :])
                    report = replace(report, not_tried=tuple(chain(*reversed(todo))))
                    todo.clear()
                if progress is not None:
                    progress(report)
            taken.clear()
    except BaseException as error:
        error.add_note(
            f"Before this, run_batch had committed {report.done} operations and {report.failed} had"
            f" failed; those behind them, of the {len(taken)} taken last, were not run."
        )
        raise
    return report


async def _take(
    source: Iterator[Operation] | AsyncIterator[Operation], size: int, taken: list[Operation]
) -> bool:
    """Add the next operations, `size` at most; return whether there were any."""
    if isinstance(source, AsyncIterator):
        async for operation in source:
            taken.append(operation)
            if len(taken) == size:
                break
    else:
        taken += islice(source, size)
    return bool(taken)


class _Attempt:
    """Some operations in one transaction: run on the connection's thread, looked at after that."""

    __slots__ = ("committed", "failures", "operations", "spoiler", "stops", "tried")

    def __init__(self, operations: Sequence[Operation], stops: bool) -> None:
        self.operations = operations
        self.stops = stops
        self.tried = 0
        self.failures: dict[int, Exception] = {}  # by place
        self.spoiler: int | None = None
        """Who ended the transaction for all, or left something in it that can't be undone alone."""
        self.committed = False

    async def make(self, pool: Pool, timeout: float | None, priority: int) -> None:
        """Run them. If they could not begin, or not be committed, all have failed with that."""
        label = f"a batch of {len(self.operations)}"
        try:
            await pool.write(label, self._run, (), timeout, priority)
            self.committed = True
        except _SpoiltError as spoilt:
            if len(self.operations) > 1:
                self.spoiler = spoilt.place
        except ReadOnlyError:
            raise  # so would all others
        except QueryError as error:
            self.tried = self.tried or len(self.operations)
            for place in range(self.tried):
                self.failures.setdefault(place, error)

    def _run(self, channel: Channel) -> None:
        for place, operation in enumerate(self.operations):
            self.tried = place + 1
            before = channel.changes
            try:
                if isinstance(operation, Statement):
                    channel.execute(operation)
                else:
                    name_of(operation)
                    with channel.atomic():
                        channel.call(operation)
                channel.require_transaction()
            except Exception as error:
                self.failures[place] = error
                # SQLite undoes a statement that fails, but OR FAIL leaves half of it behind, and
                # some errors end the whole transaction (invariant 8). Who ran into the time limit
                # of all has none of his own left.
                left = isinstance(operation, Statement) and channel.changes != before
                if left or not channel.in_transaction or channel.deadline.passed():
                    raise _SpoiltError(place) from None
                if self.stops:
                    return
            if place % MANY == MANY - 1:
                channel.give_way()


class _SpoiltError(Exception):
    def __init__(self, place: int) -> None:
        super().__init__(place)
        self.place = place


def _added(report: BatchReport, attempt: _Attempt) -> BatchReport:
    """Return the report with what has become of one attempt, whose operations come next in it."""
    room = MAX_FAILURES - len(report.failures)
    failures = [
        BatchFailure(report.tried + place, _name(attempt.operations[place]), error)
        for place, error in islice(sorted(attempt.failures.items()), room)
    ]
    for failure in failures:
        # They know the connection and all operations of the transaction.
        traceback.clear_frames(failure.error.__traceback__)
    return replace(
        report,
        done=report.done + attempt.tried - len(attempt.failures),
        failed=report.failed + len(attempt.failures),
        failures=(*report.failures, *failures),
        transactions=report.transactions + attempt.committed,
    )


def _name(operation: Operation) -> str:
    if isinstance(operation, Statement):
        return operation.query.name
    return getattr(operation, "__qualname__", None) or type(operation).__qualname__
