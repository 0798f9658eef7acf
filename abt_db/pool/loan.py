"""Loans: a connection that is lent to one task until the task gives it back or it is revoked."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from time import monotonic
from typing import Any, TypeVar

from abt_db.connection.deadline import GRACE, Deadline
from abt_db.connection.driver import Connection, RaisedError
from abt_db.connection.lock_owners import Holding
from abt_db.connection.transaction import EngineSession
from abt_db.errors import (
    AbtDbError,
    CommitUnknownError,
    StoppedError,
    TransactionStateError,
)

from .call import Call

T = TypeVar("T")


def _nothing() -> None:
    pass


class Loan:
    """A connection that is lent to one task, until `give_back` or `revoke`."""

    __slots__ = (
        "_connection",
        "_deadline",
        "_doing",
        "_freeing",
        "_ran_before",
        "at",
        "began",
        "blocked",
        "error",
        "future",
        "label",
        "noticed",
        "on_return",
        "on_settled",
        "priority",
        "queued",
        "returned",
        "shares",
        "since",
        "task",
    )

    def __init__(self, label: str, priority: int, at: float | None = None) -> None:
        self.label = label
        self.priority = priority
        self.at = at
        """The moment until which the caller waits for a connection, on the clock of
        `time.monotonic()`; None: no limit but the lane's."""
        self.shares = False
        self.task = asyncio.current_task()
        self.since = monotonic()
        self.began = 0.0
        """When the connection was lent; 0: not yet."""
        self.queued: bool
        """Whether the loan is in a queue."""
        self.future: asyncio.Future[None] | None = None
        """Done when the connection is lent, or the loan has failed. None if the connection was lent
        without waiting in the queue."""
        self.returned = False
        """Whether the loan was given back, perhaps before the connection was lent."""
        self.on_return: Callable[[], None] = _nothing
        """Called when the loan is given back; set by its lane."""
        self.on_settled: Callable[[], None] = _nothing
        """Called when the connection has been cleaned up and can serve again, or was closed."""
        self.error: BaseException | None = None
        """Why the loan failed or was revoked."""
        self.blocked = False
        """Whether its transaction can't begin because another connection has a lock on the file."""
        self.noticed = False
        """Whether the log has a warning that the connection has been lent for long."""
        self._connection: Connection | None = None
        self._deadline = Deadline()
        self._doing: str | None = None
        self._freeing: asyncio.TimerHandle | None = None
        self._ran_before = 0  # statements, on the connection

    @property
    def gone(self) -> bool:
        """Whether the caller no longer waits for the connection to be lent."""
        return self.returned or (self.future is not None and self.future.done())

    def lend(self, connection: Connection, on_return: Callable[[], None]) -> None:
        """Hand the connection over to the caller."""
        self._connection = connection
        self._ran_before = connection.stats.queries.runs()
        self.began = monotonic()
        self.on_return = on_return
        if self.future is not None:
            self.future.set_result(None)

    async def run(
        self,
        function: Callable[[EngineSession], T],
        deadline: Deadline | None = None,
        doing: str | None = None,
    ) -> T:
        """Run `function` on the lent connection, in one hop; `doing` is its name in errors.

        Cancelling stops the function's statement; the connection stays lent. Raises
        `TransactionStateError` after the loan was given back, and after `revoke` the error given
        there.
        """
        if self.error is not None:
            raise self.error
        if self._connection is None:
            raise TransactionStateError(f"{self.label} has ended; it can't be used any more")
        self._deadline = deadline = deadline or Deadline()
        self._doing = doing or self.label
        try:
            what = f"{self._doing} in {self.label}"
            return await self._connection.run(function, deadline, what)
        except RaisedError as raised:
            raise raised.error from None
        except AbtDbError as error:
            # After `revoke` the caller gets its reason, not just that a statement was stopped.
            if self.error is not None and not isinstance(error, CommitUnknownError):
                raise self.error from error
            if self.returned and isinstance(error, StoppedError):
                raise TransactionStateError(
                    f"{self.label} has ended, and {doing or self.label} was stopped with it"
                ) from None
            raise
        finally:
            self._doing = None
            if self._freeing is not None:
                self._freeing.cancel()

    @property
    def committing(self) -> bool:
        """Whether the last function that was run on the connection has come to its COMMIT."""
        return self._deadline.committing

    def holding(self) -> Holding:
        """Return what the loan is used for, for statistics, logs, and errors of waiting calls."""
        connection, doing = self._connection, self._doing
        return Holding(
            self.label,
            None if self.task is None else self.task.get_name(),
            monotonic() - self.began,
            0 if connection is None else connection.stats.queries.runs() - self._ran_before,
            "waiting" if self.blocked else "idle" if doing is None else "running",
            doing,
        )

    def give_back(self) -> None:
        """Give the connection back to its lane: a plain call, which nothing can interrupt."""
        self._connection = None
        self._deadline.cancel()
        if not self.returned:
            self.returned = True
            self.on_return()

    def revoke(self, error: AbtDbError) -> None:
        """Take the connection back: stop what runs on it, and raise `error` in every later use.

        If the running statement can't be stopped at once, its caller gets its error after `GRACE`
        seconds, without waiting for the statement's end.
        """
        connection = self._connection
        self.error = self.error or error
        self.give_back()
        if connection is not None and self._doing is not None:
            self._freeing = asyncio.get_running_loop().call_later(
                GRACE, connection.free_late, self._deadline, f"{self._doing} in {self.label}"
            )

    def abandon(self) -> None:
        """Stop what runs, without waiting for that. The slot closes the connection."""
        self.returned, self._connection = True, None
        self._deadline.cancel()

    def fail(self, error: BaseException) -> None:
        """Fail the loan with `error`, if its caller waits for a future."""
        if self.future is not None and not self.future.done():
            self.error = error
            self.future.set_result(None)


Work = Call[Any] | Loan
