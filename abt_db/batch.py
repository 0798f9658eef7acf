"""What is done in one thread hop: reads one after the other, or writes in one transaction.

This runs on a connection's thread. The hand-over to a thread and back costs ten times what a short
statement does, and a commit several times; those who share them get both almost for nothing
(*group commit*: each caller is answered only after the COMMIT that has its write in it).

What is shared must not be noticed: each call has its own result or error, as if it had been alone.
"""

from __future__ import annotations

import copy
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import inf
from time import monotonic
from typing import Any

from .errors import (
    BusyError,
    IntegrityError,
    QueryError,
    StatementTimeoutError,
)
from .session import BeginBusyError, Session, StoppedError
from .work import Job

__all__ = ["Batch", "Limits", "run"]


@dataclass(frozen=True, slots=True)
class Limits:
    """What `Config` says of those who share. In seconds."""

    batch: float
    """When that has passed, no further job of a batch is begun."""
    busy: float
    """How long another process's lock is waited for."""
    statement: float | None
    """How long one job may run."""


class Batch:
    """Jobs of one hop.

    Both ends of `todo` are in use: the thread takes the next job from the left, while the event
    loop may take back what is left when one of them turns out to be slow. `done` is filled by the
    thread and emptied by the loop, also while the hop goes on.
    """

    __slots__ = ("began", "busy", "current", "done", "end", "jobs", "limits", "todo")

    def __init__(self, jobs: Sequence[Job[Any]], limits: Limits) -> None:
        self.jobs = jobs
        self.limits = limits
        self.todo = deque(jobs)
        self.done: deque[Job[Any]] = deque()
        self.current: Job[Any] | None = None
        """What was begun last."""
        self.end = inf
        """When those that write are to have done; known when they have the lock."""
        self.busy = False
        """Whether another process's lock was in the way: what is left is to be tried again."""
        self.began = monotonic()

    def next(self) -> Job[Any] | None:
        """Take the next job that is still wanted; from now on its time counts."""
        while self.todo:
            try:
                job = self.todo.popleft()
            except IndexError:
                break  # the loop was faster
            deadline, future = job.deadline, job.future
            if not job.began:
                job.began = monotonic()
                if self.limits.statement is not None:
                    deadline.limited(self.limits.statement)
            if deadline.cancelled or (future is not None and future.done()):
                job.error = StoppedError(f"{job.label} was cancelled before it began")
            elif deadline.at is not None and job.began >= deadline.at:
                job.error = StatementTimeoutError(
                    f"{job.label} was stopped at its time limit, before it began"
                )
            else:
                self.current = job
                return job
            job.ended = job.began
            self.done.append(job)
        return None

    def put_back(self, jobs: Iterable[Job[Any]]) -> None:
        """Have them, in their order, done next, as if they had not been begun."""
        jobs = [*jobs]
        for job in jobs:
            job.error = None
        self.todo.extendleft(reversed(jobs))

    def may_wait(self, job: Job[Any]) -> bool:
        """Whether a job that met another process's lock may go on waiting for it."""
        return not job.deadline.passed() and monotonic() < job.began + self.limits.busy


def run(session: Session, batch: Batch) -> None:
    """Do the jobs of a batch, all of which write or none, for as long as its limits say."""
    if batch.todo and batch.todo[0].writes:
        _write(session, batch)
    else:
        _read(session, batch)


def _read(session: Session, batch: Batch) -> None:
    """Do the jobs one by one: each sees the database as it is at that moment."""
    end = monotonic() + batch.limits.batch
    while (job := batch.next()) is not None:
        if not _do(session, job) and isinstance(job.error, BusyError):
            # A read has no effects, so it may meet the lock anywhere, and begin again.
            if batch.may_wait(job):
                batch.put_back([job])
                batch.busy = True
                return
            _gave_up(job, job.error)
        batch.done.append(job)
        if job.ended >= end or not session.settled:
            return


def _write(session: Session, batch: Batch) -> None:
    """Do the jobs in one transaction if nobody spoils it, else in several."""
    while batch.todo and not batch.busy and session.settled:
        _transaction(session, batch)
        if monotonic() >= batch.end:
            return


