"""Work for a lane: a *call* is a function, a *loan* lends the connection."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from inspect import isasyncgenfunction, iscoroutinefunction, isgeneratorfunction, signature
from math import inf
from time import monotonic
from typing import Any, Generic, TypeVar

from abt_db.connection.deadline import COMMIT_GRACE, GRACE, Deadline
from abt_db.connection.driver import Connection, RaisedError
from abt_db.connection.lock_owners import Holding
from abt_db.connection.transaction import EngineSession
from abt_db.errors import (
    AbtDbError,
    CommitUnknownError,
    StatementTimeoutError,
    StoppedError,
    TransactionStateError,
)
from abt_db.sql.query import Query

__all__ = ["Call", "Loan", "Limits", "Work", "name_of", "take_priority"]

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Limits:
    """What `Config` says of those who share. In seconds."""

    batch: float
    """When that has passed, no further call of a batch is begun."""
    busy: float
    """How long another process's lock is waited for."""
    statement: float | None
    """How long one call may run."""
    who: Callable[[], str]
    """Says who holds that lock."""


class Call(Deadline, Generic[T]):
    """A call: a function to be run on a connection, by itself in a hop or together with others;
    and the end of the time that it has for that."""

    __slots__ = (
        "arguments",
        "began",
        "ended",
        "error",
        "function",
        "future",
        "priority",
        "queued",
        "refused",
        "result",
        "savepoint",
        "shares",
        "since",
        "task",
        "what",
        "writes",
    )

    def __init__(
        self,
        what: Query[Any] | str,
        function: Callable[..., T],
        arguments: tuple[Any, ...],
        timeout: float | None = None,
        priority: int = 0,
        writes: bool = False,
        shares: bool = False,
        savepoint: bool = False,
    ) -> None:
        self.what = what
        """The query that it runs, or the name of what it does."""
        self.function = function
        """Called as ``function(session, *arguments)``."""
        self.arguments = arguments
        self.since = since = monotonic()
        # As a `Deadline`, which could do all this, if it cost nothing to call it.
        self.at = None if timeout is None else since + timeout
        self.cancelled = self.committing = False
        self.given_up = None
        self.priority = priority
        self.writes = writes
        """Whether it is run in a transaction that is committed."""
        self.shares = shares
        """Whether it may share a hop, and then it may be run twice: without effect the first
        time."""
        self.savepoint = savepoint
        """Whether the function undoes what it did before it raises an error."""
        self.task: asyncio.Task[Any] | None = None
        self.future: asyncio.Future[None] | None = None
        """Done when it is done; only those that wait have one."""
        self.queued: bool
        """Whether it is in a queue."""
        # Set on the connection's thread:
        self.began = 0.0
        self.ended = 0.0
        self.refused = False
        """Whether it has waited long enough for another process's lock, and is about to be told."""
        self.result: T
        self.error: BaseException | None = None

    @property
    def label(self) -> str:
        return self.what if isinstance(self.what, str) else self.what.name

    @property
    def gone(self) -> bool:
        """Whether nobody waits for it any more."""
        return self.cancelled or (self.future is not None and self.future.done())

    def begins(self, limits: Limits) -> bool:
        """Let its time count from now on; False if it must not begin: it has failed then."""
        future = self.future
        if not self.began:
            self.began = monotonic()
            if limits.statement is not None:
                self.limited(limits.statement)
        if self.cancelled or (future is not None and future.done()):
            self.error = StoppedError(f"{self.label} was cancelled before it began")
        elif self.at is not None and self.began >= self.at:
            self.error = StatementTimeoutError(
                f"{self.label} was stopped at its time limit, before it began"
            )
        else:
            return True
        self.ended = self.began
        return False

    def fail(self, error: BaseException) -> None:
        """Let its caller, if it waits, go on with an error."""
        if self.future is not None and not self.future.done():
            self.error = error
            self.future.set_result(None)

    def free_late(self, connection: Connection, now: float) -> float:
        """Free its caller if the limit has passed and what runs did not end; otherwise return in
        how many seconds to ask again."""
        if self.at is None or self.gone or self.given_up:
            return inf
        late = self.at + (GRACE + COMMIT_GRACE if self.committing or self.refused else GRACE)
        if now < late:
            return late - now
        what = self.what if isinstance(self.what, str) else f"query {self.what.name!r}"
        if self.future is not None:
            self.future.set_exception(self.give_up(what))
        else:
            connection.free(self, what)
        return inf

    def told(self) -> BaseException:
        """Return its error, to be raised to its caller."""
        error, self.error = self.error, None  # its traceback will know this call
        assert error is not None
        if isinstance(error, StopIteration):
            # A coroutine can't raise it: that would be its result.
            told = RuntimeError(f"{self.label} raised StopIteration")
            told.__cause__ = error
            return told
        return error


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
        """When it is too late to be lent, on the clock of `time.monotonic()`."""
        self.shares = False
        self.task = asyncio.current_task()
        self.since = monotonic()
        self.began = 0.0
        """When the connection was lent; 0: not yet."""
        self.queued: bool
        """Whether it is in a queue."""
        self.future: asyncio.Future[None] | None = None
        """Done when the connection is lent; only those that wait have one."""
        self.returned = False
        """Whether it was given back, perhaps before it was lent."""
        self.on_return: Callable[[], None] = _nothing
        """What its lane does then."""
        self.on_settled: Callable[[], None] = _nothing
        """Called when the connection has been cleaned up and can serve again, or was closed."""
        self.error: BaseException | None = None
        """Why it was taken back before its time."""
        self.blocked = False
        """Whether it can't begin, for another connection's lock on the file."""
        self.noticed = False
        """Whether it was told that it takes long."""
        self._connection: Connection | None = None
        self._deadline = Deadline()
        self._doing: str | None = None
        self._freeing: asyncio.TimerHandle | None = None
        self._ran_before = 0  # statements, on the connection

    @property
    def gone(self) -> bool:
        """Whether nobody waits for it any more."""
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
        self, function: Callable[[EngineSession], T], deadline: Deadline, doing: str | None = None
    ) -> T:
        """Run `function` on the lent connection, in one hop; `doing` is what it is called.

        Cancelling stops its statement; the connection stays lent. Raises `TransactionStateError`
        after the loan was given back, and the reason given to `revoke` after that.
        """
        if self.error is not None:
            raise self.error
        if self._connection is None:
            raise TransactionStateError(f"{self.label} has ended; it can't be used any more")
        self._deadline = deadline
        self._doing = doing or self.label
        try:
            what = f"{self._doing} in {self.label}"
            return await self._connection.run(function, deadline, what)
        except RaisedError as raised:
            raise raised.error from None
        except AbtDbError as error:
            # Stopped by `revoke`: the caller is told why, not that a statement was stopped.
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
        """Return what it is doing, for those who look or wait."""
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
        """Return the connection to its lane. Synchronous, so that nothing can interrupt it."""
        self._connection = None
        self._deadline.cancel()
        if not self.returned:
            self.returned = True
            self.on_return()

    def revoke(self, error: AbtDbError) -> None:
        """Take the connection back; what runs is stopped, what comes later raises `error`. A caller
        whose statement can't be stopped at once is freed."""
        connection = self._connection
        self.error = self.error or error
        self.give_back()
        if connection is not None and self._doing is not None:
            self._freeing = asyncio.get_running_loop().call_later(
                GRACE, connection.free_late, self._deadline, f"{self._doing} in {self.label}"
            )

    def abandon(self) -> None:
        """Stop what runs, for nobody waits for it any more; whoever lent the connection ends it."""
        self.returned, self._connection = True, None
        self._deadline.cancel()

    def fail(self, error: BaseException) -> None:
        """Let its caller, who waits, go on with an error."""
        if self.future is not None and not self.future.done():
            self.error = error
            self.future.set_result(None)


