"""Loans: a connection that is lent to one task, until it is given back or taken back."""

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
        """After this moment it is not lent any more; on the clock of `time.monotonic()`."""
        self.shares = False
        self.task = asyncio.current_task()
        self.since = monotonic()
        self.began = 0.0
        """When the connection was lent; 0: not yet."""
        self.queued: bool
        """Whether it is in a queue."""
        self.future: asyncio.Future[None] | None = None
        """Done when the connection is lent. Only a loan that waits in the queue has one."""
        self.returned = False
        """Whether it was given back, perhaps before it was lent."""
        self.on_return: Callable[[], None] = _nothing
        """Called when it is given back: the lane's part of it."""
        self.on_settled: Callable[[], None] = _nothing
        """Called when the connection has been cleaned up and can serve again, or was closed."""
        self.error: BaseException | None = None
        """Why the connection was taken back before the task gave it back."""
        self.blocked = False
        """Whether its BEGIN waits for another connection's lock on the file."""
        self.noticed = False
        """Whether the log has named it as one that takes long."""
        self._connection: Connection | None = None
        self._deadline = Deadline()
        self._doing: str | None = None
        self._freeing: asyncio.TimerHandle | None = None
        self._ran_before = 0  # statements, on the connection

    @property
    def gone(self) -> bool:
        """Whether its task does not wait for it any more."""
        return self.returned or (self.future is not None and self.future.done())

    def lend(self, connection: Connection, on_return: Callable[[], None]) -> None:
        """Hand the connection over."""
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
        """Run ``function(session)`` on the lent connection, in one hop, until `deadline` where one
        is given; `doing` is what it is called in errors.

        The session has the verbs of a `Session`, and what else the engine does on a connection:
        ``control(sql)`` for a PRAGMA, ``transaction("IMMEDIATE")`` for a block that is committed.
        Cancelling stops its statement; the connection stays lent. Raises `TransactionStateError`
        after the loan was given back, and the reason given to `revoke` after that.
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
            # Stopped by `revoke`: the caller gets the reason, not that a statement was stopped.
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
        """Whether the last thing that was run on it has come to its COMMIT."""
        return self._deadline.committing

    def holding(self) -> Holding:
        """Return what it is in use for, for errors, warnings and `stats()`."""
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
        """Take the connection back. What runs is stopped, later uses raise `error`, and a caller
        whose statement can't be stopped at once is freed."""
        connection = self._connection
        self.error = self.error or error
        self.give_back()
        if connection is not None and self._doing is not None:
            self._freeing = asyncio.get_running_loop().call_later(
                GRACE, connection.free_late, self._deadline, f"{self._doing} in {self.label}"
            )

    def abandon(self) -> None:
        """Stop what runs, whose task is gone with its event loop; the lane closes the
        connection."""
        self.returned, self._connection = True, None
        self._deadline.cancel()

    def fail(self, error: BaseException) -> None:
        """Raise `error` in the task that waits for it."""
        if self.future is not None and not self.future.done():
            self.error = error
            self.future.set_result(None)


Work = Call[Any] | Loan