def _transaction(session: Session, batch: Batch) -> None:
    """Do jobs in one transaction and commit it.

    If one of them spoils it for all, they wait in the batch again, nothing of theirs is in the
    database, and whoever did it, or may have done it, is alone the next time.
    """
    job = batch.next()
    if job is None:
        return
    try:
        session.begin("IMMEDIATE")
    except BeginBusyError as error:
        batch.put_back([job])
        _wait_or_give_up(batch, error)
        return
    except Exception as error:
        batch.done.append(_failed(job, error))
        return

    if batch.end == inf:
        batch.end = monotonic() + batch.limits.batch  # not counting the wait for the lock

    # Also those that failed: what they ran into may be another's row, and is not committed yet.
    jobs: list[Job[Any]] = []
    while job is not None:
        jobs.append(job)
        before = session.changes
        if not _do(session, job):
            # Usually SQLite has undone the statement, and only that. But OR ROLLBACK, a full disk
            # and some others end the whole transaction (invariant 8), OR FAIL leaves half of the
            # statement behind, and a row that can't be mapped all of it.
            undone = session.in_transaction and (job.savepoint or session.changes == before)
            if not (undone and job.shares):
                _roll_back(session, job.error)
                _apart(batch, jobs, [job])
                return
        if not job.shares or monotonic() >= batch.end or (batch.todo and not batch.todo[0].shares):
            break
        job = batch.next()

    try:
        session.commit()
    except BaseException as error:
        _roll_back(session, error)
        if isinstance(error, IntegrityError) and len(jobs) > 1:
            # A deferred foreign key, and there is no telling whose.
            _apart(batch, jobs, jobs)
            return
        jobs = [_failed(job, error) for job in jobs]
    batch.done.extend(jobs)


def _apart(batch: Batch, jobs: list[Job[Any]], suspects: list[Job[Any]]) -> None:
    """Have jobs done once more, the suspects each alone; who was alone has failed."""
    if len(jobs) == 1:
        batch.done.extend(jobs)
        return
    for job in suspects:
        job.shares = False
    batch.put_back(jobs)


def _do(session: Session, job: Job[Any]) -> bool:
    """Run one job; return whether it went well."""
    session.deadline = job.deadline
    try:
        job.result = job.function(session, *job.arguments)
    except BaseException as error:  # of a caller's function: whatever it is, it is the caller's
        job.error = error
    job.ended = monotonic()
    return job.error is None


def _roll_back(session: Session, first: BaseException | None) -> None:
    """Undo the transaction. What that raises is noted on the first error (invariant 10); the
    connection, which is still in the transaction, is replaced then."""
    try:
        session.close_cursors()
        session.rollback()
    except Exception as error:
        if first is not None:
            first.add_note(f"The rollback failed as well: {error}")


def _failed(job: Job[Any], error: BaseException) -> Job[Any]:
    """Fail a job by an error of its BEGIN or COMMIT, which it may have in common with others."""
    mine = copy.copy(error)  # each caller adds its own traceback
    mine.__cause__ = error.__cause__
    if isinstance(mine, QueryError) and mine.query is None and not isinstance(job.what, str):
        mine.query, mine.sql = job.what.name, job.what.sql
        mine.args = (f"query {mine.query!r}: {error}",)
        notes = [note for note in getattr(error, "__notes__", ()) if not note.startswith("SQL: ")]
        mine.__notes__ = [f"SQL: {mine.sql}", *notes]
    job.error = mine
    job.ended = monotonic()
    return job


# -- another process's lock ----------------------------------------------------------------------


def _wait_or_give_up(batch: Batch, error: BeginBusyError) -> None:
    """Keep those who may wait for the lock, fail the others."""
    waiting = []
    while (job := batch.next()) is not None:
        if batch.may_wait(job):
            waiting.append(job)
        else:
            batch.done.append(_failed(job, _gave_up(job, error)))
    batch.put_back(waiting)
    batch.busy = bool(waiting)


def _gave_up(job: Job[Any], error: BusyError) -> BusyError:
    """Say who was in the way and for how long."""
    job.error = BusyError(
        f"another process holds the lock; gave up after {monotonic() - job.began:.1f} s ({error})",
        query=error.query,
        sql=error.sql,
        code=error.sqlite_errorcode,
        name=error.sqlite_errorname,
    )
    job.error.__cause__ = error.__cause__
    return job.error