Work = Call[Any] | Loan


def name_of(function: Callable[..., object]) -> str:
    """What a function is called in errors and statistics; `TypeError` for one that can't be run on
    a connection."""
    if isinstance(function, Query):
        _ = function.query  # raises: it could be called, but that binds it
    if iscoroutinefunction(function):
        raise TypeError(
            f"{function.__qualname__} is a coroutine function, and a connection's thread has no"
            " event loop: give a plain function, or use db.transaction()"
        )
    if isgeneratorfunction(function) or isasyncgenfunction(function):
        raise TypeError(
            f"{function.__qualname__} is a generator function, of which a call runs nothing yet:"
            " give a function that returns"
        )
    if not callable(function):
        raise TypeError(f"a {type(function).__name__} is no function that takes a connection")
    return getattr(function, "__qualname__", None) or type(function).__qualname__


def take_priority(function: Callable[..., object], kwargs: dict[str, Any]) -> int:
    """Take the priority of a call out of the keyword arguments of its function, 0 if it has none.

    A parameter of the function's own that is called so keeps its argument.
    """
    if "priority" not in kwargs:
        return 0
    try:
        own = "priority" in signature(function).parameters
    except (TypeError, ValueError):  # of a function in C that does not tell its parameters
        own = False
    priority: int = 0 if own else kwargs.pop("priority")
    return priority
